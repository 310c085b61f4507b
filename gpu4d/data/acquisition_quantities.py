"""Say how a user gives what is known of a scan before it is recorded: name, unit, accepted range, other units, description.

The command line reads this table before it loads anything that computes.
"""

from __future__ import annotations

from gpu4d.data.calibration_fields import SMALLEST_ANGLE
from gpu4d.data.quantities import ANGLES, ENERGIES, FREQUENCIES, LENGTHS, GivenAs

TECHNIQUES = ("strain", "ssb", "ptychography", "dpc", "fem", "rdf")
TIMES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "min": 60.0}
CURRENTS = {"pA": 1.0, "nA": 1e3, "fA": 1e-3}
CAMERAS = {"mm": 1.0, "cm": 10.0, "m": 1e3}
DRIFTS = {"Å/min": 1.0, "A/min": 1.0, "nm/min": 10.0, "Å/s": 60.0, "A/s": 60.0, "nm/s": 600.0}

# How each number is given: name, unit, accepted range, other units, and what it is.
QUANTITIES: dict[str, GivenAs] = {
    given.name: given
    for given in (
        GivenAs("energy", "eV", 1e3, 3e6, explain="Beam energy", flag="EV", known=ENERGIES),
        GivenAs("semiangle", "mrad", SMALLEST_ANGLE, 200, explain="Convergence semi-angle", flag="MRAD", known=ANGLES),
        GivenAs("step", "Å", 1e-3, 1e7, explain="Distance between scan positions", flag="Å", known=LENGTHS),
        GivenAs("q_pixel", "1/Å", 1e-7, 10, explain="Size of a detector pixel in g = 1/d", flag="1/Å", known=FREQUENCIES),
        GivenAs(
            "camera_length", "mm", 0.1, 1e6, explain="Camera length, which with detector_pitch replaces q_pixel", flag="MM", known=CAMERAS
        ),
        GivenAs(
            "detector_pitch", "µm", 0.1, 1e4, explain="Side of a pixel on the detector", flag="µM", known={"µm": 1, "um": 1, "mm": 1e3}
        ),
        GivenAs("dwell", "s", 1e-9, 3600, explain="Time at a position", flag="S", known=TIMES),
        GivenAs("row_time", "s", 0, 3600, explain="Time that is lost in each row, for the fly-back", flag="S", known=TIMES),
        GivenAs("current", "pA", 1e-6, 1e6, explain="Beam current at the specimen", flag="PA", known=CURRENTS),
        GivenAs("electrons", "e", 1e-3, 1e12, explain="Electrons in a pattern, in place of the current", flag="N"),
        GivenAs("dose", "e/Å²", 1e-9, 1e12, explain="Electrons on an area, in place of the current", flag="E"),
        GivenAs("dose_limit", "e/Å²", 1e-9, 1e12, explain="Dose that the specimen bears", flag="E"),
        GivenAs("drift", "Å/min", 0, 1e6, explain="Drift of the specimen", flag="R", known=DRIFTS),
        GivenAs("defocus", "Å", -1e7, 1e7, explain="Defocus, positive is underfocus (−C10)", flag="Å", known=LENGTHS),
        GivenAs("thickness", "Å", 0, 1e7, explain="Thickness of the specimen", flag="Å", known=LENGTHS),
        GivenAs("disk_share", "of 1", 1e-6, 1, explain="Share of the electrons in one diffracted disk", flag="F"),
        GivenAs("background", "of 1", 0, 1, explain="Share of the electrons in the diffuse background", flag="F"),
        GivenAs("edge", "px", 0.1, 50, explain="Width of the edge of a disk", flag="PX"),
        GivenAs("strain_error", "1", 1e-7, 1, explain="Standard error of the strain that the scan should reach", flag="E"),
    )
}
SPACING = GivenAs("spacing", "Å", 0.1, 1e4, explain="Lattice spacing d of the specimen", flag="Å", known=LENGTHS)
