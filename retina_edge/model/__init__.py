"""RetinaNet, composed of torchvision's own parts."""
