"""One table: every operation × every implementation × every array library, against the definition in float64 on NumPy.

A library that is not installed is skipped, with the reason; `GPU4D_REQUIRE=torch,jax` makes its absence a failure.
"""

import contextlib
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import array_api_compat as compat
import numpy as np
import pytest

import gpu4d
from gpu4d import arrays, operation
from gpu4d.errors import InputError

PACKAGE = Path(gpu4d.__file__).parent
MODULES = {  # every module that defines an operation: only an imported one is in the registry
    name: importlib.import_module(name)
    for file in sorted(PACKAGE.rglob("*.py"))
    if "\n@operation(" in file.read_text(encoding="utf-8")
    for name in ["gpu4d." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)]
}
OPERATIONS = operation.OPERATIONS

# ---------------------------------------------------------------- libraries


@dataclass(frozen=True)
class Library:
    """An array library, how an input gets there, and which twin its arrays take where there is one."""

    name: str
    module: str
    make: Callable[[Any, np.ndarray], Any]  # (module, NumPy array) -> array
    twin: str | None = None
    marks: tuple = ()


def _read_only(xp: Any, a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


def _jax_on_cpu(xp: Any, a: np.ndarray) -> Any:
    jax = importlib.import_module("jax")
    return jax.device_put(a, jax.devices("cpu")[0])  # where there is a GPU, it would be the default


def _torch_on_cuda(torch: Any, a: np.ndarray) -> Any:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.from_numpy(a.copy()).to("cuda")


def _jax_on_cuda(xp: Any, a: np.ndarray) -> Any:
    jax = importlib.import_module("jax")
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no CUDA device: {error}")
    return jax.device_put(a, device)


LIBRARIES = [
    Library("numpy", "numpy", lambda xp, a: a.copy(), "cpu"),
    Library("numpy-readonly", "numpy", _read_only, "cpu"),
    Library("strict", "array_api_strict", lambda xp, a: xp.asarray(a)),
    Library("strict-device1", "array_api_strict", lambda xp, a: xp.asarray(a, device=xp.Device("device1"))),
    Library("torch", "torch", lambda xp, a: xp.from_numpy(a.copy()), "cpu"),
    Library("jax", "jax.numpy", _jax_on_cpu, "cpu"),
    Library("cupy", "cupy", lambda xp, a: xp.asarray(a), "cuda", (pytest.mark.gpu,)),
    Library("torch-cuda", "torch", _torch_on_cuda, "cuda", (pytest.mark.gpu,)),
    Library("jax-cuda", "jax.numpy", _jax_on_cuda, "cuda", (pytest.mark.gpu,)),
]


def strictest(library: Library, xp: Any, example: "Example") -> contextlib.AbstractContextManager:
    """Refuse boolean-mask indexing and shapes that depend on values, where the library can."""
    if library.module != "array_api_strict" or example.shapes_depend_on_values:
        return contextlib.nullcontext()
    return xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False)


# ---------------------------------------------------------------- examples


@dataclass(frozen=True)
class Example:
    """One call of an operation: arrays as NumPy, everything else as it is.

    `single` and `double` are the largest errors allowed, over the largest value of the answer, where the answer is in single and in
    double precision. `twin` stands for `double` where the twin computes in single precision, one number for each array of the answer.
    """

    label: str
    args: tuple
    options: dict = field(default_factory=dict)
    single: float = 2e-5
    double: float = 1e-11
    twin: tuple[float, ...] = ()
    cuda: tuple[float, ...] = ()  # the same for the CUDA twin, where it differs from the CPU twin
    shapes_depend_on_values: bool = False

    def tolerances(self, kind: str) -> tuple[float, ...]:
        """What one implementation may be off, for each array of the answer; empty where `double` says it."""
        return {"cpu": self.twin, "cuda": self.cuda or self.twin}.get(kind, ())


def disks(shape: tuple[int, ...], dtype: Any = "uint16", seed: int = 0) -> np.ndarray:
    """Patterns (..., Qx, Qy) of a few soft disks with counting noise."""
    rng = np.random.default_rng(seed)
    *scan, nx, ny = shape
    x, y = np.arange(nx)[:, None], np.arange(ny)[None, :]
    out = np.zeros((int(np.prod(scan)), nx, ny))
    for pattern in out:
        for cx, cy in ((0.5, 0.5), (0.25, 0.7), (0.75, 0.3)):
            centre = np.array([cx * nx, cy * ny]) + rng.uniform(-0.5, 0.5, 2)
            pattern += 60 / (1 + np.exp(2 * (np.hypot(x - centre[0], y - centre[1]) - 2.5)))
    return rng.poisson(out + 0.5).reshape(shape).astype(dtype)


def with_gaps(patterns: np.ndarray) -> np.ndarray:
    """A copy whose first pattern is empty and, where the dtype has it, whose second is all NaN."""
    out = patterns.copy()
    out[0] = 0
    if out.dtype.kind == "f":
        out[1] = np.nan
    return out


def frames() -> dict[str, np.ndarray]:
    """What every operation on a stack (n, Qx, Qy) must take, by label."""
    counts = disks((5, 11, 14))
    return {
        "uint16": counts,
        "uint8-empty-first": with_gaps(disks((3, 9, 16), "uint8", 1)),
        "int32": disks((2, 8, 8), "int32", 2),
        "float32": disks((4, 13, 10), "float32", 3),
        "float64-gaps": with_gaps(disks((4, 10, 13), "float64", 4)),
        "one": disks((1, 7, 12), "uint16", 5),
        "none": np.zeros((0, 6, 9), "uint16"),
        "view": disks((6, 22, 14))[::2, ::2, :],
    }


def some_masks(shape: tuple[int, int], dtype: Any = bool) -> np.ndarray:
    """Masks (3, Qx, Qy): a checkerboard, a corner, nothing."""
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return np.stack([(x + y) % 2 == 0, (x < 4) & (y < 3), (x < 0) & (y < 0)]).astype(dtype)


def for_masked_sums() -> list[Example]:
    """Bool masks, weights, and none at all."""
    found = [Example(label, (f, some_masks(f.shape[1:]))) for label, f in frames().items()]
    counts, real = disks((3, 9, 12)), with_gaps(disks((3, 9, 12), "float32"))
    weights = np.linspace(-1, 2, 2 * 9 * 12).reshape(2, 9, 12)
    weights[:, 4:6, :] = 0
    real[2, 4, :] = np.nan  # under the weights that are zero: it must not be seen
    return [
        *found,
        Example("weights", (counts, weights)),
        Example("weights-gaps", (real, weights.astype("float32"))),
        Example("no-masks", (counts, np.zeros((0, 9, 12), bool))),
    ]


def for_annular_sums() -> list[Example]:
    """Centres on and off the detector, full disks, a mask, an unknown centre."""
    rng = np.random.default_rng(7)
    radii = np.asarray([[-1.0, 2.5], [2.5, 4.1], [0.0, 30.0], [3.0, 3.0]])
    found = []
    for label, f in frames().items():
        centers = rng.uniform(-1, 12, (f.shape[0], 2))
        centers[1:2] = np.nan
        found.append(Example(label, (f, centers, radii)))
    counts = disks((2, 9, 12))
    centers = np.asarray([[4.0, 6.0], [3.5, 5.5]])
    return [
        *found,
        Example("mask", (counts, centers, radii), {"mask": some_masks((9, 12))[0]}),
        Example("exact-radius", (counts, centers, np.asarray([[0.0, 2.0], [2.0, 5.0]]))),
        Example("no-radii", (counts, centers, np.zeros((0, 2)))),
    ]


def for_pattern_sums() -> list[Example]:
    """With and without weights; weights of zero."""
    found = [Example(label, (f,)) for label, f in frames().items()]
    return found + [Example(f"{label}-weights", (f,), {"weights": np.linspace(0, 1.5, f.shape[0])}) for label, f in frames().items()]


def for_center_of_mass() -> list[Example]:
    """Stacks, single patterns, whole scans, masks over broken pixels, sums that are negative."""
    found = [Example(label, (f,)) for label, f in frames().items()]
    broken = disks((2, 3, 9, 12), "float32")
    broken[:, :, 4, 5] = np.nan
    broken[1, 1, 0, 0] = np.inf
    mask = np.ones((9, 12), bool)
    mask[4, 5] = False
    return [
        *found,
        Example("pattern", (disks((9, 12)),)),
        Example("scan", (disks((2, 3, 9, 12)),)),
        Example("mask", (broken, mask)),
        Example("negative", (disks((3, 9, 12), "int16") - np.int16(40),)),
    ]


def for_frame_reductions() -> list[Example]:
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


def for_shifted_patterns() -> list[Example]:
    """Whole, part and large moves either way; an unknown one."""
    rng = np.random.default_rng(8)
    found = []
    for label, f in frames().items():
        shifts = rng.uniform(-20, 20, (f.shape[0], 2))
        shifts[:1], shifts[1:2, 1] = (1.0, -2.0), np.nan
        found.append(Example(label, (f, shifts)))
    return found


def for_integrate_gradient() -> list[Example]:
    """Odd grids, holes, each boundary, one row."""
    rng = np.random.default_rng(9)
    field = rng.normal(size=(7, 10, 2))
    holes = field.copy()
    holes[2, 3] = np.nan
    return [
        Example("mirror", (field,), double=1e-10),
        Example("single", (field.astype("float32"), 2.0, 1e-3, 1e-6), double=1e-5),
        Example("periodic", (field,), {"boundary": "periodic"}, double=1e-10),
        Example("padded", (field,), {"boundary": "padded", "max_iterations": 5}, double=1e-9),
        Example("stack", (rng.normal(size=(2, 5, 4, 2)),), double=1e-10),
        Example("holes", (holes,), {"max_iterations": 5}, double=1e-9),
        Example("all-nan", (np.full((4, 5, 2), np.nan),)),
        Example("one-row", (rng.normal(size=(1, 6, 2)),), double=1e-10),
    ]


def for_count_electrons() -> list[Example]:
    """Ties, borders, bad pixels, a gain, more pixels than a block takes; the lists are equal to the last bit."""
    rng = np.random.default_rng(11)

    def one(label: str, f: np.ndarray, **options: Any) -> Example:
        dark = rng.uniform(0.0, 2.0, f.shape[-2:])
        return Example(label, (f, dark, 0.4, 6.0), {"electron": 5.0, **options}, shapes_depend_on_values=True, double=0.0, single=0.0)

    shape = (6, 97, 90)  # more than 8192 pixels
    raw = (rng.poisson(0.05, shape) * rng.integers(3, 40, shape)).astype("uint16")
    raw[0], raw[1, 10:13, 20:23] = 0, 12  # an empty frame, a plateau
    real = raw.astype("float32")
    real[2], real[3, 5, 6] = np.nan, np.nan
    mask, gain = np.ones(shape[1:], bool), rng.uniform(0.5, 2.0, shape[1:])
    mask[3:9, :40], gain[50, 60], gain[51, 62] = False, 0.0, np.nan
    return [
        one("uint16", raw),
        one("corrected", raw.astype("uint8"), gain=gain, mask=mask),
        one("gaps", real, mask=mask),
        one("uint32", raw[:, :5, :7].astype("uint32")),
        one("int16", raw[:, :9, :8].astype("int16")),
        one("ties", np.tile(np.asarray([[0, 9], [9, 9]], "uint8"), (2, 3, 4, 5))),
        one("one-pixel", np.asarray([[9]], "uint16")),
        one("none", raw[:0]),
    ]


def for_hot_pixel_median() -> list[Example]:
    """Hot pixels in the field, at the border, beside each other, under a mask; empty and broken frames."""
    rng = np.random.default_rng(12)
    mask = np.ones((11, 14), bool)
    mask[4:6, 3], mask[0, 0] = False, False
    found = []
    for label, f in frames().items():
        f = f.copy()
        for i in range(0, f.shape[0], 2):
            f[i, rng.integers(0, f.shape[1], 4), rng.integers(0, f.shape[2], 4)] = 120
        found.append(Example(label, (f,)))
    counts = found[0].args[0]
    real = counts.astype("float32")
    real[1, 3, 4], real[2] = np.nan, np.nan
    return [
        *found,
        Example("mask", (counts,), {"mask": mask, "threshold": 3.0}),
        Example("mask-gaps", (real / np.float32(7.0),), {"mask": mask, "unit": 0.2, "noise": 0.1}),
        Example("all-masked", (counts,), {"mask": ~(mask | True)}),
        Example("uint32", (counts.astype("uint32") * 70_000_001,), {"unit": 70_000_001.0}),
        Example("row", (counts[0, :1],)),
        Example("wide", (rng.poisson(2, (2, 19, 40)).astype("uint8"),), {"threshold": 1.5}),
    ]


def for_radial_sums() -> list[Example]:
    """Origins on and off the detector, on pixels and between, unknown; ellipses, masks, rings of less than a pixel."""
    rng = np.random.default_rng(13)
    found = []
    for label, f in frames().items():
        origins = rng.uniform(-1, 12, (f.shape[0], 2))
        origins[:1], origins[1:2] = (5.0, 4.0), (np.nan, 3.0)
        found.append(Example(label, (f, origins)))
    counts, real = disks((2, 3, 19, 70)), with_gaps(disks((3, 9, 12), "float32"))
    mask = some_masks((9, 12))[0] | (np.arange(12) > 6)
    real[2, 4, 5:] = np.nan
    tilted = {"ellipse": (1.2, 1.0, 0.7)}
    return [
        *found,
        Example("scan", (counts, rng.uniform(8, 11, (2, 3, 2))), {"n_r": 50, **tilted}),
        Example("one-origin", (counts[0], np.asarray([9.0, 35.0])), {"r_max": 40.0, "n_r": 23}),
        Example("pattern", (counts[0, 0], np.asarray([9.5, 30.25])), {"r_max": 36.4}),
        Example("mask", (real, np.asarray([4.0, 6.0])), {"mask": mask, "r_max": 9.0, **tilted}),
        Example("uint32", (counts[0].astype("uint32") * 1_000_003, np.asarray([9.0, 35.0]))),
    ]


def for_polar_transform() -> list[Example]:
    """The same, with some angles; what comes out is in single precision."""
    return [
        Example(e.label, e.args, {"n_theta": n, **e.options}, double=1e-12, twin=() if e.args[0].dtype == np.float64 else (2e-7,))
        for e, n in zip(for_radial_sums(), itertools.cycle((12, 7, 1)))
    ]


def bragg_frames(shape: tuple[int, int], n: int, dtype: Any = "uint16", seed: int = 0) -> np.ndarray:
    """Patterns (n, Qx, Qy) of disks that are clearly unequal, so that their order is the same in single precision."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    out = np.full((n, *shape), 2.0)
    for pattern in out:
        shift = rng.uniform(-0.7, 0.7, 2)
        for (fx, fy), height in zip(((0.5, 0.5), (0.28, 0.3), (0.72, 0.25), (0.3, 0.75), (0.75, 0.7)), (400, 250, 150, 90, 50)):
            r = np.hypot(x - fx * shape[0] - shift[0], y - fy * shape[1] - shift[1])
            pattern += height / (1 + np.exp(np.minimum(4 * (r - 3.2), 99)))
    return rng.poisson(out).astype(dtype)


def bragg_stacks() -> dict[str, np.ndarray]:
    """Stacks of such patterns by label: pixel types, odd and long detectors, empty and NaN patterns."""
    return {
        "uint16": bragg_frames((41, 48), 3),
        "uint8": (bragg_frames((35, 33), 2, "uint16", 1) // 4).astype("uint8"),
        "uint32": bragg_frames((33, 52), 2, "uint32", 2),
        "float32-gaps": with_gaps(bragg_frames((40, 37), 3, "float32", 3)),
        "uint16-gaps": with_gaps(bragg_frames((36, 40), 2, "uint16", 4)),
        "float64": bragg_frames((36, 36), 1, "float64", 5),
    }


def for_correlation_map() -> list[Example]:
    """Each kind of power; odd and non-square detectors; gaps."""
    from gpu4d.bragg.hybrid_correlation import template_spectrum
    from gpu4d.probe import synthetic, template

    def one(label: str, patterns: np.ndarray, power: float) -> Example:
        kernel = template(synthetic(patterns.shape[1:], 3.2))
        return Example(label, (patterns, template_spectrum(kernel)), {"power": power}, double=1e-9)

    counts = bragg_frames((33, 40), 2)
    powers = [one(f"power-{power}", counts, power) for power in (1.0, 0.85, 0.0)]
    gaps = with_gaps(bragg_frames((30, 27), 3, "float32"))
    return [*powers, one("gaps", gaps, 0.85), one("none", counts[:0], 0.85), one("one", bragg_frames((32, 32), 1, "uint8"), 0.5)]


def for_find_disks() -> list[Example]:
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


def smooth_maxima(shape: tuple[int, int, int], most: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Maps of unequal smooth hills (n, Qx, Qy) float32 with the pixels of their maxima, and how many each has."""
    rng = np.random.default_rng(seed)
    n, nx, ny = shape
    x, y = np.arange(nx)[:, None], np.arange(ny)[None, :]
    maps = np.zeros(shape)
    at = np.zeros((2, n, most), np.int32)
    for i in range(n):
        for k in range(most):  # on a loose grid, so that none hides another
            cx, cy = (k // 3 + 0.5) * nx / -(-most // 3) + rng.uniform(-1, 1), (k % 3 + 0.5) * ny / 3 + rng.uniform(-1, 1)
            maps[i] += (1 + k % 7) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 6)
            at[:, i, k] = round(cx), round(cy)
    return maps.astype(np.float32), at[0], at[1], rng.integers(1, most + 1, n)


def for_refine_disks() -> list[Example]:
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


def for_peak_errors() -> list[Example]:
    """A template's window inside and over the border, whole pixels, a map without a maximum, negative and NaN counts."""
    twin = (2e-2, 2e-2)  # the Hessian is taken at the nearest 1/64 px
    maps, px, py, count = smooth_maxima((3, 33, 40), 9, 3)
    counts = np.random.default_rng(3).poisson(5 + 20 * maps.clip(0)).astype(np.float32)
    counts[1, 4:7, 9] = -3, np.nan, -1
    slopes = np.random.default_rng(4).normal(size=(2, 7, 5))
    box = np.stack([slopes[0] ** 2, slopes[0] ** 2, slopes[0] * slopes[1] / 2, slopes[1] ** 2]).astype(np.float32)
    x, y = px + 0.3, py - 0.2
    x[0, 0], y[0, 0] = 0.2, 39.4
    return [
        Example("positions", (counts, maps, box, x, y, count), twin=twin),
        Example("whole-pixels", (counts, maps, box, px.astype(float), py.astype(float), count), {"grid": True}, twin=twin),
        Example("zero-peaks", (counts, maps, box, x, y, 0 * count), twin=twin),
        Example("none", (counts[:0], maps[:0], box, x[:0], y[:0], count[:0]), twin=twin),
    ]


def for_ssb_sum() -> list[Example]:
    """Both modes; a disk and a measured pupil; without aberrations, with defocus, with all; odd scans; more pixels than a chunk."""
    rng = np.random.default_rng(21)

    def one(label: str, scan: tuple[int, int], n: int, dtype: Any = "complex64", radius: float = 4.37, **options: Any) -> Example:
        nx, nk = scan[0], scan[1] // 2 + 1
        spectra = (rng.normal(size=(n, nx, nk)) + 1j * rng.normal(size=(n, nx, nk))).astype(dtype)
        at = rng.uniform(-radius, radius, (n, 2))
        turn = np.array([[0.96, 0.28], [-0.28, 0.96]]) * 3.7 * radius
        rows, columns = np.fft.fftfreq(nx)[:, None] * turn[0], np.fft.rfftfreq(scan[1])[:, None] * turn[1]
        precise = {"twin": (1e-9, 1e-9), "cuda": (2e-6, 2e-6)}
        return Example(label, (spectra, at, rows, columns), {"radius": radius, **options}, **precise)

    pupil = np.zeros((13, 15), complex)
    pupil[3:10, 4:11] = (rng.normal(size=(7, 7)) + 1j * rng.normal(size=(7, 7))) / 4
    defocus = ((2, 0, 0.03), (0, 2, 0.035), (1, 1, -0.004))
    every = tuple((i, j, 0.3**k * (i + 2 * j - 3) / 20) for k in range(2, 7) for i in range(k + 1) for j in [k - i])
    found = []
    for mode in ("weighted", "exact"):
        found += [
            one(f"{mode}-disk", (9, 14), 40, mode=mode),
            one(f"{mode}-defocus", (10, 9), 33, mode=mode, chi=defocus),
            one(f"{mode}-every-aberration", (8, 8), 9, mode=mode, chi=every),
            one(f"{mode}-pupil", (7, 12), 12, mode=mode, pupil=pupil, center=(6.2, 6.9)),
            one(f"{mode}-pupil-defocus", (6, 6), 8, mode=mode, pupil=pupil, center=(6.2, 6.9), chi=defocus),
            one(f"{mode}-double", (6, 5), 11, "complex128", mode=mode),
        ]
    return [*found, one("one-frequency", (1, 1), 5), one("none", (4, 6), 0), one("beyond-a-chunk", (3, 6), 261)]


def for_gather_pixels() -> list[Example]:
    """Scattered and neighbouring pixels, none, more than a tile; both dtypes of the answer."""
    rng = np.random.default_rng(22)
    found = []
    for label, f in frames().items():
        index = np.sort(rng.choice(f.shape[1] * f.shape[2], 37, replace=False))
        found += [Example(label, (f, index)), Example(f"{label}-real", (f, index), {"real": True})]
    many = disks((70, 9, 12))
    return [*found, Example("tiles", (many, np.arange(5, 100))), Example("no-pixels", (many, np.arange(0)))]


def for_poisson_fit() -> list[Example]:
    """Every number of parameters and pixel type; disks over the border, lost, empty, NaN; a mask; more slots than disks; none."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), 3.2))
    table = (profile.table, profile.pixels)
    twin = (1e-6, 1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 0.0)
    places = np.asarray([(0.5, 0.5), (0.28, 0.3), (0.72, 0.25), (0.3, 0.75), (0.75, 0.7), (0.02, 0.4), (0.9, 0.99)])

    def starts(frames: np.ndarray) -> tuple[np.ndarray, ...]:
        n, nx, ny = frames.shape
        at = places * (nx, ny) + np.random.default_rng(n).uniform(-0.3, 0.3, (n, len(places), 2))
        count = np.full(n, len(places))
        count[1:2] = 3
        return at[..., 0], at[..., 1], count

    found = []
    for (label, frames), parameters in zip(bragg_stacks().items(), (6, 8, 4, 6, 6, 8)):
        found.append(Example(label, (frames, *starts(frames), *table), {"parameters": parameters}, twin=twin))
    frames = bragg_frames((41, 48), 2)
    x, y, count = starts(frames)
    mask = np.ones((41, 48), bool)
    mask[18:21, 20:26] = mask[30:, 12] = False
    unknown = x.copy()
    unknown[0, :2] = np.nan, 1e9
    return [
        *found,
        # four steps: one of these disks is still on its way after three, where rounding counts for as much as what is left to go
        Example("mask", (frames, x, y, count, *table), {"mask": mask, "iterations": 4}, twin=twin),
        Example("far-starts", (frames, x + 1.4, y - 1.2, count, *table), {"iterations": 5}, twin=twin),
        Example("unknown-starts", (frames, unknown, y, count, *table), {"spacing": 5.0, "iterations": 4}, twin=twin),
        Example("crowded", (frames, x, y, count, *table), {"spacing": 14.0}, twin=twin),
        Example("no-disks", (frames, x, y, 0 * count, *table), twin=twin),
        Example("none", (frames[:0], x[:0], y[:0], count[:0], *table), twin=twin),
    ]


EXAMPLES: dict[str, Callable[[], list[Example]]] = {
    "annular_sums": for_annular_sums,
    "center_of_mass": for_center_of_mass,
    "correlation_map": for_correlation_map,
    "count_electrons": for_count_electrons,
    "find_disks": for_find_disks,
    "first_moments": for_center_of_mass,
    "frame_reductions": for_frame_reductions,
    "gather_pixels": for_gather_pixels,
    "hot_pixel_median": for_hot_pixel_median,
    "integrate_gradient": for_integrate_gradient,
    "integrate_iteratively": for_integrate_gradient,
    "masked_sums": for_masked_sums,
    "ssb_sum": for_ssb_sum,
    "pattern_maximum": lambda: [Example(label, (f,)) for label, f in frames().items()],
    "pattern_sums": for_pattern_sums,
    "peak_errors": for_peak_errors,
    "poisson_fit": for_poisson_fit,
    "refine_disks": for_refine_disks,
    "polar_transform": for_polar_transform,
    "radial_sums": for_radial_sums,
    "shifted_patterns": for_shifted_patterns,
}


# ---------------------------------------------------------------- comparison


def leaves(result: Any) -> list[Any]:
    """The arrays (and plain values) of a result, in order."""
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in leaves(part)]
    if isinstance(result, dict):
        return [leaf for key in sorted(result) for leaf in leaves(result[key])]
    return [result]


def assert_same_home(result: Any, like: Any) -> None:
    """A result lives in the library and on the device of the input, not in NumPy by accident."""
    assert compat.is_array_api_obj(result), f"the result is a {type(result).__name__}, not an array"
    assert compat.array_namespace(result) is compat.array_namespace(like), f"{type(result)} came out, {type(like)} went in"
    assert type(result).__module__.partition(".")[0] == type(like).__module__.partition(".")[0]
    assert compat.device(result) == compat.device(like), f"on {compat.device(result)}, input on {compat.device(like)}"


def dtype_name(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


def assert_close(result: np.ndarray, reference: np.ndarray, example: Example, twin: float = 0.0) -> None:
    """NaN where the reference is NaN, equal integers, floats within the example's tolerance of the largest value."""
    if result.dtype.kind in "iub":
        np.testing.assert_array_equal(result, reference)
        return
    assert np.array_equal(np.isnan(result), np.isnan(reference)), "NaN at other places than in the reference"
    finite = np.isfinite(reference)
    assert np.array_equal(np.isfinite(result), finite)
    if finite.any():
        tolerance = example.single if result.dtype.itemsize <= (8 if result.dtype.kind == "c" else 4) else example.double
        tolerance = max(tolerance, twin)
        error = np.abs(result[finite] - reference[finite]).max() / max(np.abs(reference[finite]).max(), 1e-300)
        assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def doubled(x: Any) -> Any:
    """A NumPy input in double precision; integers stay what they are."""
    wider = {"f": np.float64, "c": np.complex128}
    return x.astype(wider[x.dtype.kind]) if isinstance(x, np.ndarray) and x.dtype.kind in wider else x


def convert(example: Example, make: Callable[[np.ndarray], Any]) -> tuple[tuple, dict]:
    """The example's arguments with every array made by `make`."""
    return (
        tuple(make(a) if isinstance(a, np.ndarray) else a for a in example.args),
        {k: make(a) if isinstance(a, np.ndarray) else a for k, a in example.options.items()},
    )


def _table() -> list:
    rows = []
    for name, op in sorted(OPERATIONS.items()):
        for example in EXAMPLES.get(name, list)():
            for library in LIBRARIES:
                kinds = ["definition", library.twin] if library.twin in op.twins else ["definition"]
                for kind in kinds:
                    rows.append(
                        pytest.param(op, example, library, kind, id=f"{name}-{example.label}-{library.name}-{kind}", marks=library.marks)
                    )
    return rows


def expected_kind(op: operation.Operation, kind: str, args: tuple, options: dict) -> str:
    """The implementation that arrays made for `kind` must take: kernels state what they do not, CPU twins take every example."""
    return "definition" if kind == "cuda" and op.unsupported(kind, *args, **options) else kind


@pytest.mark.parametrize(("op", "example", "library", "kind"), _table())
def test_against_the_definition(op, example, library, kind, need):
    xp = need(library.module)
    args, options = convert(example, lambda a: library.make(xp, a))
    before = [arrays.to_numpy(a).copy() for a in (*args, *options.values()) if arrays.is_array(a)]
    like = next(a for a in (*args, *options.values()) if arrays.is_array(a))

    with strictest(library, xp, example):
        if kind == "definition":
            with operation.using("definition"):
                found = leaves(op(*args, **options))
        else:
            assert op.choose(*args, **options) == expected_kind(op, kind, args, options), "the dispatch steps aside"
            found = leaves(op(*args, **options))

    plain = leaves(op.definition(*example.args, **example.options))  # dtype and shape, from the same input
    double_args, double_options = convert(example, doubled)
    reference = leaves(op.definition(*double_args, **double_options))
    assert len(found) == len(reference)
    twin = example.tolerances(kind) or (0.0,) * len(found)
    for result, same, expected, allowed in zip(found, plain, reference, twin, strict=True):
        if not compat.is_array_api_obj(expected):  # NumPy scalars are the results without axes
            assert type(result) is type(expected)
            assert result == expected
            continue
        assert_same_home(result, like)
        assert dtype_name(result) == dtype_name(same)
        assert tuple(result.shape) == expected.shape
        assert_close(arrays.to_numpy(result), expected, example, allowed)
    for a, old in zip((a for a in (*args, *options.values()) if arrays.is_array(a)), before):
        np.testing.assert_array_equal(arrays.to_numpy(a), old, err_msg="an argument was written into")


# ---------------------------------------------------------------- the table itself


@pytest.mark.parametrize("op", [op for op in OPERATIONS.values() if "cuda" in op.twins], ids=lambda op: op.name)
def test_kernels_step_aside_for_pixel_types_alone(op):
    """Whatever else an example has: for these types, and complex numbers in single precision, there are kernels."""
    for example in EXAMPLES[op.name]():
        first = next(a for a in example.args if isinstance(a, np.ndarray))
        if first.dtype.name in ("uint8", "uint16", "uint32", "float32", "complex64"):
            assert expected_kind(op, "cuda", example.args, example.options) == "cuda", example.label


def test_every_operation_has_an_example():
    assert set(OPERATIONS) == set(EXAMPLES), "EXAMPLES in this file and the operations of the library differ"


def test_no_two_operations_share_a_name():
    for module in MODULES.values():
        for found in vars(module).values():
            if isinstance(found, operation.Operation):
                assert OPERATIONS[found.name] is found, f"{found.name} of {module.__name__} is hidden by another operation of that name"


def test_results_in_numpy_by_accident_are_refused(need):
    strict = need("array_api_strict")
    given = strict.asarray([1.0, 2.0])
    assert_same_home(given + 1.0, given)
    with pytest.raises(AssertionError, match="came out"):
        assert_same_home(np.asarray([2.0, 3.0]), given)
    with pytest.raises(AssertionError, match="not an array"):
        assert_same_home(3.0, given)
    with pytest.raises(AssertionError, match="on "):
        assert_same_home(given, strict.asarray([1.0], device=strict.Device("device1")))


def test_wrong_values_are_refused():
    example = Example("", ())
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(np.asarray([1.0, 2.0001]), np.asarray([1.0, 2.0]), example)
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(np.asarray([1.0, 0.0]), np.asarray([1.0, np.nan]), example)


@pytest.mark.parametrize("op", OPERATIONS.values(), ids=lambda op: op.name)
def test_twins_exist_with_the_definitions_signature(op):
    for kind, twin in op.twins.items():
        folder = {"cpu": "gpu4d.cpu_fallback", "cuda": "gpu4d.kernels"}[kind]
        file = op.definition.__module__.rpartition(".")[2]
        assert twin.module == f"{folder}.{file}", "a twin lives in a file of the definition's name"
        assert operation.signature(op, kind) == operation.signature(op, "definition")


def test_every_cpu_twin_belongs_to_an_operation(checkout):
    """A file is a twin, or what a twin is built from."""
    named = {op.twins["cpu"].module.rpartition(".")[2] for op in OPERATIONS.values() if "cpu" in op.twins}
    texts = {p.stem: p.read_text(encoding="utf-8") for p in (checkout / "cpu_fallback").glob("*.py")}
    assert named <= set(texts)
    for part in set(texts) - named - {"__init__"}:
        assert any(f"from gpu4d.cpu_fallback.{part} import" in text for text in texts.values()), f"nothing uses cpu_fallback/{part}.py"


def test_every_cuda_source_has_a_launcher_and_the_other_way_round(checkout):
    """Other files are what launchers are built from."""
    sources = {p.stem for p in (checkout / "kernels").rglob("*.cu")}
    texts = {p.stem: p.read_text(encoding="utf-8") for p in (checkout / "kernels").rglob("*.py") if not p.stem.startswith("_")}
    assert sources <= set(texts)
    named = {op.twins["cuda"].module.rpartition(".")[2] for op in OPERATIONS.values() if "cuda" in op.twins}
    for part in named - sources:  # it launches what another source holds, itself or through another operation's launcher
        others = (sources | named) - {part}
        assert any(f"from gpu4d.kernels.{other} import" in texts[part] for other in others), f"kernels/{part}.py launches no source"
    for part in set(texts) - named:
        assert any(f"from gpu4d.kernels.{part} import" in text for text in texts.values()), f"nothing uses kernels/{part}.py"


# ---------------------------------------------------------------- dispatch, on an operation of this file


@pytest.fixture
def halve(monkeypatch):
    """An operation of its own registry, whose twin is a function of a module made here."""
    import sys
    import types

    monkeypatch.setattr(operation, "OPERATIONS", {})
    module = types.ModuleType("gpu4d_test_twin")
    module.halve = lambda x, /, *, refuse=False: np.asarray(x) / 2 + 1  # one off, so that one sees which ran
    monkeypatch.setitem(sys.modules, "gpu4d_test_twin", module)

    twin = operation.Twin("gpu4d_test_twin", operation.REAL, check=lambda x, *, refuse=False: "refuse is set" if refuse else None)

    @operation.operation(cpu=twin)
    def halve(x, /, *, refuse=False):
        return x / 2.0

    return halve


def test_numpy_takes_the_twin_and_strict_the_definition(halve, need):
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    strict = need("array_api_strict")
    given = strict.asarray([2.0])
    assert_same_home(halve(given), given)
    assert float(halve(given)[0]) == 1.0


def test_using_forces_one_implementation(halve):
    with gpu4d.using("definition"):
        assert halve(np.asarray([2.0])).tolist() == [1.0]
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    with gpu4d.using("cuda"):
        assert halve(np.asarray([2.0])).tolist() == [1.0], "without that twin, the definition"
    with pytest.raises(InputError, match="'cuda' twin"):
        halve.implementation("cuda")
    with pytest.raises(InputError, match="'definition', 'cpu', 'cuda'"), gpu4d.using("fast"):
        pass


def test_limits_are_asked_before_there_are_arrays(halve, need):
    """`kind_for` says what a call will take: by dtype, by library and device, and by what is forced."""
    assert halve.kind_for("float32") == halve.kind_for(np.uint16) == halve.kind_for(np.dtype("float64")) == "cpu"
    assert halve.kind_for("float16") == halve.choose(np.zeros(1, "float16")) == "definition"
    strict = need("array_api_strict")
    assert halve.kind_for(strict.float64, strict.asarray([])) == "definition"
    with gpu4d.using("definition"):
        assert halve.kind_for("float32") == "definition"


def test_limits_of_a_twin():
    twin = operation.Twin("module", operation.KERNEL_PIXELS, frame=10_000, longest={"uint32": 100})
    assert twin.refuses("uint16", (7, 999, 10)) is None and twin.refuses("uint32", (100, 99)) is None
    for dtype, shape, why in (
        ("uint16", (1, 100, 100), "less than 10000"),
        ("int64", (2, 2), "not int64"),
        ("uint32", (101, 2), "not 101"),
    ):
        assert why in twin.refuses(dtype, shape)


def test_pixels_of_kernels_are_those_the_sources_are_instantiated_for():
    from gpu4d.kernels.pixels import SUFFIX

    assert tuple(SUFFIX) == operation.KERNEL_PIXELS


def test_stepping_aside_is_said_once(halve, caplog):
    with caplog.at_level("INFO", logger="gpu4d"):
        for _ in range(2):
            assert halve(np.asarray([2.0]), refuse=True).tolist() == [1.0]
    assert [r.getMessage() for r in caplog.records] == ["halve: the definition runs, because refuse is set"]


def test_gradients_and_tracers_take_the_definition(halve, need):
    torch = need("torch")
    x = torch.tensor([2.0], requires_grad=True)
    y = halve(x)
    y.sum().backward()
    assert x.grad.tolist() == [0.5]
    assert halve(torch.tensor([2.0])).tolist() == [2.0]


def test_jit_takes_the_definition(halve, need):
    jax = need("jax")
    assert float(jax.jit(halve)(jax.numpy.asarray([2.0]))[0]) == 1.0


def test_mixed_libraries_and_devices_are_refused(halve, need):
    strict = need("array_api_strict")
    with pytest.raises(InputError, match="different libraries"):
        halve(np.asarray([1.0]), refuse=strict.asarray([1.0]))
    with pytest.raises(InputError, match="different devices"):
        halve(strict.asarray([1.0]), refuse=strict.asarray([1.0], device=strict.Device("device1")))
    with pytest.raises(InputError, match="no array"):
        halve([1.0])


def test_cpu_twins_do_not_hold_the_lock(checkout: Path):
    """Reader and compute threads overlap only if every numba function lets go of the interpreter's lock."""
    for file in (checkout / "cpu_fallback").glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("@njit", "@numba.njit", "@jit", "@numba.jit")):
                assert "nogil=True" in line and "cache=True" in line, f"{file.name}: {line}"


def test_all_operations_are_found_wherever_they_are_defined():
    assert operation.all_operations().keys() == OPERATIONS.keys()
    rooms = {name.split(".")[1] for name in MODULES}
    assert rooms == set(operation.ROOMS)
