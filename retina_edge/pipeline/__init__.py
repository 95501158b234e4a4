"""The way of frames from many streams through one detector: capture, batches, results."""
