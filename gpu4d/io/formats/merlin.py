"""Open files of the Merlin readout (Quantum Detectors): `.mib` files with Medipix patterns, and the `.hdr` file beside them.

Every pattern has a header of text, whose length stands in it: ``MQ1,000001,00384,01,0256,0256,U08,   1x1,01,2021-05-07 18:51:10.905800,…``
are the sequence number, bytes of the header, chips, pixels along a row, rows, how pixels are stored, the arrangement of the chips, which
of them are on, and when the shutter opened. Numbers have the highest byte first. Files begin with the last row of the picture.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.merlin_scan import Stamps, arrange
from gpu4d.io.formats.records import refuse_dataset, stem
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Storage, Stretch
from gpu4d.io.sources.merlin_raw import BITS, CHIP, MerlinRaw

MAGIC, SIDECAR = b"MQ1,", b"HDR,"
USUAL_BYTES = 1024  # of a header that are read at once: a series may have as many files as patterns
HEADER_BYTES = 1 << 16  # that a header has at most; real ones have some hundred for each chip
PIXELS = {"U08": "u1", "U16": ">u2", "U32": ">u4"}  # RAW patterns are "R64"
FIELDS = (
    "id", "sequence", "header_bytes", "chips", "pixels_x", "pixels_y", "pixel_type", "layout", "chip_select", "time_stamp", "exposure_s",
    "counter", "colour_mode", "gain_mode",
)  # fmt: skip
EXTENSION = "MQ1A"  # its fields follow it: time stamp to the nanosecond, exposure, depth of the counter


@dataclass(frozen=True)
class Header:
    """What the header of a pattern says. `same` holds for two patterns that are stored alike."""

    sequence: int
    length: int
    chips: int
    columns: int
    rows: int
    kind: str
    layout: str
    depth: int | None
    fields: tuple[str, ...]

    @property
    def same(self) -> tuple[Any, ...]:
        return self.length, self.chips, self.columns, self.rows, self.kind, self.layout, self.depth


class Merlin(Format):
    """Merlin `.mib` files: Medipix 3 and Timepix patterns, counted or RAW, with or without a `.hdr` file."""

    name: ClassVar = "merlin"
    accepts: ClassVar = "Merlin (.mib, .hdr)"
    facts: ClassVar = Facts(
        endings=(".mib", ".hdr"),
        reading="mapped, unpacked",
        covers="counted patterns of 1, 6, 12 and 24 bit, of any chips and rows; RAW patterns of one chip, and of 2×2 chips up to "
        "12 bit; several files of one acquisition; missing and extra triggers, by sequence numbers and time stamps. Not: RAW patterns of "
        "other arrangements of chips",
        tried_on="test pictures of one chip and of 2×2: counted 1, 6, 12, 24 bit, RAW 1 bit; a scan of 4×2 positions, and one with half of "
        "the rows; others are made from the description",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return head.startswith((MAGIC, SIDECAR))

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a .mib file")
        try:
            return _open(path, options)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be read ({reason(error)})") from error


def _open(path: str, options: OpenOptions) -> Opened:
    with open(path, "rb") as file:
        first = path if file.read(len(MAGIC)) == MAGIC else _patterns_of(path)
    header = read_header(first, 0)
    storage = _storage(header, first)
    files = _series(first, header, storage.nbytes)
    stretches = [Stretch(file, header.length, header.length + storage.nbytes, _frames(file, header, storage.nbytes)) for file in files]
    frames = sum(s.frames for s in stretches)
    if frames == 0:
        raise InputError(
            f"{shown(first)}: a pattern has {header.length} bytes of header and {storage.nbytes} of pixels, the file has "
            f"{os.path.getsize(first)}: it is truncated, copy it again"
        )
    sidecar = path if path != first else _sidecar(files)
    stated = read_sidecar(sidecar) if sidecar else {}
    scan = arrange(Stamps(stretches, header.length), options.scan_shape, stated_shape(stated), shown(path))
    metadata: dict[str, Any] = {"header": dict(zip(FIELDS, header.fields)), "header_text": ",".join(header.fields)}
    metadata |= {"hdr": stated} if stated else {}
    depth = "" if header.depth is None else f", {header.depth} bit"
    source = FrameFiles(stretches, storage, scan.shape, f"Merlin{' RAW' if header.kind == 'R64' else ''}{depth}", scan.numbers)
    return Opened(source, metadata=metadata | scan.metadata, name=stem(path))


def read_header(path: str, at: int) -> Header:
    """Return the header of the pattern that begins at a byte of a file.

    Raises
    ------
    InputError
        There is no header of a pattern, or it is damaged.
    """
    with open(path, "rb") as file:
        file.seek(at)
        head = file.read(USUAL_BYTES)
    fields = head[:128].split(b",")
    try:
        if not head.startswith(MAGIC):
            raise ValueError("it does not begin with MQ1")
        sequence, length, chips, columns, rows = (int(fields[i]) for i in range(1, 6))
        if not (len(MAGIC) < length <= HEADER_BYTES and chips > 0 and columns > 0 and rows > 0):
            raise ValueError(f"{length} bytes of header, {chips} chips, {columns}×{rows} pixels")
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{shown(path)}: no header of a Merlin pattern at byte {at} ({reason(error)}): it is damaged, copy it again"
        ) from error
    if length > len(head):
        with open(path, "rb") as file:
            file.seek(at)
            head = file.read(length)
    text = head[:length].split(b"\0")[0].decode("latin-1").rstrip(",\r\n ")
    words = tuple(word.strip() for word in text.split(","))
    more = words[words.index(EXTENSION) :] if EXTENSION in words else ()
    depth = int(more[3]) if len(more) > 3 and more[3].isascii() and more[3].isdigit() and len(more[3]) < 3 else None
    return Header(
        sequence, length, chips, columns, rows, words[6] if len(words) > 6 else "", words[7] if len(words) > 7 else "", depth, words
    )


def _storage(header: Header, path: str) -> Storage:
    """Return how patterns are stored."""
    if header.kind in PIXELS:
        return Plain((header.rows, header.columns), PIXELS[header.kind], flipped=(True, False))
    if header.kind != "R64":
        raise InputError(f"{shown(path)}: patterns are stored as {shown(header.kind)}: accepted are {', '.join(PIXELS)} and R64 (RAW)")
    if header.depth not in BITS:
        raise InputError(
            f"{shown(path)}: its header does not say the depth of RAW patterns: need 1, 6, 12 or 24 bit; save counted patterns"
        )
    quad = header.chips == 4 and header.layout.replace("G", "") == "2x2"
    width = CHIP * header.chips * (2 if header.depth == 24 else 1)
    if header.columns != width or not (header.chips == 1 or (quad and header.depth != 24)):
        raise InputError(
            f"{shown(path)}: RAW patterns of {header.chips} chips ({shown(header.layout)}), {header.columns} pixels along a row, "
            f"{header.depth} bit: accepted are one chip, and 2×2 of 1, 6 or 12 bit; save counted patterns"
        )
    return MerlinRaw(header.depth, header.rows, quad)


def _frames(path: str, header: Header, nbytes: int) -> int:
    """Return how many whole patterns a file has. The last one of an aborted acquisition may not be whole."""
    return os.path.getsize(path) // (header.length + nbytes)


def _series(path: str, header: Header, nbytes: int) -> list[str]:
    """Return the files of an acquisition: those whose names differ by one in the number at their end, and whose patterns go on counting."""
    folder, base = os.path.split(path)
    stem, ending = os.path.splitext(base)
    match = re.fullmatch(r"(.*?)(\d{1,9})", stem)
    if match is None:
        return [path]
    prefix, digits = match.groups()

    def neighbour(number: int) -> tuple[str, int, int] | None:
        """Return name, first sequence number and patterns of the file with a number; None if there is no such file of this kind."""
        found = os.path.join(folder, f"{prefix}{number:0{len(digits)}d}{ending}")
        if number < 0 or not os.path.isfile(found):
            return None
        try:
            other = read_header(found, 0)
        except InputError:
            return None
        return (found, other.sequence, _frames(found, header, nbytes)) if other.same == header.same else None

    files, begin, end = [path], header.sequence, header.sequence + _frames(path, header, nbytes)
    number = int(digits)
    while (other := neighbour(number + len(files))) is not None and other[1] == end:
        files.append(other[0])
        end += other[2]
    while (other := neighbour(number - 1)) is not None and other[1] + other[2] == begin and other[2]:
        files.insert(0, other[0])
        begin, number = other[1], number - 1
    return files


def _patterns_of(sidecar: str) -> str:
    """Return the first `.mib` file beside a `.hdr` file."""
    folder, stem = os.path.dirname(sidecar) or ".", os.path.splitext(os.path.basename(sidecar))[0]
    found = []
    for name in os.listdir(folder):
        match = re.fullmatch(r"_?(\d{0,9})\.mib", name[len(stem) :], re.IGNORECASE) if name.startswith(stem) else None
        if match and os.path.isfile(os.path.join(folder, name)):
            found.append((int(match.group(1) or 0), name))
    if not found:
        raise InputError(f"{shown(sidecar)}: there is no {shown(stem)}.mib beside it: the patterns are in that file, copy it there")
    return os.path.join(os.path.dirname(sidecar), min(found)[1])


def _sidecar(files: list[str]) -> str | None:
    """Return the `.hdr` file of an acquisition: with the name of its first file, or without the number at the end."""
    stem = os.path.splitext(files[0])[0]
    for name in (stem, re.sub(r"_?\d+$", "", stem)):
        for ending in (".hdr", ".HDR"):
            if os.path.isfile(name + ending):
                return name + ending
    return None


def read_sidecar(path: str) -> dict[str, str]:
    """Return what a `.hdr` file says, as it is written there, by the words before the colon."""
    with open(path, "rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    found = {}
    for line in text.splitlines():
        if line.startswith("End"):
            break
        key, tab, value = line.partition("\t")
        if tab and key.strip(" ,:") not in ("", "HDR"):
            found[key.strip(" :")] = value.strip()
    return found


def stated_shape(stated: dict[str, str]) -> tuple[int, int] | None:
    """Return the scan shape that a `.hdr` file states: by ScanX and ScanY, or with one trigger for each row.

    Examples
    --------
    >>> stated_shape({"ScanX": "4", "ScanY": "3"})
    (3, 4)
    >>> stated_shape({"Frames in Acquisition (Number)": "12", "Frames per Trigger (Number)": "4"})
    (3, 4)
    """
    numbers = {re.sub(r"\(.*|[^a-z]", "", key.lower()): int(v) for key, v in stated.items() if re.fullmatch(r"\d{1,7}", v, re.ASCII)}
    if numbers.get("scanx") and numbers.get("scany"):
        return numbers["scany"], numbers["scanx"]
    frames, row = numbers.get("framesinacquisition", 0), numbers.get("framespertrigger", 0)
    return (frames // row, row) if 1 < row < frames and frames % row == 0 else None
