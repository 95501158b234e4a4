"""Training a RetinaNet, on one CPU or on many GPUs."""
