"""Suggest settings of amorphous specimens from the ring of the mean pattern and the end of the detector."""

from __future__ import annotations

from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import Suggestion, suggests
from gpu4d.workflow.gates import BY_KEY
from gpu4d.workflow.recipe import default

END = 0.95  # of the largest k: what a run takes for the high cut-off


def _ring(look: Look) -> str:
    """Say where the ring is. Say that there is none if none was found."""
    ring, pixel = look.state.get("ring"), look.state.calibration.q_pixel
    if ring is None:
        return "the mean pattern has no even ring"
    at = "" if pixel is None else f", {ring.radius * pixel:.3g} 1/Å (d = {1 / (ring.radius * pixel):.3g} Å)"
    return f"the mean pattern has a ring of {ring.radius:.0f} px{at}, even to {100 * ring.unevenness:.0f} %"


@suggests("rdf.composition", "rdf.background")
def _composition(look: Look) -> Suggestion:
    return Suggestion(_ring(look))


@suggests("rdf.fit_to", "rdf.fit_from", "rdf.band_high")
def _band_high(look: Look) -> Suggestion:
    pixel = look.state.calibration.q_pixel
    if pixel is None:
        return Suggestion(f"the detector ends {look.reach:.0f} px from the beam; the size of a pixel is not known")
    largest = look.reach * pixel
    resolved = 0.5 / (END * largest)  # half a period of the fastest wave
    return Suggestion(f"the detector ends {look.reach:.0f} px from the beam, at {largest:.3g} 1/Å: G(r) resolves {resolved:.2g} Å at best")


@suggests("rdf.band_low")
def _band_low(look: Look) -> Suggestion | None:
    pixel, ring, usual = look.state.calibration.q_pixel, look.state.get("ring"), float(default("rdf.band_low"))
    if pixel is None or ring is None or look.disk is None:
        return None
    disk, first = look.disk.radius * pixel, ring.radius * pixel
    said = f"the beam's disk ends at {disk:.2g} 1/Å, the ring is at {first:.2g} 1/Å"
    if disk < usual < first:
        return Suggestion(f"{said}: {usual:g} lies between")
    between = round((disk + first) / 2, 3)
    return Suggestion(f"{said}: {usual:g} does not lie between, {between:g} does", between)


@suggests("fem.statistics", "fem.crystallites", "fem.normalise")
def _fem(look: Look) -> Suggestion:
    angle = look.state.calibration.semiangle
    said = "the semi-angle is not known" if angle is None else f"a semi-angle of {angle:.3g} mrad"
    low, high = BY_KEY["fem_probe"].warn
    if angle is not None and low is not None and high is not None:
        said += f", {'in' if low <= angle <= high else 'out of'} the range of {low:g} to {high:g} mrad for this method"
    return Suggestion(f"{_ring(look)}; {said}")


@suggests("amorphous_strain.reference", "amorphous_strain.max_strain")
def _strain(look: Look) -> Suggestion:
    ring = look.state.get("ring")
    if ring is None:
        return Suggestion(_ring(look))
    return Suggestion(f"{_ring(look)}: a strain of 1 % moves it by {0.01 * ring.radius:.2g} px; {look.counts:,.0f} counts in a pattern")
