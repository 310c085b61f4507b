"""Measure the rotation between detector and scan from shadow images of the defocused probe, if the recipe names some."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d.calibrate import ShadowRotation, rotation_from_points, shadow_rotation
from gpu4d.data.pointlist import PointList
from gpu4d.data.quantities import LENGTHS, GivenAs
from gpu4d.errors import InputError
from gpu4d.probe import measure_disk
from gpu4d.workflow.inputs import read_image, read_shadow_images
from gpu4d.workflow.picture import IMAGES, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

ROUGH = math.radians(2.0) / 3  # least standard error of points that are marked by hand: three of them are 2°
ASK = "write shadow.side = under or over into the recipe: an underfocused probe shows the specimen upside down"
DEFOCUS = GivenAs("defocus", "Å", 1.0, 1e9, known=LENGTHS)


@dataclass
class ShadowSettings:
    """Shadow images: patterns of the defocused probe, which show the specimen. They tell how the detector is turned against the scan."""

    images: str | None = setting(
        None, "file", "FILE or FILE:/dataset with one shadow image or several. They are read as the scan is: with its exchanged axes and "
        "its binning.", automatic="no rotation is measured from shadow images", table="17.2",
        tune="Shadow images are the most reliable way to the rotation, and tell 180° apart if the sign of the defocus is known. Without "
        "them DPC "
        "finds it by least curl.",
    )  # fmt: skip
    positions: list[list[float]] | None = setting(
        None, "rows", "Probe position [rx, ry] of each shadow image, in pixels of the STEM image.", units="scan px", length=2,
        automatic="none: shadow images need it",
        tune="Read them off the STEM image: the pixel at which the probe stood. Several images at places far apart make the "
        "rotation surer.",
    )  # fmt: skip
    side: str = setting(
        "unknown", "text", "Sign of the defocus of the shadow images. unknown: Fresnel fringes decide if they can.",
        choices=("unknown", "under", "over"),
        tune="Say what you did at the microscope. A wrong sign turns the rotation by 180°, and phases change their sign.",
    )  # fmt: skip
    defocus: float | None = setting(
        None, "number", "Size of their defocus. With the pixel sizes and the energy it gives the magnification.", units="Å", low=1,
        high=1e9, quantity=DEFOCUS, automatic="the magnification is found from the images",
        tune="Give it if it is known: the magnification need not be found then, and the sign of the defocus is used with it.",
    )  # fmt: skip
    stem: str | None = setting(
        None, "file", "FILE or FILE:/dataset with the STEM image of the same place.", automatic="the annular dark field of this scan",
        tune="Give one if the shadow images were taken at another place or magnification than this scan.",
    )  # fmt: skip
    center: list[float] | None = setting(
        None, "numbers", "Centre of the bright-field disk in the shadow images, in their pixels as they are analysed: after exchange of "
        "axes and the binning.", units="px", length=2,
        automatic="that of this scan's disk if the detector is the same, else measured in the shadow images",
        tune="Give it if the disk is cut by the detector, or hard to see in the shadow images.",
    )  # fmt: skip
    radius: float | None = setting(
        None,
        "number",
        "Its radius, in the same pixels.",
        units="px",
        low=4,
        high=1e5,
        automatic="as the centre",
        tune="It is measured with the centre. A value that is too large brings the rim of the aperture into the comparison.",
    )
    points: list[list[float]] | None = setting(
        None, "rows", "Things that you recognise in both images: [rx, ry, qx, qy] of each, three or more. Detector "
        "pixels are those of the analysed shadow image, as for the centre.", units="scan px, detector px",
        length=4, automatic="the images are compared",
        tune="Give them if the comparison of the images fails: particles or corners, far apart and not on a line.",
    )  # fmt: skip

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        if self.images and not self.points and not self.positions:
            return "shadow.images needs shadow.positions, the probe position [rx, ry] of each shadow image; or give shadow.points"
        if (self.center is None) != (self.radius is None):
            return "shadow.center and shadow.radius belong together: give both, or none"
        if self.points and self.side == "unknown":
            return f"shadow.points needs the sign of the defocus: {ASK}"
        return None


class Compared(NamedTuple):
    """The images of the stage, for its picture."""

    stem: Any
    shadows: np.ndarray
    positions: np.ndarray
    center: tuple[float, float]
    radius: float


class Shadow(Stage):
    """Compare shadow images, or points in one, with the STEM image of the same place."""

    name = "shadow"
    title = "rotation from shadow images"
    guide: ClassVar = ("I",)
    settings = ShadowSettings
    section = "shadow"
    needs: ClassVar = ("bf",)
    uses: ClassVar = ("adf", "disk")
    makes: ClassVar = ("shadow_rotation", "shadow_images", "shadow_points")
    place: ClassVar = 33

    def check(self, state: RunState) -> None:
        """Read the shadow images before the work: a file that is not there should not cost a run."""
        given = self.given(state)
        if given.images and given.positions:
            number = len(read_shadow_images(given.images, state.recipe))
            if number != len(given.positions):
                raise InputError(
                    f"{given.images} has {number} shadow image{'s' * (number != 1)}, and shadow.positions has {len(given.positions)}: need "
                    "one position [rx, ry] for each"
                )
        if given.points and len(given.points) < 3:
            raise InputError(f"shadow.points has {len(given.points)}: need three or more, which do not lie on one line")

    def wanted(self, state: RunState) -> Reason:
        given, c = self.given(state), state.calibration
        if not given.images and not given.points:
            return no("needs a shadow image: shadow.images with shadow.positions in a recipe, or shadow.points recognised in one")
        if c.rotation is not None:
            how = c.how_known("rotation") or "given"
            return no(f"the rotation is known ({how}), and is used in place of one that is measured here")
        return yes(f"the recipe names {'shadow images' if given.positions else 'points of a shadow image'}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        given, record, found = self.given(state), state.record, []
        with record.stage(self.title):
            try:
                stem = self._stem(state)
                if given.images and given.positions:
                    found.append(self._by_images(state, stem))
                if given.points:
                    found.append(self._by_points(state, stem))
            except InputError as error:
                record.warn(f"no rotation from shadow images: {error}")
                return
        best = next((one for one in found if one.decided), found[0])
        state.keep("shadow_rotation", best)
        if len(found) == 2:
            _agreement_gate(state, *found)
        good = _gate(state, best, "points" if best is not found[0] or not given.positions else "images")
        state.products["shadow_rotation"] = _as_item(best)
        self._apply(state, best, good)

    def _stem(self, state: RunState) -> Any:
        """Return the STEM image: the one that the recipe names, or that of this scan."""
        given = self.given(state)
        if given.stem:
            return read_image(given.stem, None, "STEM image").astype(np.float64)
        return state["adf"] if "adf" in state else state["bf"]

    def _by_images(self, state: RunState, stem: Any) -> ShadowRotation:
        """Register the shadow images with the STEM image."""
        given, c = self.given(state), state.calibration
        shadows = read_shadow_images(given.images, state.recipe).astype(np.float64)
        center, radius = self._disk(state, shadows)
        positions = np.asarray(given.positions, dtype=np.float64)
        state.keep("shadow_images", Compared(stem, shadows, positions, center, radius))
        same = shadows.shape[1:] == tuple(state.cube.detector_shape)
        sign = {"under": 1.0, "over": -1.0, "unknown": 0.0}[given.side]
        measured = same and (given.defocus or not sign)  # the sign alone is no size of the defocus
        known = ["energy", "q_pixel", "r_pixel"] if measured else ["energy"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an undecided half turn is a gate and a warning of the report
            return shadow_rotation(
                stem, shadows, positions, center=center, radius=radius, defocus=sign * (given.defocus or 1.0) if sign else None,
                scale=self._scale(state) if same else None, calibration=c.only(known),
            )  # fmt: skip

    def _scale(self, state: RunState) -> float | None:
        """Return scan pixels per detector pixel, if defocus, energy and both pixel sizes are known."""
        given, c = self.given(state), state.calibration
        if not (given.defocus and c.energy and c.q_pixel and c.r_pixel):
            return None
        return c.wavelength * float(given.defocus) * c.q_pixel / c.r_pixel

    def _disk(self, state: RunState, shadows: np.ndarray) -> tuple[tuple[float, float], float]:
        """Return centre and radius of the bright-field disk in the shadow images, px."""
        given, disk = self.given(state), state.get("disk")
        if given.center is not None:
            return (given.center[0], given.center[1]), float(given.radius)
        if disk is not None and shadows.shape[1:] == tuple(state.cube.detector_shape):
            return (disk.qx, disk.qy), disk.radius
        try:
            found = measure_disk(shadows.mean(axis=0))
        except ValueError as error:  # InputError, or a fit that failed
            raise InputError(f"the shadow images show no round disk ({error}): give shadow.center and shadow.radius") from error
        return (found.qx, found.qy), found.radius

    def _by_points(self, state: RunState, stem: Any) -> ShadowRotation:
        """Fit the points that the user recognised in both images."""
        given = self.given(state)
        points = np.asarray(given.points, dtype=np.float64)
        found = rotation_from_points(points[:, :2], points[:, 2:], defocus=1.0 if given.side == "under" else -1.0)
        state.keep("shadow_points", (stem, points, found))
        return found

    def _apply(self, state: RunState, found: ShadowRotation, good: bool) -> None:
        """Write rotation and transpose into the calibration, if the angle, the transpose and 180° are decided."""
        record, turn = state.record, _told(found)
        if good:
            how = f"shadow images, 180° by {'the sign of the defocus' if found.half_turn == 'defocus' else 'Fresnel fringes'}"
            error = found.error if 0 < found.error < math.inf else None
            state.calibration.set(rotation=found.angle, transpose=found.transpose, rotation_error=error, how=how)
            record.figure("Rotation of the detector", turn, how)
            record.decide(f"Rotation of the detector against the scan: {turn}", how)
        elif found.half_turn == "undecided":
            record.warn(f"the rotation is {turn}, or 180° more, and is not applied: {ASK}")
        else:
            record.warn(f"the rotation from shadow images ({turn}) is not decided, and not applied: give more images or points")

    def methods(self, state: RunState) -> str:
        found = state.get("shadow_rotation")
        return "" if found is None else f"Shadow images gave the rotation between detector and scan: {_told(found)}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        size = state.calibration.r_pixel if self.given(state).stem is None else None
        if "shadow_rotation" in state and "shadow_images" in state:
            stem, shadows, positions, center, radius = state["shadow_images"]
            title = "Shadow image and STEM image"
            found = state["shadow_rotation"]
            middle = [np.hypot(*(found.seen_at([[0.0, 0.0]], at)[0] - np.array(stem.shape) / 2)) for at in positions]
            best = int(np.argmin(middle))  # the one that shows most of the STEM image
            made = plot.shadow(
                stem,
                found,
                shadows[best],
                "Same place",
                position=positions[best],
                center=center,
                radius=radius,
                pixel_size=size,
            )
            caption = (
                f"What shadow image {best + 1} of {len(shadows)} shows of the STEM image, and the shadow image turned into the axes of "
            )
            caption += "the scan. The same things must be at the same places; one may be bright where the other is dark."
            yield Picture("shadow", IMAGES, title, caption, wide=True), made
        if "shadow_rotation" in state and "shadow_points" in state:
            stem, points, found = state["shadow_points"]
            caption = "The points in the STEM image, and where the fitted rotation puts the same points of the shadow image."
            made = plot.shadow_points(stem, found, points, pixel_size=size)
            yield Picture("shadow_points", IMAGES, "Points of the shadow image", caption), made


def _told(found: ShadowRotation) -> str:
    error = f" ± {math.degrees(found.error):.2f}" if math.isfinite(found.error) else ""
    return f"{math.degrees(found.angle):.2f}{error}°{', detector axes exchanged' if found.transpose else ''}"


def _gate(state: RunState, found: ShadowRotation, by: str) -> bool:
    """Check that the rotation is decided and known. Return whether it may be applied."""
    turn = "180° not decided" if found.half_turn == "undecided" else f"180° by {found.half_turn}"
    clear = f"{found.margin:.3g} times clearer" if found.margin < 1000 else "over 1000 times clearer"
    measure = state.record.measure
    gates = [measure("shadow_margin", found.margin, f"{_told(found)} from {by}: {clear} than any other answer, {turn}")]
    if by != "points":
        gates.append(measure("shadow_correlation", abs(found.correlation), f"correlation {found.correlation:+.2f}"))
    if by != "points" or not math.isnan(found.error):
        gates.append(measure("shadow_error", math.degrees(found.error), f"{_told(found)} from {by}"))
    if found.half_turn != "defocus":
        said = f"Fresnel fringes tell by {abs(found.fringes):.1f} standard errors: {turn}"
        gates.append(measure("shadow_side", abs(found.fringes), said))
    return all(gate.passed for gate in gates)


def _agreement_gate(state: RunState, images: ShadowRotation, points: ShadowRotation) -> None:
    """Compare the rotation from images with that from points."""
    same = images.transpose == points.transpose
    off = abs(math.remainder(images.angle - points.angle, 2 * math.pi)) if same else math.pi
    error = max(math.hypot(images.error, points.error), ROUGH)
    said = f"{_told(images)} from images, {_told(points)} from points: {math.degrees(off):.2g}° apart"
    state.record.measure("shadow_points", off / error, said if same else f"{said[: said.rfind(':')]}: one is the mirror image of the other")


def _as_item(found: ShadowRotation) -> PointList:
    """Return the rotation as one row of the result file. `underfocused` is NaN if it is not decided."""
    values = {
        "rotation": (found.angle, "rad"), "rotation_error": (found.error, "rad"), "transpose": (float(found.transpose), "1"),
        "scale": (found.scale, "scan px per detector px"), "correlation": (found.correlation, "1"), "margin": (found.margin, "1"),
        "underfocused": (math.nan if found.underfocused is None else float(found.underfocused), "1"),
    }  # fmt: skip
    return PointList({name: np.array([float(value)]) for name, (value, _) in values.items()}, {name: u for name, (_, u) in values.items()})
