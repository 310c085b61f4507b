"""Make virtual bright-field and dark-field images, centred on the measured origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d.workflow.picture import DIFFRACTION, IMAGES, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

LEAST_RING = 1.05  # least ratio of outer to inner radius: a narrower annulus has too few counts for an image


@dataclass
class ImageSettings:
    """Virtual detectors, in radii of the bright-field disk, centred on it."""

    bf_radius: float = setting(
        1.0,
        "number",
        "Outer radius of the bright-field detector.",
        units="disk radii",
        low=0.05,
        high=20,
        tune="1 is the whole disk. A smaller one shows more phase contrast and fewer electrons. Diffracted disks come in "
        "above the spacing of the disks.",
    )
    adf_inner: float = setting(
        1.2,
        "number",
        "Inner radius of the annular dark-field detector.",
        units="disk radii",
        low=0.1,
        high=50,
        tune="Keep it above 1, so that the edge of the disk stays outside. Beyond the strongest reflections the contrast is "
        "that of mass and thickness.",
    )
    adf_outer: float | None = setting(
        None, "number", "Outer radius of the annular dark-field detector.", units="disk radii", low=0.2, high=100,
        automatic="as far as the detector reaches on every side",
        tune="A smaller one shows strain and orientation, a larger one heavy atoms.",
    )  # fmt: skip

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        if self.adf_outer is not None and self.adf_outer <= self.adf_inner:
            return f"images.adf_outer = {self.adf_outer:g} must be larger than images.adf_inner = {self.adf_inner:g}"
        return None


class Radii(NamedTuple):
    """Radii of the virtual detectors, pixels."""

    bright: float
    inner: float
    outer: float


class Images(Stage):
    """Sum the bright-field disk, and an annulus around it, at every position."""

    name = "images"
    title = "virtual images"
    guide: ClassVar = ("P",)
    settings = ImageSettings
    section = "images"
    needs: ClassVar = ("mean_pattern", "unusable")
    uses: ClassVar = ("disk", "ellipse")
    makes: ClassVar = ("bf", "adf", "radii")
    place: ClassVar = 30

    def reductions(self, state: RunState) -> dict[str, Any]:
        import gpu4d

        r = self._radii(state)
        state.keep("radii", r)
        found = {"bf": gpu4d.VirtualImage(gpu4d.detectors.disk(r.bright))}
        if r.outer > r.inner * LEAST_RING:
            found["adf"] = gpu4d.VirtualImage(gpu4d.detectors.annulus(r.inner, r.outer))
        else:
            start = f"the annulus would begin at {r.inner:.1f} px"
            state.record.warn(f"no annular dark-field image: {start}, the detector ends at {r.outer:.1f} px")
        return found

    def _radii(self, state: RunState) -> Radii:
        """Return the bright-field radius, and inner and outer radius of the annular dark field."""
        given, shape, disk = self.given(state), np.asarray(state.cube.detector_shape), state.get("disk")
        center = shape / 2 if disk is None else np.array([disk.qx, disk.qy])
        unit = min(state.cube.detector_shape) / 8 if disk is None else disk.radius
        reach = float(min(center.min() + 0.5, (shape - center).min() - 0.5))
        if state.calibration.ellipse is not None:  # radii are along its minor axis
            a, b, _ = state.calibration.ellipse
            reach *= b / a
        return Radii(unit * given.bf_radius, unit * given.adf_inner, unit * given.adf_outer if given.adf_outer else reach)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        for name, image in results.items():
            image.data = np.where(state["unusable"], np.nan, np.asarray(image))
            state.save(name, image)

    def methods(self, state: RunState) -> str:
        r = state["radii"]
        text = f"Virtual bright-field images were summed over a disk of {r.bright:.1f} px radius"
        if "adf" in state:
            text += f", and annular dark-field images from {r.inner:.1f} to {r.outer:.1f} px,"
        return f"{text} about the unscattered beam."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        bright, inner, outer = state["radii"]
        caption = f"Bright field: counts within {bright:.1f} px of the beam at every position."
        yield Picture("bf", IMAGES, "Bright field", caption), plot.image(state["bf"], "Bright field")
        if "adf" in state:
            caption = f"Annular dark field: counts between {inner:.1f} and {outer:.1f} px from the beam."
            yield Picture("adf", IMAGES, "Annular dark field", caption), plot.image(state["adf"], "Annular dark field")
        if "dpc" not in state:
            caption = "Centre of mass of every pattern, relative to its mean: hue is the direction, lightness the length."
            if state.get("technique") == "bragg":
                caption += " In a crystal it follows the diffracted beams and the descan. No phase is computed from it."
            yield Picture("com", IMAGES, "Centre of mass", caption), plot.com(state["com"])
        yield from self._detector_pictures(state)

    def _detector_pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        circles, disk, (bright, inner, outer) = [], state.get("disk"), state["radii"]
        if disk is not None:
            circles = [(disk.qx, disk.qy, bright, "bright field")]
            if "adf" in state:
                circles += [(disk.qx, disk.qy, inner, "annular dark field"), (disk.qx, disk.qy, outer, "")]
        caption = "Mean of all patterns, with the virtual detectors drawn in."
        made = plot.diffraction(state["mean_pattern"], "Mean pattern", circles=circles, ellipse=state.calibration.ellipse)
        yield Picture("mean_pattern", DIFFRACTION, "Mean pattern", caption), made
        caption = "Largest value of every pixel over the scan. It shows rare Bragg disks and hot pixels."
        made = plot.diffraction(state["max_pattern"], "Maximum pattern")
        yield Picture("max_pattern", DIFFRACTION, "Maximum pattern", caption), made

    def headline(self, state: RunState) -> str | None:
        return None if "braggvectors" in state else state.get("kind_of_data") or "Images only."
