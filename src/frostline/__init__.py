"""Sweeps that answer which layers of a pretrained image classifier should learn."""

__version__ = "0.1.0"
