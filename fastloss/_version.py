"""The one place that holds the version; setup.py and the doctor read it."""

__version__ = "0.1.0"
