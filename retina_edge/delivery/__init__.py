"""How events get to receivers elsewhere, over a spool on disk, so that none is lost."""
