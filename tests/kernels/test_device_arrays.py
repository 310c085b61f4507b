"""Launchers meet arrays that behave as CuPy's do where NumPy is more forgiving: no host array goes into a kernel or meets a device
array in an operation."""

import importlib
import pkgutil

import gpu4d.kernels
import numpy as np
import pytest
from cuda_on_host import HostBackend
from operations.comparing import convert, with_cuda
from operations.examples import EXAMPLES

from gpu4d import arrays, fft, operation
from gpu4d.device.backend import using_backend
from gpu4d.operation import all_operations

OPERATIONS = all_operations()


class DeviceArray(np.ndarray):
    """A NumPy array that stands for one on a device."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        refuse_host(f"{ufunc.__name__}", (*inputs, *(out or ())))
        if out:
            options["out"] = tuple(bare(o) for o in out)
        return on_device(getattr(ufunc, method)(*(bare(i) for i in inputs), **options))

    def __array_function__(self, function, types, args, options):
        refuse_host(function.__name__, args)
        return on_device(function(*bare(args), **{k: bare(v) for k, v in options.items()}))


def bare(x):
    if isinstance(x, tuple | list):
        return type(x)(map(bare, x))
    return x.view(np.ndarray) if isinstance(x, DeviceArray) else x


def on_device(x):
    if isinstance(x, tuple | list):
        return type(x)(*map(on_device, x)) if hasattr(x, "_fields") else type(x)(map(on_device, x))
    return x.view(DeviceArray) if isinstance(x, np.ndarray) else x


def refuse_host(where, args):
    for a in args:
        for one in a if isinstance(a, tuple | list) else (a,):
            assert not (type(one) is np.ndarray and one.ndim), f"{where}: a host array of shape {one.shape} meets one on the device"


class Namespace:
    """NumPy's functions, whose arrays are on the device."""

    def __init__(self, xp):
        self.xp = xp

    def __getattr__(self, name):
        found = getattr(self.xp, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args, **options: (refuse_host(name, args), on_device(found(*args, **options)))[1]


def transform_of(whole):
    return lambda x, *shape: on_device(whole(bare(x), *shape)) if isinstance(x, DeviceArray) else whole(x, *shape)


class StrictBackend(HostBackend):
    def view(self, array):
        return on_device(array)

    def empty(self, shape, dtype):
        return on_device(super().empty(shape, dtype))

    def launch(self, function, grid, block, args, shared):
        refuse_host(function.kernel_name, args)
        super().launch(function, grid, block, args, shared)


@pytest.fixture
def strict(monkeypatch):
    namespace, upload = arrays.namespace, arrays.from_numpy
    put = lambda x, like: on_device(upload(x, bare(like))) if isinstance(like, DeviceArray) else upload(x, like)  # noqa: E731
    launchers = [importlib.import_module(f"gpu4d.kernels.{m.name}") for m in pkgutil.iter_modules(gpu4d.kernels.__path__)]
    monkeypatch.setattr(arrays, "namespace", lambda *a: Namespace(namespace(*a)) if isinstance(a[0], DeviceArray) else namespace(*a))
    for module in (arrays, *launchers):
        if getattr(module, "from_numpy", None) is upload:
            monkeypatch.setattr(module, "from_numpy", put)
    for name in ("rfft2", "irfft2", "irfft2_of_spent", "fft2_of_spent", "ifft2_of_spent"):
        monkeypatch.setattr(fft, name, transform_of(getattr(fft, name)))


@pytest.mark.parametrize("name", with_cuda())
def test_launchers_keep_host_and_device_apart(name, strict):
    op, ran = OPERATIONS[name], 0
    for example in EXAMPLES[name]():
        args, options = convert(example, np.asarray)
        if any(arrays.is_array(a) and a.size > 300_000 for a in args) or op.unsupported("cuda", *args, **options):
            continue
        host = StrictBackend()
        with using_backend(host), operation.using("cuda"):
            op(*args, **options)
        ran += bool(host.launched)
    assert ran


def test_a_host_array_is_noticed(strict):
    launcher = importlib.import_module("gpu4d.kernels.shifted_patterns")
    with using_backend(StrictBackend()), pytest.raises(AssertionError, match="host array"):
        launcher.shifted_patterns(on_device(np.ones((2, 5, 6), np.float32)), np.zeros((2, 2)))
