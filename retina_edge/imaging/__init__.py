"""Reading, writing and drawing images."""
