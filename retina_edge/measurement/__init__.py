"""How fast a detector is, and under which conditions: what ``retina-edge bench`` measures."""
