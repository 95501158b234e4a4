"""Many streams, one detector: captured, batched, detected and handed on, each stream for itself."""
