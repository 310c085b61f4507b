"""Example inputs of `frame_reductions`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames, some_masks


def examples() -> list[Example]:
    """Bool masks, weights, none; a mask for the moments; the ends of each integer type; gaps; rows longer than a piece."""
    found = [Example(label, (f, some_masks(f.shape[1:])), {"mask": some_masks(f.shape[1:])[0]}) for label, f in frames().items()]
    rng = np.random.default_rng(11)
    full = {name: np.full((3, 9, 33), np.iinfo(name).max, name) for name in ("uint8", "uint16", "int8", "int16")}
    full["int16"][1] = -(1 << 15)
    broken = disks((6, 9, 12), "float32")
    broken[2, 3, 4], broken[4, 0, 0] = np.nan, np.inf
    return [
        *found,
        *(Example(f"full-{name}", (f, some_masks((9, 33)))) for name, f in full.items()),
        Example("nan", (broken, some_masks((9, 12)))),
        Example("weights", (disks((3, 9, 12)), np.linspace(-1, 2, 2 * 9 * 12).reshape(2, 9, 12))),
        Example("no-masks", (disks((5, 16, 24)), np.zeros((0, 16, 24), bool))),
        Example("many-masks", (disks((3, 10, 16), "uint8"), rng.random((37, 10, 16)) < 0.4)),
        Example("wide", (rng.integers(0, 60000, (2, 3, 1100)).astype("uint16"), some_masks((3, 1100)))),
        Example("long", (rng.integers(0, 65536, (71, 8, 8)).astype("uint16"), some_masks((8, 8)))),
        Example("many", (rng.integers(0, 65536, (1100, 8, 8)).astype("uint16"), some_masks((8, 8)))),  # a group of more than 16
        Example("bool", (disks((3, 9, 12)) > 20, some_masks((9, 12)))),
    ]
