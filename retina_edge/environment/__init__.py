"""The machine and its packages: checks, platforms, measuring conditions."""
