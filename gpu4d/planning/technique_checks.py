"""Judge whether a planned scan suits a technique: disks, steps, pixels, angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from gpu4d.deflection.validity import potential_validity
from gpu4d.errors import InputError
from gpu4d.planning.acquisition import Acquisition
from gpu4d.planning.beam import Dose, Probe
from gpu4d.planning.check import Check, length
from gpu4d.planning.precision import StrainPrecision, strain_precision
from gpu4d.probe.measure_disk import Disk
from gpu4d.probe.shape.radial_profile import usual_reach
from gpu4d.ptychography.overlap_gate import GOOD_OVERLAP, LEAST_OVERLAP, LEAST_PROBE_OVERLAP, frequency_of_overlap, overlap_fraction

LEAST_RADIUS = 3.0  # px: a smaller disk has a rim of so few pixels that its position depends on where it lies between them
LEAST_ACROSS = 8.0  # px across the disk: where disks overlap by a tenth, the overlap is still wider than a pixel
ORDER_LENGTHS = (10.0, 20.0)  # Å: medium-range order, which FEM looks for with a probe of its size
FEM_ANGLES = (0.5, 2.0)  # mrad: the guide's 17.5
HIGHEST = 9  # order along an axis, of the disks that are counted
LEAST_K = 1.2  # 1/Å: the guide's least range for the RDF
SEEN_ORDER = 10.0  # Å: distances up to which a g(r) has structure


def strain_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for strain from Bragg disks: separate disks of enough pixels, and the precision that the electrons allow."""
    k0, radius = a.disk_frequency, a.disk_radius
    if k0 is not None and a.wavelength is not None and a.spacings:
        g = 1 / a.spacings[0]
        share = float(overlap_fraction(g / k0))
        words = f"spacing {g:.3g} 1/Å (d {length(a.spacings[0])}) against a diameter of {2 * k0:.3g} 1/Å"
        words += f": they overlap by {share:.2g} of their area" if share else ": separate"
        advice = f"a semi-angle below {1e3 * g * a.wavelength / 2:.3g} mrad, or a patterned probe"
        yield Check("strain", "disks apart", share == 0, g / (2 * k0), words, advice, "1.2, 17.7")
    if radius is not None:
        words, advice = f"{radius:.3g} px, at least {LEAST_RADIUS:g}", "a longer camera length, or less binning"
        yield Check("strain", "radius of a disk", radius >= LEAST_RADIUS, radius, words, advice, "1.2, Q18")
    if radius is not None and a.pixel is not None and a.spacings:
        yield from _disks_on_detector(a, radius, a.pixel)
    found = strain_of(a, dose)
    if found is not None:
        worst = max(found.exx, found.eyy)
        passed = None if a.strain_error is None else worst <= a.strain_error
        limit = "" if a.strain_error is None else f"; wanted {a.strain_error:.2g}"
        times = 1.0 if a.strain_error is None else (worst / a.strain_error) ** 2
        words = f"{found} at each position, if {len(found.disk) - 1} disks have {a.disk_share:.2g} of the electrons each"
        words += f", the background {a.background:.2g}"
        words += limit
        yield Check(
            "strain", "precision", passed, worst, words, f"{times:.3g} times the electrons, or as many positions binned", "11.1, Q20"
        )
    if probe is not None:
        words = f"a probe of {length(probe.fwhm)} (FWHM)" + (f", steps of {length(a.step)}" if a.step is not None else "")
        yield Check("strain", "resolution", None, probe.fwhm, words, "", "Q20")


def _disks_on_detector(a: Acquisition, radius: float, pixel: float) -> Iterator[Check]:
    """Judge whether disks have room around them, and whether the first order is on the detector."""
    spacing, needed = 1 / (a.spacings[0] * pixel), usual_reach(Disk(0.0, 0.0, radius, a.edge, 0.0)) + radius
    words = f"{spacing:.3g} px from disk to disk, {needed:.3g} px for fits of single disks"
    yield Check("strain", "room around disks", spacing >= needed, spacing, words, "a smaller semi-angle, or a longer camera length", "1.2")
    last, edge = 1 / (a.spacings[-1] * pixel) + radius, min(a.detector_shape) / 2
    words = f"d {length(a.spacings[-1])} reaches {last:.3g} px from the centre, the detector {edge:.3g} px"
    yield Check("strain", "orders on the detector", last <= edge, last, words, "a shorter camera length", "2")


def strain_of(a: Acquisition, dose: Dose | None) -> StrainPrecision | None:
    """Predict the precision of the strain at a position. None without electrons, a spacing, or disks in pixels on the detector.

    The lattice is taken as a square one of the largest spacing, or one of the two largest spacings at 90°. The direct beam has what
    disks and background leave.
    """
    if dose is None or a.disk_radius is None or a.pixel is None or not a.spacings:
        return None
    first, second = a.spacings[0], a.spacings[min(1, len(a.spacings) - 1)]
    vectors = np.diag([1 / (first * a.pixel), 1 / (second * a.pixel)])
    orders = np.mgrid[-HIGHEST : HIGHEST + 1, -HIGHEST : HIGHEST + 1].reshape(2, -1).T
    q = orders @ vectors
    orders = orders[(np.abs(q) + a.disk_radius <= np.asarray(a.detector_shape) / 2).all(axis=1)]
    orders = orders[np.lexsort((*orders.T, np.round(np.hypot(*(orders @ vectors).T), 6)))][: a.disks + 1]
    if np.linalg.matrix_rank(orders) < 2:
        return None  # not even one disk in each direction is on the detector
    disks = len(orders) - 1
    direct = 1 - a.background - disks * a.disk_share
    if direct < -1e-9:
        raise InputError(
            f"{disks} disks of {a.disk_share:g} and a background of {a.background:g} are more than all electrons: give smaller shares"
        )
    electrons = dose.electrons * np.append(max(direct, 0.0), np.full(disks, a.disk_share))
    below = dose.electrons * a.background / math.prod(a.detector_shape)
    return strain_precision(vectors, orders, electrons, a.disk_radius, edge=a.edge, background=below)


def ssb_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for single-side-band ptychography and WDD: overlapping disks, steps, pixels across the disk."""
    k0 = a.disk_frequency
    if k0 is None or a.wavelength is None:
        return
    yield from _overlaps(a, k0, "ssb")
    if a.step is not None:
        least = 1 / (4 * k0)
        words = f"{length(a.step)}, λ/4α is {length(least)}"
        advice = f"steps of {length(least)} or less; for larger steps, iterative ptychography at a defocus"
        yield Check("ssb", "step", a.step <= least, a.step, words, advice, "13.2")
    yield from _disk_pixels(a, "ssb")


def _overlaps(a: Acquisition, k0: float, topic: str) -> Iterator[Check]:
    """Judge the overlap of disks for the spacings of the specimen, and say down to which detail it is enough."""
    finest = 1 / (frequency_of_overlap(LEAST_OVERLAP) * k0)
    if not a.spacings:
        yield Check(
            topic, "overlap of disks", None, finest, f"a tenth of the area or more for details down to {length(finest)}", "", "13.2, 17.6"
        )
        return
    assert a.wavelength is not None, "there is a disk"
    shares = [float(overlap_fraction(1 / (d * k0))) for d in a.spacings]
    words = "; ".join(f"d {length(d)}: {share:.2g} of the area" for d, share in zip(a.spacings, shares))
    needed = 1e3 * a.wavelength / (a.spacings[0] * frequency_of_overlap(LEAST_OVERLAP))
    advice = f"a semi-angle above {needed:.3g} mrad for {LEAST_OVERLAP:g} of the area ({GOOD_OVERLAP:g} is good)"
    yield Check(topic, "overlap of disks", shares[0] >= LEAST_OVERLAP, shares[0], words, advice, "1.2, 13.2, 17.6")


def _disk_pixels(a: Acquisition, topic: str) -> Iterator[Check]:
    """Judge whether the disk has enough pixels, and is on the detector."""
    if a.disk_radius is None:
        return
    across = 2 * a.disk_radius
    words = f"{across:.3g} across the disk, at least {LEAST_ACROSS:g}"
    yield Check(topic, "pixels", across >= LEAST_ACROSS, across, words, "a longer camera length, or less binning", "2, 13.2")
    yield from _disk_inside(a, topic)


def _disk_inside(a: Acquisition, topic: str) -> Iterator[Check]:
    """Judge whether the whole disk is on the detector."""
    if a.disk_radius is not None:
        across, side = 2 * a.disk_radius, min(a.detector_shape)
        words = f"a disk of {across:.3g} px on {side} px"
        yield Check(topic, "disk on the detector", across < side, across, words, "a shorter camera length", "2")


def ptychography_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for iterative ptychography: overlap of neighbouring probes, and a field of view that holds the probe."""
    k0 = a.disk_frequency
    if k0 is None or probe is None or a.semiangle is None:
        return
    if a.step is not None:
        share = 1 - a.step / probe.diameter
        shown = f"overlap by {share:.0%} of their diameter" if share > 0 else "do not overlap"
        words = f"probes of {length(probe.diameter)} {shown} at steps of {length(a.step)}, at least {LEAST_PROBE_OVERLAP:.0%}"
        wide = a.step / (1 - LEAST_PROBE_OVERLAP)
        blur = math.sqrt(max(wide**2 - (1.22 / k0) ** 2, 0.0)) / (2e-3 * a.semiangle)
        advice = f"steps of {length(probe.diameter * (1 - LEAST_PROBE_OVERLAP))} or less, or a defocus of {length(blur)} or more"
        yield Check("ptychography", "overlap of probes", share >= LEAST_PROBE_OVERLAP, share, words, advice, "1.2, 13.2")
    if a.pixel is not None:
        field = 1 / a.pixel
        words = f"a field of {length(field)} (1/pixel) for a probe of {length(probe.diameter)}"
        advice = f"less defocus, or a detector pixel below {1 / probe.diameter:.3g} 1/Å"
        yield Check("ptychography", "field of view of a pattern", field >= probe.diameter, field, words, advice, "2, 13.2")
        reach = min(a.detector_shape) / 2 * a.pixel
        words = f"{length(1 / reach)} at best, from angles up to {reach:.3g} 1/Å"
        yield Check("ptychography", "finest detail", None, 1 / reach, words, "", "Q20")
    yield from _disk_pixels(a, "ptychography")


def dpc_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for DPC: the three conditions of a potential, and the deflection that the electrons let see."""
    if a.energy is None or a.semiangle is None or a.wavelength is None:
        return
    bragg = 5e2 * a.wavelength / a.spacings[0] if a.spacings else None
    judged = potential_validity(energy=a.energy, semiangle=a.semiangle, thickness=a.thickness or None, r_pixel=a.step, bragg_angle=bragg)
    advice = {
        "thickness": "call it pseudo-DPC, or use multislice ptychography",
        "step": "smaller steps, or a smaller semi-angle",
        "semi-angle": "a larger semi-angle to see the lattice; fields larger than a cell are seen without it",
    }
    for condition in judged.conditions:
        yield Check("dpc", condition.name, condition.met, None, condition.text, advice[condition.name], "13.1, Q10, pitfall 3")
    if dose is not None:
        error = a.semiangle / (2 * math.sqrt(dose.electrons))
        yield Check(
            "dpc", "precision", None, error, f"deflections to {1e3 * error:.3g} µrad at each position, from the counts alone", "", "14.3"
        )
    yield from _disk_inside(a, "dpc")


def fem_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for fluctuation electron microscopy: a probe of the size of the order that is looked for."""
    if probe is None or a.wavelength is None or a.semiangle is None:
        return
    low, high = ORDER_LENGTHS
    angles = [6.1e2 * a.wavelength / size for size in (high, low)]
    words = f"{length(probe.resolution)} (0.61 λ/α), order is {length(low)} to {length(high)} long; the guide's range is "
    words += f"{FEM_ANGLES[0]:g} to {FEM_ANGLES[1]:g} mrad"
    advice = f"a semi-angle of {angles[0]:.2g} to {angles[1]:.2g} mrad; scans at several angles give the length"
    yield Check("fem", "probe", low <= probe.resolution <= high, probe.resolution, words, advice, "1.2, 17.5")
    if a.step is not None:
        words = f"steps of {length(a.step)}: places must be independent of each other"
        yield Check("fem", "step", a.step >= probe.resolution, a.step, words, f"steps of {length(probe.resolution)} or more", "12.2")


def rdf_checks(a: Acquisition, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks for the radial distribution function: range of angles, and their resolution."""
    if a.pixel is not None:
        reach = min(a.detector_shape) / 2 * a.pixel
        words = f"k to {reach:.3g} 1/Å, at least {LEAST_K:g}: atoms {length(1 / (2 * reach))} apart are told apart"
        yield Check("rdf", "range of k", reach >= LEAST_K, reach, words, "a shorter camera length", "12.1, 17.5")
    k0 = a.disk_frequency
    if k0 is not None and a.wavelength is not None:
        seen = 1 / (2 * k0)
        words = f"a blur of {2 * k0:.3g} 1/Å: distances up to {length(seen)} are seen, structure reaches {length(SEEN_ORDER)}"
        advice = f"a semi-angle below {5e2 * a.wavelength / SEEN_ORDER:.2g} mrad"
        yield Check("rdf", "resolution of k", seen >= SEEN_ORDER, seen, words, advice, "1.2, 12.1")


Checks = Callable[[Acquisition, Probe | None, Dose | None], Iterator[Check]]
CHECKS: dict[str, Checks] = {
    "strain": strain_checks,
    "ssb": ssb_checks,
    "ptychography": ptychography_checks,
    "dpc": dpc_checks,
    "fem": fem_checks,
    "rdf": rdf_checks,
}
