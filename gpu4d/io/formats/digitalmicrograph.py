"""Open DM3 and DM4 files of Gatan's DigitalMicrograph: 4D-STEM scans and stacks of patterns.

`Dimensions` lists the axes as they lie in the file, the fastest first. The program has two orders of a scan. Newer versions write
patterns one after the other: (kx, ky, x, y), with the tag "Data Order Swapped". Older ones put the scan axes first, as in spectrum
images: (x, y, kx, ky). Patterns are then scattered over the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.dm_tags import Block, Tags, is_dm, read_tags
from gpu4d.io.formats.records import Step, finite, set_field, set_steps, stem
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.io.sources.layout import check_scan_shape, decide_scan_shape
from gpu4d.io.sources.scan_first import ScanFirst
from gpu4d.io.units import parse

KINDS = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1", 39: "i8", 40: "u8"}  # by `DataType`
OTHER_KINDS = {3: "complex", 5: "packed complex", 8: "colour", 13: "complex", 23: "colour"}
HOW = "tags of DigitalMicrograph"


class DigitalMicrograph(Format):
    """Files of Gatan's DigitalMicrograph (GMS), versions 3 and 4."""

    name: ClassVar = "digitalmicrograph"
    accepts: ClassVar = "DigitalMicrograph .dm3, .dm4"
    facts: ClassVar = Facts(
        endings=(".dm4", ".dm3"),
        reading="mapped",
        covers="4D scans in both orders of axes, stacks of patterns (K2, K3, OneView, Rio, STELA) with a scan shape. Patterns lie as "
        "the program shows them. Not read: raw parts of a K2 in-situ camera (.gtg with .bin), and colour or complex data",
        tried_on="files made from its description; RosettaSciIO reads the same from those in little-endian order",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return is_dm(head)

    def open(self, path: str, options: OpenOptions) -> Opened:
        version, tags = read_tags(path)
        image = _choose(path, _images(path, tags), options.dataset)
        microscope = _under(image.tags, "ImageTags", "Microscope Info")
        calibration = Calibration()
        set_field(calibration, HOW, energy=finite(microscope.get("Voltage")))
        energy = calibration.energy or options.energy
        semiangle = _under(image.tags, "ImageTags", "EELS").get("Convergence semi-angle (mrad)")
        set_field(calibration, HOW, semiangle=finite(semiangle))
        source = _source(path, image, options, f"DM{version}")
        scan, detector = image.axes()
        set_steps(calibration, HOW, scan if len(scan) == 2 else [], detector, energy)
        metadata = {"image": image.name, "tags": image.tags}
        return Opened(source, calibration, metadata, image.title or stem(path))


@dataclass
class _Image:
    """One image of a file. Unless said, axes are in the order of the file, the fastest first.

    Attributes
    ----------
    name : str
        "ImageList/1".
    title : str
        What the user called it.
    tags : dict
    block : Block
    dimensions : tuple of int
    scan_first : bool or None
        Whether the scan axes are the fastest. None if it is no scan: spectra, or a single image.
    """

    name: str
    title: str
    tags: Tags
    block: Block
    dimensions: tuple[int, ...]
    scan_first: bool | None = None

    def step(self, axis: int) -> Step:
        held = _under(self.tags, "ImageData", "Calibrations", "Dimension", axis)
        return held.get("Scale"), str(held.get("Units", ""))

    def axes(self) -> tuple[list[Step], list[Step]]:
        """Return the steps of the scan axes and of the detector axes. Axes of length one are not among them."""
        steps = [self.step(axis) for axis, n in self.kept()]
        return (steps[:-2], steps[-2:]) if self.scan_first else (steps[2:], steps[:2])

    def kept(self) -> list[tuple[int, int]]:
        """Return number and length of the axes, without those of length one behind the fourth."""
        axes = list(enumerate(self.dimensions))
        while len(axes) > 4 and axes[-1][1] == 1:
            axes.pop()
        return axes


def _under(tags: Any, *names: Any) -> Tags:
    """Return the group at a path of names; an empty one if there is none."""
    for name in names:
        tags = tags.get(name) if isinstance(tags, dict) else None
    return tags if isinstance(tags, dict) else {}


def _images(path: str, tags: Tags) -> list[_Image]:
    """Return all images of a file that have three or four dimensions."""
    found = []
    for number, held in _under(tags, "ImageList").items():
        data = _under(held, "ImageData")
        block, sizes = data.get("Data"), _under(data, "Dimensions").values()
        dimensions = tuple(n for n in sizes if type(n) is int and n > 0)
        if not isinstance(block, Block) or len(dimensions) != len(sizes) or len(dimensions) < 3:
            continue  # images, their thumbnails, and arrays so small that they were read as values
        title = held.get("Name")
        image = _Image(f"ImageList/{number}", title if isinstance(title, str) else "", held, block, dimensions)
        image.scan_first = _scan_first(image)
        found.append(image)
    return found


def _scan_first(image: _Image) -> bool | None:
    """Say which axes are those of the scan: by the program's own tag, then by the units of the axes, then by its default."""
    about = _under(image.tags, "ImageTags", "Meta Data")
    dimensions, swapped = len(image.kept()), about.get("Data Order Swapped")
    kinds = [(parse(image.step(axis)[1]) or ("",))[0] for axis, _ in image.kept()]
    reciprocal = ("frequency", "angle")
    if dimensions == 4:
        if swapped is not None:
            return str(swapped).strip().lower() in ("0", "false", "")
        if kinds[0] == kinds[1] == "length" and kinds[2] in reciprocal and kinds[3] in reciprocal:
            return True
        return not (kinds[2] == kinds[3] == "length" and kinds[0] in reciprocal and kinds[1] in reciprocal)
    if dimensions == 3:
        if kinds[0] == "length" and kinds[1] in reciprocal and kinds[2] in reciprocal:
            return True  # patterns along a line
        return None if str(about.get("Format", "")).lower() == "spectrum image" else False
    return None


def _choose(path: str, images: list[_Image], dataset: str | None) -> _Image:
    """Return the image that is named, or the only one of four dimensions, or else the only stack."""
    where = shown(path)
    listed = ", ".join(f"{image.name} ({'×'.join(map(str, image.dimensions))})" for image in images)
    if dataset is not None:
        named = [image for image in images if image.name == dataset.strip("/")]
        if not named:
            raise InputError(f"{where}: no image {shown(dataset)!r} of three or four dimensions; there are {shown(listed) or 'none'}")
        images = named
    usable = [image for image in images if image.scan_first is not None]
    if not usable:
        raise InputError(
            f"{where}: no scan in it: images of the file are {shown(listed) or 'of fewer than three dimensions'}; a scan has two scan "
            "and two detector axes, or is a stack of patterns"
        )
    most = max(len(image.kept()) for image in usable)
    best = [image for image in usable if len(image.kept()) == most]
    if len(best) > 1:
        raise InputError(f"{where}: several scans: {shown(listed)}. Choose one with --dataset or dataset={best[0].name!r}")
    return best[0]


def _source(path: str, image: _Image, options: OpenOptions, what: str) -> Source:
    """Return the source of an image, after its type and size were compared with the bytes that there are."""
    number = image.tags["ImageData"].get("DataType")
    if number not in KINDS:
        raise InputError(f"{shown(path)}: {image.name} holds {OTHER_KINDS.get(number, f'data of type {number}')}: need real numbers")
    kind = np.dtype((image.block.kind[:1] or "<") + KINDS[number])
    if math.prod(image.dimensions) * kind.itemsize > image.block.nbytes:
        sizes = "×".join(map(str, image.dimensions))
        raise InputError(
            f"{shown(path)}: {image.name} is {sizes} of {kind}, and has {image.block.nbytes} bytes: it is damaged, copy it again"
        )
    lengths = [n for _, n in image.kept()]
    if image.scan_first:
        (ry, *rest), (qy, qx) = lengths[:-2], lengths[-2:]
    else:
        (qy, qx), (ry, *rest) = lengths[:2], lengths[2:]
    stored = (rest[0] if rest else 1, ry)
    frames = stored[0] * stored[1]
    scan = _scan_shape(path, image, options, stored, frames)
    if image.scan_first:
        return ScanFirst(path, image.block.offset, (*scan, qx, qy), kind.str, f"{what} {kind.name}")
    stretch = Stretch(path, image.block.offset, qx * qy * kind.itemsize, frames)
    return FrameFiles([stretch], Plain((qx, qy), kind.str), scan, f"{what} {kind.name}")


def _scan_shape(path: str, image: _Image, options: OpenOptions, stored: tuple[int, int], frames: int) -> tuple[int, int]:
    where = f"{shown(path)}: {image.name}"
    if len(image.kept()) == 4:
        return stored if options.scan_shape is None else check_scan_shape(options.scan_shape, frames, where)
    if image.scan_first and options.scan_shape is None:
        return 1, frames
    sampling = _under(image.tags, "ImageTags", "SI", "Acquisition", "Spatial Sampling")
    height, width = (sampling.get(f"{name} (pixels)") for name in ("Height", "Width"))
    stated = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return decide_scan_shape(options.scan_shape, stated, frames, where)
