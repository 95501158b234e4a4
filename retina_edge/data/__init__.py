"""Labelled images: reading, checking, augmenting and loading them."""
