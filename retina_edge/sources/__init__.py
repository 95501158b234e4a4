"""Sources of frames: image files, videos, cameras, network streams, GStreamer pipelines."""
