"""The web page, the API and the metrics of ``retina-edge serve``."""
