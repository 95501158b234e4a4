"""Delivery of events to receivers on other machines, through a spool on disk, so that no event is lost."""
