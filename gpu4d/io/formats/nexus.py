"""Open scans in NeXus files: the default plot of the file says which dataset is the signal, and names its axes."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.hdf5_dialect import (
    Hdf5Dialect,
    attribute,
    can_be_scan,
    chosen_scan,
    described_scan,
    number,
    plain_value,
    short_text,
    values_below,
)
from gpu4d.io.sources.links import dataset_at, group_at, path_of

LOOKED_AT = 64  # members of a group that are looked at for data
DEEPEST = 3  # groups inside each other that are looked into: entry, its parts, and their data
SLOWEST = 30e3  # eV: smaller energies in the file are those of X-rays, not of electrons
HYPERSPY = "auxiliary/hyperspy_metadata/Acquisition_instrument/TEM"  # in an entry that HyperSpy wrote


class NeXus(Hdf5Dialect):
    """NeXus files whose data have a signal of three or four dimensions."""

    name: ClassVar = "nexus"
    accepts: ClassVar = "NeXus"
    facts: ClassVar = Facts(
        endings=(".nxs", ".h5"),
        reading="mapped, or chunks, decoded in parallel",
        covers="the signal of the default NXdata, or of the only one, and the units of its axes, which stay in the order of the file",
        tried_on="files that RosettaSciIO wrote, and files made from the standard",
    )

    def claims(self, file: h5py.File) -> bool:
        return bool(_signals(file))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        signals = _signals(file)
        name, dataset = chosen_scan(file, list(signals), options)
        data = signals.get(name)
        axes = [] if data is None else _axes(data, dataset)
        entry = group_at(file, "/" + name.strip("/").split("/")[0])
        opened = described_scan(file, path, options, (name, dataset), axes, Calibration() if entry is None else _stated(entry))
        if entry is not None:
            opened.metadata["values"] = values_below(entry)
        return opened


def _signals(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the signal of the default plot, or of all NXdata groups, with their groups. None in files that are not NeXus."""
    default = short_text(file, "default")
    if default:
        group, seen = group_at(file, default), 0
        while group is not None and (further := short_text(group, "default")) and seen < DEEPEST:
            group, seen = group_at(group, further), seen + 1
        found = None if group is None else _signal(group)
        if found is not None and group is not None:
            return {found: group}
    return {name: group for group in _groups(file, 0) if (name := _signal(group)) is not None}


def _groups(above: h5py.Group, depth: int) -> list[h5py.Group]:
    """Return all NXdata groups of a file. Only groups that say what they are are looked into."""
    found = []
    for name in itertools.islice(emd.names(above), LOOKED_AT):
        if above.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
            continue
        node = above[name]
        kind = short_text(node, "NX_class") if isinstance(node, h5py.Group) else ""
        if kind == "NXdata":
            found.append(node)
        elif kind and depth < DEEPEST:
            found += _groups(node, depth + 1)
    return found


def _signal(data: h5py.Group) -> str | None:
    """Return the path of a group's signal if it can be a scan."""
    if short_text(data, "NX_class") != "NXdata":
        return None
    name = short_text(data, "signal")
    if name:
        members = [name]
    else:  # the older form: an attribute of the dataset itself
        members = [n for n in itertools.islice(emd.names(data), LOOKED_AT) if (d := dataset_at(data, n)) is not None and _is_one(d)]
    dataset = dataset_at(data, members[0]) if members else None
    return f"{path_of(data)}/{members[0]}" if dataset is not None and can_be_scan(dataset) else None


def _is_one(dataset: h5py.Dataset) -> bool:
    return str(plain_value(attribute(dataset, "signal"))) == "1"


def _axes(data: h5py.Group, dataset: h5py.Dataset) -> list[emd.Axis]:
    """Return name, units and step of all axes of a signal."""
    written: Any = attribute(data, "axes")
    written = attribute(dataset, "axes") if written is None else written
    names = [emd.text(n) for n in written] if isinstance(written, np.ndarray) else emd.text(written or "").replace(",", ":").split(":")
    names += ["."] * (dataset.ndim - len(names))
    found: list[emd.Axis] = []
    for name in names[: dataset.ndim]:
        vector = None if name in ("", ".") else dataset_at(data, name.strip())
        found.append((name, "", None) if vector is None else (name, short_text(vector, "units"), emd.step_of(vector)))
    return found


def _stated(entry: h5py.Group) -> Calibration:
    """Return energy and semi-angle of an entry."""
    found = Calibration()
    beam = dataset_at(entry, "instrument/beam/incident_energy")
    if beam is not None and beam.size == 1:
        units = {"ev": 1.0, "kev": 1e3, "": 1.0}.get(short_text(beam, "units").lower())
        energy = number(beam[()])
        if units is not None and energy is not None and energy * units >= SLOWEST:
            emd.set_field(found, "energy", energy * units, "incident_energy of the beam")
    for field, key, factor in (("energy", "beam_energy", 1e3), ("semiangle", "convergence_angle", 1.0)):
        held = dataset_at(entry, f"{HYPERSPY}/{key}")
        value = None if held is None or held.size != 1 else number(held[()])
        emd.set_field(found, field, None if value is None else factor * value, f"{key} of HyperSpy's metadata")
    return found
