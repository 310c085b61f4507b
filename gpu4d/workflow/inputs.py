"""Read the inputs of a run: the scan with its calibration, a vacuum probe, masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.io import load_images
from gpu4d.io.calibration_file import load_calibration
from gpu4d.io.reading import split_path
from gpu4d.workflow.clean import clean
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.take_calibration import take_calibration

MOST_SHADOWS = 64  # shadow images: a rotation needs a few, and a scan given by mistake would fill the memory


def open_scan(path: str | Path, recipe: Recipe, record: Record | None = None) -> DataCube:
    """Open a file as the recipe says: dataset, scan shape, masks, corrections, axes, binning, and calibration values."""
    import gpu4d

    given = recipe.input
    shape = tuple(given.scan_shape) if given.scan_shape else None
    cube = gpu4d.open(path, dataset=given.dataset, scan_shape=shape)
    if given.calibration:
        energy = recipe.calibration.energy
        take_calibration(cube, load_calibration(given.calibration), str(path), given.dataset or "", energy)
    if given.detector_mask:
        mask = read_image(given.detector_mask, cube.detector_shape, "detector mask") != 0
        cube = DataCube(cube.source, cube.calibration, cube.metadata, mask, cube.name)
    cube = views(clean(cube, recipe, record), recipe)
    calibrate(cube, recipe)
    return cube


def views(cube: DataCube, recipe: Recipe) -> DataCube:
    """Return the cube with axes exchanged, cropped and binned as the recipe says."""
    given = recipe.input
    cube = cube.swap_axes(detector=given.swap_detector, scan=given.swap_scan)
    if given.crop_scan:
        region_mask(given.crop_scan, cube.scan_shape, "input.crop_scan")  # says what is wrong with a region outside the scan
        rx0, rx1, ry0, ry1 = given.crop_scan
        cube = cube.crop((rx0, rx1), (ry0, ry1))
    if given.bin_detector > 1 or given.bin_scan > 1:
        cube = cube.bin(detector=given.bin_detector, scan=given.bin_scan)
    return cube


def second_scan(path: str, first: DataCube, recipe: Recipe) -> DataCube:
    """Open a second scan of the same specimen, with the axes, binning, masks and calibration values that the recipe gives the first.

    Parameters
    ----------
    path : str
        FILE or FILE:/dataset.
    first : DataCube
        The scan that is analysed.

    Raises
    ------
    InputError
        A file that is not there or holds no scan, or another detector.
    """
    import gpu4d

    file, dataset = split_path(path)
    cube = views(gpu4d.open(file, dataset=dataset or None), recipe)
    if cube.detector_shape != first.detector_shape:
        raise InputError(f"{path} has a detector of {cube.detector_shape}, the scan one of {first.detector_shape}: need the same")
    calibrate(cube, recipe)
    return DataCube(cube.source, cube.calibration, cube.metadata, first.detector_mask, cube.name)


def calibrate(cube: DataCube, recipe: Recipe) -> None:
    """Write the recipe's calibration values into the cube. They describe the scan as it is analysed, after binning."""
    for field in FIELDS.values():
        if field.given is None:
            continue
        value, where = getattr(recipe.calibration, field.given.name), f"calibration.{field.given.name}"
        if value is not None:
            value = value if field.given.kind == "switch" else value * field.given.per_unit
            cube.calibration.set(**{field.name: value}, how=f"given ({recipe.given.get(where, 'recipe')})")
    if recipe.ellipse.given is not None:
        ratio, degrees = recipe.ellipse.given
        how = f"given ({recipe.given.get('ellipse.given', 'recipe')})"
        cube.calibration.set(ellipse=(ratio, 1.0, math.radians(degrees)), how=how)


def scan_mask(cube: DataCube, recipe: Recipe) -> np.ndarray | None:
    """Return the positions to use, (Rx, Ry) bool. None for all."""
    if not recipe.input.scan_mask:
        return None
    mask = read_image(recipe.input.scan_mask, cube.scan_shape, "scan mask") != 0
    if not mask.any():
        raise InputError(f"the scan mask {recipe.input.scan_mask} leaves no position: nonzero marks positions to use")
    return mask


def region_mask(region: Any, shape: tuple[int, int], what: str) -> np.ndarray:
    """Return [rx0, rx1, ry0, ry1] as a bool mask of the scan."""
    rx0, rx1, ry0, ry1 = region
    if rx1 > shape[0] or ry1 > shape[1]:
        raise InputError(
            f"{what} = {list(region)} reaches outside the scan {shape}: need rx0 < rx1 ≤ {shape[0]} and ry0 < ry1 ≤ {shape[1]}"
        )
    mask = np.zeros(shape, bool)
    mask[rx0:rx1, ry0:ry1] = True
    return mask


def check_regions(recipe: Recipe, scan_shape: tuple[int, int]) -> None:
    """Refuse regions outside the scan before any work is done. The scan is already cropped here: `views` checked that region."""
    for name, value, rule in recipe.values():
        if rule.kind in ("region", "reference") and isinstance(value, list) and name != "input.crop_scan":
            region_mask(value, scan_shape, name)


def given_probe(cube: DataCube, recipe: Recipe) -> np.ndarray | None:
    """Return the vacuum probe that the recipe names, in the pixels of the analysed scan. None if it names none."""
    if not recipe.probe.file:
        return None
    image = read_image(recipe.probe.file, None, "probe")
    if image.shape != cube.detector_shape:
        try:
            image = np.asarray(views(DataCube(np.ascontiguousarray(image[None, None])), _detector_only(recipe))[0, 0])
        except InputError:  # too small to be binned; the error below names its shape
            image = np.asarray(image)
    if image.shape != cube.detector_shape:
        raise InputError(f"the probe {recipe.probe.file} is {image.shape}, the detector is {cube.detector_shape}: need one value per pixel")
    return np.asarray(image, dtype=np.float64)


def read_shadow_images(spec: str, recipe: Recipe) -> np.ndarray:
    """Read one shadow image or several, (n, Qx, Qy), with the axes and the binning of the scan's detector.

    Parameters
    ----------
    spec : str
        FILE or FILE:/dataset: an image (Qx, Qy), a stack (n, Qx, Qy), or a scan (Rx, Ry, Qx, Qy).
    recipe : Recipe

    Raises
    ------
    InputError
        There is no such file, or it holds no images; or there are more than 64.
    """
    stack = load_images(spec, most=MOST_SHADOWS)
    return np.asarray(views(DataCube(np.ascontiguousarray(stack[None])), _detector_only(recipe)))[0]


def _detector_only(recipe: Recipe) -> Recipe:
    only = Recipe()
    only.input.swap_detector, only.input.bin_detector = recipe.input.swap_detector, recipe.input.bin_detector
    return only


def read_image(spec: str, shape: tuple[int, int] | None, what: str) -> np.ndarray:
    """Read an image named FILE or FILE:/dataset, and check its shape."""
    from gpu4d.io import load_image

    image = load_image(spec)
    if shape is not None and image.shape != tuple(shape):
        per = "scan position" if "scan" in what else "detector pixel"
        raise InputError(f"the {what} {spec} is {image.shape}: need {tuple(shape)}, one value per {per}")
    return image
