"""Example inputs of `find_disks`."""

from typing import Any

import numpy as np
from operations.comparing import Example
from operations.patterns import bragg_frames, with_gaps


def examples() -> list[Example]:
    """Each refinement, thresholds, a masked detector, gaps; numbers of patterns about the size of a block."""
    from disk_options import limited, operands

    from gpu4d.probe import synthetic, template

    def one(label: str, patterns: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> Example:
        kernel = template(synthetic(patterns.shape[1:], 3.2))
        defaults = {"min_spacing": 4.8, "fill_width": kernel.radius, "max_peaks": 12}
        twin = (0.0, 3e-6, 3e-6, 3e-5, 3e-3, 3e-3)  # count, positions to 1e-4 px, height, standard errors to a third of a per cent
        return Example(label, (patterns, *operands(kernel, 4, mask)), limited(mask=mask, **{**defaults, **options}), double=1e-9, twin=twin)

    counts = bragg_frames((41, 48), 3)
    mask = np.ones((41, 48), bool)
    mask[18:23, :9] = mask[30, 30] = False
    broken = with_gaps(bragg_frames((41, 48), 3, "float32"))
    broken[:, 30, 30] = np.nan
    infinite = bragg_frames((29, 52), 4, "float32", 6)
    infinite[2, 0, 0] = -np.inf
    return [
        one("defaults", counts),
        one("cross", counts, power=1.0),
        one("same-map", counts, refine_power=0.85),
        one("upsample", counts[:2], refine="upsample", upsample=4),
        one("parabola", counts, refine="parabola"),
        one("whole-pixels", counts, refine=None),
        one("thresholds", counts, min_relative=0.2, min_absolute=0.01, min_significance=0.0),
        one("few", counts, max_peaks=2),
        one("mask", broken, mask),
        one("gaps", with_gaps(bragg_frames((35, 33), 5, "float64"))),
        one("gaps-float32", with_gaps(bragg_frames((35, 33), 5, "float32")), power=0.8, refine_power=0.95),
        one("infinity", infinite),
        one("flat", np.ones((2, 24, 27), "uint32"), min_significance=0.0),
        one("square", bragg_frames((64, 64), 3)),
        one("square-cross", bragg_frames((64, 64), 2), power=1.0),
        one("square-parabola", bragg_frames((64, 64), 2), refine="parabola", refine_power=0.85),  # no standard errors at that power
        one("none", counts[:0]),
        one("one", bragg_frames((32, 44), 1, "uint8")),
        one("256", with_gaps(bragg_frames((256, 256), 3, "float32"))),
    ]
