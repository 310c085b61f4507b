"""Correct raw frames, and check that nothing is left at the edge of the detector, where no electron arrives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.slices import DiffractionSlice
from gpu4d.workflow.clean import measured_background
from gpu4d.workflow.picture import DIFFRACTION, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

SIGNIFICANT = 3.0  # standard errors
LEAST_NOISE = 0.5  # in the units of the frames: detectors without noise are judged as if they had this


@dataclass
class CorrectionSettings:
    """Raw frames: dark, gain, streaks, hits. All of it is made to each pattern as it is read; the file stays as it is."""

    dark: str | None = setting(
        None, "file", "FILE or FILE:/dataset with frames without a beam, or their mean. It is subtracted.", automatic="none",
        tune="Give frames of the same session and exposure, ten or more: their noise is added to every pattern.",
    )  # fmt: skip
    gain: str | None = setting(
        None,
        "file",
        "FILE or FILE:/dataset with the response of every pixel. It is divided by.",
        automatic="none",
        tune="Give one if an even illumination is not even in the frames. Detectors that count rarely need it.",
    )
    streaks: str = setting(
        "auto", "text", "Levels of columns or rows that are measured at the edge of the detector, and subtracted. auto: where the frames "
        "of a readout show them. on: columns or rows, whichever they show better.", choices=("auto", "on", "off", "columns", "rows"),
        tune="Leave it at auto. Set off if the specimen itself scatters in streaks to the edge of the detector.",
    )  # fmt: skip
    background_mask_radius: float = setting(
        0.9, "number", "Pixels outside of a circle about the middle of the detector are its edge. This is its radius. Smaller gives more "
        "pixels, but none may be one that the beam reaches.", units="half sides of the detector",
        low=0.1, high=1.4, guide=(0.85, 0.95), table="17.1",
        tune="Set it lower for more pixels and a smaller error, and higher if the gate “Background at the edge” finds that the beam "
        "reaches "
        "them.",
    )  # fmt: skip
    edge: str | None = setting(
        None, "file", "FILE or FILE:/dataset with one value per detector pixel: not zero where no electron arrives.",
        automatic="background_mask_radius",
        tune="Give one if the beam reaches the edge on one side only, or if the detector is not a square.",
    )  # fmt: skip
    hits: bool | str = setting(
        "auto", "decision", "Replace hits of X-rays in single frames. auto: where raw frames are corrected, and show hits that cannot be "
        "of the beam.",
        tune="Leave it at auto. Set false if bright spots of single patterns, which are of the specimen, are taken for hits.",
    )  # fmt: skip
    hot_pixel_threshold: float = setting(
        5.0, "number", "How far the dark level, or the variance, of a hot, dead or flickering pixel is off. Lower finds more.", units="σ",
        low=1, high=50, guide=(3, 5), table="17.1",
        tune="3 finds more pixels of noisy detectors, and takes one good pixel in 370 with them; 5 is for clean ones. Look at the "
        "picture of "
        "the background.",
    )  # fmt: skip


class RawFrames(Stage):
    """Keep the background that was measured, and check what is left of it."""

    name = "corrections"
    title = "background of raw frames"
    guide: ClassVar = ("3", "A", "B")
    settings = CorrectionSettings
    section = "corrections"
    needs: ClassVar = ("mean_pattern",)
    makes: ClassVar = ("background",)
    place: ClassVar = 12

    def wanted(self, state: RunState) -> Reason:
        measured = measured_background(state.cube)
        if measured is None and state.cube.corrections:
            return no(f"patterns came corrected already ({state.cube.corrections.description}), and their background was not measured")
        if measured is None:
            return no("neither dark nor gain is given, and no streaks were found: patterns are used as they were recorded")
        return yes(f"raw frames are corrected: {measured.description}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        measured = measured_background(state.cube)
        assert measured is not None and measured.edge is not None
        q_pixel = state.calibration.q_pixel if measured.detector_shape == state.cube.detector_shape else None
        state.save("background", DiffractionSlice.calibrated(np.asarray(measured.background), "background", "counts", q_pixel))
        if np.any(measured.bad_pixels):
            bad = np.asarray(measured.bad_pixels).astype(np.uint8)
            state.save("corrected_pixels", DiffractionSlice.calibrated(bad, "corrected pixels", "", q_pixel))
        number = state.cube.detector_shape, measured.detector_shape
        binned = max(1, number[1][0] // number[0][0])
        summed = (binned * state.recipe.input.bin_scan) ** 2  # pixels of raw frames in each of the mean
        mean = np.asarray(state["mean_pattern"], dtype=np.float64) / summed
        edge = _binned(measured.edge & ~np.asarray(measured.bad_pixels), binned)[: mean.shape[0], : mean.shape[1]] & np.isfinite(mean)
        if not edge.any():
            return
        whole, inner, error = float(mean[edge].mean()), measured.level, measured.level_error
        sure = math.copysign(max(abs(inner) - SIGNIFICANT * error, 0.0), inner)  # what is left of it beyond its own error
        worst, noise = max(whole, sure, key=abs), max(measured.noise, LEAST_NOISE)
        said = f"{whole:.2g} a pixel; nearest to the beam {inner:.2g} ± {error:.1g} more than elsewhere (noise {measured.noise:.2g})"
        state.record.measure("edge_background", worst / noise, said)

    def methods(self, state: RunState) -> str:
        measured = measured_background(state.cube)
        return "" if measured is None else f"Raw frames were corrected as they were read: {measured.description}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        measured = measured_background(state.cube)
        assert measured is not None
        caption = (
            f"What is subtracted from every frame, measured at the edge in {measured.frames} patterns: streaks that stay "
            f"{measured.streaks_fixed:.2g}, streaks that change {measured.streaks_changing:.2g}, noise of a pixel {measured.noise:.2g} "
            f"(standard deviations). {measured.description[0].upper()}{measured.description[1:]}."
        )
        yield Picture("background", DIFFRACTION, "Background of raw frames", caption), plot.image(state["background"])


def _binned(mask: np.ndarray, side: int) -> np.ndarray:
    """Return where all pixels of a square are in the mask."""
    x, y = (n // side for n in mask.shape)
    return np.asarray(mask[: x * side, : y * side].reshape(x, side, y, side).all(axis=(1, 3)))
