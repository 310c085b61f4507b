"""Correct raw frames before anything else looks at a scan: dark, gain, streaks, bad pixels, hits, as the recipe says or frames show."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.errors import InputError
from gpu4d.io import load_image, load_images
from gpu4d.preprocess import Background, background, shows_streaks
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record

LOOK = 16  # patterns that are read to see whether there are streaks
MOST_DARKS = 1000  # frames of a dark reference


def clean(cube: DataCube, recipe: Recipe, record: Record | None = None) -> DataCube:
    """Return the cube with the corrections of raw frames, or as it is where the recipe asks for none and frames show no streaks.

    Parameters
    ----------
    cube : DataCube
        As the file stores it: before axes are exchanged, and before it is cropped or binned.
    recipe : Recipe
        Its section [corrections].
    record : Record, optional
        For decisions.

    Raises
    ------
    InputError
        A file that is not there, or is of another detector.
    """
    given, record = recipe.corrections, record or Record()
    asked = given.dark or given.gain or given.hits is True or given.streaks not in ("auto", "off")
    edge = None if given.edge is None else _image(given.edge, cube, "edge") != 0
    if not asked:
        if given.streaks == "off" or not cube.shape[0] * cube.shape[1]:
            return cube
        found, why = _look(cube, given.background_mask_radius, edge)
        if not found:
            record.note(f"frames are used as they were recorded: {why}")
            return cube
    options: dict[str, Any] = {"streaks": {"on": True, "off": False}.get(given.streaks, given.streaks), "hits": given.hits}
    with record.stage("background"):
        measured = background(
            cube,
            None if given.dark is None else load_images(given.dark, most=MOST_DARKS),
            gain=None if given.gain is None else _image(given.gain, cube, "gain"),
            radius=given.background_mask_radius,
            edge=edge,
            threshold=given.hot_pixel_threshold,
            **options,
        )
    record.decide(f"raw frames are corrected: {measured.description}", _given(recipe))
    for what, why in measured.said:
        record.decide(what, why)
    source = cube.corrected(measured).source
    return DataCube(source, cube.calibration, cube.metadata, cube.detector_mask, cube.name)  # a run completes the caller's calibration


def measured_background(cube: DataCube) -> Background | None:
    """Return what was measured of the frames that a cube corrects, None if it does not."""
    return next((step for step in cube.corrections.steps if isinstance(step, Background)), None)


def _look(cube: DataCube, radius: float, edge: np.ndarray | None) -> tuple[bool, str]:
    frames = patterns_at(cube, grid_positions(np.ones(cube.scan_shape, bool), LOOK))
    try:
        return shows_streaks(frames, radius, cube.detector_mask, edge)
    except InputError as error:  # no pixel is at the edge
        return False, str(error)


def _image(spec: str, cube: DataCube, name: str) -> np.ndarray:
    image = load_image(spec)
    if image.shape != cube.detector_shape:
        raise InputError(f"corrections.{name} {spec} is {image.shape}, the detector is {cube.detector_shape}: need one value per pixel")
    return image


def _given(recipe: Recipe) -> str:
    """Say what the recipe gave."""
    given = recipe.corrections
    named = [f"{name} {path}" for name, path in (("dark", given.dark), ("gain", given.gain)) if path]
    return f"given: {', '.join(named)}" if named else "the frames show it" if given.streaks == "auto" else "as the recipe says"
