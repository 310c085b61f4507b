"""Read and write files: `open`, `save`, `convert`, `read_emd`, `load_image`, `load_images`, calibrations, and the guard of mapped files."""

from gpu4d.io.calibration_file import CalibrationFile, MeasuredOn, load_calibration, save_calibration
from gpu4d.io.converting import Converted, convert
from gpu4d.io.opening import open
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.reading import load_image, load_images, read_emd
from gpu4d.io.saving import save
from gpu4d.io.sources.guard import guard_mapped_files
from gpu4d.io.timing import ScanTiming

__all__ = [
    "CalibrationFile",
    "Converted",
    "MeasuredOn",
    "RawLayout",
    "ScanTiming",
    "convert",
    "guard_mapped_files",
    "load_calibration",
    "load_image",
    "load_images",
    "open",
    "read_emd",
    "save",
    "save_calibration",
]


def __dir__() -> list[str]:
    return list(__all__)
