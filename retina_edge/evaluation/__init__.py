"""COCO metrics of a detector, its confusions, and its comparison with another."""
