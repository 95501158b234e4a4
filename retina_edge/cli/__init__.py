"""Options and output that the verbs of the command line share."""
