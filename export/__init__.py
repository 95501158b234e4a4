"""From an ``nn.Module`` and a contract to a deployable ONNX. Knows nothing of retina_edge."""
