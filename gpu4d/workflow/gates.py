"""Table of the quality gates: which number each compares, its limits for "warn" and "fail", and what to do then.

The gates are those of the guide's section 16.2, of its question 19 on strain, and of its pitfalls. A stage measures the number and calls
`Record.measure`. The recipe's section [gates] has the limits as settings, and says whether a run stops at a gate that fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Band = tuple[float | None, float | None]  # lowest and highest value that is accepted; None: no limit on this side

PASS, WARN, FAIL = "pass", "warn", "fail"
CONTINUE, STOP = "continue", "stop"


@dataclass(frozen=True)
class GateRule:
    """One gate.

    Attributes
    ----------
    key : str
        Its name in the recipe's section [gates].
    name : str
        Its name in the report.
    place : str
        Where in the work it is.
    quantity : str
        Which number it compares.
    unit : str
        Of the number and of its limits.
    warn, fail : (lowest, highest)
        A value outside of `warn` should be looked at. One outside of `fail` is wrong.
    action : str
        What the guide advises.
    reason : str
        Why the limits have these values.
    source : str
        Section of the guide.
    """

    key: str
    name: str
    place: str
    quantity: str
    unit: str
    warn: Band
    fail: Band
    action: str
    reason: str
    source: str

    @property
    def two_sided(self) -> bool:
        """Whether both a lowest and a highest value are accepted."""
        return None not in self.warn

    def band(self, given: float | list[float]) -> Band:
        """Return the limits that a recipe's value means."""
        if isinstance(given, list):
            return given[0], given[1]
        return (given, None) if self.warn[1] is None else (None, given)


AFTER_PREPROCESSING, AFTER_CALIBRATION, AFTER_DETECTION = "after preprocessing", "after calibration", "after detection"
AFTER_STRAIN, AFTER_DPC, ACQUISITION = "after strain", "after DPC", "acquisition"

RULES = (
    GateRule(
        "background", "Background at the detector's edge", AFTER_PREPROCESSING, "level of the edge of the mean pattern over that of the "
        "bright-field disk", "%", (-1.0, 1.0), (-5.0, 5.0),
        "subtract a dark reference, re-tune corrections.background_mask_radius, or check for scattering that reaches the edge",
        "1 % of the disk under every pixel moves a centre of mass by about a pixel on a detector ten times as wide as the disk", "16.2",
    ),
    GateRule(
        "edge_background", "Background at the edge", AFTER_PREPROCESSING, "level that is left at the edge of raw frames, over the noise of "
        "a pixel", "noise", (-0.1, 0.1), (-1.0, 1.0),
        "if it is positive, the beam reaches the edge: set corrections.background_mask_radius higher, or give corrections.edge; else "
        "check the dark reference",
        "a tenth of the noise of one pixel in one frame is far below what a pattern can show; once the noise is visible in it", "16.2",
    ),
    GateRule(
        "vector_map_symmetry", "Symmetry of the Bragg vector map", AFTER_CALIBRATION, "overlap of the map with its inversion", "",
        (0.8, None), (0.5, None),
        "check the origin and the elliptical distortion; a tilted specimen or several grains also break the symmetry",
        "1 is perfect; half of the disks without a partner is no pattern about this origin", "16.2",
    ),
    GateRule(
        "sharpness", "Sharpness of the lattice", AFTER_CALIBRATION, "rms distance of disks from the local lattice, median over the scan",
        "disk radii", (None, 0.35), (None, 0.7),
        "check for overlapping grains, elliptical distortion, or a wrong lattice in the Bragg vector map",
        "disks found at random lie half a spacing, more than a radius, away; counting noise moves a disk by a tenth of its radius", "16.2",
    ),
    GateRule(
        "peak_count", "Bragg disks per pattern", AFTER_DETECTION, "disks of a pattern, median over the scan", "disks", (5.0, 30.0),
        (3.0, 200.0), "adjust the thresholds, check the probe; more than 30 are fine if the lattice is dense",
        "the guide's 5 to 30; a lattice needs three disks that do not lie on a line; 200 are maxima of noise", "16.2",
    ),
    GateRule(
        "strain_magnitude", "Strain magnitude", AFTER_STRAIN, "positions whose strain is beyond strain.max_strain", "%", (None, 1.0),
        (None, 10.0), "check the reference region and the disks of these positions; filter outliers",
        "solids yield or break below 10 %; a few wrong fits are outliers, a tenth of the scan is a wrong reference", "16.2, Q19 (1)",
    ),
    GateRule(
        "strain_continuity", "Continuity of strain", AFTER_STRAIN, "positions that differ from the median of their neighbours by more than "
        "2 % or 0.02 rad, and by more than five standard errors", "%", (None, 2.0), (None, 10.0),
        "sudden jumps may be indexing errors: look at the disks of these positions, and at the picture of the residual",
        "interfaces and grain boundaries are lines, on which most neighbours agree; jumps of single positions are wrong lattices",
        "Q19 (2)",
    ),
    GateRule(
        "strain_compatibility", "Compatibility of strain", AFTER_STRAIN, "curl of the inverse deformation gradient, squared, over all of "
        "its gradients squared, without counting noise", "", (None, 0.15), (None, 0.4),
        "a continuous crystal has no curl but at dislocations: check rotation and transpose between scan and detector, and the scan's "
        "drift",
        "0 for a continuous crystal; 0.5 for components that do not belong together", "Q19 (3)",
    ),
    GateRule(
        "strain_trace", "Sign of strain", AFTER_STRAIN, "slope of ε_xx + ε_yy against the growth of the cell that 1/g gives", "",
        (0.8, 1.25), (0.5, 1.5),
        "g = 1/d: a larger g is a smaller spacing. If the slope is about −1, they were exchanged somewhere",
        "1 to first order for every mechanism of deformation, −1 if g was taken for d", "Q19 (3), pitfall 1",
    ),
    GateRule(
        "strain_reference", "Strain of the reference region", AFTER_STRAIN, "rms strain in the reference region, without counting noise",
        "%", (None, 0.2), (None, 1.0), "choose a region that is not strained: strain.reference = \"auto\" finds the least strained one",
        "the precision of strain from disks is about 0.1 %: a region that varies by more is strained", "Q19 (5)",
    ),
    GateRule(
        "dpc_boundary", "Boundary of the phase", AFTER_DPC, "misfit of the gradient of the phase to the field at the boundary, over that "
        "inside", "times", (None, 2.0), (None, 5.0),
        "the phase may have copies of the object from the opposite edge: increase the padding, or add iterations",
        "near 1 where the boundary is treated well; wrap-around makes ghosts at the rim alone", "16.2",
    ),
    GateRule(
        "dpc_curl", "Curl of the centre of mass", AFTER_DPC, "share of the curl in curl² + divergence² at the best rotation", "%",
        (None, 25.0), (None, 45.0), "check for noise, a descan that is not a plane, or a specimen too thick for DPC",
        "the gradient of a phase has no curl; noise alone has 50 %", "10.2, Q10",
    ),
    GateRule(
        "electrons", "Electrons per pattern", ACQUISITION, "electrons of a pattern, median over the scan", "e", (100.0, None),
        (10.0, None), "sum neighbouring positions (--bin-scan) or detector pixels (--bin), or record with a longer dwell",
        "100 electrons give the centre of mass to a tenth of the disk's radius: less shows single electrons, not patterns", "pitfall 5",
    ),
    GateRule(
        "steadiness", "Steadiness of the scan", ACQUISITION, "change of the counts from the first rows to the last, where rows change "
        "steadily", "%", (-20.0, 20.0), (-80.0, 80.0),
        "compare the first with the last rows: beam current, contamination and damage change counts with time; a wedge does with place",
        "emission drifts by a few per cent an hour; a fifth within a scan changes what later rows show", "pitfall 5",
    ),
)  # fmt: skip
BY_KEY: dict[str, GateRule] = {rule.key: rule for rule in RULES}


def judged(value: float, warn: Band, fail: Band) -> str:
    """Return "pass", "warn" or "fail". A value that is no number should be looked at.

    Examples
    --------
    >>> judged(7.0, (5.0, 30.0), (3.0, 200.0)), judged(4.0, (5.0, 30.0), (3.0, 200.0)), judged(0.4, (0.8, None), (0.5, None))
    ('pass', 'warn', 'fail')
    """
    if math.isnan(value):
        return WARN
    return FAIL if not _inside(value, fail) else PASS if _inside(value, warn) else WARN


def _inside(value: float, band: Band) -> bool:
    low, high = band
    return (low is None or value >= low) and (high is None or value <= high)


def in_words(band: Band, unit: str) -> str:
    """Return limits in words: "at most 1 %", "5 to 30 disks"."""
    low, high = band
    behind = f" {unit}" if unit else ""
    if low is not None and high is not None:
        return f"within ±{high:g}{behind}" if low == -high else f"{low:g} to {high:g}{behind}"
    return f"at least {low:g}{behind}" if low is not None else f"at most {high:g}{behind}" if high is not None else "any"


@dataclass(frozen=True)
class GatePolicy:
    """Limits of the gates, and which of them stop a run that they fail.

    Attributes
    ----------
    limits : mapping of str to (warn, fail)
        By key, for gates whose limits are not those of the table.
    on_fail : {"continue", "stop"}
    stop, proceed : frozenset of str
        Keys of gates that stop the run, or do not, whatever `on_fail` says.
    """

    limits: Mapping[str, tuple[Band, Band]] = field(default_factory=dict)
    on_fail: str = CONTINUE
    stop: frozenset[str] = frozenset()
    proceed: frozenset[str] = frozenset()

    def bands(self, rule: GateRule) -> tuple[Band, Band]:
        """Return the limits of a gate: for "warn", and for "fail"."""
        return self.limits.get(rule.key, (rule.warn, rule.fail))

    def stops(self, key: str) -> bool:
        """Return whether the run stops if this gate fails."""
        return key in self.stop or (self.on_fail == STOP and key not in self.proceed)


def policy_of(settings: Any) -> GatePolicy:
    """Return the policy that the section [gates] of a recipe describes."""
    limits = {}
    for rule in RULES:
        given = [getattr(settings, f"{rule.key}_{word}") for word in (WARN, FAIL)]
        if given != [None, None]:
            warn, fail = (usual if one is None else rule.band(one) for one, usual in zip(given, (rule.warn, rule.fail)))
            limits[rule.key] = (warn, fail)
    return GatePolicy(limits, settings.on_fail, frozenset(settings.stop or ()), frozenset(settings.proceed or ()))


def markdown() -> str:
    """Return the table of docs/reference/gates.md."""
    lines = ["| gate | number | warns outside of | fails outside of | what to do | why these limits | guide |", "| --- " * 7 + "|"]
    for rule in RULES:
        limits = f"{in_words(rule.warn, rule.unit)} | {in_words(rule.fail, rule.unit)}"
        lines.append(
            f"| {rule.place}: **{rule.name}**, `{rule.key}` | {rule.quantity} | {limits} | {rule.action} | {rule.reason} | {rule.source} |"
        )
    return "\n".join(lines)
