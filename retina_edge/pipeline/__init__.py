"""Frames of many streams through one detector: capture, batches, results."""
