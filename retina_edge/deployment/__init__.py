"""A model as the servers of a fleet take it: Triton Inference Server, DeepStream."""
