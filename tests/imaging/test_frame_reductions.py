"""Frame reductions: exact whatever the company, on the CPU and on the host shim, and one reading of the frames in a sweep."""

import array_api_compat as compat
import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend
from cuda_on_host.backend import kernel_names

import gpu4d
from gpu4d import operation
from gpu4d.device.backend import inlined, using_backend
from gpu4d.imaging import fused
from gpu4d.imaging.first_moments import first_moments
from gpu4d.imaging.frame_reductions import frame_reductions
from gpu4d.imaging.masked_sums import annular_sums, masked_sums
from gpu4d.imaging.pattern_sums import pattern_sums
from gpu4d.streaming import PerPosition, ScanInfo
from gpu4d.streaming.reduction import joined

FILE = "frame_reductions.cu"


def on_shim(op, *args, host=None, **options):
    with using_backend(host or HostBackend(seed=2)), operation.using("cuda"):
        return op(*args, **options)


def some(shape, dtype="uint16", seed=0, masks=5):
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1000
    return rng.integers(0, top, shape, endpoint=True).astype(dtype), rng.random((masks, *shape[1:])) < 0.5


def assert_exact(found, frames, masks):
    """Against integers of any size."""
    flat = frames.reshape(len(frames), -1).astype(object)
    bits = masks.reshape(len(masks), -1).astype(int)
    x, y = (i.ravel() for i in np.indices(frames.shape[1:]))
    assert found.total.tolist() == flat.sum(0).reshape(frames.shape[1:]).tolist()
    assert found.maximum.tolist() == frames.max(0).tolist()
    assert found.masked.tolist() == flat.dot(bits.T.astype(object)).tolist()
    assert found.moments.tolist() == np.stack([flat.sum(1), flat.dot(x.astype(object)), flat.dot(y.astype(object))], -1).tolist()
    assert float(found.count) == len(frames)


# ---------------------------------------------------------------- CPU twin


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("shape", [(4, 7, 9), (3, 5, 300), (1, 2, 511), (2, 3, 700), (5, 40, 64)])
def test_counts_are_exact(dtype, shape):
    frames, masks = some(shape, dtype)
    assert_exact(frame_reductions(frames, masks), frames, masks)
    largest = np.full(shape, np.iinfo(dtype).max, dtype)
    assert_exact(frame_reductions(largest, masks), largest, masks)


def test_more_frames_than_a_sum_of_32_bits_holds():
    frames = np.full((70_001, 2, 3), 65535, "uint16")
    found = frame_reductions(frames, np.ones((1, 2, 3), bool))
    assert (found.total == 70_001 * 65535).all() and (found.maximum == 65535).all() and (found.masked == 6 * 65535).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16"])
@pytest.mark.parametrize("n", [1, 4, 6, 13, 40])
def test_frames_that_do_not_make_whole_groups_or_lines(n, dtype):
    rng = np.random.default_rng(n)
    room = rng.integers(0, 2, n * 37 * 53 + 1, dtype="uint16").astype(dtype)
    frames, masks = room[1:].reshape(n, 37, 53), rng.random((9, 37, 53)) < 0.02
    masks[3] = False
    masks[4:6, 5:9] = True
    assert_exact(frame_reductions(frames, masks), frames, masks)


def test_first_moments_of_pixels_that_count():
    frames, masks = some((9, 45, 61), masks=3)
    found, alone = frame_reductions(frames, masks, mask=masks[0]), frame_reductions(np.where(masks[0], frames, 0).astype("uint16"), masks)
    assert (found.moments == alone.moments).all() and (found.total == frames.sum(0, dtype=int)).all()


def test_weights_follow_their_masks_though_they_are_kept():
    frames, masks = some((5, 12, 11), masks=2)
    for change in (lambda: None, lambda: np.logical_not(masks, out=masks), lambda: masks[1].fill(True)):
        change()
        assert_exact(frame_reductions(frames, masks), frames, masks)
        assert_exact(frame_reductions(frames, masks[:1], mask=np.ones((12, 11), bool)), frames, masks[:1])


def test_products_of_a_piece_stay_inside_32_bits():
    from gpu4d.cpu_fallback.frame_reductions import PIECE, weights
    from gpu4d.cpu_fallback.products import LANES

    for nx, ny in ((1, 1), (7, 9), (128, 128), (256, 256), (5, 511), (3, 512), (700, 3), (3, 5000), (70_000, 1)):
        w = weights(nx, ny, np.ones((1, nx, ny), bool), None)
        largest = np.abs(w.moments.astype(np.int64)).reshape(len(w.moments), 3, LANES // 2, 2).sum(-1)
        sums = np.add.reduceat(largest, np.arange(0, len(largest), PIECE))
        assert sums.max() <= 65535, "16-bit counts, at most 2**15 beside zero, times these"
        assert w.moments[:, 0].sum() == w.bits.sum() == nx * ny
        assert (w.moment_sums == [nx * ny, ny * nx * (nx - 1) // 2, nx * ny * (nx * ny - 1) // 2]).all()


# ---------------------------------------------------------------- kernels on the host shim


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (3, 130, 65)),
        ("uint16", (2, 40, 264)),
        ("uint16", (3, 64, 128)),
        ("uint32", (3, 65, 70)),
        ("uint32", (2, 64, 64)),
        ("uint8", (2, 34, 256)),
    ],
)
def test_kernels_are_exact_beyond_one_tile(dtype, shape):
    frames, masks = some(shape, dtype, masks=9)
    assert_exact(on_shim(frame_reductions, frames, masks), frames, masks)


def test_kernels_over_many_groups_of_frames():
    frames, masks = some((1030, 3, 8), "uint16")
    host = HostBackend()
    assert_exact(on_shim(frame_reductions, frames, masks, host=host), frames, masks)
    (grid,) = {grid for name, grid, *_ in host.launched if name == "frame_sums_u16"}
    assert grid == (1, 61), "17 frames a group"


def test_frames_that_do_not_begin_at_16_bytes_take_the_other_kernel():
    frames, masks = some((5, 4, 8), "uint16")
    moved = np.zeros(frames.size + 1, "uint16")[1:].reshape(frames.shape)
    moved[...] = frames
    for given, kernel in ((frames, "frame_sums_u16"), (moved, "frame_sums_ragged_u16")):
        host = HostBackend()
        assert_exact(on_shim(frame_reductions, given, masks, host=host), frames, masks)
        assert [name for name, *_ in host.launched if name.startswith("frame_sums")] == [kernel]


@pytest.mark.parametrize("shared", [64 * 16, 64 * 1024])
def test_masks_that_do_not_fit_into_shared_memory_take_another_launch(shared):
    frames, masks = some((3, 4, 9), "uint8", masks=30)
    host = HostBackend(shared=shared)
    assert_exact(on_shim(frame_reductions, frames, masks, host=host), frames, masks)
    assert sum(name.startswith("frame_sums") for name, *_ in host.launched) == (4 if shared == 64 * 16 else 1), "eight masks a launch"


def test_frames_that_are_not_finite_are_left_out_alone():
    rng = np.random.default_rng(3)
    frames = rng.random((300, 6, 12)).astype("float32") * 1e3
    for f, bad in ((7, np.nan), (8, -np.inf), (120, np.inf), (299, np.nan)):
        frames[f, f % 6, f % 12] = bad
    masks = rng.random((4, 6, 12)) < 0.5
    with operation.using("definition"), np.errstate(invalid="ignore"):
        want = frame_reductions(frames, masks, mask=masks[0])
    found = on_shim(frame_reductions, frames, masks, mask=masks[0])
    for name in want._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=1e-13, atol=1e-9, err_msg=name)
    broken = np.full((3, 2, 2), np.nan, "float32")
    found = on_shim(frame_reductions, broken, np.ones((1, 2, 2), bool))
    assert (found.total == 0).all() and (found.maximum == -np.inf).all() and found.count == 0 and np.isnan(found.masked).all()


@pytest.mark.parametrize(("masks", "shape", "pitch"), [(1, (3, 5), 16), (8, (4, 16), 16), (9, (7, 21), 24), (0, (3, 4), 8)])
def test_masks_are_packed_eight_to_a_byte(masks, shape, pitch):
    from gpu4d.kernels.pack_masks import planes

    bools = np.random.default_rng(7).random((masks, *shape)) < 0.5
    with using_backend(HostBackend()):
        found = planes(bools, pitch)
    padded = np.zeros((-(-masks // 8) * 8, shape[0], pitch), bool)
    padded[:masks, :, : shape[1]] = bools
    np.testing.assert_array_equal(found, np.packbits(padded.reshape(-1, 8, shape[0], pitch), axis=1, bitorder="little")[:, 0])


def test_the_number_of_frames_is_counted_by_the_kernel_that_adds_the_groups():
    frames = some((700, 3, 5), "float32")[0]
    frames[[3, 255, 256, 699], 1, 2] = np.nan, np.inf, -np.inf, np.nan
    none = np.zeros((0, 3, 5), bool)
    assert on_shim(frame_reductions, frames, none).count == 696
    assert on_shim(frame_reductions, some((0, 3, 5), "uint16")[0], none).count == 0


def test_moments_of_long_detectors_full_of_large_counts_are_exact():
    """What a warp adds has 51 bits: the kernel takes the longest side that fits it, and leaves a longer one to the definition."""
    side, none = 2**16, np.zeros((0, 1, 1), bool)
    frames = np.full((1, side, 8), 2**32 - 1, "uint32")
    want = [(2**32 - 1) * v % 2**64 for v in (8 * side, side * (side - 1) // 2 * 8, side * 28)]
    for found in (on_shim(frame_reductions, frames, none).moments, on_shim(first_moments, frames)):
        assert [int(v) % 2**64 for v in found[0]] == want
    for shape in ((1, side + 1, 8), (1, 8, side + 1)):
        longer = np.zeros(shape, "uint32")
        for reason in (frame_reductions.unsupported("cuda", longer, none), first_moments.unsupported("cuda", longer)):
            assert reason is not None and "65536 pixels a side, not 65537" in reason
        assert first_moments.unsupported("cuda", longer.astype("uint16")) is None


def test_moments_that_may_pass_64_bits_are_left_to_the_definition():
    frames, none = np.zeros((1, 2048, 2048), "uint32"), np.zeros((0, 2048, 2048), bool)
    for reason in (frame_reductions.unsupported("cuda", frames, none), first_moments.unsupported("cuda", frames)):
        assert reason is not None and "may pass 64 bits" in reason
    assert first_moments.unsupported("cuda", frames[:, :1024, :1024]) is None


def test_floats_are_summed_in_double_precision():
    frames, masks = some((5, 9, 14), "float32")
    weights = np.random.default_rng(5).normal(size=(3, 9, 14))
    centers, radii = np.full((5, 2), 4.3), np.array([[-1.0, 3.0], [3.0, 6.0], [0.0, 20.0], [1.0, 2.0], [-1.0, 9.0]])
    cases = ((frame_reductions, (frames, masks), {}), (masked_sums, (frames, weights), {}))
    cases += ((pattern_sums, (frames,), {"weights": weights[0, 0, :5]}), (annular_sums, (frames, centers, radii), {}))
    for op, args, options in cases:
        with operation.using("definition"):
            want = op(*args, **options)
        found = on_shim(op, *args, **options)
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, want))):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-9, err_msg=op.name)


@pytest.mark.parametrize(
    ("correct", "broken"),
    [
        ("    __syncthreads();\n    for (int i = threadIdx.x; i < here * values", "    for (int i = threadIdx.x; i < here * values"),
        ("if (i * PER + p < left)", "if (left > 0)"),
        ("if constexpr (C::PER > 1) sum >>= b;", ""),
        ("const int begin = blockIdx.y * group, end = min(n, begin + group);\n  bool any", "const int begin = 0, end = 0;\n  bool any"),
    ],
    ids=["barrier", "bound", "shift", "repair"],
)
@pytest.mark.slow
def test_broken_copies_are_caught(correct, broken):
    """Tests of the tests: each of these faults changes a result or stops the shim."""
    sources = broken_copy(FILE, (correct, broken))
    frames, masks = some((5, 5, 9), "uint16", masks=9)
    real = some((5, 5, 9), "float32")[0]
    real[2, 3, 4] = np.nan

    def wrong():
        host = HostBackend(seed=7, sources=sources)
        try:
            assert_exact(on_shim(frame_reductions, frames, masks, host=host), frames, masks)
            total = on_shim(frame_reductions, real, masks, host=host).total
            np.testing.assert_allclose(total, np.delete(real, 2, 0).sum(0, dtype=float))
        except (AssertionError, RuntimeError):
            return True
        return False

    assert wrong()


def test_the_file_of_frame_reductions_has_an_instance_for_every_pixel_type():
    names = kernel_names(inlined(FILE))
    for stem in ("frame_sums", "frame_sums_full", "frame_sums_ragged", "add_groups"):
        assert {f"{stem}_{kind}" for kind in ("u8", "u16", "u32", "f32")} <= set(names)


# ---------------------------------------------------------------- in a sweep


def scan(dtype="uint16", shape=(6, 5, 17, 20)):
    return np.random.default_rng(0).poisson(4.0, shape).astype(dtype)


def reductions():
    mask = np.random.default_rng(1).random((17, 20)) < 0.5
    d = gpu4d.detectors
    return {
        "images": gpu4d.VirtualImage({"bf": d.disk(4.0), "adf": d.annulus(4.0, 7.0), "mask": mask}),
        "one": gpu4d.VirtualImage(d.point((3, 4))),
        "weights": gpu4d.VirtualImage(np.linspace(0, 1, 340).reshape(17, 20)),
        "mean": gpu4d.MeanPattern(),
        "region": gpu4d.MeanPattern(weights=np.arange(30).reshape(6, 5)),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "com_disk": gpu4d.CenterOfMass(d.disk(5.0)),
        "com_again": gpu4d.CenterOfMass(relative_to_origin=True),
    }


@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_the_same_bits_alone_and_in_company(dtype, masked, library):
    xp = pytest.importorskip(library)
    valid = np.ones((17, 20), bool)
    valid[3:5, 4] = False
    cube = gpu4d.DataCube(xp.asarray(scan(dtype)), detector_mask=valid if masked else None)
    cube.calibration.set(origin=(8.0, 9.5), how="given")
    together = gpu4d.sweep(cube, reductions())
    for name, reduction in reductions().items():
        alone = gpu4d.sweep(cube, reduction)
        assert type(together[name].data) is type(alone.data)
        assert np.asarray(together[name]).tobytes() == np.asarray(alone).tobytes(), name


def test_frames_are_read_once(monkeypatch):
    """Members do not touch the frames; what asks for something else does."""
    calls = []

    def counted(frames, masks, *, mask=None):
        calls.append(len(masks))
        return frame_reductions(frames, masks, mask=mask)

    monkeypatch.setattr(fused, "frame_reductions", counted)
    cube = gpu4d.DataCube(scan())
    cube.calibration.set(origin=(8.0, 9.5), how="given")
    touched = []
    everything = reductions()
    for name, reduction in everything.items():
        monkeypatch.setattr(reduction, "update", lambda f, p, name=name, update=reduction.update: (touched.append(name), update(f, p)))
    gpu4d.sweep(cube, everything)
    assert set(calls) == {4} and set(touched) == {"weights", "region", "com_disk"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_a_sweep_through_the_kernels_gives_the_same_bits(dtype, monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "1")
    cube = gpu4d.DataCube(scan(dtype))
    names = ("images", "one", "mean", "max", "com", "com_disk")
    want = gpu4d.sweep(cube, {name: reductions()[name] for name in names})
    host = HostBackend(seed=3)
    with using_backend(host), operation.using("cuda"):
        found = gpu4d.sweep(cube, {name: reductions()[name] for name in names})
    assert any(name.startswith("frame_sums") for name, *_ in host.launched)
    for name in names:
        assert np.asarray(found[name]).tobytes() == np.asarray(want[name]).tobytes(), name


def test_one_reduction_or_floats_are_not_joined():
    info = ScanInfo((6, 5, 17, 20), np.dtype("uint16"), block_rows=(0, 6))
    alone, plain = gpu4d.MeanPattern(), gpu4d.MaxPattern()
    for reduction in (alone, plain):
        reduction.start(info, None)
    assert joined([alone]) == [alone]
    (both,) = joined([alone, plain])
    assert isinstance(both, fused.FusedFrames)
    floats = ScanInfo((6, 5, 17, 20), np.dtype("float32"), block_rows=(0, 6))
    for reduction in (alone, plain):
        reduction.start(floats, None)
    assert joined([alone, plain]) == [alone, plain]


@pytest.mark.parametrize(("dtype", "detector", "most"), [("uint16", 128, 256), ("uint16", 8, 2), ("int32", 128, 64)])
def test_an_update_of_large_detectors_brings_several_tiles(dtype, detector, most, monkeypatch):
    """Two tiles of 128 frames make a row block of the first scan. Frames that are read more than once, or small, come by tile."""
    monkeypatch.setenv("GPU4D_THREADS", "1")
    frames = np.zeros((1, 1, detector, detector), dtype)
    cube = gpu4d.DataCube(np.broadcast_to(frames, (66, 128, detector, detector) if detector > 8 else (8, 2, 8, 8)))
    seen = []
    monkeypatch.setattr(fused, "frame_reductions", lambda f, m, mask=None: (seen.append(len(f)), frame_reductions(f, m, mask=mask))[1])
    gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()})
    assert max(seen) == most and sum(seen) == cube.shape[0] * cube.shape[1]
    where = np.zeros(cube.scan_shape, bool)
    where[:2] = True
    for options in ({"where": where}, {"memory": "11 MB"}):
        seen.clear()
        gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}, **options)
        assert max(seen) <= 128, "copies of frames that are picked out of others, or do not lie in one run, stay within the plan"


# ---------------------------------------------------------------- arrays of other libraries, through views


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize(
    "view",
    [
        lambda c: c.crop(rx=(1, 5), qx=(2, 16)),
        lambda c: c.bin(detector=2),
        lambda c: c.bin(detector=2, scan=2),
        lambda c: c.swap_axes(detector=True, scan=True),
        lambda c: c.crop(qy=(1, 19)).swap_axes(scan=True).bin(detector=3),
    ],
    ids=["crop", "bin", "bin-scan", "swap", "all"],
)
def test_views_keep_library_and_device(view, device):
    xp = pytest.importorskip("array_api_strict")
    data = scan("int32")
    array = xp.asarray(data, device=xp.Device(device))
    mask = np.random.default_rng(2).random(view(gpu4d.DataCube(data)).detector_shape) < 0.5
    ask = lambda: {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass(), "image": gpu4d.VirtualImage(mask)}  # noqa: E731
    found, want = gpu4d.sweep(view(gpu4d.DataCube(array)), ask()), gpu4d.sweep(view(gpu4d.DataCube(data)), ask())
    for name, result in found.items():
        assert compat.array_namespace(result.data) is xp and compat.device(result.data) == xp.Device(device), name
        host = np.asarray(xp.asarray(result.data, device=xp.Device("CPU_DEVICE")))
        np.testing.assert_allclose(host, np.asarray(want[name]), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("how", ["restore", "merge"])
def test_values_come_back_to_the_library_and_device_of_the_scan(how):
    xp = pytest.importorskip("array_api_strict")
    home = xp.Device("device1")
    info = ScanInfo((2, 3, 1, 1), xp.float64, block_rows=(0, 2), sample=xp.zeros((0,), device=home))
    old, new = PerPosition(info, 2), PerPosition(info, 2)
    old.put(np.array([[1, 2], [0, 0]]), xp.asarray([[1.0, 2.0], [3.0, 4.0]], device=home))
    getattr(new, how)(old.state())
    got = new.result()
    assert compat.array_namespace(got) is xp and compat.device(got) == home
    new.put(np.array([[1, 0]]), xp.asarray([[5.0, 6.0]], device=home))
    host = np.asarray(xp.asarray(new.result(), device=xp.Device("CPU_DEVICE")))
    want = np.full((2, 2, 3), np.nan)
    want[:, 1, 2], want[:, 0, 0], want[:, 1, 0] = (1, 2), (3, 4), (5, 6)
    np.testing.assert_array_equal(host, want)


# ---------------------------------------------------------------- its benchmark


def test_the_benchmark_of_one_pass_checks_before_it_times(tmp_path, capsys, monkeypatch):
    pytest.importorskip("h5py")
    from gpu4d.benchmarks import one_pass

    monkeypatch.setenv("GPU4D_THREADS", "1")
    given = ["--scan", "6", "--detector", "40", "--rounds", "1", "--file", str(tmp_path / "scan.h5")]
    one_pass.main([*given, "--json", str(tmp_path / "figures.json")])
    assert "one pass, file" in capsys.readouterr().out and (tmp_path / "figures.json").exists()
    wrong = lambda *args, **options: (lambda sums: sums._replace(maximum=sums.maximum + 1))(frame_reductions(*args, **options))  # noqa: E731
    monkeypatch.setattr(fused, "frame_reductions", wrong)
    with pytest.raises(AssertionError):
        one_pass.main(given)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 4, 0), (0, 4, 5)])
def test_patterns_without_pixels_are_counted(shape, dtype):
    """Nothing that a kernel leaves unwritten is an answer."""
    frames, masks = np.ones(shape, dtype), np.ones((2, *shape[1:]), bool)
    for op, args in ((frame_reductions, (frames, masks)), (pattern_sums, (frames,)), (first_moments, (frames,))):
        found, expected = on_shim(op, *args), op.definition(*args)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)
