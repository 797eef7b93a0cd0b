"""Itemlens: a REST service that recognises shop items from a photo, a title, or both."""

__version__ = "0.1.0"
