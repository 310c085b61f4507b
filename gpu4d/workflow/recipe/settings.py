"""Every setting of a recipe: its default, what it does, what it accepts, and the range the 4D-STEM guide recommends."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value may be, and what is said of it.

    Attributes
    ----------
    kind : str
        "number", "whole", "text", "switch", "numbers" (a list of `length` numbers) or "wholes".
    explain : str
        What the setting does, in one or two sentences.
    units : str
    low, high : float or None
        Accepted range, ends included; None is open.
    choices : tuple of str
        Accepted texts.
    guide : (float, float) or None
        Recommended range (guide, section 17).
    length : int
        Of a list.
    automatic : str
        What happens while it is not set.
    """

    kind: str
    explain: str
    units: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    guide: tuple[float, float] | None = None
    length: int = 0
    automatic: str = ""


def setting(default: Any, kind: str, explain: str, **rule: Any) -> Any:
    """A dataclass field that carries its rule."""
    return field(default=default, metadata={"rule": Rule(kind, explain, **rule)})


@dataclass
class InputSettings:
    """What to read."""

    dataset: str | None = setting(
        None, "text", "Path of the scan inside an HDF5 file.", automatic="the only four-dimensional dataset of the file"
    )
    scan_shape: list[int] | None = setting(
        None, "wholes", "Scan positions (Rx, Ry) of a file that stores a list of patterns.", low=1, length=2, automatic="as the file says"
    )
    detector_mask: str | None = setting(
        None,
        "text",
        "FILE or FILE:/dataset with one value per detector pixel; zero marks beam stop, dead pixels and gaps.",
        automatic="all count",
    )
    scan_mask: str | None = setting(
        None, "text", "FILE or FILE:/dataset with one value per scan position; zero leaves a position out.", automatic="all are used"
    )
    bad_pixels: str = setting(
        "mask", "text", "Detector pixels that are stuck bright or dead in the mean pattern: left out everywhere, or used like others.",
        choices=("mask", "keep"),
    )  # fmt: skip
    swap_detector: bool = setting(False, "switch", "Exchange the detector axes of a file written in the other order.")
    swap_scan: bool = setting(False, "switch", "Exchange the scan axes of a file written in the other order.")
    bin_detector: int = setting(1, "whole", "Sum detector pixels in squares of this side while reading.", low=1, high=64, guide=(2, 4))
    bin_scan: int = setting(1, "whole", "Sum the patterns of squares of this many positions while reading.", low=1, high=64, guide=(2, 4))


@dataclass
class CalibrationSettings:
    """What is known of the experiment; overrides what the file says."""

    energy: float | None = setting(None, "number", "Beam energy.", units="eV", low=1e3, high=3e6, automatic="as the file says")
    semiangle: float | None = setting(
        None, "number", "Convergence semi-angle. With the energy and the measured disk radius it gives the detector pixel.",
        units="mrad", low=1e-3, high=200, automatic="as the file says",
    )  # fmt: skip
    q_pixel: float | None = setting(
        None,
        "number",
        "Detector pixel, g = 1/d.",
        units="1/Å",
        low=1e-7,
        high=10,
        automatic="as the file says, else from energy and semi-angle",
    )
    r_pixel: float | None = setting(
        None, "number", "Distance of scan positions.", units="Å", low=1e-4, high=1e7, automatic="as the file says"
    )
    rotation_degrees: float | None = setting(
        None, "number", "Rotation from detector to scan axes: v_scan = R(θ) v_det.", units="degrees", low=-360, high=360,
        automatic="as the file says; for DPC, from the least curl",
    )  # fmt: skip
    transpose: bool | None = setting(
        None, "switch", "Detector axes are exchanged before the rotation.", automatic="as the file says; for DPC, from the least curl"
    )


@dataclass
class ProbeSettings:
    """The vacuum probe that Bragg disks are compared with."""

    file: str | None = setting(
        None, "text", "FILE or FILE:/dataset with an image of the probe in vacuum.",
        automatic="vacuum_region, else a disk of the measured radius and edge",
    )  # fmt: skip
    vacuum_region: list[int] | None = setting(
        None, "wholes", "Scan positions in vacuum, [rx0, rx1, ry0, ry1], whose aligned mean is the probe.", low=0, length=4
    )
    template: str = setting(
        "sigmoid", "text", "How the probe becomes a template of zero total.", choices=("sigmoid", "gaussian", "logistic", "flat")
    )


@dataclass
class AnalysisSettings:
    """What to do with the scan."""

    technique: str = setting(
        "auto", "text", "What is made beside the images: strain from Bragg disks, phase from the centre of mass, or nothing. "
        "auto decides by the data and says why.", choices=("auto", "bragg", "dpc", "both", "images"),
    )  # fmt: skip
    trial_positions: int = setting(36, "whole", "Positions at which Bragg disks are tried before deciding.", low=1, high=4096)


@dataclass
class ImageSettings:
    """Virtual detectors, in radii of the bright-field disk, centred on it."""

    bf_radius: float = setting(1.0, "number", "Outer radius of the bright-field detector.", units="disk radii", low=0.05, high=20)
    adf_inner: float = setting(1.2, "number", "Inner radius of the annular dark-field detector.", units="disk radii", low=0.1, high=50)
    adf_outer: float | None = setting(
        None, "number", "Outer radius of the annular dark-field detector.", units="disk radii", low=0.2, high=100,
        automatic="as far as the detector reaches on every side",
    )  # fmt: skip


@dataclass
class BraggSettings:
    """Finding Bragg disks."""

    power: float = setting(
        0.85, "number", "Exponent of the hybrid correlation: 1 cross, 0 phase. Lower is sharper and takes more from noise.",
        low=0, high=1, guide=(0.80, 0.95),
    )  # fmt: skip
    refine: str = setting(
        "auto", "text", "Sub-pixel position: a Poisson fit, the correlation's maximum, samples, a parabola; auto: the fit where it may.",
        choices=("auto", "correlation", "likelihood", "upsample", "parabola", "none"),
    )  # fmt: skip
    refine_power: float = setting(
        1.0, "number", "Exponent of the map on which positions are refined; 1 is the most precise.", low=0, high=1
    )
    upsample: int = setting(
        16, "whole", "Samples per pixel for refine = upsample; the exact maximum does not need them.", low=2, high=1024, guide=(4, 8)
    )
    min_significance: float = setting(
        5.0, "number", "Least Poisson significance of a disk, in standard deviations.", units="σ", low=0, high=1e6
    )
    min_relative_intensity: float = setting(
        0.0, "number", "Least height relative to the strongest disk of the pattern.", low=0, high=1, guide=(0.01, 0.05)
    )
    min_absolute_intensity: float = setting(0.0, "number", "Least height of a disk.", units="counts per pixel", low=0)
    min_spacing: float | None = setting(
        None, "number", "Least distance of two disks; the weaker is dropped.", units="px", low=0, automatic="from the template's radius"
    )
    edge: float | None = setting(
        None, "number", "Disks nearer to the detector's edge are dropped.", units="px", low=0, automatic="from the template's radius"
    )
    max_peaks: int = setting(70, "whole", "Most disks of one pattern.", low=1, high=10000, guide=(20, 50))


@dataclass
class OriginSettings:
    """The unscattered beam at every position."""

    fit: str = setting(
        "plane", "text", "Surface through the measured positions: plane for small scans, quadratic for large fields of view.",
        choices=("plane", "quadratic", "constant"),
    )  # fmt: skip


@dataclass
class StrainSettings:
    """Strain from the lattice of every pattern."""

    reference: str | list[int] = setting(
        "median", "reference", "Unstrained lattice: the median over the scan, or that of a region [rx0, rx1, ry0, ry1] of the same phase "
        "and orientation.", low=0, length=4, choices=("median",),
    )  # fmt: skip
    definition: str = setting(
        "finite", "text", "finite: U − 1 of F = R U; infinitesimal: symmetric part of F − 1; first_order: py4DSTEM's.",
        choices=("finite", "infinitesimal", "first_order"),
    )  # fmt: skip
    axis_rotation_degrees: float = setting(0.0, "number", "Turn the tensor's axes, from x towards y.", units="degrees", low=-360, high=360)
    max_strain: float = setting(
        0.10, "number", "Strain of a larger magnitude counts as an outlier in the quality gate.", low=1e-4, high=1, guide=(0.05, 0.10)
    )


@dataclass
class DpcSettings:
    """Phase from the centre of mass."""

    lambda1: float = setting(
        0.0,
        "number",
        "Damps low spatial frequencies of the phase (a high pass).",
        units="(cycles per position)²",
        low=0,
        high=10,
        guide=(1e-4, 1e-2),
    )
    lambda2: float = setting(
        0.0,
        "number",
        "Damps high spatial frequencies of the phase (a low pass).",
        units="1/(cycles per position)²",
        low=0,
        high=1e6,
        guide=(1e-8, 1e-4),
    )


@dataclass
class ComputeSettings:
    """Where and within how much memory."""

    device: str = setting("auto", "text", "auto, cpu, cuda or cuda:N; several GPUs share the work as cuda:0,cuda:1.")
    memory: str = setting("512 MB", "memory", "What the passes over the scan may allocate.")
