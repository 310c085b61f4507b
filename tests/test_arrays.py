"""The few functions the array API lacks, and the FFT, on every CPU library that is installed."""

import functools
import sys
import types

import numpy as np
import pytest

from gpu4d import arrays, fft
from gpu4d.errors import InputError


def _read_only(xp, a):
    a = np.array(a)
    a.setflags(write=False)
    return a


MAKERS = {
    "numpy": ("numpy", lambda xp, a: np.array(a)),
    "read-only": ("numpy", _read_only),
    "strict": ("array_api_strict", lambda xp, a: xp.asarray(a)),
    "strict-device1": ("array_api_strict", lambda xp, a: xp.asarray(a, device=xp.Device("device1"))),
    "torch": ("torch", lambda xp, a: xp.from_numpy(np.array(a))),
    "jax": ("jax.numpy", lambda xp, a: xp.asarray(a)),
}


@pytest.fixture(params=MAKERS, ids=str)
def make(request, need):
    """Function that brings a NumPy array into one library, onto one device."""
    module, maker = MAKERS[request.param]
    return functools.partial(maker, need(module))


def same_kind(result, like):
    assert type(result) is type(like)
    assert str(arrays.device(result)) == str(arrays.device(like))
    return arrays.to_numpy(result)


# ---------------------------------------------------------------- namespaces and views


def test_round_trip_between_host_and_library(make):
    a = np.arange(6.0).reshape(2, 3)
    x = make(a)
    np.testing.assert_array_equal(arrays.to_numpy(x), a)
    np.testing.assert_array_equal(same_kind(arrays.from_numpy(a, x), x), a)
    np.testing.assert_array_equal(same_kind(arrays.like(a, x), x), a)
    np.testing.assert_array_equal(same_kind(arrays.like(a[::-1, ::2], x), x), a[::-1, ::2])


def test_a_scalar_array_stays_one(make):
    x = make(np.zeros(3))
    assert same_kind(arrays.like(np.asarray(2.5), x), x).shape == ()
    assert same_kind(arrays.from_numpy(np.asarray(2.5), x), x).shape == ()


def test_host_view_copies_nothing(need):
    a = np.arange(4.0)
    assert arrays.host_view(a) is a
    assert arrays.host_view(need("array_api_strict").asarray(a)) is None
    torch = need("torch")
    t = torch.zeros(4)
    arrays.host_view(t)[0] = 1
    assert float(t[0]) == 1


def test_host_view_of_torch_does_not_follow_gradients(need):
    torch = need("torch")
    x = torch.ones(3, requires_grad=True)
    assert arrays.is_traced(x) and not arrays.is_traced(x.detach())
    np.testing.assert_array_equal(arrays.to_numpy(x), np.ones(3))


def test_namespace_refuses_a_mixture(need):
    strict = need("array_api_strict")
    with pytest.raises(InputError, match=r"array_api_strict.*numpy"):
        arrays.namespace(strict.asarray([1]), np.asarray([1]))
    with pytest.raises(InputError, match="device1"):
        arrays.namespace(strict.asarray([1]), strict.asarray([1], device=strict.Device("device1")))


@pytest.mark.parametrize("thing", [[1, 2], 3.0, None, "x"])
def test_lists_and_scalars_are_no_arrays(thing):
    assert not arrays.is_array(thing)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_jax_in_single_precision_is_refused(need):
    jax = need("jax")
    with jax.enable_x64(False):
        with pytest.raises(InputError, match="jax_enable_x64"):
            arrays.as_float64(jax.numpy.asarray([1.0]))
        with pytest.raises(InputError, match="jax_enable_x64"):
            arrays.as_sum_dtype(jax.numpy.asarray([1]))


# ---------------------------------------------------------------- from CuPy, stood in for


class OnTheDevice:
    """What `arrays.like` asks of a CuPy array."""

    def __init__(self, values):
        self.values, self.shape, self.size, self.dtype = values, values.shape, values.size, values.dtype


class Elsewhere:
    """An array of a library that takes CuPy's as JAX does: compact ones alone. Empty ones have no address and are refused."""

    device = "cuda:0"

    def __init__(self, values):
        self.values, self.shape, self.dtype = np.asarray(values), values.shape, values.dtype

    def __array_namespace__(self, api_version=None):
        return Elsewhere

    @staticmethod
    def from_dlpack(array):
        if array.size == 0:
            raise ValueError("cudaErrorInvalidValue: no device of this pointer")
        if not array.values.flags.c_contiguous:
            raise ValueError("Only DLPack tensors with trivial (compact) striding are supported")
        return Elsewhere(array.values)

    @staticmethod
    def asarray(values, device=None):
        assert isinstance(values, np.ndarray) and device == "cuda:0"
        return Elsewhere(values)


@pytest.mark.parametrize("jax", [True, False], ids=["jax", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "uint16", "bool", "complex64"])
def test_results_of_kernels_reach_other_libraries(jax, dtype, monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.ndarray = OnTheDevice
    cupy.ascontiguousarray = lambda x: OnTheDevice(np.ascontiguousarray(x.values))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(arrays.compat, "is_jax_array", lambda x: jax and isinstance(x, Elsewhere))
    whole, template = np.arange(12).reshape(3, 4).astype(dtype), Elsewhere(np.zeros(1))
    given = [whole, whole[:0], whole[:, :0], *([whole[:, ::2], whole.T] if jax else [])]
    for values in given:
        found = arrays.like(OnTheDevice(values), template)
        assert isinstance(found, Elsewhere) and found.dtype == values.dtype and found.shape == values.shape
        np.testing.assert_array_equal(found.values, values)


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    ("dtype", "as_float", "as_sum"),
    [
        ("uint8", "float64", "int64"),
        ("uint16", "float64", "int64"),
        ("int32", "float64", "int64"),
        ("float32", "float32", "float64"),
        ("float64",) * 3,
    ],
)
def test_dtypes_of_compute_and_sums(make, dtype, as_float, as_sum):
    x = make(np.asarray([1, 2], dtype=dtype))
    assert same_kind(arrays.as_float(x), x).dtype == as_float
    assert same_kind(arrays.as_sum_dtype(x), x).dtype == as_sum
    assert same_kind(arrays.as_float64(x), x).dtype == "float64"
    assert arrays.is_integer(x) == (np.dtype(dtype).kind in "iu")


# ---------------------------------------------------------------- functions


def test_scatter_add_is_bincount(make):
    rng = np.random.default_rng(1)
    index, values = rng.integers(-1, 7, 50), rng.normal(size=50)
    expected = np.bincount(index[index >= 0], values[index >= 0], minlength=9)
    x = make(values)
    np.testing.assert_allclose(same_kind(arrays.scatter_add(x, make(index), 9), x), expected, atol=1e-12)


def test_scatter_add_of_nothing(make):
    x = make(np.zeros(0))
    np.testing.assert_array_equal(same_kind(arrays.scatter_add(x, make(np.zeros(0, dtype=np.int64)), 3), x), np.zeros(3))


def test_scatter_add_keeps_small_values_beside_large_ones(make):
    """A running total loses what is small beside all that came before: bins must not know of their neighbours' size."""
    x = make(np.asarray([1e12, 1e-3, 2e-3]))
    out = same_kind(arrays.scatter_add(x, make(np.asarray([0, 1, 1])), 2), x)
    np.testing.assert_allclose(out, [1e12, 3e-3], rtol=1e-9)


def test_scatter_add_of_nan_stays_in_its_bin(make):
    x = make(np.asarray([np.nan, 1.0, 2.0]))
    out = same_kind(arrays.scatter_add(x, make(np.asarray([0, 1, 2])), 3), x)
    np.testing.assert_array_equal(out, [np.nan, 1.0, 2.0])


@pytest.mark.parametrize("n", [1, 4, 5])
def test_median(make, n):
    a = np.random.default_rng(n).normal(size=(3, n, 2))
    a[1, n // 2, 0] = np.nan
    x = make(a)
    np.testing.assert_allclose(same_kind(arrays.median(x, axis=1), x), np.median(a, axis=1))


def test_nanmean(make):
    a = np.asarray([[1.0, np.nan, 3.0], [np.nan] * 3])
    x = make(a)
    np.testing.assert_array_equal(same_kind(arrays.nanmean(x, axis=1), x), [2.0, np.nan])
    np.testing.assert_array_equal(same_kind(arrays.nanmean(x, axis=(0, 1)), x), 2.0)


def test_gather(make):
    a, index = np.arange(12.0).reshape(3, 4), np.asarray([[3, 0], [1, 1], [2, 3]])
    x = make(a)
    np.testing.assert_array_equal(same_kind(arrays.gather(x, make(index)), x), np.take_along_axis(a, index, -1))


def test_solve_marks_singular_and_broken_systems(make):
    a = np.stack([np.eye(2) * 1e-9, [[1.0, 2.0], [2.0, 4.0]], [[np.nan, 0.0], [0.0, 1.0]], [[2.0, 1.0], [1.0, 3.0]], np.zeros((2, 2))])
    b = np.ones((5, 2, 1))
    x, regular = arrays.solve(make(a), make(b))
    like = make(a)
    assert same_kind(regular, like).tolist() == [True, False, False, True, False]
    out = same_kind(x, like)[..., 0]
    np.testing.assert_allclose(out[0], [1e9, 1e9])
    np.testing.assert_allclose(out[3], np.linalg.solve(a[3], [1, 1]))
    assert np.isnan(out[[1, 2, 4]]).all()


def test_solve_of_a_broken_right_side_is_that_system_alone(make):
    b = np.ones((2, 2, 1))
    b[0, 1] = np.inf
    x, regular = arrays.solve(make(np.stack([np.eye(2)] * 2)), make(b))
    like = make(b)
    assert same_kind(regular, like).tolist() == [False, True]
    np.testing.assert_array_equal(same_kind(x, like)[1], np.ones((2, 1)))


# ---------------------------------------------------------------- Fourier transforms


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 5), (1, 4)])
def test_fft_sign_norm_and_round_trips(make, shape):
    a = np.random.default_rng(2).normal(size=(2, *shape))
    x = make(a)
    n, m = shape
    kx, ky = np.arange(n)[:, None] / n, np.arange(m)[:, None] / m
    forward = np.exp(-2j * np.pi * kx * np.arange(n)) @ a @ np.exp(-2j * np.pi * ky * np.arange(m)).T  # the definition, unnormalised
    np.testing.assert_allclose(same_kind(fft.fft2(x), x), forward, atol=1e-12)
    np.testing.assert_allclose(same_kind(fft.rfft2(x), x), forward[..., : m // 2 + 1], atol=1e-12)
    np.testing.assert_allclose(arrays.to_numpy(fft.ifft2(fft.fft2(x))), a, atol=1e-12)
    np.testing.assert_allclose(same_kind(fft.irfft2(fft.rfft2(x), shape), x), a, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transforms_of_no_planes(make, dtype):
    x = make(np.zeros((2, 0, 6, 5), dtype))
    half, whole = fft.rfft2(x), fft.fft2(x)
    assert same_kind(half, x).shape == (2, 0, 6, 3) and same_kind(whole, x).shape == (2, 0, 6, 5)
    assert same_kind(fft.irfft2(half, (6, 5)), x).dtype == dtype
    assert same_kind(fft.ifft2(whole), x).dtype == {"float32": "complex64", "float64": "complex128"}[dtype]
    assert same_kind(half, x).dtype == same_kind(whole, x).dtype == same_kind(fft.ifft2(whole), x).dtype


def test_fft_keeps_single_precision(make):
    x = make(np.ones((4, 4), dtype="float32"))
    assert str(fft.rfft2(x).dtype).endswith("complex64")


def test_frequencies(make):
    x = make(np.zeros(2))
    np.testing.assert_array_equal(same_kind(fft.frequencies(5, 0.5, beside=x), x), np.fft.fftfreq(5, 0.5))
    np.testing.assert_array_equal(fft.frequencies(6, half=True), np.fft.rfftfreq(6))


def test_only_one_module_calls_an_fft(checkout):
    """Sign, norm and precision are kept in one place."""
    for file in (checkout / "gpu4d").rglob("*.py"):
        if file.name == "fft.py" and file.parent.name == "gpu4d":
            continue
        text = file.read_text(encoding="utf-8")
        for helper in ("fftfreq", "fftshift", "ifftshift"):
            text = text.replace(f"np.fft.{helper}", "")
        for call in ("np.fft.fft", "np.fft.ifft", "np.fft.rfft(", "np.fft.rfft2", "np.fft.irfft", "scipy.fft", "xp.fft."):
            assert call not in text, f"{file} calls {call}"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64", "float32"])
def test_masked_pixels_are_zeroed_where_a_library_cannot_choose_between_unsigned_integers(dtype, need, monkeypatch):
    """As torch on CUDA cannot between those of 16 and 32 bits."""
    strict = need("array_api_strict")
    choose = strict.where

    def where(condition, x, y, /):
        assert str(x.dtype).rpartition(".")[2] not in ("uint16", "uint32"), "not implemented for unsigned integers"
        return choose(condition, x, y)

    monkeypatch.setattr(strict, "where", where)
    mask, top = np.arange(12).reshape(3, 4) % 3 != 0, np.iinfo(dtype).max if dtype != "float32" else 7.5
    frames = np.full((2, 3, 4), top, dtype)
    for given, allowed in ((frames, mask), (strict.asarray(frames), strict.asarray(mask))):
        found = np.asarray(arrays.zeroed(given, allowed))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.where(mask, frames, np.zeros((), dtype)))
