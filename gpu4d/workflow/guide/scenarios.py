"""List the scenarios of the guide's table 17.7: the settings that each recommends, and what no setting can do for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from gpu4d.io.toml import literal

TABLE = "17.7"
ORIGIN = "scenario"  # how the origin of a setting begins that a scenario set


class Adjustment(NamedTuple):
    """One adjustment that the guide recommends for a scenario.

    Attributes
    ----------
    advice : str
        What the guide recommends, in its words or ours.
    setting : str
        "section.key". Empty for something that no setting does: `why` is then a warning of the run.
    value : object
        What the setting is given. An empty text if there is none.
    why : str
        Why, or what to do.
    """

    advice: str
    setting: str
    value: Any
    why: str


class Scenario(NamedTuple):
    """A row of the table: its name on the command line, the guide's words, and its adjustments."""

    name: str
    title: str
    adjustments: tuple[Adjustment, ...]


SCENARIOS = (
    Scenario(
        "noisy",
        "Noisy data / low dose",
        (
            Adjustment(
                "use cross-correlation (n = 1.0)", "bragg.power", 1.0, "few counts: cross correlation amplifies no noise; disks must "
                "stand apart"
            ),
            Adjustment(
                "increase min_peak_intensity", "", "",
                "the threshold of disks is their significance, which rises with the noise by itself. A share of the strongest disk "
                "(bragg.min_relative_intensity) would drop weak disks of the crystal before false ones, so it is not raised; raise "
                "bragg.min_significance if the Bragg vector map has points between the reflections",
            ),
            Adjustment(
                "enable electron counting", "", "",
                "raw frames of a counting detector should be counted first (gpu4d.preprocess.count_scan): a run uses the values as they "
                "are",
            ),
            Adjustment(
                "increase binning", "input.bin_scan", 2,
                "patterns of 2×2 positions are summed: four times the counts, half the resolution of the maps, disks as sharp as before",
            ),
        ),
    ),
    Scenario(
        "overlapping",
        "Overlapping Bragg disks",
        (
            Adjustment(
                "use a structured probe if available", "", "",
                "disks that overlap are told apart best with a patterned probe: record one over vacuum, and give it with --probe",
            ),
            Adjustment("lower hybrid_n to 0.80", "bragg.power", 0.80, "sharper maxima keep neighbours apart, and noise is amplified more"),
            Adjustment(
                "reduce max_num_peaks", "", "",
                "bragg.max_peaks stays as it is: overlapping disks are fitted together, and a limit of 20 drops disks of a pattern that "
                "has more, "
                "which then disturb the others. Lower it if the Bragg vector map has points between the reflections",
            ),
        ),
    ),
    Scenario(
        "mixed",
        "Mixed crystalline/amorphous",
        (
            Adjustment("use median statistics for FEM", "fem.statistics", "median", "few crystallites do not change a median"),
            Adjustment(
                "mask Bragg peaks before amorphous strain/RDF", "fem.crystallites", True,
                "positions with crystallites are found, and left out of distances and, where the ring does not fit, of strain",
            ),
            Adjustment("run classification first", "classification.on", True, "amorphous methods then use the positions of amorphous "
            "classes alone"),
        ),
    ),
    Scenario(
        "thick",
        "Thick samples (> few nm)",
        (
            Adjustment(
                "do not interpret DPC as potential (use pseudo-DPC)", "", "",
                "a thick specimen: do not read the phase of DPC as a potential. It is called pseudo-DPC unless dpc.thickness is given "
                "and passes",
            ),
            Adjustment(
                "check phase object approximation validity", "", "",
                "a thick specimen is no phase object if it exceeds 1.7 λ/α² or scatters more than a fifth of the electrons out of the "
                "disk: see the "
                "gate “DPC as a potential”, and take multislice ptychography (ptychography.slices)",
            ),
        ),
    ),
    Scenario(
        "large-fov",
        "Large scan field-of-view",
        (
            Adjustment("use quadratic (order=2) shift fit", "origin.fit", "quadratic", "over a large field the beam does not move along "
            "a plane"),
            Adjustment(
                "check for specimen drift", "drift.jitter", True, "measures how neighbouring rows are displaced against each other"
            ),
            Adjustment(
                "correct drift if needed", "", "",
                "a steady drift cannot be told from the shape of the specimen in one scan: record a second one with crossed rows "
                "(drift.second)",
            ),
        ),
    ),
    Scenario(
        "unknown",
        "Unknown crystal structure",
        (
            Adjustment(
                "use auto-detected reference region", "strain.reference", "auto",
                "the largest connected region in which the lattice is the same within the noise",
            ),
            Adjustment(
                "validate strain against independent measurement", "", "",
                "the reference was chosen by the data: strain is relative to it. Compare with X-ray diffraction, Raman or a model before "
                "you give "
                "absolute values",
            ),
            Adjustment(
                "check BVM indexing", "", "",
                "the structure is not known: check in the Bragg vector map that the lattice vectors are the shortest ones, and look at "
                "the gate "
                "“Disks on the lattice”",
            ),
        ),
    ),
)  # fmt: skip
NAMES = tuple(scenario.name for scenario in SCENARIOS)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def adjustments_of(names: list[str] | None) -> list[tuple[Scenario, Adjustment]]:
    """Return the adjustments of the named scenarios. Where two of them set the same setting, that of the first counts."""
    found, done = [], set()
    for scenario in (BY_NAME[name] for name in names or ()):
        for one in scenario.adjustments:
            if one.setting not in done or not one.setting:
                found.append((scenario, one))
                done.add(one.setting)
    return found


def warnings_of(names: list[str] | None) -> list[str]:
    """Return what no setting can do for the named scenarios, as warnings of a run."""
    return [f"scenario {scenario.name}: {one.why}" for scenario, one in adjustments_of(names) if not one.setting]


def scenarios_table() -> str:
    """Return the adjustments as a table of Markdown: scenario, what the guide recommends, and the setting or the warning."""
    lines = ["| scenario | the guide recommends | here |", "| --- | --- | --- |"]
    for scenario in SCENARIOS:
        for one in scenario.adjustments:
            does = f"`{one.setting} = {literal(one.value)}`: {one.why}" if one.setting else f"a warning: {one.why}"
            lines.append(f"| `{scenario.name}`: {scenario.title} | {one.advice} | {does} |")
    return "\n".join(lines)
