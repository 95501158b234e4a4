"""Export an ``nn.Module`` and its contract to a deployable ONNX. This package does not import retina_edge."""
