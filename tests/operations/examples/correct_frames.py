"""Example inputs of `correct_frames`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import frames


def planes(shape: tuple[int, int], seed: int = 0) -> dict:
    """Background, gain, and an edge whose lines have shares of their own, for a detector."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])
    return {
        "background": rng.normal(1.0, 0.3, shape),
        "gain": rng.uniform(0.8, 1.2, shape),
        "columns": ((x < 2) | (x > shape[0] - 3)) * (0.6 + 0.03 * y),
        "rows": ((y < 3) & (x % 4 < 3)) * (0.9 - 0.01 * x),
    }


def examples() -> list[Example]:
    """Every step alone and all together; columns and rows; hits in the field, at the border, beside each other, and a disk."""
    found = []
    for label, f in frames().items():
        p = planes(f.shape[1:])
        found.append(Example(label, (f, p["background"]), {"gain": p["gain"], "edge": p["columns"], "clip": 40.0}))
        found.append(Example(f"{label}-rows", (f, p["background"].astype("float32")), {"edge": p["rows"], "axis": 1}))
    rng = np.random.default_rng(3)
    raw = rng.normal(100, 2, (4, 21, 18)).round().astype("uint16")
    for n, x, y in ((0, 8, 9), (1, 0, 17), (1, 15, 3), (2, 10, 10)):
        raw[n, x, y] = 900
        raw[n, max(0, x - 1) : x + 2, y] += 130
    raw[3, 5:12, 5:12] = 700  # a disk of the beam
    dark = rng.normal(100, 0.5, (21, 18))
    limits = np.stack([np.full(dark.shape, 1.5), np.full(dark.shape, 60.0), np.full(dark.shape, 300.0)])
    limits[2, 10, 10] = np.inf
    taken_from = np.arange(dark.size).reshape(dark.shape)
    taken_from[10, 10], taken_from[0, 0], taken_from[20, 17] = 10 * 18 + 9, 1, 20 * 18 + 16
    p = planes(dark.shape, 1)
    every = {"gain": p["gain"], "edge": p["columns"], "clip": 25.0, "hits": limits, "taken_from": taken_from}
    broken = raw.astype("float32")
    broken[0, 3, 4], broken[1], broken[2, 0, 0] = np.nan, np.nan, -np.inf
    return [
        *found,
        Example("hits", (raw, dark), {"hits": limits}),
        Example("bad-pixels", (raw, dark), {"taken_from": taken_from.astype("int32")}),
        Example("exchanged", (raw, dark), {"taken_from": np.arange(dark.size)[::-1].reshape(dark.shape).copy()}),
        Example("all", (raw, dark), every),
        Example("all-rows", (raw, dark), {**every, "edge": p["rows"], "axis": 1}),
        Example("all-uint32", (raw.astype("uint32"), dark), every),
        Example("all-broken", (broken, dark), every),
        Example("no-edge-pixel", (raw, dark), {"edge": np.zeros(dark.shape)}),
        Example("one-frame", (raw[0], dark), every),
        Example("row", (raw[:, :1], dark[:1]), {"edge": p["columns"][:1]}),
    ]
