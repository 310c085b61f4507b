"""Apply a calibration that was measured on a standard, or on another scan, to the scan of a run."""

from __future__ import annotations

from pathlib import Path

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.io.calibration_file import CalibrationFile

BELONG_TO_THE_SCAN = ("origin", "origin_error", "r_pixel")  # another scan of the same session has others
OF_THE_BEAM = ("energy", "semiangle")  # what the scan's own file says counts
SAME_ENERGY = 1e-3  # relative: a larger difference of beam energies changes the pixel size by more than it is known


def take_calibration(cube: DataCube, file: CalibrationFile, path: str, dataset: str = "", energy: float | None = None) -> None:
    """Replace the calibration of a scan, as its file stores it, by a measured one.

    Origin and step belong to a scan: they are taken only if the calibration was measured on this file. Energy and semi-angle are taken
    if the scan's file does not say them.

    Parameters
    ----------
    cube : DataCube
    file : CalibrationFile
    path, dataset : str
        File and place of the scan.
    energy : float, optional
        Beam energy that the user gave, eV. It counts before that of the file.

    Raises
    ------
    InputError
        The calibration was measured on a detector of another shape, or at another energy.
    """
    shape, scan_shape, own = file.about.detector_shape, file.about.scan_shape, cube.calibration
    if shape is not None and shape != cube.detector_shape:
        ours, theirs = "×".join(map(str, cube.detector_shape)), "×".join(map(str, shape))
        raise InputError(
            f"{file.path} was measured on {theirs} detector pixels, and {path} has {ours}: measure it on patterns as the scan has them"
        )
    measured_at, here = file.calibration.energy, energy or own.energy
    if measured_at and here and abs(measured_at / here - 1) > SAME_ENERGY:
        raise InputError(
            f"{file.path} was measured at {measured_at / 1e3:g} keV, and {path} at {here / 1e3:g} keV: its pixel size does not hold here"
        )
    about = file.about
    same = about.file == str(Path(path).resolve()) and about.dataset == dataset and scan_shape == cube.scan_shape
    own.override(file.calibration.only([name for name in file.calibration.known() if _is_taken(name, same, own)]))


def _is_taken(field: str, same_file: bool, own: Calibration) -> bool:
    if field in BELONG_TO_THE_SCAN:
        return same_file
    return field not in OF_THE_BEAM or getattr(own, field) is None
