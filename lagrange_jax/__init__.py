"""Optimal last-layer initialisation and the law of regularisation strength."""

__version__ = "0.1.0"
