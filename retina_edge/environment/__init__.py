"""The machine and its packages: checks, platforms, and the conditions of a measurement."""
