"""Run an engine on a GPU: frames in host memory to detections in host memory."""
