"""COCO metrics and confusion of a detector, and comparison of two detectors."""
