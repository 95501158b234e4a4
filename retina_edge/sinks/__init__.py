"""Sinks, which take results on this machine: videos, images, text files and a window."""
