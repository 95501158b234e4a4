"""Export of an ``nn.Module`` and its contract to a deployable ONNX. Does not import retina_edge."""
