"""What is made of detections over time: tracks, zones and lines, counts, events."""
