"""Open simulated scans that abTEM before version 1.0 wrote to HDF5: an array, and offsets, samplings and units beside it."""

from __future__ import annotations

from typing import ClassVar

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.io.foreign import FOREIGN
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, chosen_scan, described_scan, has, number

BESIDE = ("sampling", "units", "name", "is_none")  # datasets with one entry for each axis


class AbTem(Hdf5Dialect):
    """Measurements of abTEM before version 1.0."""

    name: ClassVar = "abtem"
    accepts: ClassVar = "abTEM measurements"
    facts: ClassVar = Facts(
        endings=(".hdf5", ".h5"),
        reading="mapped",
        covers="measurements of four dimensions with sampling and units. The first axis is abTEM's x. Not Zarr, which abTEM 1.0 writes",
        tried_on="files that abTEM 1.0.0 beta 33 wrote",
    )

    def claims(self, file: h5py.File) -> bool:
        return all(has(file, name) and isinstance(file[name], h5py.Dataset) for name in ("array", *BESIDE))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        name, dataset = chosen_scan(file, ["/array"], options)
        axes = _axes(file, dataset.ndim) if name == "/array" else []
        return described_scan(file, path, options, (name, dataset), axes, Calibration())


def _axes(file: h5py.File, number_of_axes: int) -> list[emd.Axis]:
    """Return name, units and sampling of all axes; none if the file does not say."""
    beside = [file[key] for key in BESIDE]
    if any(held.shape != (number_of_axes,) or held.dtype.kind not in "fSb" for held in beside):
        return []
    try:
        sampling, units, names, unknown = (held[()] for held in beside)
    except FOREIGN:
        return []
    return [(emd.text(n), emd.text(u), None if none else number(s)) for s, u, n, none in zip(sampling, units, names, unknown)]
