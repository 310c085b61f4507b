"""py4DSTEM beside gpu4d: its objects in and out, and its own workflow on our engine.

`accelerate` replaces functions of py4DSTEM by ours, under its own names, rules and types. The other functions convert scans, probes, Bragg
vectors, strain maps and calibrations. py4DSTEM is under the GPL. It is imported inside functions, and nothing of it is part of gpu4d.
"""

from gpu4d.interop.py4dstem._accelerate import Acceleration, accelerate
from gpu4d.interop.py4dstem.disks import from_braggvectors, template_from_probe, to_braggvectors, to_probe
from gpu4d.interop.py4dstem.scans import from_calibration, from_datacube, to_calibration, to_datacube
from gpu4d.interop.py4dstem.strain_maps import from_strainmap, to_strainmap

__all__ = [
    "Acceleration",
    "accelerate",
    "from_braggvectors",
    "from_calibration",
    "from_datacube",
    "from_strainmap",
    "template_from_probe",
    "to_braggvectors",
    "to_calibration",
    "to_datacube",
    "to_probe",
    "to_strainmap",
]


def __dir__() -> list[str]:
    return list(__all__)
