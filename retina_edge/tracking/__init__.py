"""Analysis of detections over time: tracks, zones and lines, counts, events."""
