"""Build TensorRT engines: options, backend, network, builder, passport and checks of the precision."""
