"""Open HDF5 files: recognise them, and read what they say of the scan."""

from __future__ import annotations

from typing import ClassVar

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats import carried, emd, emd_events
from gpu4d.io.formats.choose_dataset import Contents, choose
from gpu4d.io.formats.hdf5_dialect import name_other_files, writer_of
from gpu4d.io.sources.hdf5_dataset import source_of
from gpu4d.io.sources.hdf5_file import open_file, opening, reading
from gpu4d.io.sources.links import group_at, path_of


class Hdf5(Format):
    """The HDF5 format: EMD 1.0 as py4DSTEM writes it, EMD 0.x, and any other file with a dataset of four dimensions."""

    name: ClassVar = "hdf5"
    accepts: ClassVar = "HDF5 (EMD, py4DSTEM, or any file with a 4D dataset)"
    facts: ClassVar = Facts(
        endings=(".h5", ".hdf5", ".emd"),
        reading="mapped; chunks decoded in parallel; events",
        covers="EMD 1.0 with calibration, EMD 0.x, and any dataset of four dimensions, or of three with a scan shape; gzip, LZF, LZ4, "
        "Zstandard, Blosc and bitshuffle are decoded by gpu4d, other filters by HDF5; counted scans of gpu4d stay events",
        tried_on="a file that py4DSTEM 0.14.18 wrote, and real and simulated scans in HDF5",
        writes=True,
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return writer_of(path, head) is not None

    def open(self, path: str, options: OpenOptions) -> Opened:
        with opening(path), open_file(path) as file:
            counted = _counted(file, path, options)
            if counted is not None:
                return counted
            name, chosen = choose(file, options.dataset, options.scan_shape)
            with reading(path, name):
                source = source_of(file, name, chosen, options.scan_shape)
                name_other_files(source, chosen, path)
            metadata = emd.metadata_of(file, name)
            known = carried.in_hdf5(file, name, source.shape)
            if known is not None:
                metadata |= {key: known[1][key] for key in ("source", "converted") if key in known[1]}  # the rest may have changed since
            calibration = emd.calibration_of(file, name, chosen, source.shape, metadata, options.energy)
        mask = emd.mask_of(metadata, source.shape)
        return Opened(source, calibration, metadata, emd.cube_name(path, name), mask)


def _counted(file: h5py.File, path: str, options: OpenOptions) -> Opened | None:
    """Open a counted scan: the one that is named, or the only one of a file without another scan. None for other files."""
    name = options.dataset
    if name is None:
        groups = emd_events.event_groups(file)
        scans = [other for other, held in Contents.of(file).datasets.items() if held.shape is not None and len(held.shape) == 4]
        if not groups:
            return None
        if len(groups) + len(scans) > 1:
            listed = ", ".join(map(shown, (*groups, *scans)))
            raise InputError(f"{shown(path)}: several scans: {listed}. Choose one with --dataset or dataset={groups[0]!r}")
        name = groups[0]
    group = group_at(file, "/" + name.strip("/"))
    if group is None or not emd_events.is_counted(group):
        return None
    source = emd_events.event_source(file, name)
    if options.scan_shape is not None and options.scan_shape != source.shape[:2]:
        raise InputError(f"{shown(path)}: a counted scan of {source.shape[:2]} positions, scan_shape={options.scan_shape}: leave it out")
    inside = path_of(group) + "/data"
    metadata = emd.metadata_of(file, inside)
    held = metadata.get("metadata", {}).get("calibration")
    calibration = emd.from_keys(held, source.shape[:2], options.energy) if held else Calibration()
    return Opened(source, calibration, metadata, emd.cube_name(path, inside), emd.mask_of(metadata, source.shape))
