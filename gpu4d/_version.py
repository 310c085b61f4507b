"""The version, read by the front door, by what writes files, and by the build."""

__version__ = "0.1.0"
