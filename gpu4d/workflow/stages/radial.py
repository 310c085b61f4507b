"""Average the scan over rings about the beam, where there is a ring: radial profile, its variance, and statistics at every position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.data.pointlist import PointList
from gpu4d.device.memory import parse_memory
from gpu4d.rings import RadialStatistics, RadialVariance, RingStatistics, ring_center
from gpu4d.rings.polar_transform import radial_grid
from gpu4d.sizes import format_bytes
from gpu4d.workflow.picture import DIFFRACTION, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.stages.technique import RINGS, beam_of

NEAR_RING = 0.1  # of its radius: the figure is that of the brightest place of the profile in this range
MOST_BYTES = 2 << 30  # of ring statistics at every position: of a larger scan the sums over all positions are kept
SHARE = 1 / 3  # of a memory limit that the user set: with their result in the making, they then take half of it
RING_BYTES = 4 * 8  # of a ring at a position: pixels, sum and squares, and a copy of one of them


class RadialProfiles(Stage):
    """Compute the radial profile of an amorphous or fine-grained specimen, and how it varies over the scan."""

    name = "radial"
    title = "radial profile and its variance"
    guide: ClassVar = ("S",)
    needs: ClassVar = ("mean_pattern", "unusable", "technique")
    uses: ClassVar = ("disk", "ring", "ellipse")
    makes: ClassVar = ("radial_profile", "ring_profiles", "ring_origin")
    compiles: ClassVar = ("rings",)
    rests_on: ClassVar = ("q_pixel",)
    cites: ClassVar = ("voyles2002",)
    place: ClassVar = 25

    def wanted(self, state: RunState) -> Reason:
        if state["technique"] not in RINGS:
            return no(
                f"the technique is {state['technique']}: amorphous classes of patterns, if there are any, have a profile of their own"
            )
        if "ring" not in state:
            return no("no ring was found in the mean pattern")
        return yes(f"the mean pattern has a ring of {state['ring'].radius:.0f} px")

    def reductions(self, state: RunState) -> dict[str, Any]:
        origin = _origin(state)
        state.keep("ring_origin", origin)
        return ring_reductions(state, origin, ~np.asarray(state["unusable"], dtype=bool), state["technique"] == "amorphous")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        state.keep("radial_profile", results["radial_profile"])
        state.keep("ring_profiles", results.get("ring_profiles"))
        record_profile(state, results["radial_profile"], state["ring"].radius)

    def methods(self, state: RunState) -> str:
        return "Patterns were averaged over rings about the beam, and the normalised variance over the positions was taken [@voyles2002]."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        yield from draw_profile(state, state["radial_profile"], state["ring"].radius)


def ring_reductions(state: RunState, origin: Any, where: np.ndarray, by_position: bool) -> dict[str, Any]:
    """Return the reductions of rings: sums over the positions, and statistics of every position if these are not too large.

    Parameters
    ----------
    state : RunState
    origin : pair or None
        None for the calibrated one.
    where : (Rx, Ry) bool
        Positions that count in the sums.
    by_position : bool
        True asks for statistics of every position.
    """
    found: dict[str, Any] = {"radial_profile": RadialVariance(origin, where=where)}
    if by_position:
        size = RING_BYTES * int(np.prod(state.cube.scan_shape)) * radial_grid(state.cube.detector_shape, None, None)[0]
        most = MOST_BYTES
        if "compute.memory" in state.recipe.given:
            most = min(most, int(SHARE * parse_memory(state.recipe.compute.memory)))
        if size <= most:
            found["ring_profiles"] = RingStatistics(origin)
        else:
            said = f"they would take {format_bytes(size)}, more than {format_bytes(most)}; sums over all positions are kept"
            state.record.decide("No ring statistics by position", said)
    return found


def _origin(state: RunState) -> Any:
    """Return the calibrated origin as None. Without one, return the centre of the ring."""
    if state.calibration.origin is not None:
        return None
    mean, beam = np.asarray(state["mean_pattern"], dtype=np.float64), beam_of(state)
    center = ring_center(mean, beam, state["ring"], state.cube.detector_mask)
    how = "the brightest place of the mean pattern" if center is None else "the centre of the ring, from its place in every direction"
    x, y = beam if center is None else center
    state.record.decide(f"Centre of the radial profile: ({x:.2f}, {y:.2f}) px", f"no bright-field disk was found; {how}")
    return x, y


def record_profile(state: RunState, found: RadialStatistics, ring: float) -> None:
    """Write a profile into the result file, and record its variance at a ring of this radius (px)."""
    units = {"radius": "px", "mean": "counts per pixel", "deviation": "counts per pixel"}
    fields = {name: np.asarray(values) for name, values in found._asdict().items()}
    if q := state.calibration.q_pixel:
        fields, units = {"q": q * fields["radius"], **fields}, {"q": "1/Å", **units}
    state.products["radial_profile"] = PointList(fields, units)
    near = np.abs(found.radius - ring) <= max(1.0, NEAR_RING * ring)
    if np.isfinite(found.mean[near]).any():
        at = np.flatnonzero(near)[np.nanargmax(found.mean[near])]
        noise = f"counting noise {found.noise[at]:.2g}, " if is_integer_dtype(state.cube.dtype) else ""
        seen = f"{noise}{int(found.positions[at])} positions; 0 if all positions are alike"
        state.record.figure("Normalised variance at the ring", f"{found.variance[at]:.3g}", f"at {found.radius[at]:.1f} px; {seen}")


def draw_profile(state: RunState, found: RadialStatistics, ring: float) -> Iterator[Drawn]:
    """Draw a profile and its variance, with a ring of this radius (px) marked."""
    from gpu4d import plot

    q = state.calibration.q_pixel
    marks = [(ring, "ring")]
    if "disk" in state:
        marks.append((state["disk"].radius, "disk"))
    caption = "Azimuthal mean over the distance from the beam, averaged over the scan. The band is ± the standard deviation over the "
    caption += f"positions. The standard error of the mean is {np.sqrt(found.positions.max()):.0f} times smaller. {_axis(q)}"
    made = plot.profile(
        found.radius, found.mean, "Radial profile", spread=found.deviation, marks=marks, pixel_size=q, units="counts per pixel"
    )
    yield Picture("radial_profile", DIFFRACTION, "Radial profile", caption), made
    caption = "V = ⟨I²⟩ / ⟨I⟩² − 1 of the azimuthal mean I over the positions. It is high where ordered regions scatter at some positions "
    caption += "only. Differences of thickness raise it at all distances alike. "
    others = None
    if is_integer_dtype(state.cube.dtype):
        others = {"counting noise alone": found.noise}
        caption += "Dashed: what counting noise alone would give, if a count is an electron. "
    made = plot.profile(
        found.radius, found.variance, "Variance of the radial profile", others=others, marks=marks, label="variance over the positions",
        pixel_size=q, units="normalised variance V",
    )  # fmt: skip
    yield Picture("radial_variance", DIFFRACTION, "Variance of the radial profile", caption + _axis(q)), made


def _axis(q_pixel: float | None) -> str:
    """Say in which units the distance is drawn."""
    return "q = 1/d." if q_pixel else "The distance is in detector pixels, because the size of a detector pixel is not known."
