"""What the race check runs: the examples of the operations table, and larger ones that reach what those do not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from math import pi

import numpy as np
from cuda_on_host.backend import OtherPixel
from disk_options import limited, operands
from operations.comparing import Example, convert
from operations.examples import EXAMPLES
from operations.patterns import bragg_frames, smooth_maxima

from gpu4d import operation
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.device.backend import using_backend
from gpu4d.probe import Template, synthetic, template
from racecheck.backend import Found, RaceBackend

OPERATIONS = operation.all_operations()
REFINEMENTS = (None, "parabola", "correlation")
POWERS = ((0.85, 1.0), (1.0, 1.0), (0.85, 0.85))  # of the map that finds and the one that refines


def operations() -> list[str]:
    """Names of the operations that have a kernel."""
    return sorted(name for name, op in OPERATIONS.items() if "cuda" in op.twins)


OF_FLOATS = ("find_disks",)  # operations whose calls here have float32 pixels


def examples(name: str, every: bool = False) -> list[Example]:
    """Calls of an operation that its kernel takes; every size of a fused kernel with every option, if asked."""
    further = all_disk_calls if every and name == "find_disks" else FURTHER.get(name, list)
    calls = [*EXAMPLES[name](), *further()]
    return [e for e in calls if OPERATIONS[name].unsupported("cuda", *e.args, **e.options) is None]


def check(name: str, calls: Iterable[Example], *, found: Found | None = None, **options) -> Found:
    """Run calls of an operation on the instrumented shim. `options` go to `RaceBackend`.

    Calls with other pixels than uint16 are left out where each type has a kernel: they load pixels, and no barrier depends on that. Disks
    are found in patterns of floats, of which one holds a NaN.
    """
    found = Found() if found is None else found
    op = OPERATIONS[name]
    for example in calls:
        args, keywords = convert(example, np.asarray)
        host = RaceBackend(found=found, one_pixel=name not in OF_FLOATS, **options)
        with contextlib.suppress(OtherPixel), using_backend(host), operation.using("cuda"):
            op(*args, **keywords)
    return found


# ---------------------------------------------------------------- calls beyond the table


def disk_calls() -> list[Example]:
    """The smallest fused size with refinement × powers, the next with each refinement, the others with the refinement of most barriers.

    Sizes differ in how many rows a thread takes, and options in which parts of the kernel run. Each refinement at 256 and at a size without
    a kernel of its own, and crowds.
    """
    found = [disk_call((64, 64), **powers_of(pair), refine=refine) for refine in REFINEMENTS for pair in POWERS]
    found += [disk_call((96, 96), **powers_of(pair), refine=refine) for refine, pair in zip(REFINEMENTS, POWERS)]
    found += [disk_call((size, size), **powers_of(POWERS[0]), refine="correlation") for size in (128, 192)]
    return found + calls_of_other_paths()


def all_disk_calls() -> list[Example]:
    """Every fused size × refinement × powers, and the other paths."""
    product = itertools.product((64, 96, 128, 192), REFINEMENTS, POWERS)
    return [disk_call((size, size), **powers_of(pair), refine=refine) for size, refine, pair in product] + calls_of_other_paths()


def calls_of_other_paths() -> list[Example]:
    """Each refinement at 256 and at a size without a kernel of its own; crowds."""
    found = [disk_call((256, 256), **powers_of(pair), refine=refine) for refine, pair in zip(REFINEMENTS, POWERS)]
    found += [disk_call((66, 72), refine=refine) for refine in (*REFINEMENTS, "upsample")]
    return found + [crowd(size) for size in (64, 96)]


def powers_of(pair: tuple[float, float]) -> dict[str, float]:
    return {"power": pair[0], "refine_power": pair[1]}


def disk_call(shape: tuple[int, int], **options) -> Example:
    """Find disks in two patterns, of which the second holds a NaN."""
    patterns = bragg_frames(shape, 2, "float32")
    patterns[1, 5, 7] = np.nan
    given = operands(template(synthetic(shape, 3.2)))
    return Example(f"{shape} {options}", (patterns, *given), limited(min_spacing=4.8, max_peaks=12, **options))


def crowd(size: int) -> Example:
    """A map with more maxima than the list of a fused kernel holds: the template is a point, every second pixel a maximum."""
    patterns = np.zeros((1, size, size), np.uint16)
    patterns[:, 1::2, 1::2] = np.random.default_rng(size).permutation((size // 2) ** 2).reshape(size // 2, size // 2) + 100
    point = np.zeros((size, size))
    point[0, 0] = 1.0
    moments = np.stack([point, 0 * point, 0 * point, 0 * point])
    allowed = np.zeros((size, size), bool)
    allowed[1:-1, 1:-1] = True
    options = limited(power=1.0, refine=None, min_significance=0.0, min_spacing=3.0, max_peaks=200)
    return Example(f"crowd {size}", (patterns, template_spectrum(Template.from_kernel(point, 1.0)), moments, allowed), options)


def refinement_calls() -> list[Example]:
    """More peaks than share a pass on a map of 256 × 256."""
    several = smooth_maxima((1, 256, 256), 13, 13)
    return [Example(f"256 {mode}", several, {"mode": mode, "upsample": 4}) for mode in ("correlation", "upsample", "parabola")]


def far_origin() -> Example:
    """An origin and an ellipse that put a row on the border of two rings but for rounding: they go 0 1 0 1 ... along it."""
    frames = np.random.default_rng(6).integers(1, 9, (1, 3, 32)).astype("uint16")
    options = {"n_r": 2, "r_max": 1676331.9664733696, "ellipse": (2000.0, 1.0, pi / 2 + 1e-7)}
    return Example("far origin", (frames, np.asarray([-838166.0, 335282.5])), options)


FURTHER = {
    "find_disks": disk_calls,
    "refine_disks": refinement_calls,
    "radial_sums": lambda: [far_origin()],
}
