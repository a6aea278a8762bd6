"""MONAI 1.6.1, drop-in."""
