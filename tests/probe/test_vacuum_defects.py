"""Vacuum probes from stacks with hot pixels, gaps and hits of X-rays: the probe is that of a clean stack."""

import numpy as np
import pytest
from spot_scenes import disk

from gpu4d.probe import from_vacuum, measure_disk

SHAPE, CENTER = (64, 72), (30.4, 37.7)


def stack(defect, radius):
    rng = np.random.default_rng(4)
    top = 50 if radius > 3 else 900
    frames = rng.poisson(np.broadcast_to(top * disk(SHAPE, CENTER, radius), (40, *SHAPE))).astype("uint16")
    if defect == "hot pixel":
        frames[:, 5, 5] = rng.poisson(3000, 40)
    elif defect == "hot pair in the disk":
        frames[:, 30, 35:37] = rng.poisson(3000, (40, 2))
    elif defect == "gap":
        frames[:, :, 41:43] = 0
    elif defect == "hit far from the disk":
        frames[7, 50, 10:12] = 20000, 9000
    elif defect == "hit in the disk":
        frames[7, 29, 36:38] = 20000, 9000
    elif defect == "several hits":
        for i in range(0, 40, 8):
            x, y = rng.integers(0, 60, 2)
            frames[i, x, y : y + 2] = rng.integers(3000, 40000)
    elif defect == "stuck at full scale":
        frames[:, 60, 60] = 65535
    return frames


DEFECTS = (
    "none", "hot pixel", "hot pair in the disk", "gap", "hit far from the disk", "hit in the disk", "several hits", "stuck at full scale",
)  # fmt: skip


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("radius", [8.0, 1.3])
@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_stack_are_not_in_the_probe(defect, radius, align):
    if radius < 3 and (defect in ("hot pair in the disk", "gap") or (defect == "several hits" and align)):
        pytest.skip("a spot of 1.3 px loses too many of its pixels")
    probe = np.asarray(from_vacuum(stack(defect, radius), align=align))
    clean = np.asarray(from_vacuum(stack("none", radius), align=align))
    assert np.isfinite(probe).all() and probe.max() < 1.1 * clean.max()
    found = measure_disk(probe)
    assert np.hypot(found.qx - CENTER[0], found.qy - CENTER[1]) < 0.05 and abs(found.radius - radius) < 0.1
