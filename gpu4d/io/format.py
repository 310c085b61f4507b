"""Define the interface of a file format: recognising a file, and opening it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source


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
    """

    dataset: str | None = None
    scan_shape: tuple[int, int] | None = None
    energy: float | None = None


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
    """

    name: ClassVar[str]
    accepts: ClassVar[str]

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
