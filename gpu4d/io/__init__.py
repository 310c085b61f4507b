"""Files in and out: `open`, `save`, `read_emd`, `load_image`."""

from gpu4d.io.opening import open
from gpu4d.io.reading import load_image, read_emd
from gpu4d.io.saving import save

__all__ = ["load_image", "open", "read_emd", "save"]
