"""Delivery of events to receivers on other machines, through a spool on disk that survives outages and restarts."""
