"""Benchmark scripts; each writes its figures, with machine and versions, to ``benchmarks/results``."""
