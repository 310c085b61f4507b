"""Read the inputs of a run: the scan with its calibration, a vacuum probe, masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike, to_numpy
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.io import load_images
from gpu4d.io.calibration_file import load_calibration
from gpu4d.io.raw_layout import layout_given
from gpu4d.io.reading import split_path
from gpu4d.io.timing import timing_given
from gpu4d.workflow.clean import clean
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.take_calibration import take_calibration

PREVIEW = 4  # the guide's 4.2: bin 4 times, and a scan of a quarter of the side
LEAST_POSITIONS, LEAST_PIXELS = 16, 32  # along an axis of a preview: with fewer, smaller steps show more than they cost
OPENING = tuple(
    f"input.{key}"
    for key in (
        "dataset", "scan_shape", "raw_shape", "raw_dtype", "raw_offset", "raw_gap", "raw_order", "dwell", "trigger", "pause", "flyback",
        "flyback_at", "extra_frames",
    )
)  # fmt: skip
MOST_SHADOWS = 64  # shadow images: a rotation needs a few, and a scan given by mistake would fill the memory


def open_scan(path: str | Path, recipe: Recipe, record: Record | None = None) -> DataCube:
    """Open a file as the recipe says: dataset, scan shape, masks, corrections, axes, binning, and calibration values."""
    import gpu4d

    given = recipe.input
    shape = (given.scan_shape[0], given.scan_shape[1]) if given.scan_shape else None
    timing = timing_given(given.dwell, given.trigger, given.pause)  # type: ignore[arg-type]  # the recipe has checked the words
    layout = layout_given(given.raw_shape, given.raw_dtype, given.raw_offset, given.raw_gap, given.raw_order, flags=False)
    if given.flyback or given.extra_frames:
        if shape is None:
            raise InputError("input.flyback and input.extra_frames belong to a list of patterns: give --scan-shape Rx,Ry too")
        before, after = given.extra_frames or (0, 0)
        frames = gpu4d.open(path, dataset=given.dataset, scan_shape="frames", layout=layout, timing=timing)
        at: Any = given.flyback_at
        cube = frames.reshape(shape, flyback=given.flyback, flyback_at=at, extra=(before, after))
    else:
        cube = gpu4d.open(path, dataset=given.dataset, scan_shape=shape, layout=layout, timing=timing)
    return as_asked(cube, recipe, record, str(path))


def as_asked(cube: DataCube, recipe: Recipe, record: Record | None = None, path: str = "") -> DataCube:
    """Return an open scan as the recipe says: mask, corrections, axes, crop, binning, calibration values, preview.

    A run of a file and an analysis of a scan in memory both begin with this, so that they give the same results.

    Parameters
    ----------
    cube : DataCube
        The whole scan. Its calibration receives the values of the recipe, unless a part of the scan is taken: that has its own.
    recipe : Recipe
    record : Record, optional
        For decisions.
    path : str
        File of the scan. Empty if it is in memory.
    """
    given = recipe.input
    if given.calibration:
        energy = recipe.calibration.energy
        take_calibration(cube, load_calibration(given.calibration), path or "the scan", given.dataset or "", energy)
    if given.detector_mask:
        mask = read_image(given.detector_mask, cube.detector_shape, "detector mask") != 0
        cube = DataCube(cube.source, cube.calibration, cube.metadata, mask, cube.name)
    cube = views(clean(cube, recipe, record), recipe)
    calibrate(cube, recipe)
    return previewed(cube, recipe)


def opening_settings(recipe: Recipe) -> list[str]:
    """Return the settings of a recipe that say how a file is opened, if they were given. A scan in memory is open already."""
    return [name for name in recipe.given if name in OPENING]


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


def previewed(cube: DataCube, recipe: Recipe) -> DataCube:
    """Return the part of a calibrated cube that a preview looks at; the whole of it if the recipe asks for none."""
    if not recipe.input.preview:
        return cube
    every, bin = (
        max(1, min(most, min(sizes) // least))
        for most, sizes, least in ((PREVIEW, cube.scan_shape, LEAST_POSITIONS), (PREVIEW, cube.detector_shape, LEAST_PIXELS))
    )
    return cube.preview(every, bin)


def preview_warning(cube: DataCube) -> str:
    """Say at the top of a report that its scan is a preview."""
    return (
        f"PREVIEW, not the result: {'×'.join(map(str, cube.shape))} values of the scan ({cube.source.description}). "
        "Choose settings with it, then run without --preview"
    )


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
    calibrate(cube, recipe)
    cube = previewed(cube, recipe)
    if cube.detector_shape != first.detector_shape:
        raise InputError(f"{path} has a detector of {cube.detector_shape}, the scan one of {first.detector_shape}: need the same")
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


def given_probe(cube: DataCube, recipe: Recipe, given: ArrayLike | None = None) -> np.ndarray | None:
    """Return the vacuum probe that was given or that the recipe names, in the pixels of the analysed scan. None if there is none."""
    if given is None and not recipe.probe.file:
        return None
    image = read_image(recipe.probe.file, None, "probe") if given is None else to_numpy(given)
    if image.ndim != 2:
        raise InputError(f"the probe is an array of {image.shape}: need an image (Qx, Qy) with one value per detector pixel")
    if image.shape != cube.detector_shape:
        try:
            image = np.asarray(_detector_view(image[None, None], recipe))[0, 0]
        except InputError:  # too small to be binned; the error below names its shape
            image = np.asarray(image)
    if image.shape != cube.detector_shape:
        name = recipe.probe.file if given is None else "that was given"
        raise InputError(f"the probe {name} is {image.shape}, the detector is {cube.detector_shape}: need one value per pixel")
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
    return np.asarray(_detector_view(stack[None], recipe))[0]


def _detector_view(images: np.ndarray, recipe: Recipe) -> DataCube:
    """Return images (1, n, Qx, Qy) with the axes and the binning that the recipe gives the detector."""
    only = Recipe()
    only.input.swap_detector, only.input.bin_detector = recipe.input.swap_detector, recipe.input.bin_detector
    only.input.preview = recipe.input.preview  # of images in one row, every position
    return previewed(views(DataCube(np.ascontiguousarray(images)), only), only)


def read_image(spec: str, shape: tuple[int, int] | None, what: str) -> np.ndarray:
    """Read an image named FILE or FILE:/dataset, and check its shape."""
    from gpu4d.io import load_image

    image = load_image(spec)
    if shape is not None and image.shape != tuple(shape):
        per = "scan position" if "scan" in what else "detector pixel"
        raise InputError(f"the {what} {spec} is {image.shape}: need {tuple(shape)}, one value per {per}")
    return image
