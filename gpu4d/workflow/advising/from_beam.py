"""Suggest settings from the beam, the counts and what is known of the experiment."""

from __future__ import annotations

from gpu4d.crystal.technique import SMALLEST_DISK
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.sizes import format_bytes
from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import Suggestion, suggests

BINS = (4, 3, 2)
NEEDED = {
    "energy": "with the semi-angle, the disk gives the size of a detector pixel",
    "semiangle": "with the energy, the disk gives the size of a detector pixel",
    "r_pixel": "maps have a scale, and fields units, only with it",
    "q_pixel": "energy and semi-angle give it, to the accuracy of the semi-angle; a standard gives it to a part in a thousand",
}


def scan_in_words(look: Look) -> str:
    """Describe the scan and what was looked at of it, in one line."""
    (rx, ry), (qx, qy) = look.cube.scan_shape, look.cube.detector_shape
    ordinal = {2: "2nd", 3: "3rd"}.get(look.every, f"{look.every}th")
    part = "all patterns were" if look.every == 1 else f"every {ordinal} position of both axes was"
    return f"{rx}×{ry} positions, {qx}×{qy} detector pixels, {look.cube.dtype}, {format_bytes(look.cube.nbytes)}; {part} looked at"


@suggests("analysis.technique")
def _technique(look: Look) -> Suggestion | None:
    what, why = look.decision
    return Suggestion(f"a run decides “{what}”: {why}") if what else None


@suggests("input.bad_pixels")
def _bad_pixels(look: Look) -> Suggestion:
    found = [one.what for one in look.state.record.decisions if "pixel" in one.what and not one.what.startswith("Technique")]
    return Suggestion(f"{found[0] if found else 'no bad pixels stand out'}, in the mean of {look.patterns} patterns")


@suggests("input.bin_detector")
def _bin(look: Look) -> Suggestion | None:
    if look.disk is None:
        return None
    radius = look.disk.radius
    for by in BINS:
        if radius / by >= SMALLEST_DISK:
            return Suggestion(
                f"the disk has a radius of {radius:.1f} px, and {radius / by:.1f} px binned by {by}: it may be binned to save time"
            )
    return Suggestion(f"the disk has a radius of {radius:.1f} px: do not bin, which would leave less than {SMALLEST_DISK:g} px")


@suggests("input.bin_scan")
def _bin_scan(look: Look) -> Suggestion:
    counts = f"{look.counts:,.0f} counts" if look.counted else f"values that sum to {look.counts:.3g}"
    return Suggestion(f"a pattern has {counts} (median)")


def _known(name: str) -> None:
    """Add what the scan's file knows of a field of the calibration."""

    @suggests(f"calibration.{name}")
    def found(look: Look) -> Suggestion:
        c = look.state.calibration if name == "q_pixel" else look.cube.calibration
        value = getattr(c, name)
        if value is None:
            return Suggestion(f"not known: {NEEDED[name]}")
        shown = f"{value:,.0f}" if value >= 1e4 else f"{value:.5g}"
        return Suggestion(f"{shown} {FIELDS[name].units} ({c.how_known(name) or 'as the file says'})")


for _name in NEEDED:
    _known(_name)


@suggests("calibration.rotation_degrees")
def _rotation(look: Look) -> Suggestion:
    c = look.cube.calibration
    if c.rotation is None:
        return Suggestion("not known: strain and fields are then in detector axes, unless DPC or shadow images find it")
    return Suggestion(f"{c.rotation:.4g} rad ({c.how_known('rotation') or 'as the file says'})")


@suggests("probe.file", "probe.vacuum_region")
def _probe(look: Look) -> Suggestion:
    if look.disk is None:
        return Suggestion("no whole bright-field disk was found: give an image of the probe")
    disk, template = look.disk, look.state.get("template")
    kind = f"; {look.state.template_origin}" if template is not None else ""
    return Suggestion(f"the disk has a radius of {disk.radius:.2f} px and an edge of {disk.edge:.1f} px{kind}")


@suggests("probe.template")
def _template(look: Look) -> Suggestion | None:
    template = look.state.get("template")
    return (
        None
        if template is None
        else Suggestion(f"the probe gives a template with {'an' if template.kind == 'own' else 'a'} {template.kind} trench")
    )


@suggests("images.bf_radius", "images.adf_inner")
def _images(look: Look) -> Suggestion | None:
    if look.disk is None:
        return None
    share = "" if look.outside is None else f"; {100 * look.outside:.1f} % of the electrons are outside of it"
    return Suggestion(f"the disk has a radius of {look.disk.radius:.1f} px, and the detector ends at {look.reach:.0f} px{share}")
