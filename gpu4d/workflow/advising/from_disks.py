"""Suggest settings from the Bragg disks of a few patterns."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import Suggestion, suggests
from gpu4d.workflow.recipe import default
from gpu4d.workflow.stages.lattice import SINGLE
from gpu4d.workflow.stages.trial import FOR_ORIENTATIONS, LEAST_ORIGINS, RELATIVE_THRESHOLD

BETTER = 1.05  # times as many disks on the lattice: by less, another exponent is not suggested
PURE = 0.02  # smaller share of disks on the lattice that another exponent may have
NEARLY_FULL = 0.8  # of bragg.max_peaks: with more disks the limit is raised
PATTERN_SECONDS = 5e-3  # s: a fit of the lattice to a whole pattern, on one core


def _apart(look: Look) -> str:
    """Say how far disks are apart, compared with their width."""
    assert look.radius is not None and look.spacing is not None
    wide = 2 * look.radius
    return f"disks are {look.spacing:.1f} px apart, and {wide:.1f} px wide: they {'overlap' if look.spacing < wide else 'stand apart'}"


@suggests("bragg.power")
def _power(look: Look) -> Suggestion | None:
    if not look.powers:
        return None
    usual = next(one for one in look.powers if one.power == default("bragg.power"))
    best = max(look.powers, key=lambda one: one.on_lattice)
    said = ", ".join(f"{one.power:.2f}: {one.on_lattice:.1f} of {one.disks:.1f}" for one in look.powers)
    assert look.trial is not None
    why = f"disks on the lattice in a pattern, of all that are found, at {len(look.trial.positions)} positions, by power: {said}"
    pure = best.on_lattice / max(best.disks, 1e-9) > usual.on_lattice / max(usual.disks, 1e-9) - PURE
    if best.on_lattice > BETTER * usual.on_lattice and pure:
        return Suggestion(f"{why}. {best.power:g} finds most", best.power)
    return Suggestion(f"{why}. {usual.power:g} is as good as any")


@suggests("bragg.refine")
def _refine(look: Look) -> Suggestion | None:
    if look.radius is None or look.spacing is None:
        return None
    kind = "values are counts" if is_integer_dtype(look.cube.dtype) else f"values are {look.cube.dtype}"
    return Suggestion(f"{kind}; {_apart(look)}. auto takes the Poisson fit for counts of disks that stand apart")


@suggests("bragg.min_significance")
def _significance(look: Look) -> Suggestion | None:
    if not look.counted:
        return Suggestion(f"values are no counts: {RELATIVE_THRESHOLD:g} of the strongest disk takes its place (min_relative_intensity)")
    if look.state.recipe.orientation.structures:
        return Suggestion(f"structures are named: weak disks decide on the tilt, so {FOR_ORIENTATIONS:g}", FOR_ORIENTATIONS)
    if look.trial is None:
        return None
    disks = f"{np.median(look.trial.counts):.0f} disks (median)"
    return Suggestion(
        f"values are counts, {look.counts:,.0f} in a pattern, and {disks} are found with {look.trial.options['min_significance']:g}"
    )


@suggests("bragg.min_relative_intensity")
def _relative(look: Look) -> Suggestion | None:
    trial = look.trial
    if trial is None or not len(trial.disks):
        return None
    if not look.counted:
        return Suggestion("values are no counts, so that the significance of a disk is not known", RELATIVE_THRESHOLD)
    intensity, offsets = np.asarray(trial.disks.flat("intensity")), np.asarray(trial.disks.offsets)
    number = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    strongest = np.zeros(len(offsets) - 1)
    np.maximum.at(strongest, number, intensity)
    weak = float(np.quantile(intensity / strongest[number], 0.1))
    return Suggestion(f"a tenth of the significant disks has less than {weak:.2g} of the strongest one: a larger threshold would drop them")


@suggests("bragg.min_spacing")
def _spacing(look: Look) -> Suggestion | None:
    if look.radius is None or look.spacing is None:
        return None
    return Suggestion(_apart(look))


@suggests("bragg.max_peaks")
def _max_peaks(look: Look) -> Suggestion | None:
    trial = look.trial
    if trial is None or not len(trial.counts):
        return None
    most, limit = int(trial.counts.max()), int(trial.options["max_peaks"])
    said = f"{len(trial.counts)} trial patterns have {np.median(trial.counts):.0f} disks (median), {most} at most"
    if most >= NEARLY_FULL * limit:
        return Suggestion(f"{said}: nearly the limit of {limit}", 2 * limit)
    return Suggestion(f"{said}: {limit} leaves room")


@suggests("origin.fit")
def _origin(look: Look) -> Suggestion | None:
    trial = look.trial
    if trial is None or trial.origin is None or np.isfinite(trial.origin.measured[..., 0]).sum() < LEAST_ORIGINS:
        return None
    miss = float(np.hypot(*trial.origin.residual))
    moves = f"the beam moves by {trial.descan:.2f} px over the scan"
    return Suggestion(f"{moves}; a {trial.origin.fit} fits to {miss:.2f} px rms at the trial positions")


@suggests("origin.method")
def _method(look: Look) -> Suggestion | None:
    if look.trial is None or look.trial.origin is None:
        return None
    return Suggestion(f"the origin of the trial patterns is from {look.trial.origin.method}")


@suggests("ellipse.measure", "ellipse.given")
def _ellipse(look: Look) -> Suggestion | None:
    c, trial = look.cube.calibration, look.trial
    if c.ellipse is not None:
        return Suggestion(f"known ({c.how_known('ellipse') or 'as the file says'})")
    if trial is not None and trial.lattice is not None and trial.lattice.indexed_fraction >= SINGLE:
        return Suggestion("not known, and one lattice does not show it: measure a standard (`gpu4d calibrate`)")
    ring = look.state.get("ring")
    return Suggestion("not known") if ring is None else Suggestion(f"not known; the ring of {ring.radius:.0f} px may show it")


@suggests("lattice.fit", "strain.method")
def _fit(look: Look) -> Suggestion | None:
    if look.radius is None or look.spacing is None:
        return None
    if look.spacing >= 2 * look.radius:
        return Suggestion(f"{_apart(look)}, so that single disks can be located")
    minutes = math.prod(look.cube.scan_shape) * PATTERN_SECONDS / 60
    return Suggestion(
        f"{_apart(look)}: the lattice is fitted to whole patterns if they are counts (lattice.fit = pattern, {minutes:.2g} min on one "
        "core), which needs an image of the probe; without one try strain.method = cepstrum"
    )


@suggests("strain.reference")
def _reference(look: Look) -> Suggestion | None:
    if look.strains is None:
        return None
    (rx, ry), percent = look.cube.scan_shape, 100 * look.strains
    return Suggestion(
        f"lengths of the lattice vectors vary by {percent:.2g} % (standard deviation over the trial positions); the scan has {rx}×{ry} "
        f"positions"
    )


@suggests("strain.max_strain")
def _max_strain(look: Look) -> Suggestion | None:
    if look.strains is None:
        return None
    return Suggestion(
        f"lengths of the lattice vectors vary by {100 * look.strains:.2g} % over the trial positions (standard deviation, with noise)"
    )


@suggests("strain.axis")
def _axis(look: Look) -> Suggestion:
    c = look.cube.calibration
    known = c.rotation is not None
    return Suggestion(f"the rotation is {'' if known else 'not '}calibrated: 0 is the first {'scan' if known else 'detector'} axis")


@suggests("orientation.structures")
def _structures(look: Look) -> Suggestion | None:
    if look.trial is None:
        return None
    c = look.state.calibration
    size = (
        "the pixel size is not known: give it, which orientations need to 1 %" if c.q_pixel is None else f"a pixel is {c.q_pixel:.4g} 1/Å"
    )
    return Suggestion(f"{np.median(look.trial.counts):.0f} disks in a pattern (median); {size}")


@suggests("orientation.min_disks")
def _min_disks(look: Look) -> Suggestion | None:
    if look.trial is None or not len(look.trial.counts):
        return None
    least = int(default("orientation.min_disks"))
    return Suggestion(f"{100 * np.mean(look.trial.counts < least):.0f} % of the trial patterns have fewer than {least} disks")


@suggests("classification.on")
def _classes(look: Look) -> Suggestion | None:
    trial = look.trial
    if trial is None or trial.lattice is None:
        return None
    return Suggestion(f"{100 * trial.lattice.indexed_fraction:.0f} % of the disks of the trial patterns lie on one lattice")
