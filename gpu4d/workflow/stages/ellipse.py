"""Measure the ellipse of the detector on the rings of the specimen itself, where it has rings and no ellipse is known."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.calibrate import HaloFit, RingFit
from gpu4d.calibrate.stretch import known_error
from gpu4d.crystal.technique import kind_of, of_crystals
from gpu4d.data.pointlist import PointList
from gpu4d.data.slices import DiffractionSlice
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.rings.find_ring import Ring
from gpu4d.workflow.picture import DIFFRACTION, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.stages.lattice import SINGLE
from gpu4d.workflow.stages.lattice_checks import NOMINAL
from gpu4d.workflow.stages.technique import DEFLECTION, beam_of, ring_of
from gpu4d.workflow.structure_names import structure_named

SIGNIFICANT = 3.0  # standard errors of a/b: a smaller ellipse is none that the rings show
SHARP = 0.003  # largest standard error of a/b with which a detector may be called round: ellipses of 1 % must be seen
LEAST_OF_A_GLASS = 0.005  # of a/b: a glass that is strained by as much as this shows the same, so a smaller ellipse is not removed


@dataclass
class EllipseSettings:
    """The elliptical distortion of the detector. A known ellipse counts before a measured one."""

    measure: str | bool = setting(
        "auto", "decision", "Measure the ellipse on rings of this scan. auto: on rings of spots and on the halo of a glass, but not where "
        "disks of one crystal are seen, and not on a phase object. Set false for a glass that is strained as a whole: it shows the same.",
        tune="Better than a measurement on the specimen is one on a standard of the same session: `gpu4d calibrate`, then "
        "input.calibration.",
    )  # fmt: skip
    given: list[float] | None = setting(
        None, "numbers", "Known ellipse: a/b, and the angle of a from qx towards qy in degrees.", units="a/b, degrees", length=2,
        automatic="as --calibration or the scan's file say, else measured where the scan has rings",
        tune="Measure it on a polycrystal. An ellipse of 1 % that is not removed mixes the components of strain "
        "by 1 % of their size, and adds 1 % everywhere if the reference is a crystal or of another scan.",
    )  # fmt: skip

    inner: float | None = setting(
        None, "number", "Start of the annulus in which a ring is fitted.", units="of the largest radius on the detector", low=0.01, high=1,
        guide=(0.3, 0.5), table="17.2", automatic="from the valley inside of the brightest ring",
        tune="Set it beyond the beam and the foot of its disk, if the fit takes a ring that is none. Rings of a named structure do not "
        "need it.",
    )  # fmt: skip
    outer: float | None = setting(
        None, "number", "End of that annulus.", units="of the largest radius on the detector", low=0.02, high=1, guide=(0.7, 0.9),
        table="17.2", automatic="as far outside of the ring as its valley is inside",
        tune="Include the whole ring, and stop before the detector ends.",
    )  # fmt: skip

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        if (self.inner is None) != (self.outer is None):
            return "ellipse.inner and ellipse.outer belong together: give both, or none"
        if self.inner is not None and self.outer is not None and self.inner >= self.outer:
            return f"ellipse.outer = {self.outer:g} must be larger than ellipse.inner = {self.inner:g}"
        if self.given is not None and not (1 <= self.given[0] <= 2 and abs(self.given[1]) <= 360):
            return f"ellipse.given = {self.given}: need a/b from 1 to 2, and an angle from -360 to 360 degrees"
        return None


class Ellipse(Stage):
    """Fit the rings of the mean pattern. What follows uses the ellipse: virtual detectors, radial profiles, distances of disks."""

    name = "ellipse"
    title = "ellipse of the detector from rings"
    guide: ClassVar = ("G", "H")
    settings = EllipseSettings
    section = "ellipse"
    needs: ClassVar = ("mean_pattern", "total", "technique")
    uses: ClassVar = ("disk", "trial", "ring", "template")
    makes: ClassVar = ("ellipse",)
    place: ClassVar = 24

    def wanted(self, state: RunState) -> Reason:
        """Decide from what the scan shows. Rings and halos have one distance in all directions, the disks of a crystal have not."""
        asked, c, technique = self.given(state).measure, state.calibration, state["technique"]
        if c.ellipse is not None:
            known = c.how_known("ellipse") or "given"
            return no(f"the ellipse is known ({known}), and is used in place of one that is measured here")
        if asked is False:
            return no("the recipe asks for none")
        if asked == "auto" and (why := self._unsuitable(state, technique)):
            return no(why)
        ring = self._ring(state)
        if ring is None:
            return no("no even ring was found in the mean pattern: a standard has rings, or `gpu4d calibrate` measures it on disks")
        kind = f"{kind_of(ring)}, as of {'many small crystals' if of_crystals(ring) else 'a glass'}"
        return yes(f"the mean pattern has {kind}, at {ring.radius:.0f} px: its distance from the beam is the same in all directions")

    def _unsuitable(self, state: RunState, technique: str) -> str:
        """Say why rings of this scan say nothing about the detector. Empty if they do."""
        trial = state.get("trial")
        lattice = None if trial is None else trial.lattice
        if lattice is not None and lattice.indexed_fraction >= SINGLE:
            share = 100 * lattice.indexed_fraction
            return f"{share:.0f} % of the disks lie on one lattice: distances of a crystal's disks differ, so measure a standard"
        if technique in DEFLECTION and technique != "both":
            return f"the technique is {technique}: the edge of a phase object's disk is no ring of a specimen"
        return ""

    def _ring(self, state: RunState) -> Ring | None:
        return state["ring"] if "ring" in state else ring_of(state)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        with state.record.stage(self.title):
            fit, what = self._fit(state)
        if fit is None:
            state.record.warn(f"no ellipse from the rings: {what}")
            return
        state.keep("ellipse", fit)
        state.products["ellipse"] = _as_item(fit)
        good = self._gates(state, fit, what)
        self._apply(state, fit, what, good)

    def _fit(self, state: RunState) -> tuple[RingFit | HaloFit | None, str]:
        """Fit all rings of the named structures, or one ring. Return the fit and what was fitted, or None and why."""
        import gpu4d

        mean, mask, c = np.asarray(state["mean_pattern"], dtype=np.float64), state.cube.detector_mask, state.calibration
        counts = np.rint(mean * state.patterns) if in_counts(state.cube.dtype, state["total"]) else mean
        names = state.recipe.orientation.structures or []
        if names:
            crystals = [structure_named(name) for name in names]
            called = " and ".join(s.name for s in crystals)
            try:
                fit = gpu4d.calibrate.fit_rings(counts, crystals, mask=mask, energy=c.energy, q_pixel=c.q_pixel)
                return fit, f"{len(fit.rings)} rings of {called}"
            except InputError as error:
                state.record.warn(f"the rings are not taken for those of {called}: {error}")
        try:
            radii = self._radii(state)
            return gpu4d.calibrate.fit_halo(counts, mask=mask, radii=radii), "the brightest ring" if radii is None else "the given annulus"
        except InputError as error:
            return None, str(error)

    def _radii(self, state: RunState) -> tuple[float, float] | None:
        """Return the annulus that the recipe names, pixels. None if it names none."""
        given = self.given(state)
        if given.inner is None or given.outer is None:
            return None
        (x, y), shape = beam_of(state), np.asarray(state.cube.detector_shape)
        largest = float(min(x, y, shape[0] - 1 - x, shape[1] - 1 - y)) + 0.5
        return given.inner * largest, given.outer * largest

    def _gates(self, state: RunState, fit: RingFit | HaloFit, what: str) -> bool:
        """Check that the ellipse is known, and that the rings lie on it. Return whether both are."""
        ratio, error = fit.ellipse[0] - 1, fit.ellipse_error[0]
        said = f"a/b − 1 = {measured(100 * ratio, 100 * error)} %, {ratio / max(error, 1e-12):.1f} standard errors, from {what}"
        known = state.record.measure("ellipse_significance", error / max(SHARP, ratio / SIGNIFICANT), said)
        off, radius = _distance(fit)
        said = f"{off:.3f} px rms from the fitted rings, {100 * off / radius:.2g} % of the radius"
        near = state.record.measure("ellipse_rings", 100 * off / radius, said)
        return known.passed and near.passed

    def _apply(self, state: RunState, fit: RingFit | HaloFit, what: str, good: bool) -> None:
        """Write the ellipse into the calibration if it is known and large enough, and the pixel size if the crystal is known."""
        c, record, (ratio, _, theta) = state.calibration, state.record, fit.ellipse
        error, turned = fit.ellipse_error
        told = f"a/b = {measured(ratio, error)}"
        least = max(SIGNIFICANT * error, 0.0 if isinstance(fit, RingFit) else LEAST_OF_A_GLASS)
        if not good:
            record.decide("Ellipse: not applied", f"{told} from {what}; a gate did not pass")
            record.figure("Ellipse of the detector", "not known", f"{told} from {what} is not applied")
            return
        if ratio - 1 > least:
            c.set(ellipse=fit.ellipse, ellipse_error=fit.ellipse_error, how=f"{what} of this scan")
            angle = f"a at {measured(math.degrees(theta), math.degrees(turned))}° from qx"
            record.figure("Ellipse of the detector", told, f"{angle}; from {what}")
            why = f"no ellipse was given, and that of {what} is {(ratio - 1) / error:.0f} standard errors large"
            record.decide(f"Ellipse: {told} is removed from virtual detectors, profiles and distances", why)
        else:
            limit = (
                "within its error" if isinstance(fit, RingFit) or ratio - 1 <= SIGNIFICANT * error else "as far as a strained glass tells"
            )
            record.figure("Ellipse of the detector", "none", f"{told}: round {limit}; from {what}")
            record.decide("Ellipse: none", f"{told} from {what}: round {limit}")
        if isinstance(fit, RingFit):
            self._pixel(state, fit, what)

    def _pixel(self, state: RunState, fit: RingFit, what: str) -> None:
        """Take the pixel size from rings of a known crystal, unless one was given. Then compare both."""
        c, record = state.calibration, state.record
        found = measured(fit.q_pixel, fit.q_pixel_error)
        how = c.how_known("q_pixel") or ""
        if c.q_pixel is not None and not how.startswith(NOMINAL):
            off = fit.q_pixel / c.q_pixel - 1
            said = f"{what} give {found} Å⁻¹, {100 * off:+.2f} % from the calibration's {measured(c.q_pixel, c.q_pixel_error)} Å⁻¹"
            record.measure("ring_pixel", 100 * off, said)
            return
        c.set(q_pixel=fit.q_pixel, q_pixel_error=known_error(fit.q_pixel_error), how=f"{what} of this scan")
        for name in ("mean_pattern", "max_pattern"):
            state.save(name, DiffractionSlice.calibrated(state[name].data, state[name].name, "counts", c.q_pixel))
        record.figure("Detector pixel from rings", f"{found} Å⁻¹", f"along the minor axis; from {what}")
        record.decide(f"Detector pixel: {found} Å⁻¹", f"that of {what}; it is more exact than {how}" if how else f"that of {what}")

    def methods(self, state: RunState) -> str:
        fit = state.get("ellipse")
        if fit is None:
            return ""
        ratio, angle = (
            measured(fit.ellipse[0], fit.ellipse_error[0]),
            measured(math.degrees(fit.ellipse[2]), math.degrees(fit.ellipse_error[1])),
        )
        used = "was removed" if state.calibration.ellipse is not None else "was not removed, because it is not significant"
        size = f"a/b = {ratio}, a at {angle}°"
        return f"The elliptical distortion of the detector was measured on rings of the mean pattern ({size}) and {used}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "ellipse" not in state:
            return
        fit, size = state["ellipse"], state.calibration.q_pixel
        taken = "It is removed from what follows." if state.calibration.ellipse == fit.ellipse else "It is not removed."
        caption = f"Sum of all patterns with the fitted ring{'s' if isinstance(fit, RingFit) else ''} over its left half. {taken}"
        mean = state["mean_pattern"]
        pattern = DiffractionSlice.calibrated(np.asarray(mean) * state.patterns, "sum of all patterns", "counts", size)
        made = plot.rings(pattern, fit, "Rings and their fit", pixel_size=size)
        yield Picture("ellipse", DIFFRACTION, "Ellipse of the detector", caption), made


def _distance(fit: RingFit | HaloFit) -> tuple[float, float]:
    """Return how far the rings lie from the fitted ones, px rms, and the radius that this is compared with, px."""
    if isinstance(fit, HaloFit):
        return fit.residual, fit.radius
    off = np.array([ring.off for ring in fit.rings])
    weight = np.array([1 / ring.off_error**2 if ring.off_error > 0 else 0.0 for ring in fit.rings])
    seen = np.isfinite(off) & np.isfinite(weight) & (weight > 0)
    rms = float(np.sqrt(np.average(off[seen] ** 2, weights=weight[seen]))) if seen.any() else 0.0
    return rms, fit.rings[0].radius


def _as_item(fit: RingFit | HaloFit) -> PointList:
    """Return a fit as one row of the result file, with standard errors and covariances. (e1, e2) = ½ ln(a/b) (cos 2θ, sin 2θ)."""
    values = {
        "qx": (fit.center[0], "px"), "qy": (fit.center[1], "px"),
        "qx_error": (fit.center_error[0], "px"), "qy_error": (fit.center_error[1], "px"),
        "ratio": (fit.ellipse[0], "1"), "ratio_error": (fit.ellipse_error[0], "1"),
        "theta": (fit.ellipse[2], "rad"), "theta_error": (fit.ellipse_error[1], "rad"),
        "e1": (fit.stretch[0], "1"), "e2": (fit.stretch[1], "1"),
        "var_e1": (fit.stretch_covariance[0, 0], "1"), "var_e2": (fit.stretch_covariance[1, 1], "1"),
        "cov_e1_e2": (fit.stretch_covariance[0, 1], "1"),
    }  # fmt: skip
    if isinstance(fit, RingFit):
        cov = fit.covariance[2:, 2:]  # of a/b, theta and the pixel
        values |= {"q_pixel": (fit.q_pixel, "1/Å"), "q_pixel_error": (fit.q_pixel_error, "1/Å")}
        values |= {
            "cov_ratio_theta": (cov[0, 1], "rad"),
            "cov_ratio_q_pixel": (cov[0, 2], "1/Å"),
            "cov_theta_q_pixel": (cov[1, 2], "rad/Å"),
        }
    return PointList({name: np.array([float(value)]) for name, (value, _) in values.items()}, {name: u for name, (_, u) in values.items()})
