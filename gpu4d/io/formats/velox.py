"""Open diffraction patterns in the .emd files of Velox: stacks (rows, columns, frames), described in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, has, number, values_below
from gpu4d.io.sources.hdf5_dataset import frames_last_source
from gpu4d.io.sources.hdf5_file import reading
from gpu4d.io.sources.layout import ReshapedScan, decide_scan_shape
from gpu4d.io.sources.links import follow
from gpu4d.io.units import log, parse

IMAGES = "Data/Image"
SETTINGS = ("Version", "Info", "Experiment", "Operations", "Features")  # groups and texts beside the data that are kept as metadata
LONGEST_JSON = 4 << 20  # bytes of the description of one image; Velox writes 60 000
MOST_IMAGES = 10_000  # in one file that are looked at
LISTED = 6  # images that an error lists


@dataclass
class _Image:
    """One stack of images, and what Velox says of its first one."""

    path: str
    dataset: h5py.Dataset
    said: dict[str, Any]

    def get(self, *names: str) -> Any:
        """Return a value of the description, by the names that lead to it. None without it."""
        value: Any = self.said
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def of_diffraction(self) -> bool:
        """True if its pixels are measured in angles or 1/length, False for lengths. True for a camera that does not say."""
        known = parse(str(self.get("BinaryResult", "PixelUnitX") or ""))
        return self.get("BinaryResult", "AcquisitionUnit") == "CameraImage" if known is None else known[0] != "length"

    def __str__(self) -> str:
        detector = self.get("BinaryResult", "Detector")
        shape = "×".join(map(str, self.dataset.shape))
        return f"{shown(self.path)} {shape}" + (f" of {shown(detector)}" if isinstance(detector, str) else "")


class Velox(Hdf5Dialect):
    """The .emd files of Velox (Thermo Fisher)."""

    name: ClassVar = "velox"
    accepts: ClassVar = "Velox .emd"
    facts: ClassVar = Facts(
        endings=(".emd",),
        reading="chunks, decoded in parallel",
        covers=(
            "stacks of camera images in diffraction as frames, with pixel size, energy and convergence; not images in real space, and not "
            "spectra. Rows of the camera are the first axis"
        ),
        tried_on="one Ceta frame of 512×512, and files made from the description",
    )

    def claims(self, file: h5py.File) -> bool:
        return has(file, *IMAGES.split("/")) and (has(file, "Version") or has(file, "Presentation") or has(file, "Operations"))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        image = _chosen(_images(file, path), path, options.dataset)
        with reading(path, image.path):
            row = frames_last_source(file, image.path, image.dataset)
        size = (number(image.get("Scan", "ScanSize", side)) for side in ("height", "width"))
        rows, columns = (int(n) if n is not None and n == int(n) else 0 for n in size)
        frames = row.shape[1]
        shape = decide_scan_shape(options.scan_shape, (rows, columns) if rows and columns else None, frames, shown(path))
        source: Source = row if shape == row.shape[:2] else ReshapedScan(row, shape)
        metadata: dict[str, Any] = {"dataset": image.path, "image": image.said}
        metadata |= values_below(file, SETTINGS)
        name = image.get("BinaryResult", "Detector")
        return Opened(source, _calibration(image, options.energy), metadata, name if isinstance(name, str) and name else "datacube")


def _images(file: h5py.File, path: str) -> list[_Image]:
    """Return all stacks of images in a file."""
    found = []
    group = file[IMAGES]
    for count, name in enumerate(emd.names(group)):
        if count >= MOST_IMAGES:
            raise InputError(f"{shown(path)}: more than {MOST_IMAGES} images: name one with --dataset or dataset=")
        image = follow(group, name) if has(group, name, "Data") else None
        if image is not None and isinstance(image["Data"], h5py.Dataset) and image["Data"].shape is not None:
            found.append(_Image(f"/{IMAGES}/{name}/Data", image["Data"], _description(image)))
    return found


def _description(group: h5py.Group) -> dict[str, Any]:
    """Return what Velox says of the first image of a stack: JSON in the first column of a table of bytes."""
    try:
        table = group["Metadata"]
        if not has(group, "Metadata") or table.ndim != 2 or table.dtype.itemsize != 1 or 0 in table.shape:
            return {}
        if table.shape[0] > LONGEST_JSON:
            raise InputError(f"it is {table.shape[0]} bytes long, more than {LONGEST_JSON}")
        read = json.loads(table[:, 0].tobytes().split(b"\0")[0])
        return read if isinstance(read, dict) else {}
    except (*FOREIGN, MemoryError) as error:
        log.warning("%s: the description of %s is left out: %s", shown(group.file.filename), shown(emd.path_of(group)), reason(error))
        return {}


def _chosen(images: list[_Image], path: str, wanted: str | None) -> _Image:
    """Return the image that is asked for, or the only one of diffraction patterns."""
    listed = "; ".join(map(str, images[:LISTED])) + ("; …" if len(images) > LISTED else "")
    if wanted is not None:
        place = "/" + wanted.strip("/")
        found = [image for image in images if place in (image.path, image.path.rpartition("/")[0])]
        if not found:
            raise InputError(f"{shown(path)}: no dataset {shown(wanted)!r}; its images are {listed or 'none'}: choose one of them")
        return found[0]
    likely = [image for image in images if image.of_diffraction]
    if len(likely) == 1:
        return likely[0]
    if likely:
        raise InputError(
            f"{shown(path)}: {len(likely)} stacks of diffraction patterns: {'; '.join(map(str, likely[:LISTED]))}. "
            f"Choose one with --dataset or dataset={likely[0].path!r}"
        )
    raise InputError(
        f"{shown(path)}: no diffraction patterns; its images are {listed or 'none'}: "
        "if one of them is meant, choose it with --dataset or dataset="
    )


def _calibration(image: _Image, energy: float | None) -> Calibration:
    found = Calibration()
    emd.set_field(found, "energy", number(image.get("Optics", "AccelerationVoltage")), "AccelerationVoltage in the file")
    angle = number(image.get("Optics", "BeamConvergence"))  # rad; Velox writes negative ones where it does not know it
    emd.set_field(found, "semiangle", None if angle is None else angle * 1e3, "BeamConvergence in the file")
    sizes = [number(image.get("BinaryResult", "PixelSize", side)) for side in ("height", "width")]
    units = [str(image.get("BinaryResult", f"PixelUnit{axis}")) for axis in "YX"]
    axes = [("", "", None), ("", "", None), *((name, unit, size) for name, unit, size in zip(("y", "x"), units, sizes))]
    emd.from_axes(found, axes, found.energy or energy)
    return found
