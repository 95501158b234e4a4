"""Decode and non-maximum suppression: the specification, and the parameters all implementations share."""
