"""Decode and NMS: the specification, the CUDA kernels, and the parameters that all implementations share."""
