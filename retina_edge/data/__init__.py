"""Labeled images: reading, checking, augmenting and loading them."""
