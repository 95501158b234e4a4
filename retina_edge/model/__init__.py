"""RetinaNet, composed of torchvision's modules; its checkpoints, and the executor that runs it with torch."""
