"""Say what stands in the groups of a HyperSpy file of version 3.3 (`.hspy`, `.zspy`), beside the patterns."""

from __future__ import annotations

from typing import Any

from gpu4d._version import __version__
from gpu4d.data.datacube import DataCube

TOP, VERSION = "Experiments", "3.3"
OURS = "original_metadata/gpu4d"  # what HyperSpy has no place for
WRITER = "written_by"  # attribute of the signal that HyperSpy does not keep: without it, the signal was saved by another program
Attributes = dict[str, Any]


def groups(cube: DataCube, title: str) -> dict[str, Attributes]:
    """Return the attributes of each group below that of the signal: its axes, and metadata that HyperSpy knows.

    Its units are those of gpu4d, but keV for the energy. Rx and Ry are navigation axes; HyperSpy lists them the other way round.
    """
    c = cube.calibration
    names, steps = ("Rx", "Ry", "Qx", "Qy"), [c.r_pixel] * 2 + [c.q_pixel] * 2
    found: dict[str, Attributes] = {"": {"package": "", "package_version": "", WRITER: f"gpu4d {__version__}"}}
    centre = c.origin_mean
    for n, (name, step, size) in enumerate(zip(names, steps, cube.shape)):
        offset = 0.0 if n < 2 or centre is None or step is None else -float(centre[n - 2]) * step
        units = ("Å" if n < 2 else "1/Å") if step is not None else "px"
        found[f"axis-{n}"] = {
            "_type": "UniformDataAxis", "name": name, "scale": step or 1.0, "offset": offset, "size": size, "units": units,
            "navigate": n < 2, "is_binned": False,
        }  # fmt: skip
    microscope = {"beam_energy": c.energy / 1e3 if c.energy else None, "convergence_angle": c.semiangle}
    found |= {
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "original_metadata": {},
        "metadata/General": {"title": title},
        "metadata/Signal": {"signal_type": ""},
        "metadata/_HyperSpy/Folding": {
            "original_axes_manager": "_None_", "original_shape": "_None_", "signal_unfolded": False, "unfolded": False,
        },
        "metadata/Acquisition_instrument/TEM": {key: value for key, value in microscope.items() if value is not None},
    }  # fmt: skip
    return found
