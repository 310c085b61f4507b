"""Find the lattice of the scan, and fit it at every position."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.crystal.fit_lattice import LEAST_DISKS, LEAST_INDEXED
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.lengths import Lengths, lattice_lengths
from gpu4d.data.slices import RealSlice
from gpu4d.workflow.picture import DISKS, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

MOST = 8  # lattices of a scan that are named
LEAST_POSITIONS = 4  # of a lattice that is named: with fewer it may be a pattern of a border between others
OF_PATTERNS = "likelihood"  # `LatticeFit.weights` of a fit to whole patterns
SINGLE = 0.6  # least share of the disks on one lattice: fewer suggest several grains
VECTORS = ("g1 qx", "g1 qy", "g2 qx", "g2 qy")  # planes of the fitted lattices in a result
NAMES = {
    "twin": "twins",
    "rotated": "rotated grains",
    "film": "nearly parallel cells",
    "scaled": "scaled cells",
    "other": "phases or zone axes",
}


@dataclass
class LatticeSettings:
    """The lattice of every pattern."""

    fit: str = setting(
        "auto", "text", "What it is fitted to. disks: positions of single disks. pattern: then all counts of the pattern, with all disks "
        "tied to it: some 5 ms a pattern and core, and more precise where disks overlap or are weak. auto: pattern where disks of counts "
        "overlap and have no pattern of their own, else disks.", choices=("auto", "disks", "pattern"),
        tune="Take pattern for disks that are weak or few. disks is much faster, and as good for disks that stand apart.",
    )  # fmt: skip
    weights: str = setting(
        "sqrt", "text", "Weight of a disk in the fit to disks. sqrt: √intensity, so that its cost has the weight 1/variance; errors: its "
        "standard "
        "errors; py4dstem: its intensity; uniform: all alike.", choices=("sqrt", "errors", "py4dstem", "uniform"), table="17.4",
        tune="Keep weights: uniform lets weak disks spoil the fit of strong ones. errors needs the standard errors of a likelihood fit "
        "or of "
        "counts.",
    )  # fmt: skip


class LatticeFit(Stage):
    """Find the lattice that explains the disks, and fit it to every pattern."""

    name = "lattice"
    title = "lattice and local fits"
    guide: ClassVar = ("R",)
    settings = LatticeSettings
    section = "lattice"
    needs: ClassVar = ("braggvectors", "origin", "template")
    makes: ClassVar = ("lattice", "lattice_fit", "lattice_vectors", "lattices", "lattices_fit", "which_lattice")
    rests_on: ClassVar = ("q_pixel",)
    cites: ClassVar = ("ozdol2015", "savitzky2021")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        record, disks, origin = state.record, state["braggvectors"], state["origin"]
        weights = self._weights(state)
        with record.stage(self.title):
            found = gpu4d.crystal.find_lattices(disks, origin, most=MOST, where=state.where, calibration=state.calibration)
            if not len(found):
                why = "no lattice explains the Bragg disks better than chance: no strain. Look at the Bragg vector map and the thresholds"
                record.warn(why)
                return
            lattice, several = found[0], None
            if len(found) > 1:
                several = gpu4d.crystal.fit_lattices(
                    disks, found, origin=origin, where=state.where, radius=state["template"].radius, weights=weights
                )
            fit = gpu4d.fit_lattice(disks, lattice, origin=origin, weights=weights) if several is None else several[0]
            if self._of_patterns(state, lattice) and np.asarray(fit.mask).any():
                fit = self._whole_pattern(state, fit)
        state.keep("lattice", lattice)
        if several is not None:
            state.keep("lattices", found)
            state.keep("lattices_fit", several)
        self._record_lattice(state, lattice, fit)
        visited = np.ones(fit.shape, bool) if state.where is None else state.where
        if several is not None:
            self._record_others(state, found, several, visited)
            visited = visited & ~_elsewhere(several)
        self._warn_of_lost(state, fit, visited)
        if np.asarray(fit.mask).any():
            state.keep("lattice_fit", fit)
            vectors = vectors_of_positions(fit, several), "lattice vectors", "px", state.calibration.r_pixel, VECTORS
            state.save("lattice_vectors", RealSlice.calibrated(*vectors))
            self._sharpness_gate(state, fit)
            self._warn_of_ellipse(state, fit)

    def _warn_of_lost(self, state: RunState, fit: Any, visited: np.ndarray) -> None:
        """Say how many positions have no lattice, and why: too few disks, or too few of them on the lattice."""
        lost, counts = ~np.asarray(fit.mask) & visited, np.asarray(state["braggvectors"].counts)
        other = lost & (np.asarray(fit.count) >= LEAST_DISKS) & (np.asarray(fit.count) < LEAST_INDEXED * counts)
        few = int((lost & ~other).sum())
        if few:
            state.record.warn(f"{few} positions have fewer than three disks that do not lie on a line: strain is NaN there")
        if not other.any():
            return
        said = f"{int(other.sum())} positions have less than {100 * LEAST_INDEXED:.0f} % of their disks on the lattice: strain is NaN there"
        most = state.recipe.bragg.max_peaks
        if np.median(counts[other]) >= most:
            said += (
                f". The search ends at {most} disks there (bragg.max_peaks), as in patterns of noise or of single electrons: sum positions "
                "(--bin-scan), count the electrons of raw frames, or raise bragg.min_significance"
            )
        state.record.warn(said)

    def _of_patterns(self, state: RunState, lattice: Lattice) -> bool:
        """Return True if the lattice is to be fitted to whole patterns."""
        asked, template = self.given(state).fit, state["template"]
        if asked != "auto":
            return bool(asked == "pattern")
        return min(lattice.lengths) < 2 * template.radius and template.kind != "own" and is_integer_dtype(state.cube.dtype)

    def _weights(self, state: RunState) -> str:
        """Return the weights that the recipe names. Disks without standard errors have the usual ones, and a warning says so."""
        asked: str = self.given(state).weights
        if asked == "errors" and not {"sx", "sy"} <= set(state["braggvectors"].fields):
            state.record.warn("lattice.weights = errors needs standard errors of the disks, which these have not: √intensity is used")
            return "sqrt"
        return asked

    def _whole_pattern(self, state: RunState, fit: Any) -> Any:
        """Fit the lattices to all counts of their patterns. Values that are no counts have no such fit, and keep the disks' lattice."""
        import gpu4d

        if not is_integer_dtype(state.cube.dtype):
            state.record.warn(f"lattice.fit = pattern needs counts, and values are {state.cube.dtype}: the lattice is fitted to disks")
            return fit
        better = gpu4d.bragg.refine_lattice(state.cube, state["template"], fit, where=state.where, **state.sweep_options)
        overlap = "disks overlap, and single ones cannot be located as well; lattice.fit = disks is faster"
        why = "the recipe asks for it (lattice.fit = pattern)" if self.given(state).fit == "pattern" else overlap
        state.record.decide("Lattice: fitted to all counts of every pattern", why)
        return better

    def _record_others(self, state: RunState, found: Any, several: Any, visited: np.ndarray) -> None:
        """Record further lattices: what they are, where, and that strain is that of the first one."""
        label = np.asarray(several.label)
        fields = np.asarray(label, np.int16), "which lattice", "number", state.calibration.r_pixel
        state.save("which_lattice", RealSlice.calibrated(*fields))
        shares = [float(np.mean(label[visited] == k)) for k in range(len(found))]
        named = [k for k in range(1, len(found)) if int((label[visited] == k).sum()) >= LEAST_POSITIONS]
        for k in named:
            one, relation, where = found[k], found.relations[k - 1], f"explains {100 * shares[k]:.0f} % of the positions"
            lengths = ", ".join(f"{length:.3f}" for length in one.lengths)
            state.record.figure(f"Lattice {k}", f"{lengths} px", f"{relation}; {where}; {100 * one.indexed_fraction:.0f} % of disks")
        left_out, overlap = int((_elsewhere(several) & visited).sum()), int((np.asarray(several.overlap) & visited).sum())
        if not named:  # patterns of a border, or of chance
            state.record.note(f"further lattices (number: {len(found) - 1}) explain fewer than {LEAST_POSITIONS} positions each: not named")
            return
        kinds = ", ".join(dict.fromkeys(NAMES[found.relations[k - 1].kind] for k in named))
        more = f"; {MOST} are looked for, and there may be more" if len(found) == MOST else ""
        state.record.warn(
            f"{1 + len(named)} lattices in this scan ({kinds}{more}): strain is that of lattice 0, which explains "
            f"{100 * shares[0]:.0f} % of the positions. "
            f"{left_out:,} positions that other lattices explain are left out of it (NaN); {overlap:,} positions hold several lattices. "
            "Look at the picture “Which lattice”; gpu4d.crystal.fit_lattices gives the fit of each for strain_map"
        )

    def methods(self, state: RunState) -> str:
        lattice = state.get("lattice")
        if lattice is None:
            return ""
        whole = getattr(state.get("lattice_fit"), "weights", "") == OF_PATTERNS
        to = "all counts of every pattern" if whole else "the disks of every pattern, by weighted least squares"
        g1, g2 = (f"{length:.3f}" for length in lattice.lengths)
        return (
            f"Reciprocal lattice vectors of {g1} and {g2} px, {math.degrees(lattice.angle):.2f}° apart, index "
            f"{100 * lattice.indexed_fraction:.0f} % of the disks. They were fitted to {to} [@ozdol2015; @savitzky2021]."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        several = state.get("lattices_fit")
        if several is None:
            return
        pixel = state.calibration.r_pixel
        made = plot.lattice_map(several, state["lattices"].names, pixel_size=pixel, pixel_units="Å" if pixel else None)
        caption = "The lattice that explains the disks of each position best. Strain is that of lattice 0, where it is present."
        yield Picture("which_lattice", DISKS, "Which lattice", caption), made

    def _record_lattice(self, state: RunState, lattice: Any, fit: Any) -> None:
        c, share, found = state.calibration, f"{100 * lattice.indexed_fraction:.0f} %", lattice_lengths(fit, state.calibration.ellipse)
        if found is None:  # no position has a lattice with a covariance
            none = (math.nan, math.nan)
            found, mean = Lengths(lattice.lengths, none, none, lattice.angle, math.nan, 0), ""
        else:
            each = " and ".join(f"{e:.2g}" for e in found.at_one_position)
            mean = f"mean of {found.positions:,} positions, ± by the disks' noise ({each} px at one position); "
        g1, g2 = (measured(length, error) for length, error in zip(found.lengths, found.errors))
        spacings = ""
        if c.q_pixel:
            d1, d2 = (measured(d, error) for d, error in zip(*found.spacings(c.q_pixel, c.q_pixel_error)))
            spacings = f"d = {d1} and {d2} Å, "
        angle = measured(math.degrees(found.angle), math.degrees(found.angle_error))
        state.record.figure("Lattice", f"{g1}, {g2} px", f"{mean}{spacings}{angle}° apart; {share} of disks")
        if lattice.indexed_fraction < SINGLE and state.get("lattices") is None:
            whose = " Strain is that of the strongest lattice" if np.asarray(fit.mask).any() else ""
            state.record.warn(f"only {share} of the disks lie on the lattice: several grains or phases?{whose}")

    def _warn_of_ellipse(self, state: RunState, fit: Any) -> None:
        """Say if the lattice looks like a square or hexagonal one that the detector distorts, and no ellipse is calibrated."""
        from gpu4d.calibrate import visible_ellipse

        seen = visible_ellipse(fit, where=state.where) if state.calibration.ellipse is None else None
        if seen is not None:
            ratio = measured(100 * (seen.ellipse[0] - 1), 100 * seen.ellipse_error[0])
            angle = measured(math.degrees(seen.ellipse[2]), math.degrees(seen.ellipse_error[1]))
            size = f"an ellipse is visible: the lattice is {seen.shape} but for a stretch of {ratio} % along {angle}° from qx"
            state.record.warn(
                f"{size}. If the crystal is {seen.shape}, the detector distorts: measure it on a standard with `gpu4d calibrate`, and give "
                "--calibration. Strain against a reference in the same scan is right to first order, angles and lengths are not"
            )

    def _sharpness_gate(self, state: RunState, fit: Any) -> None:
        """Check that disks lie close to the local lattice."""
        residual, radius = float(np.nanmedian(np.asarray(fit.residual))), state["template"].radius
        share = residual / radius
        said = f"disks lie {residual:.3f} px rms from the local lattice (median), {share:.2g} of their radius"
        state.record.measure("sharpness", share, said)


def vectors_of_positions(fit: Any, several: Any) -> np.ndarray:
    """Return g1 and g2 of the lattice that explains each position, as planes (4, Rx, Ry) in detector pixels. NaN where there is none.

    Parameters
    ----------
    fit : LatticeFit
        Of the first lattice.
    several : LatticesFit or None
        Where there are several lattices, with which of them explains a position.
    """
    vectors = np.concatenate([np.asarray(fit.g1), np.asarray(fit.g2)], axis=-1)
    if several is not None:
        label = np.asarray(several.label)
        vectors = np.where(label[..., None] < 0, np.nan, vectors)
        for k in range(1, len(several)):
            vectors[label == k] = np.concatenate([np.asarray(several[k].g1), np.asarray(several[k].g2)], axis=-1)[label == k]
    return np.moveaxis(vectors, -1, 0).copy()


def _elsewhere(several: Any) -> np.ndarray:
    """Return True at positions that only other lattices than the first explain."""
    return np.asarray((np.asarray(several.label) > 0) & ~np.asarray(several.present)[0])
