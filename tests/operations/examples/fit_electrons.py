"""Example inputs of `fit_electrons`."""

from typing import Any

import numpy as np
from operations.comparing import Example

from gpu4d.preprocess import ChargeModel


def examples() -> list[Example]:
    """Groups of one to four electrons, borders, bad pixels, X-rays, a gain, ties; positions are float32."""
    rng = np.random.default_rng(12)
    model = ChargeModel(0.4, 0.03, 0.3, 8.0)

    def one(label: str, f: np.ndarray, **options: Any) -> Example:
        dark = rng.uniform(90.0, 110.0, f.shape[-2:])
        return Example(label, (f, dark, 0.2, 8.0, model), {"electron": 100.0, **options}, shapes_depend_on_values=True, double=2e-7)

    raw = electrons((4, 25, 21), 60, rng)
    raw[0] = 100  # without an electron
    raw[1, 10, 12] = 3000  # an X-ray
    real = raw.astype("float32")
    real[2], real[3, 5, 6] = np.nan, np.nan
    mask, gain = np.ones(raw.shape[1:], bool), rng.uniform(0.8, 1.2, raw.shape[1:])
    mask[3:9, :12], gain[20, 15], gain[21, 17] = False, 0.0, np.nan
    return [
        one("uint16", raw),
        one("corrected", raw, gain=gain, mask=mask),
        one("one-each", raw, most=1),
        one("gaps", real, mask=mask),
        one("uint8", (electrons((1, 12, 11), 20, rng) // 3).astype("uint8"), electron=33.0, most=2),
        one("uint32", raw[:, :5, :7].astype("uint32")),
        one("int16", raw[:, :9, :8].astype("int16")),
        one("ties", np.tile(np.asarray([[100, 190], [190, 190]], "uint16"), (2, 2, 3, 4))),
        one("corner", np.asarray([[100, 110], [120, 250]], "uint16")),
        one("none", raw[:0]),
    ]


def electrons(shape: tuple[int, int, int], number: int, rng: np.random.Generator) -> np.ndarray:
    """Frames with so many electrons each, on a level of 100, many of them close together."""
    frames = rng.normal(100, 3, shape)
    for frame in frames:
        x, y = rng.uniform(-0.5, np.array(shape[1:]) - 0.5, (number, 2)).T
        for a, b, signal in zip(x, y, rng.lognormal(0, 0.3, number)):
            px, py = (np.exp(-((np.arange(n) - c) ** 2) / (2 * 0.4**2)) for n, c in zip(shape[1:], (a, b)))
            frame += 60 * signal * px[:, None] * py
    return frames.round().clip(0).astype("uint16")
