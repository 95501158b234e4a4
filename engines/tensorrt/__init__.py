"""Building TensorRT engines: options, backend, network, builder, passport, precision checks."""
