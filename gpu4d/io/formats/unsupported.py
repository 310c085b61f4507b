"""Say what to do with files that detectors write and gpu4d does not read."""

from __future__ import annotations

import os

INSTEAD = {  # ending of the name: what the file is, and what to do
    "gtg": "a raw recording of a Gatan K2 in-situ camera; save the scan as .dm4 in DigitalMicrograph",
    "dm2": "of an old DigitalMicrograph; save it as .dm4 there",
    "seq": "a sequence of StreamPix; save it as .mrc in the program of the camera",
    "frms6": "a recording of a pnCCD; convert it to .npy with LiberTEM",
    "nc": "netCDF; save the scan as HDF5 where it was made",
    "mat": "of an old MATLAB; save it there with '-v7.3', which makes HDF5",
}


def instead(path: str) -> str:
    """Return a remark for a file that no format knows, by the ending of its name; "" if there is none.

    Examples
    --------
    >>> instead("scan_.GTG")
    '; it may be a raw recording of a Gatan K2 in-situ camera; save the scan as .dm4 in DigitalMicrograph'
    """
    known = INSTEAD.get(os.path.splitext(path)[1].lstrip(".").lower())
    return f"; it may be {known}" if known else ""
