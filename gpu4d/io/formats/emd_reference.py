"""Name a scan in results, where HDF5 cannot link to its file: zarr, frames behind headers, several files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import h5py

from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.links import dataset_at
from gpu4d.io.sources.mapped import MappedSource
from gpu4d.io.timing import ScanTiming
from gpu4d.io.units import log

KIND = "scan in a file that HDF5 cannot link to"


def is_only_named(source: Source) -> bool:
    """Say whether a scan is in a file that neither a virtual dataset nor external storage of HDF5 can lead to."""
    path, dataset = getattr(source, "path", None), getattr(source, "dataset", None)
    if not path:
        return False
    if dataset is None:
        return not isinstance(source, MappedSource)
    if not os.path.isfile(path) or not h5py.is_hdf5(path):
        return True
    try:
        with open_file(path) as raw:
            held = dataset_at(raw, dataset)
            return held is None or held.size != math.prod(source.shape)
    except FOREIGN:
        return True


def reference(cube: DataCube, target: str) -> dict[str, Any]:
    """Return what finds a scan again from the folder of the results."""
    source: Any = cube.source
    try:
        beside = os.path.relpath(os.path.realpath(source.path), os.path.dirname(os.path.realpath(target)))
    except ValueError:  # on another drive
        beside = source.path
    place = {"file": source.path, "relative": beside, "dataset": source.dataset, "layout": source.description}
    given = {name: json.dumps(value, default=str) for name, value in dict(cube.metadata.get("opened_as", {})).items()}
    return {"kind": KIND, **place, "scan_shape": cube.scan_shape, "opened_as": given}


def is_reference(values: Any) -> bool:
    """Say whether a dictionary in a file names a scan."""
    return isinstance(values, Mapping) and values.get("kind") == KIND


def referred(values: Mapping[str, Any], folder: str) -> DataCube | None:
    """Open the scan that a dictionary names; None with a warning if it is not there any more."""
    from gpu4d.io.opening import open as open_scan

    shape = tuple(int(n) for n in values.get("scan_shape", ()))
    given = _opened_as(values.get("opened_as"))
    for place in (os.path.join(folder, str(values.get("relative"))), str(values.get("file"))):
        if os.path.exists(place):
            try:
                return open_scan(place, dataset=values.get("dataset"), scan_shape=shape, **given)  # type: ignore[arg-type]
            except InputError:
                try:
                    return open_scan(place, dataset=values.get("dataset"), **given)
                except InputError as error:
                    log.warning("the scan is left out: %s", error)
                    return None
    log.warning("the scan is left out: %s is not there", shown(str(values.get("file"))))
    return None


def _opened_as(written: Any) -> dict[str, Any]:
    """Return what `gpu4d.open` was told when the results were written: format, timing, layout. What is damaged is left out."""
    kinds: dict[str, Callable[..., Any]] = {"format": str, "timing": lambda v: ScanTiming(**v), "layout": lambda v: RawLayout(**v)}
    found = {}
    for name, kind in kinds.items():
        text = written.get(name) if isinstance(written, Mapping) else None
        if text is None:
            continue
        try:
            found[name] = kind(json.loads(str(text)))
        except (*FOREIGN, RecursionError) as error:
            log.warning("%s of the scan's file is left out: %s", name, reason(error))
    return found
