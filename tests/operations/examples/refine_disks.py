"""Example inputs of `refine_disks`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import smooth_maxima


def examples() -> list[Example]:
    """Every mode; pixels beside the maximum; more and fewer peaks than share a pass; odd and long detectors; none."""
    twin = (1e-5, 1e-5, 2e-6)
    sizes = (((3, 48, 40), 11), ((2, 33, 31), 8), ((1, 40, 12), 1), ((1, 20, 261), 3))
    several, odd, narrow, wide = (smooth_maxima(shape, most, most) for shape, most in sizes)
    beside = (several[0], several[1] + np.int32(1), several[2] - np.int32(1), several[3])
    return [
        *(Example(f"{mode}", several, {"mode": mode, "upsample": 5}, twin=twin) for mode in ("correlation", "upsample", "parabola", None)),
        *(
            Example(f"climb-{mode}", beside, {"mode": mode, "upsample": 2, "climb": True}, twin=twin)
            for mode in ("correlation", "upsample")
        ),
        Example("odd", odd, twin=twin),
        Example("narrow", narrow, twin=twin),
        Example("wide", wide, {"mode": "upsample", "upsample": 16}, twin=twin),
        Example("zero-peaks", (*several[:3], np.asarray([0, 2, 0])), twin=twin),
        Example("none", tuple(a[:0] for a in odd), twin=twin),
    ]
