"""Whole patterns through the kernels of `find_disks` on the host shim."""

import numpy as np
from cuda_on_host import HostBackend
from disk_options import limited, operands

from gpu4d import operation
from gpu4d.bragg.find_disks import find_disks
from gpu4d.device.backend import using_backend
from gpu4d.probe import synthetic, template

OWN_PATH = {"frames_to_float", "spectrum_products", "strongest_maxima"}  # kernels of detectors that the fused kernel does not take


def pattern_of(shape, n=1, radius=3.4, seed=0, dtype="uint16"):
    """Counts of unequal disks on a weak background; where they are."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    out = np.full((n, *shape), 0.5)
    where = []
    for k, pattern in enumerate(out):
        where.append([])
        for height, (fx, fy) in zip((300, 200, 120, 70), ((0.5, 0.5), (0.25, 0.4), (0.7, 0.3), (0.35, 0.75))):
            at = np.array([fx * shape[0], fy * shape[1]]) + rng.uniform(-1, 1, 2)
            pattern += height / 2 * (1 - np.tanh(2 * (np.hypot(x - at[0], y - at[1]) - radius)))
            where[k].append(at)
    return rng.poisson(out).astype(dtype), np.array(where)


def arguments(shape, mask=None, radius=3.4, **more):
    kernel = template(synthetic(shape, radius))
    return operands(kernel, 4, mask), limited(mask=mask, fill_width=kernel.radius, min_spacing=5.0, max_peaks=8, **more)


def on_the_shim(patterns, given, options, **host):
    host = HostBackend(**host)
    with using_backend(host), operation.using("cuda"):
        found = find_disks(patterns, *given, **options)
    return found, {name.rpartition("_")[0] if "float" in name else name for name, *_ in host.launched}
