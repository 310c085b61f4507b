"""Open MRC files: stacks of patterns, as Direct Electron, SerialEM for Gatan's K3, Velox and others write them.

The header has 1024 bytes, then comes an extended header of any length, then patterns row after row. Where Direct Electron's server left
its settings beside the file, these give the scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats import direct_electron
from gpu4d.io.formats.records import (
    as_written,
    check_promised,
    finite,
    read_record,
    refuse_dataset,
    set_field,
    set_steps,
    size_of,
    stem,
)
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Storage, Stretch
from gpu4d.io.sources.layout import decide_scan_shape

HEADER = 1024  # bytes
MAP_AT, STAMP_AT = 208, 212  # bytes of the header that say what it is, and its byte order
LAYOUT = [
    ("nx", "i4"), ("ny", "i4"), ("nz", "i4"), ("mode", "i4"), ("nstart", "i4", 3), ("m", "i4", 3), ("cella", "f4", 3),
    ("cellb", "f4", 3), ("map_axes", "i4", 3), ("dmin", "f4"), ("dmax", "f4"), ("dmean", "f4"), ("ispg", "i4"), ("nsymbt", "i4"),
    ("extra1", "V8"), ("exttyp", "S4"), ("nversion", "i4"), ("extra2", "V40"), ("imod_stamp", "i4"), ("imod_flags", "i4"),
    ("extra3", "V36"), ("origin", "f4", 3), ("map", "S4"), ("machst", "V4"), ("rms", "f4"), ("nlabl", "i4"), ("label", "S80", 10),
]  # fmt: skip
IMOD, SIGNED = 1146047817, 1  # mark of files of IMOD and SerialEM, and the flag that bytes of mode 0 are signed
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 7: "i4", 12: "f2"}
FOUR_BITS = 101  # mode of SerialEM for counted frames: two pixels in a byte
OTHER_MODES = {3: "complex integers", 4: "complex numbers", 16: "colours"}
# The first part of an extended header of Thermo Fisher (FEI1, FEI2) that is read: name, type, byte. Its metadata are those of the first
# pattern, and each has a bit that says whether it is there; only the bit of the voltage is looked at.
FEI = np.dtype({
    "names": ["mask", "Microscope type", "Application", "HT", "Magnification", "Camera length", "Camera name", "Dwell time", "Frame time"],
    "formats": ["<u4", "S16", "S16", "f8", "f8", "f8", "S16", "f8", "f8"],
    "offsets": [8, 20, 52, 84, 289, 301, 435, 571, 579],
    "itemsize": 768,
})  # fmt: skip
HAS_VOLTAGE = 1 << 5
HOW = "MRC header or the settings beside it"


class Mrc(Format):
    """The MRC format, with the settings that Direct Electron writes beside it."""

    name: ClassVar = "mrc"
    accepts: ClassVar = "MRC"
    facts: ClassVar = Facts(
        endings=(".mrc", ".mrcs", ".st"),
        reading="mapped; unpacked where pixels have 4 bits or another byte order",
        covers="stacks of patterns of 4, 8, 16 or 32 bits, both byte orders. The first row of the file is on top. The scan comes from "
        "Direct Electron's _info.txt (raster, serpentine, region of interest, files of coordinates), or from the caller",
        tried_on="three files of Direct Electron's server, and files made from the description; files of coordinates are made ones",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return _byte_order(head) is not None

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "an MRC file")
        stack = Stack.of(path)
        info = direct_electron.info_of(path)
        where = direct_electron.placed(path, info, stack.frames) if info else None
        scan, numbers = _scan(path, stack, where, options)
        what = "Direct Electron MRC" if info else "MRC"
        source = FrameFiles([stack.stretch], stack.storage, scan, f"{what}, {stack.words}", numbers)
        metadata: dict[str, Any] = {"header": stack.header}
        energy = stack.energy
        if info:
            metadata["info"] = info
            energy = finite(info.get("Instrument Accelerating Voltage (V)"))
        if stack.extended:
            metadata["extended_header"] = stack.extended
        calibration = Calibration()
        set_field(calibration, HOW, energy=energy)
        if info:
            steps = [(finite(info.get(f"Specimen Pixel Size {axis} (nanometers)")), "nm") for axis in "YX"]
            set_steps(calibration, HOW, steps, [], calibration.energy)
        return Opened(source, calibration, metadata, stem(path))


def _byte_order(head: bytes) -> Literal["<", ">"] | None:
    """Return "<" or ">" for the header of an MRC file, None for another file."""
    if len(head) < STAMP_AT + 4 or head[MAP_AT : MAP_AT + 3] != b"MAP":
        return None
    stamped: dict[int, tuple[Literal["<", ">"], ...]] = {0x44: ("<",), 0x11: (">",)}
    for order in stamped.get(head[STAMP_AT], ("<", ">")):  # some programs leave the stamp out
        nx, ny, nz, mode = np.frombuffer(head[:16], f"{order}i4")
        if min(nx, ny, nz) > 0 and (mode in MODES or mode in OTHER_MODES or mode == FOUR_BITS):
            return order
    return None


@dataclass(frozen=True)
class FourBits:
    """Pixels of four bits, two in a byte, the first one in the lower half. A row begins with a new byte.

    Parameters
    ----------
    shape : (Qx, Qy)
    """

    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        return self.shape[0] * ((self.shape[1] + 1) // 2)

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        if self.shape[1] % 2 == 0 and stored.flags.c_contiguous and out.flags.c_contiguous:
            from gpu4d.compiled import read_only
            from gpu4d.io.sources.four_bits import unpack_four_bits

            unpack_four_bits(read_only(stored.reshape(-1)), out.reshape(-1).view("<u2"))
            return
        packed = stored.reshape(len(stored), self.shape[0], -1)
        np.bitwise_and(packed, 15, out=out[:, :, ::2])
        np.right_shift(packed[:, :, : self.shape[1] // 2], 4, out=out[:, :, 1::2])


@dataclass
class Stack:
    """The patterns of an MRC file.

    Attributes
    ----------
    header : dict
        As it is written.
    extended : dict
        What is read of the extended header; empty without one.
    stretch : Stretch
        The patterns that are there.
    storage : Storage
    promised : int
        Number of patterns that the header states.
    words : str
        Type of the pixels, for descriptions.
    energy : float or None
    """

    header: dict[str, Any]
    extended: dict[str, Any]
    stretch: Stretch
    storage: Storage
    promised: int
    words: str
    energy: float | None

    @property
    def frames(self) -> int:
        return self.stretch.frames

    @classmethod
    def of(cls, path: str) -> Stack:
        order = _byte_order(_head(path))
        if order is None:
            raise InputError(
                f"{shown(path)}: not a readable MRC file (no MAP in its header, or sizes of zero): it is damaged, copy it again"
            )
        header = read_record(path, np.dtype(LAYOUT).newbyteorder(order), "header")
        nx, ny, nz, mode, beyond = (int(header[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt"))
        if beyond < 0:
            raise InputError(f"{shown(path)}: not a readable MRC file (an extended header of {beyond} bytes): it is damaged, copy it again")
        if mode == FOUR_BITS:
            storage: Storage = FourBits((ny, nx))
            words = "4 bit"
        elif mode in MODES:
            unsigned = mode == 0 and header["imod_stamp"] == IMOD and not header["imod_flags"] & SIGNED
            storage = Plain((ny, nx), order + ("u1" if unsigned else MODES[mode]))
            words = np.dtype(storage.stored).name
        else:
            raise InputError(f"{shown(path)}: it holds {OTHER_MODES[mode]} (mode {mode}): need real numbers")
        extended = _extended(path, header, beyond, order)
        there = max(0, size_of(path) - HEADER - beyond) // storage.nbytes
        stretch = Stretch(path, HEADER + beyond, storage.nbytes, min(nz, there))
        return cls(_printable(header), extended, stretch, storage, nz, words, extended.get("HT"))


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEADER)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error


def _printable(header: np.void) -> dict[str, Any]:
    """Return the header for metadata, without reserved bytes and empty labels."""
    held = {name: value for name, value in as_written(header).items() if not name.startswith(("extra", "machst"))}
    labels = [bytes(label).split(b"\0")[0].decode("latin-1").strip() for label in header["label"]]
    return held | {"label": [label for label in labels if label]}


def _extended(path: str, header: np.void, beyond: int, order: Literal["<", ">"]) -> dict[str, Any]:
    """Return what is known of the extended header: its kind and size, and Thermo Fisher's own fields."""
    if beyond == 0:
        return {}
    kind = bytes(header["exttyp"]).decode("latin-1")
    held: dict[str, Any] = {"kind": kind, "bytes": beyond}
    if kind in ("FEI1", "FEI2") and beyond >= FEI.itemsize:
        first = as_written(read_record(path, FEI.newbyteorder(order), "extended header", HEADER))
        voltage = finite(first.pop("HT"))
        held |= first | ({"HT": voltage} if voltage and first["mask"] & HAS_VOLTAGE else {})
    return held


def _scan(
    path: str, stack: Stack, where: direct_electron.Placed | str | None, options: OpenOptions
) -> tuple[tuple[int, int], np.ndarray | None]:
    """Return the scan shape, and the pattern at every position if they are not in order."""
    name, frames = shown(path), stack.frames
    check_promised(path, stack.promised, frames, options)
    if options.scan_shape is not None or where is None:
        return decide_scan_shape(options.scan_shape, None, frames, name), None
    if isinstance(where, str):
        raise InputError(f'{name} has {frames} patterns, and {where}: give scan_shape=(Rx, Ry), or scan_shape="frames" for all in a row')
    if where.numbers is not None:
        return where.scan, where.numbers
    return decide_scan_shape(None, where.scan, frames, name), None
