"""Measurements; each script writes its figures, with machine and versions, to ``benchmarks/results``."""
