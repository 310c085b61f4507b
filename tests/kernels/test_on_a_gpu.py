"""On a machine with a GPU (`pytest -m gpu`): kernels against the definition on CuPy arrays, results that stay on the device, and the
same bits from run to run. `tests/operations` runs its whole table there too."""

import contextlib

import numpy as np
import pytest
from operations.comparing import assert_close, convert, doubled, expected_kind, leaves, with_cuda
from operations.examples import EXAMPLES

import gpu4d
from gpu4d import arrays
from gpu4d.device import tables
from gpu4d.operation import all_operations

OPERATIONS = all_operations()
pytestmark = pytest.mark.gpu
OF_TABLES = {"fit_cepstrum"}  # its window and mask are read on the host once, and kept for a sweep
SEVERAL = 3  # examples of each operation that are tried as views: kernels see only whether their input is as they want it


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@contextlib.contextmanager
def stays_on_device(cupy, monkeypatch):
    """Any copy to the host inside the block is an error."""

    def refuse(*_args, **_options):
        raise AssertionError("a result went to the host")

    with monkeypatch.context() as patch:
        patch.setattr(cupy, "asnumpy", refuse)
        patch.setattr(arrays, "to_numpy", refuse)
        yield


def calls(name):
    """Examples of an operation that its kernel takes."""
    op = OPERATIONS[name]
    return [(op, e) for e in EXAMPLES[name]() if expected_kind(op, "cuda", e.args, e.options) == "cuda"]


@pytest.mark.parametrize("name", with_cuda())
def test_kernels_give_the_definitions_answer(name, cupy):
    for op, example in calls(name):
        args, options = convert(example, cupy.asarray)
        assert op.choose(*args, **options) == "cuda"
        found = leaves(op(*args, **options))
        again = leaves(op(*args, **options))
        wide_args, wide_options = convert(example, doubled)
        reference = leaves(op.definition(*wide_args, **wide_options))
        allowed = example.tolerances("cuda") or (1e-5,) * len(found)
        for one, two, want, limit in zip(found, again, reference, allowed, strict=True):
            assert isinstance(one, cupy.ndarray), "the result is on the device"
            assert_close(one.get(), np.asarray(want), example, limit)
            assert one.get().tobytes() == two.get().tobytes(), "two runs, the same bits"


@pytest.mark.parametrize("name", with_cuda())
def test_results_never_leave_the_device(name, cupy, monkeypatch):
    for op, example in calls(name):  # making examples goes through the host: only the calls are watched
        args, options = convert(example, cupy.asarray)
        if name in OF_TABLES:
            args, options = convert(example, lambda a: tables.beside(np.asarray(a), cupy.zeros(1)))
            op(*args, **options)
        with stays_on_device(cupy, monkeypatch):
            op(*args, **options)


def strided(cupy, a):
    """A view of every second value of a wider array along the last axis, between values that are not the array's."""
    wide = cupy.full((*a.shape[:-1], 2 * a.shape[-1]), 77, a.dtype)
    wide[..., ::2] = cupy.asarray(a)
    return wide[..., ::2]


def unaligned(cupy, a):
    """An array in C order that begins one value behind the start of its memory, where no word of 16 bytes does."""
    behind = cupy.full(a.size + 1, 77, a.dtype)
    behind[1:] = cupy.asarray(a).ravel()
    return behind[1:].reshape(a.shape)


@pytest.mark.parametrize("made", [strided, unaligned])
@pytest.mark.parametrize("name", with_cuda())
def test_views_give_what_arrays_give(name, made, cupy):
    for op, example in calls(name)[:SEVERAL]:
        args, options = convert(example, lambda a: made(cupy, a) if a.ndim else cupy.asarray(a))
        assert op.choose(*args, **options) == "cuda"
        found = leaves(op(*args, **options))
        wide_args, wide_options = convert(example, doubled)
        reference = leaves(op.definition(*wide_args, **wide_options))
        allowed = example.tolerances("cuda") or (1e-5,) * len(found)
        for one, want, limit in zip(found, reference, allowed, strict=True):
            assert_close(one.get(), np.asarray(want), example, limit)


def test_torch_on_a_stream_of_its_own(cupy, need):
    """Kernels wait for what torch has put into its stream, and torch's stream for their results, also where memory is reused."""
    torch = need("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    frames = np.random.default_rng(3).integers(0, 4000, (64, 128, 128)).astype("uint16")
    mask = np.hypot(*(np.indices((128, 128)) - 63.5)) < 40
    there, mask_there = torch.from_numpy(frames).to("cuda"), torch.from_numpy(mask[None]).to("cuda")
    found = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for shift in range(20):
            moved = torch.roll(there.view(torch.int16), shift, 0).view(torch.uint16)
            sums = OPERATIONS["masked_sums"](moved, mask_there)
            found.append((sums * 2).cpu())  # on this stream: it reads the kernel's result
            del moved, sums  # their memory is free for the next round
    for shift, sums in enumerate(found):
        expected = np.roll(frames, shift, 0)[:, mask].sum(axis=1, dtype=np.int64)
        np.testing.assert_array_equal(np.asarray(sums).ravel(), 2 * expected)


def test_a_scan_on_the_device(cupy):
    scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), radius=4.0, spacing=15.0, seed=2)
    host = np.asarray(scan.cube.source.array)
    reductions = lambda: {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "disks": gpu4d.BraggDisks(scan.probe)}  # noqa: E731
    there = gpu4d.sweep(gpu4d.DataCube(cupy.asarray(host)), reductions())
    here = gpu4d.sweep(gpu4d.DataCube(host), reductions())
    assert isinstance(there["mean"].data, cupy.ndarray) and isinstance(there["disks"].flat("qx"), cupy.ndarray)
    np.testing.assert_array_equal(there["mean"].data.get(), np.asarray(here["mean"]))
    np.testing.assert_array_equal(there["disks"].counts.get(), here["disks"].counts)
    np.testing.assert_allclose(there["disks"].flat("qx").get(), here["disks"].flat("qx"), atol=1e-3)
