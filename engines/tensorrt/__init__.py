"""Building TensorRT engines: options, network, builder, passport, precision checks."""
