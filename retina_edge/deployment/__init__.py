"""Deployment of models to Triton Inference Server and DeepStream, and of ``serve`` as a systemd service."""
