"""Open simulated scans of Prismatic: EMD 0.x, with all parameters of the simulation."""

from __future__ import annotations

import itertools
from typing import ClassVar

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.attributes import Attributes
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, chosen_scan, described_scan, has, number
from gpu4d.io.units import log, parse

CUBES = "4DSTEM_simulation/data/datacubes"
PARAMETERS = "4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters"
MOST_CUBES = 1000  # depths and defoci that are looked at
CLOSE = 0.01  # by which the step of an axis may differ from the parameter: it is rounded to the potential's pixels


class Prismatic(Hdf5Dialect):
    """The HDF5 output of Prismatic."""

    name: ClassVar = "prismatic"
    accepts: ClassVar = "Prismatic"
    facts: ClassVar = Facts(
        endings=(".h5", ".emd"),
        reading="mapped, or chunks, decoded in parallel",
        covers=(
            "4D output of one depth, which is named if there are several, with steps, energy and semi-angle. The first axis is its x. "
            "Not complex waves"
        ),
        tried_on="a simulation of silicon with two depths of 11×11×8×8",
    )

    def claims(self, file: h5py.File) -> bool:
        return has(file, *CUBES.split("/")) and isinstance(file[CUBES], h5py.Group)

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        places = [
            f"/{CUBES}/{cube}/{name}" for cube in itertools.islice(emd.names(file[CUBES]), MOST_CUBES) for name in ("datacube", "data")
        ]
        name, dataset = chosen_scan(file, places, options)
        group = emd.parent_of(file, name)
        parameters = Attributes(file[PARAMETERS], path, f"/{PARAMETERS}") if has(file, *PARAMETERS.split("/")) else None
        axes = emd.axes_of(group, dataset)
        stated = Calibration()
        if parameters is not None:
            axes = _in_angstrom(axes, parameters, path)
            energy, angle = number(parameters.get("E")), number(parameters.get("sa"))
            emd.set_field(stated, "energy", None if energy is None else 1e3 * energy, "Prismatic's energy E, keV")
            emd.set_field(stated, "semiangle", angle, "Prismatic's probe semi-angle sa, mrad")
        opened = described_scan(file, path, options, (name, dataset), axes, stated)
        if parameters is not None:
            opened.metadata["attributes"][f"/{PARAMETERS}"] = parameters
        return opened


def _in_angstrom(axes: list[emd.Axis], parameters: Attributes, path: str) -> list[emd.Axis]:
    """Return the axes with their true units. Prismatic computes in Å and labels the same numbers as nm.

    Its parameters rx and ry are the steps of the probe in Å. Where the axes hold the same numbers, they are in Å, and 1/Å.
    """
    if len(axes) != 4:
        return axes
    steps = [number(parameters.get(key)) for key in ("rx", "ry")]
    same = [step is not None and told is not None and abs(told - step) <= CLOSE * step for step, (_, _, told) in zip(steps, axes)]
    if not all(same) or parse(axes[0][1]) == ("length", 1.0):
        return axes
    log.info("%s: its axes are labelled in %s and hold Å: they are the probe steps of its parameters", shown(path), shown(axes[0][1]))
    return [(name, units, step) for (name, _, step), units in zip(axes, ("Å", "Å", "1/Å", "1/Å"))]
