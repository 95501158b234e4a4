"""Measurements of ``retina-edge bench``: latency, throughput, and MLPerf scenarios."""
