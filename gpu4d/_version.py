"""Version of the package. The front door, writers of files and the build read it."""

__version__ = "0.1.0"
