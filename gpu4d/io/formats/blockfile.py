"""Open blockfiles (`.blo`) of NanoMegas: precession electron diffraction scans of square patterns, each behind a mark and its number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from gpu4d import physics
from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import (
    as_written,
    check_promised,
    finite,
    read_bytes,
    read_record,
    refuse_dataset,
    set_field,
    set_steps,
    size_of,
    stem,
)
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.io.sources.layout import decide_scan_shape

MAGIC, VERSIONS = b"IMGBLO", (0x0102, 0x0103)
MARK = 0x55AA  # before each pattern, then its number
MARK_BYTES = 6
NOTE_AT = 240  # byte at which lines of text begin
LARGEST_NOTE, LARGEST_IMAGE = 1 << 16, 1 << 26  # bytes of the text and of the virtual image that become metadata
LAYOUT = [
    ("ID", "S6"), ("version", "u2"), ("image_at", "u4"), ("patterns_at", "u4"), ("flags", "u4"), ("DP_SZ", "u2"), ("DP_rotation", "u2"),
    ("NX", "u2"), ("NY", "u2"), ("scan_rotation", "u2"), ("SX", "f8"), ("SY", "f8"), ("beam_energy", "u4"), ("SDP", "u2"),
    ("camera_length", "u4"), ("acquisition_time", "f8"), ("centering", "f8", 8), ("distortion", "f8", 14),
]  # fmt: skip
PER_CM, PER_MM = 100, 10  # SDP is 100 × pixels per cm, the camera length is in tenths of a millimetre
HOW = "header of the blockfile"


class Blockfile(Format):
    """Blockfiles of NanoMegas ASTAR."""

    name: ClassVar = "blockfile"
    accepts: ClassVar = "NanoMegas .blo"
    facts: ClassVar = Facts(
        endings=(".blo",),
        reading="mapped; copied where a pattern's size and header leave its numbers unaligned",
        covers="8 and 16 bit, scan shape, step, energy, detector pixel; the virtual image and notes are metadata. Patterns lie as in ASTAR",
        tried_on="two files of 3×2 and 2×3 positions, and files made from the description (16 bit)",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return _byte_order(head) is not None

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a blockfile")
        order = _byte_order(read_bytes(path, 0, 8, "header"))
        if order is None:
            raise InputError(f"{shown(path)}: not a readable blockfile (its first bytes are others): give another format")
        header = read_record(path, np.dtype(LAYOUT).newbyteorder(order), "header")
        size, nx, ny, first = (int(header[name]) for name in ("DP_SZ", "NX", "NY", "patterns_at"))
        if min(size, nx, ny) == 0 or first < NOTE_AT:
            raise InputError(f"{shown(path)}: not a readable blockfile ({ny}×{nx} positions, {size}×{size} pixels): it is damaged, copy it")
        note = _note(path, header)
        storage = Plain((size, size), f"{order}u{_bits(note) // 8}")
        stride = storage.nbytes + MARK_BYTES
        there = max(0, size_of(path) - first) // stride
        check_promised(path, nx * ny, there, options)
        frames = min(nx * ny, there)
        _check_marks(path, first, stride, frames, order)
        scan = decide_scan_shape(options.scan_shape, (ny, nx), frames, shown(path))
        source = FrameFiles([Stretch(path, first + MARK_BYTES, stride, frames)], storage, scan, f"blockfile, {storage.dtype.name}")
        metadata: dict[str, Any] = {"header": as_written(header), "note": note, "virtual_image": _image(path, header)}
        return Opened(source, _calibration(header), metadata, stem(path))


def _byte_order(head: bytes) -> Literal["<", ">"] | None:
    if not head.startswith(MAGIC) or len(head) < 8:
        return None
    if int.from_bytes(head[6:8], "little") in VERSIONS:
        return "<"
    return ">" if int.from_bytes(head[6:8], "big") in VERSIONS else None


def _note(path: str, header: np.void) -> list[str]:
    """Return the lines of text between the header and the virtual image."""
    length = min(int(header["image_at"]) - NOTE_AT, LARGEST_NOTE)
    if length <= 0:
        return []
    text = read_bytes(path, NOTE_AT, length, "header").split(b"\0")[0].decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bits(note: list[str]) -> int:
    """Return the bits of a pixel. Newer files say it in a line of text, older ones have 8."""
    for line in note:
        key, _, value = line.lower().partition(":")
        if key.strip() == "blo bit depth":
            return 16 if value.split() and value.split()[0] == "16" else 8
    return 8


def _check_marks(path: str, first: int, stride: int, frames: int, order: str) -> None:
    """Raise an error if the first or the last pattern does not begin with its mark."""
    for n in (0, frames - 1):
        mark = read_bytes(path, first + n * stride, 2, "patterns")
        if np.frombuffer(mark, f"{order}u2")[0] != MARK:
            raise InputError(f"{shown(path)}: pattern {n} has no mark at its beginning: the file or its header is damaged, copy it")


def _image(path: str, header: np.void) -> np.ndarray | None:
    """Return the virtual bright-field image (NY, NX) that lies before the patterns, if there is one."""
    nx, ny, at, stop = (int(header[name]) for name in ("NX", "NY", "image_at", "patterns_at"))
    if nx * ny > min(stop - at, LARGEST_IMAGE) or at < NOTE_AT:
        return None
    return np.frombuffer(read_bytes(path, at, nx * ny, "virtual image"), np.uint8).reshape(ny, nx)


def _calibration(header: np.void) -> Calibration:
    calibration = Calibration()
    set_field(calibration, HOW, energy=finite(header["beam_energy"]))
    set_steps(calibration, HOW, [(float(header["SY"]), "nm"), (float(header["SX"]), "nm")], [], None)
    per_cm, tenths = float(header["SDP"]) / PER_CM, float(header["camera_length"]) / PER_MM
    if calibration.energy is not None and per_cm > 0 and tenths > 0:
        angle = np.arctan(10 / per_cm / tenths) * 1e3  # mrad of one pixel
        set_field(
            calibration, f"pixels per cm and camera length, {HOW}", q_pixel=physics.angle_to_frequency(float(angle), calibration.energy)
        )
    return calibration
