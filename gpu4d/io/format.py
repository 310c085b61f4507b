"""Define the interface of a file format: recognising a file, and opening it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.timing import ScanTiming


@dataclass(frozen=True)
class OpenOptions:
    """Options that the caller of `gpu4d.open` gave.

    Attributes
    ----------
    dataset : str or None
        Path inside the file, for formats that hold several arrays.
    scan_shape : (int, int) or None
        (Rx, Ry), for formats that store a list of patterns. (1, -1) means one row of all; `check_scan_shape` of
        `gpu4d.io.sources.layout` puts in the number.
    energy : float or None
        Beam energy in eV, if the caller knows it. It converts angles into 1/Å.
    timing : ScanTiming or None
        How times of events become scan positions, for formats that record events.
    layout : RawLayout or None
        How plain numbers lie in a file that says nothing of itself.
    """

    dataset: str | None = None
    scan_shape: tuple[int, int] | None = None
    energy: float | None = None
    timing: ScanTiming | None = None
    layout: RawLayout | None = None


@dataclass(frozen=True)
class Facts:
    """What the documentation says of a format. The table of formats is made from these.

    Attributes
    ----------
    endings : tuple of str
        Usual endings of its files: (".mib", ".hdr"). Recognition goes by content; these are for readers and for messages.
    reading : str
        How patterns are read: "mapped", "mapped, unpacked", "chunks, decoded in parallel", "events".
    covers : str
        What is read, and what is not.
    tried_on : str
        The real files it was tried on, or "files made from its description".
    writes : bool
        True if `gpu4d convert` writes it.
    library : str or None
        The library that reads it, if gpu4d does not read it itself.
    """

    endings: tuple[str, ...]
    reading: str
    covers: str
    tried_on: str
    writes: bool = False
    library: str | None = None


@dataclass
class Opened:
    """A scan in a file.

    Attributes
    ----------
    source : Source
        Reads the patterns; nothing is loaded yet.
    calibration : Calibration
        Calibration that the file states in a standard way.
    metadata : dict
        Everything else in the file, as it is written there.
    name : str
        Name of the scan.
    detector_mask : (Qx, Qy) bool or None
        True where the detector counts, if the file says so.
    """

    source: Source
    calibration: Calibration = field(default_factory=Calibration)
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "datacube"
    detector_mask: Any = None


class Format:
    """One file format. A new one is a file in `gpu4d/io/formats` and a line in the table there.

    Attributes
    ----------
    name : str
        One word.
    accepts : str
        Name in messages: "accepted are HDF5 (…), .npy".
    facts : Facts or None
        What the table of formats in the documentation says. None for a format that is not in it.
    folders : bool
        True if a scan of this format is a folder. `recognise` is then asked about folders, with an empty head, and not about files.
    """

    name: ClassVar[str]
    accepts: ClassVar[str]
    facts: ClassVar[Facts | None] = None
    folders: ClassVar[bool] = False

    def recognise(self, path: str, head: bytes) -> bool:
        """Say whether a file is of this format, by its content.

        Parameters
        ----------
        path : str
            Path of a regular file that can be read.
        head : bytes
            Its first 512 bytes, or fewer if the file is shorter.
        """
        raise NotImplementedError

    def open(self, path: str, options: OpenOptions) -> Opened:
        """Open a file of this format without loading it.

        Raises
        ------
        InputError
            Damaged or truncated, no scan in it, or an option that this format does not have.
        """
        raise NotImplementedError
