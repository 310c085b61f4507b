"""Open .hspy files of HyperSpy: a signal of four dimensions, with scales and units of its axes in attributes."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import carried, emd
from gpu4d.io.formats.attributes import attributes_below
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, attribute, chosen_scan, described_scan, has, number, short_text, values_below
from gpu4d.io.sources.links import dataset_at, group_at
from gpu4d.io.writing.hyperspy import OURS, WRITER

SIGNALS = "Experiments"
LOOKED_AT = 16  # signals that are looked at to recognise a file
MOST_SIGNALS = 1000  # that are looked at to find the scan
MICROSCOPE = "metadata/Acquisition_instrument/TEM"
KEPT = ("metadata", "original_metadata")  # groups of a signal that become metadata


class HyperSpy(Hdf5Dialect):
    """The .hspy files of HyperSpy, pyxem and LiberTEM."""

    name: ClassVar = "hyperspy"
    accepts: ClassVar = "HyperSpy .hspy"
    facts: ClassVar = Facts(
        endings=(".hspy",),
        reading="mapped, or chunks, decoded in parallel",
        covers=(
            "signals of two navigation and two signal axes, with their scales and units, beam energy and convergence angle, metadata and "
            "original metadata. The axes stay in the order of the file: its y before x. Not .zspy, and no axes that are not even"
        ),
        tried_on="files that HyperSpy 2.5 wrote",
        writes=True,
    )

    def claims(self, file: h5py.File) -> bool:
        if not has(file, SIGNALS) or not isinstance(file[SIGNALS], h5py.Group):
            return False
        return any(has(file, SIGNALS, name, "data") for name in itertools.islice(emd.names(file[SIGNALS]), LOOKED_AT))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        signals = itertools.islice(emd.names(file[SIGNALS]), MOST_SIGNALS)
        name, dataset = chosen_scan(file, [f"/{SIGNALS}/{signal}/data" for signal in signals], options)
        signal = emd.parent_of(file, name)
        opened = described_scan(file, path, options, (name, dataset), _axes(signal, dataset.ndim), _stated(signal))
        place = name.rpartition("/")[0]
        for kept in KEPT:
            if has(signal, kept):
                opened.metadata["attributes"] |= attributes_below(file, f"{place}/{kept}")
        opened.metadata["values"] = values_below(signal, KEPT)
        known = carried.opened(_carried(file, name), opened.source.shape, shown(path))
        if known is None:
            return opened
        opened.metadata["values"].get("original_metadata", {}).pop(OURS.rpartition("/")[2], None)  # it is what is known
        if short_text(signal, WRITER):  # else another program may have changed the rest
            return Opened(opened.source, known[0], opened.metadata | known[1], *known[2:])
        return Opened(opened.source, opened.calibration, opened.metadata | known[1], opened.name)


def _carried(file: h5py.File, name: str) -> carried.Document | None:
    """Return what `gpu4d convert` wrote of a scan beside its patterns, in a format that has no place for it."""
    held = dataset_at(file, f"{name.rpartition('/')[0]}/{OURS}/json")
    if held is None or held.dtype != "uint8" or held.ndim != 1 or held.nbytes > carried.MOST_BYTES:
        return None
    return carried.read_text(held[()].tobytes())


def _axes(signal: h5py.Group, number_of_axes: int) -> list[emd.Axis]:
    """Return name, units and scale of all axes of a signal."""
    found: list[emd.Axis] = []
    for n in range(number_of_axes):
        axis = group_at(signal, f"axis-{n}")
        if axis is None:
            return []
        scale: Any = attribute(axis, "scale")
        size = number(abs(scale)) if isinstance(scale, int | float) or hasattr(scale, "dtype") else None
        found.append((short_text(axis, "name"), short_text(axis, "units"), size))
    return found


def _stated(signal: h5py.Group) -> Calibration:
    """Return energy and convergence angle of the microscope."""
    found = Calibration()
    microscope = group_at(signal, MICROSCOPE)
    if microscope is None:
        return found
    energy, angle = number(attribute(microscope, "beam_energy")), number(attribute(microscope, "convergence_angle"))
    emd.set_field(found, "energy", None if energy is None else 1e3 * energy, "beam_energy of HyperSpy's metadata, kV")
    emd.set_field(found, "semiangle", angle, "convergence_angle of HyperSpy's metadata, mrad")
    return found
