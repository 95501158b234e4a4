"""Sinks: videos, images, text files and a window on this machine that take results."""
