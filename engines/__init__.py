"""What runs a detector: the contract, its executors and the post-processing. Needs neither torch nor onnx."""
