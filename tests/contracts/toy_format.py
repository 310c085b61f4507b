"""A file format as another package would bring it: a line of text with the shape, then the patterns as uint16, in one file."""

import os

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.format import Format, Opened
from gpu4d.io.sources.mapped import MappedSource

MAGIC = b"TOY4D "


class Toy(Format):
    """``TOY4D Rx Ry Qx Qy energy`` and a newline, then little-endian uint16."""

    name = "toy"
    accepts = "toy files"

    def recognise(self, path, head):
        return head.startswith(MAGIC)

    def open(self, path, options):
        if options.dataset is not None:
            raise InputError(f"{path}: a toy file holds one scan, there is no dataset {options.dataset!r}: leave --dataset out")
        with open(path, "rb") as file:
            words = file.readline().split()[1:]
            start = file.tell()
        shape = tuple(int(n) for n in words[:4])
        source = MappedSource(path, start, shape, np.dtype("<u2"), "toy")
        return Opened(source, Calibration(energy=float(words[4])), {"words": words}, os.path.basename(path))
