"""The pipeline that runs one detector on many streams: capture, batches, results."""
