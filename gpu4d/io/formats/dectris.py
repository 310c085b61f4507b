"""Open scans of DECTRIS detectors (ARINA, QUADRO, ELA, EIGER): a master file, data files beside it, and a file of the microscope.

`NAME_master.h5` is a NeXus file. It links to `NAME_data_000001.h5`, `NAME_data_000002.h5`, …, which hold the patterns, usually one
chunk of bitshuffle and LZ4 each. `NAME.h5` beside them may hold what the microscope said of the scan.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import Any, ClassVar

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.attributes import Attributes
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, has, number, values_below
from gpu4d.io.formats.records import check_inside
from gpu4d.io.sources.hdf5_dataset import source_of
from gpu4d.io.sources.hdf5_file import open_file, reading
from gpu4d.io.sources.joined import JoinedFrames
from gpu4d.io.sources.layout import FRAMES, ReshapedScan, decide_scan_shape
from gpu4d.io.sources.links import BrokenLink, dataset_at, follow
from gpu4d.io.units import log, scan_step

DETECTOR = "entry/instrument/detector"
PART = re.compile(r"data_(\d+)")
LOOKED_AT = 32  # names in the data group that are looked at to recognise a file
UNWANTED = 0xFFFF  # bits of NeXus' pixel mask whose pixels do not count; those above are only remarks, such as "interpolated"
SLOWEST = 30e3  # eV: smaller energies in the file are those of X-rays, not of electrons
NAMED = 3  # missing files that an error names


class Dectris(Hdf5Dialect):
    """The master file of a DECTRIS detector."""

    name: ClassVar = "dectris"
    accepts: ClassVar = "DECTRIS master files"
    facts: ClassVar = Facts(
        endings=("_master.h5",),
        reading="chunks, decoded in parallel",
        covers=(
            "ARINA and other DECTRIS detectors: all data files that the master names, bad pixels as mask, a flat field that the detector "
            "did not apply, scan shape, step and energy from the microscope's file beside it. Rows of the detector are the first axis"
        ),
        tried_on="an ARINA scan of 4×4 positions whose values are all zero, and files made from the description",
    )

    def claims(self, file: h5py.File) -> bool:
        if not has(file, "entry", "data") or not has(file, *DETECTOR.split("/")):
            return False
        return any(PART.fullmatch(name.decode("utf-8", "replace")) for name in itertools.islice(file["entry/data"].id, LOOKED_AT))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        row, missing = _patterns(file, path, options.dataset)
        microscope = _microscope(path)
        stated = _stated_scan(file, microscope)
        if missing:
            row_of = f"{shown(path)}: {len(missing)} of its data files cannot be opened ({_listed(missing)})"
            if options.scan_shape is None:
                raise InputError(
                    f'{row_of}: put them beside it, or open the {row.shape[1]} patterns that are there with scan_shape="frames" or (Rx, Ry)'
                )
            log.warning("%s: the scan is opened without them", row_of)
        shape = decide_scan_shape(options.scan_shape, stated, row.shape[1], shown(path))
        source: Source = row if shape == row.shape[:2] else ReshapedScan(row, shape)
        detector = file[DETECTOR]
        mask = _mask(detector, row)
        source, mask = _flat(detector, source, mask)
        metadata: dict[str, Any] = {"instrument": values_below(file["entry/instrument"])}
        if microscope is not None:
            metadata["microscope"] = microscope
        name = os.path.basename(path).removesuffix(".h5").removesuffix("_master")
        return Opened(source, _calibration(detector, microscope), metadata, name or "datacube", mask)


# ---------------------------------------------------------------- patterns


def _patterns(file: h5py.File, path: str, dataset: str | None) -> tuple[Source, list[str]]:
    """Return all patterns as one row, and the data files at the end that cannot be opened."""
    if dataset is not None:
        part = _part(file, path, dataset.strip("/"))
        return JoinedFrames([part], f"DECTRIS, {part.description}"), []
    group = file["entry/data"]
    numbers = sorted((int(found[1]), name) for name in emd.names(group) if (found := PART.fullmatch(name)))
    if [number for number, _ in numbers] != list(range(numbers[0][0], numbers[0][0] + len(numbers))):
        raise InputError(
            f"{shown(path)}: its data files are not numbered one by one from {numbers[0][1]} on: the file is damaged, copy it again"
        )
    parts: list[Source] = []
    missing: list[str] = []
    last = 0
    for _, name in numbers:
        try:
            part = _part(file, path, f"entry/data/{name}")
        except BrokenLink as broken:
            if broken.missing is None:
                raise InputError(str(broken)) from None
            missing.append(broken.missing)
            continue
        if missing:
            raise InputError(
                f"{shown(path)}: {shown(missing[0])} is one of its data files, and others follow it: put it back, beside this file"
            )
        last = _check_number(follow(file, f"entry/data/{name}"), last)
        parts.append(part)
    if not parts:
        raise InputError(f"{shown(path)}: none of its data files can be opened ({_listed(missing)}): put them beside this file")
    return JoinedFrames(parts, f"DECTRIS, {parts[0].description}"), missing


def _part(file: h5py.File, path: str, name: str) -> Source:
    """Return the patterns of one data file, (1, frames, Qx, Qy). It must lie beside the master."""
    folder = os.path.dirname(os.path.abspath(path))
    above, _, last = name.rpartition("/")
    group = follow(file, above or "/")
    link = group.get(last, getlink=True) if isinstance(group, h5py.Group) and last in emd.names(group) else None
    if isinstance(link, h5py.ExternalLink) and os.path.dirname(link.filename) not in ("", "."):
        raise InputError(
            f"{shown(path)}: {shown(last)} leads to {shown(link.filename)}, out of its folder: put the data file beside the master"
        )
    dataset = dataset_at(file, name) if link is None else follow(file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(
            f"{shown(path)}: no dataset {shown(name)!r}; its patterns are in entry/data/data_000001 and so on: leave dataset out"
        )
    if os.path.dirname(os.path.abspath(dataset.file.filename)) != folder:
        raise InputError(
            f"{shown(path)}: {shown(last)} leads to {shown(dataset.file.filename)}, out of its folder: copy it beside the master"
        )
    check_inside(dataset.file.filename, path)
    if dataset.ndim != 3:
        raise InputError(f"{shown(path)}: {shown(last)} is {'×'.join(map(str, dataset.shape))}: need frames × rows × columns")
    with reading(dataset.file.filename, name):
        return source_of(dataset.file, emd.path_of(dataset), dataset, FRAMES)


def _check_number(dataset: h5py.Dataset, last: int) -> int:
    """Return the number of the last image of a data file. Warn if its first one does not follow the file before."""
    try:
        first, final = (int(dataset.attrs[key]) for key in ("image_nr_low", "image_nr_high"))
    except FOREIGN:
        return last + dataset.shape[0]
    if first != last + 1 or final - first + 1 != dataset.shape[0]:
        log.warning(
            "%s: it states images %d to %d, but has %d after number %d: check whether it belongs to this scan",
            *(shown(dataset.file.filename), first, final, dataset.shape[0], last),
        )
    return final


def _listed(missing: list[str]) -> str:
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return ", ".join(map(shown, missing[:NAMED])) + more


# ---------------------------------------------------------------- what is said of the scan


def _microscope(path: str) -> Attributes | None:
    """Return what the microscope wrote beside the master: `NAME.h5` for `NAME_master.h5`. None without such a file."""
    stem, ending = os.path.splitext(path)
    beside = stem.removesuffix("_master") + ending
    if not stem.endswith("_master") or not os.path.isfile(beside):
        return None
    try:
        with open_file(beside) as file, reading(beside, "STEM Metadata"):
            return Attributes(file["STEM Metadata"], beside, "/STEM Metadata") if has(file, "STEM Metadata") else None
    except InputError as error:
        log.warning("the metadata of the microscope are left out: %s", error)
        return None


def _whole(value: Any) -> int:
    """Return a positive whole number that a file states; 0 for anything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else 0


def _stated_scan(file: h5py.File, microscope: Attributes | None) -> tuple[int, int] | None:
    """Return the scan shape that is stated: by the microscope, or by the detector if it was triggered once a line."""
    if microscope is not None:
        rows, columns = _whole(microscope.get("NumPixelsY")), _whole(microscope.get("NumPixelsX"))
        if rows and columns:
            return rows, columns + _whole(microscope.get("NumPixelsPrescan"))
    lines, images = (_whole(_value(file[DETECTOR], f"detectorSpecific/{key}")) for key in ("ntrigger", "nimages"))
    return (lines, images) if lines > 1 and images > 1 else None


def _value(group: h5py.Group, name: str) -> Any:
    """Return a small value in a group; None without it."""
    dataset = dataset_at(group, name)
    if dataset is None or dataset.file.filename != group.file.filename or dataset.shape is None or dataset.size != 1:
        return None
    try:
        return dataset[()]
    except FOREIGN:
        return None


def _calibration(detector: h5py.Group, microscope: Attributes | None) -> Calibration:
    found = Calibration()
    if microscope is not None:
        energy, step = number(microscope.get("High Tension")), number(microscope.get("Pixel Size"))
        measured = "" if _whole(microscope.get("IsPixelSizeCalibrated")) else ", which it calls not calibrated"
        emd.set_field(found, "energy", energy, "High Tension in the microscope's file")
        emd.set_field(found, "r_pixel", None if step is None else scan_step(step, "nm"), f"Pixel Size in the microscope's file{measured}")
    energy = number(_value(detector, "detectorSpecific/photon_energy"))
    if found.energy is None and energy is not None and energy >= SLOWEST:
        emd.set_field(found, "energy", energy, "photon_energy of the detector")
    return found


# ---------------------------------------------------------------- pixels


def _plane(detector: h5py.Group, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an array of one value for each pixel, or None."""
    dataset = dataset_at(detector, name)
    if dataset is None or dataset.shape != shape or dataset.nbytes > emd.LARGEST_ENTRY or dataset.dtype.kind not in "iuf":
        return None
    try:
        return dataset[()]
    except (*FOREIGN, MemoryError) as error:
        log.warning("%s: %s is left out: %s", shown(detector.file.filename), name, reason(error))
        return None


def _mask(detector: h5py.Group, row: Source) -> np.ndarray | None:
    """Return True for pixels that count: not marked by the detector, and not at the largest number in the first and last pattern."""
    shape = tuple(row.shape[2:])
    names = [name for place in ("", "detectorSpecific/") for name in _masks(detector, place)]
    planes = [plane for name in names if (plane := _plane(detector, name, shape)) is not None]
    bad = np.zeros(shape, bool)
    for plane in planes:
        bad |= plane.astype(np.int64) & UNWANTED != 0
    if np.dtype(row.dtype).kind == "u":
        most = np.iinfo(row.dtype).max
        try:
            ends = [row.read(slice(0, 1), slice(n, n + 1)) == most for n in sorted({0, row.shape[1] - 1})]
            bad |= np.logical_and.reduce(ends)[0, 0]
        except InputError as error:  # reading patterns will say so
            log.info("the pixels that hold no counts are not looked for: %s", error)
    if bad.all():
        log.warning("%s: all pixels are marked as bad: the mask is left out", shown(detector.file.filename))
        return None
    return ~bad if bad.any() else None


def _masks(detector: h5py.Group, place: str) -> list[str]:
    group = emd.group_at(detector, place) if place else detector
    return [] if group is None else [place + name for name in emd.names(group) if re.fullmatch(r"pixel_mask(_\d+)?", name)]


def _flat(detector: h5py.Group, source: Source, mask: np.ndarray | None) -> tuple[Source, np.ndarray | None]:
    """Return the source with the detector's flat field, if it was not applied yet: counts are multiplied by its factors."""
    shape = tuple(source.shape[2:])
    factors = _plane(detector, "detectorSpecific/flatfield", shape)
    factors = _plane(detector, "flatfield", shape) if factors is None else factors
    applied = any(_whole(_value(detector, name)) for name in ("flatfield_correction_applied", "flatfield_applied"))
    if factors is None or applied:
        return source, mask
    good = np.isfinite(factors) & (factors > 0)
    if not good.any() or np.all(factors[good] == 1):
        return source, mask
    from gpu4d.data.corrections import Corrections
    from gpu4d.data.frame_correction import FrameCorrection
    from gpu4d.data.views import CorrectedSource

    gain = np.where(good, 1 / np.where(good, factors, 1.0), 1.0)
    log.info("%s: its flat field was not applied by the detector, and is now", shown(detector.file.filename))
    flat = FrameCorrection(np.zeros(gain.shape), gain)
    mask = mask if good.all() else good if mask is None else mask & good
    return CorrectedSource(source, Corrections((flat,))), mask
