"""What calls cost beside their kernels' work: launches, waits and uploads, counted on the real CuPy without a GPU.

    PYTHONPATH=tests/support python -m pytest -p gpu_without_gpu -m gpu tests/kernels/test_launch_counts.py

Counts are those of a later call: the first one compiles, uploads tables and makes room.
"""

import threading

import numpy as np
import pytest

import gpu4d
from gpu4d.bragg import disk_lists
from gpu4d.bragg.find_disks import find_disks
from gpu4d.device import page_locked, tables
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.imaging.frame_reductions import frame_reductions
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.ptychography.ssb_sum import ssb_sum
from gpu4d.rings.polar_transform import polar_transform
from gpu4d.streaming.plan import plan
from gpu4d.streaming.reduction import ScanInfo, joined

gpu_without_gpu = pytest.importorskip("gpu_without_gpu")
WHY = "counts are those of the CuPy of tests/support/gpu_without_gpu: pytest -p gpu_without_gpu -m gpu"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu_without_gpu.active(), reason=WHY)]

SHAPE = (8, 64, 64)
ROWS = 1000  # of the scan that updates are made up for, one row each


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def steady(call):
    """What is counted in the third call."""
    call(), call()
    with gpu_without_gpu.counting() as seen:
        call()
    return seen


def frames_of(cupy, dtype="uint16", shape=SHAPE):
    return cupy.asarray(np.random.default_rng(0).poisson(3, shape).astype(dtype))


def updates(frames, *reductions):
    """A function that feeds one more scan row to reductions that have begun, joined as in a sweep."""
    n, nx, ny = frames.shape
    sample = frames[:0].reshape(0, 0, nx, ny)
    scan = ScanInfo((ROWS, n, nx, ny), np.dtype(str(frames.dtype)), block_rows=(0, ROWS), update_frames=n, sample=sample)
    for reduction in reductions:
        reduction.start(scan, "cuda:0")
    fed, rows = joined(list(reductions)), iter(range(ROWS))

    def update():
        row = next(rows)
        for one in fed:
            one.update(frames, np.stack([np.full(n, row), np.arange(n)], 1))

    return update


def disk(radius=8):
    x, y = np.mgrid[:64, :64] - 32
    return np.hypot(x, y) < radius


# ---------------------------------------------------------------- light reductions


@pytest.mark.parametrize(("dtype", "launches"), [("uint8", 3), ("uint16", 3), ("uint32", 3), ("float32", 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_frame_reductions_with_kept_masks(cupy, dtype, launches, masked):
    frames, masks, mask = frames_of(cupy, dtype), np.stack([disk(5), ~disk(9)]), disk(30)
    seen = steady(lambda: frame_reductions(frames, tables.beside(masks, frames), mask=tables.beside(mask, frames) if masked else None))
    assert (seen.launches, seen.waits, seen.uploads) == (launches, 0, 0), seen.kernels


@pytest.mark.parametrize(("dtype", "launches"), [("uint16", 4), ("float32", 5)])
def test_frame_reductions_with_masks_of_the_caller(cupy, dtype, launches):
    """They are packed anew with every call, because they may have changed."""
    frames, masks = frames_of(cupy, dtype), cupy.asarray(np.stack([disk(5), ~disk(9)]))
    seen = steady(lambda: frame_reductions(frames, masks))
    assert (seen.launches, seen.waits, seen.uploads) == (launches, 0, 0), seen.kernels
    before = frame_reductions(frames, masks).masked[:, 0].get()
    masks[0] = ~masks[0]
    after = frame_reductions(frames, masks).masked[:, 0].get()
    np.testing.assert_array_equal(before + after, frames.get().sum((1, 2)))


WEIGHTS = np.where(disk(12), 0.5, 0.0)
LIGHT = {
    "image": (lambda: [gpu4d.VirtualImage(disk())], 3),
    "two images": (lambda: [gpu4d.VirtualImage({"bf": disk(), "adf": ~disk(12)})], 3),
    "weighted image": (lambda: [gpu4d.VirtualImage(WEIGHTS)], 3),
    "images of both kinds": (lambda: [gpu4d.VirtualImage([disk(), WEIGHTS])], 9),
    "centre of mass": (lambda: [gpu4d.CenterOfMass()], 3),
    "centre of mass of a detector": (lambda: [gpu4d.CenterOfMass(disk())], 3),
    "mean": (lambda: [gpu4d.MeanPattern()], 5),
    "maximum": (lambda: [gpu4d.MaxPattern()], 4),
    "bright-field stack": (lambda: [BrightFieldStack(disk())], 1),
    "all of these": (lambda: [gpu4d.VirtualImage(disk()), gpu4d.CenterOfMass(), gpu4d.MeanPattern(), gpu4d.MaxPattern()], 8),
}


@pytest.mark.parametrize("what", LIGHT)
def test_updates_of_light_reductions(cupy, what):
    reductions, launches = LIGHT[what]
    seen = steady(updates(frames_of(cupy), *reductions()))
    assert seen.launches <= launches and (seen.waits, seen.uploads, seen.downloads) == (0, 0, 0), seen.kernels


def test_a_sweep_uploads_masks_once_for_all_of_its_chunks(cupy, tmp_path):
    uploads, bytes_up = [], []
    for rows in (16, 64):
        data = np.random.default_rng(1).poisson(3, (rows, 16, 64, 64)).astype("uint16")
        np.save(tmp_path / "scan.npy", data)
        cube = gpu4d.open(tmp_path / "scan.npy")
        wanted = {"image": gpu4d.VirtualImage({"bf": disk(), "adf": ~disk(12)}), "com": gpu4d.CenterOfMass(disk(20))}
        wanted |= {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}
        with gpu_without_gpu.counting() as seen:
            found = gpu4d.sweep(cube, wanted, device="cuda:0", memory="12 MB")
        chunks = sum(n for name, n in seen.kernels.items() if name.startswith("frame_sums"))
        uploads.append(seen.uploads - chunks)
        bytes_up.append(seen.upload_bytes - data.nbytes)
        assert chunks >= rows // 16 and found["image"].shape == (2, rows, 16)
        np.testing.assert_array_equal(np.asarray(found["image"]["bf"]), data[:, :, disk()].sum(-1))
        np.testing.assert_array_equal(np.asarray(found["max"]), data.max((0, 1)))
    assert uploads[0] == uploads[1], "beside the chunks themselves"


def test_masks_that_change_between_two_sweeps_are_seen(cupy):
    cube = gpu4d.DataCube(frames_of(cupy, shape=(2, 3, 64, 64)), detector_mask=disk(20))
    host = cube.source.array.get()
    for _ in range(2):
        image, com = gpu4d.virtual_image(cube, np.ones((64, 64), bool)), gpu4d.CenterOfMass()
        gpu4d.sweep(cube, com)
        np.testing.assert_array_equal(image.data.get(), host[:, :, cube.detector_mask].sum(-1))
        np.testing.assert_array_equal(com.total().data.get(), host[:, :, cube.detector_mask].sum(-1))
        cube.detector_mask[30:34, 30:34] = False


def test_the_directions_of_a_polar_transform_stay_on_the_device(cupy):
    frames, origins = frames_of(cupy), cupy.full((8, 2), 31.5)
    for ellipse in (None, (1.1, 1.0, 0.3)):
        seen = steady(lambda ellipse=ellipse: polar_transform(frames, origins, ellipse=ellipse))
        assert (seen.waits, seen.uploads) == (0, 0) and seen.launches <= 2, seen.kernels


def test_sums_of_overlaps_upload_no_aberrations(cupy):
    spectra = cupy.asarray(np.random.default_rng(2).normal(size=(4, 8, 5)).astype(np.complex64))
    at, rows, columns = (cupy.asarray(np.random.default_rng(3).normal(size=(n, 2)).astype(np.float32)) for n in (4, 8, 5))
    seen = steady(lambda: ssb_sum(spectra, at, rows, columns, radius=3.0, chi=((1, 1, 0.2), (2, 0, 0.1))))
    assert (seen.launches, seen.waits, seen.uploads) == (1, 0, 0), seen.kernels


def test_options_may_be_lists(cupy):
    """Tables are known by the numbers they follow from, whatever holds them."""
    frames, centre = frames_of(cupy), cupy.asarray([31.5, 30.0])
    polar = [polar_transform(frames, centre, ellipse=ellipse).get() for ellipse in ([1.1, 1.0, 0.2], (1.1, 1.0, 0.2))]
    np.testing.assert_array_equal(*polar)
    spectra = cupy.asarray(np.random.default_rng(2).normal(size=(4, 8, 5)).astype(np.complex64))
    points = [cupy.asarray(np.random.default_rng(3).normal(size=(n, 2)).astype(np.float32)) for n in (4, 8, 5)]
    sums = [ssb_sum(spectra, *points, radius=3.0, chi=chi).overlap.get() for chi in ([[1, 1, 0.2]], ((1, 1, 0.2),))]
    np.testing.assert_array_equal(*sums)


# ---------------------------------------------------------------- disks


def searching(cupy, size, **options):
    """Frames with a disk each, and a reduction that has begun."""
    probe = np.asarray(gpu4d.probe.synthetic((size, size), 5.0))
    image = np.asarray(gpu4d.probe.synthetic((size, size), 5.0, center=(size / 2 + 0.3, size / 2 - 7.2)))
    frames = cupy.asarray(np.random.default_rng(0).poisson(20 * np.stack([image] * 3)).astype("uint16"))
    reduction = gpu4d.BraggDisks(gpu4d.probe.template(probe), **options)
    return frames, reduction, updates(frames, reduction)


DISKS = {
    "fused": (64, {"refine": "correlation"}, 1),
    "fused, likelihood": (64, {"refine": "likelihood"}, 39),  # of which 34 take the positions of the fit and close empty places
    "any size": (66, {"refine": "correlation"}, 6),
    "any size, upsampled": (64, {"refine": "upsample"}, 6),
    "own FFT": (256, {"refine": "correlation"}, 7),
}


@pytest.mark.parametrize("what", DISKS)
def test_a_search_uploads_nothing_and_waits_for_nothing(cupy, what):
    size, options, launches = DISKS[what]
    frames, reduction, update = searching(cupy, size, **options)
    seen = steady(lambda: reduction.search(frames))
    assert seen.launches <= launches and (seen.waits, seen.uploads, seen.downloads) == (0, 0, 0), seen.kernels
    assert steady(update).uploads == 0


@pytest.mark.parametrize(("refine", "launches"), [("correlation", 1), ("likelihood", 5)])
def test_an_update_leaves_the_lists_to_the_end(cupy, refine, launches):
    """Search, cast of the counts, two starts of the fit, fit: five launches at most, and the host waits for none of them."""
    frames, reduction, update = searching(cupy, 64, refine=refine)
    seen = steady(update)
    assert seen.launches <= launches and (seen.waits, seen.uploads, seen.downloads) == (0, 0, 0), seen.kernels
    found = reduction.finish()
    assert found.counts[:3].get().tolist() == [[1] * len(frames)] * 3 and len(found) == 3 * len(frames)


def test_a_fused_find_disks_is_one_launch(cupy):
    frames, reduction, _ = searching(cupy, 64, refine="correlation")
    operands = [tables.beside(a, frames) for a in reduction.search.correlation.operands]
    seen = steady(lambda: find_disks(frames, *operands, limits=reduction.limits))
    assert (seen.launches, seen.waits, seen.uploads, seen.downloads) == (1, 0, 0, 0), seen.kernels


def test_lists_are_made_when_the_tables_grow(cupy, monkeypatch):
    """The same lists, whether tables wait for the end or not."""
    results = []
    for kept in (disk_lists.KEPT_BYTES, 0):
        monkeypatch.setattr(disk_lists, "KEPT_BYTES", kept)
        _, reduction, update = searching(cupy, 64, refine="likelihood")
        for _ in range(4):
            update()
        assert len(reduction.found._tables) == (4 if kept else 1)
        results.append(reduction.finish())
    for name in results[0].fields:
        assert results[0].flat(name).get().tobytes() == results[1].flat(name).get().tobytes()


def test_calls_of_find_bragg_disks_share_the_tables_of_a_template(cupy):
    frames, reduction, _ = searching(cupy, 64, refine="correlation")
    call = lambda: gpu4d.find_bragg_disks(frames, reduction.template, refine="correlation")  # noqa: E731
    assert steady(call).uploads == 0
    held = tables._of_process.held
    call()
    assert tables._of_process.held == held <= tables.KEPT_BYTES
    assert gpu4d.device.release() >= held > 0
    with gpu_without_gpu.counting() as seen:
        call()
    assert seen.uploads > 0, "given back, and made again"


def test_tables_of_the_caller_are_not_remembered(cupy):
    frames, reduction, _ = searching(cupy, 64, refine="correlation")
    given = [cupy.asarray(a) for a in reduction.search.correlation.operands]
    first = find_disks(frames, *given, limits=reduction.limits).intensity.get()
    given[0] *= 2.0
    np.testing.assert_allclose(find_disks(frames, *given, limits=reduction.limits).intensity.get(), 2 * first, rtol=1e-6)


def test_shared_memory_is_asked_for_once(cupy):
    frames, reduction, _ = searching(cupy, 128, refine="correlation")
    call = lambda: reduction.search(frames)  # noqa: E731
    call()
    with gpu_without_gpu.counting() as seen:
        call()
    assert seen.attributes_set == 0 and seen.launches == 1


# ---------------------------------------------------------------- memory


def test_the_second_sweep_locks_no_pages(cupy, tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(1).poisson(3, (64, 16, 64, 64)).astype("uint16"))
    cube, seen = gpu4d.open(tmp_path / "scan.npy"), []
    gpu4d.device.release()
    for _ in range(2):
        with gpu_without_gpu.counting() as one:
            gpu4d.sweep(cube, gpu4d.MeanPattern(), device="cuda:0", memory="30 MB")
        seen.append(one.pinned_allocations)
    assert seen[0] >= 3 and seen[1] <= seen[0] - 3
    kept = page_locked.store().held
    assert 0 < kept <= 30e6 and gpu4d.device.release() >= kept and page_locked.store().held == 0


def test_tables_of_the_process_go_where_a_sweep_runs_out_of_memory(cupy):
    frames, reduction, _ = searching(cupy, 64, refine="correlation")
    workspace = CudaProcessor(0).workspace(1 << 20, 0)
    reduction.search(frames)
    assert tables._of_process.held > 0
    workspace.trim()
    workspace.close()
    assert tables._of_process.held == 0


def test_default_streams_of_threads_are_told_apart(cupy):
    """They have one address."""
    frames, host, found = cupy.zeros(3), np.arange(3.0), []

    together = threading.Barrier(2)  # a thread that has ended may give its number to the next one

    def work():
        with cupy.cuda.Stream.ptds:
            found.append(tables.beside(host, frames))

    def beside_another():
        work()
        together.wait(10)

    several = [threading.Thread(target=beside_another) for _ in range(2)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    work(), work()
    assert len({id(one) for one in found}) == 3, found


def test_a_search_keeps_to_the_memory_of_its_sweep(cupy, tmp_path):
    """Batches for the FFT library take what the plan leaves them; disks do not depend on how long they are."""
    scan = gpu4d.simulate.bragg_scan((20, 64), (64, 64), radius=4.0, spacing=15.0, seed=2)
    np.save(tmp_path / "scan.npy", np.asarray(scan.cube.source.array))
    cube, found = gpu4d.open(tmp_path / "scan.npy"), []
    for memory in ("64 MB", "1 GB"):
        gpu_without_gpu.memory()
        before = gpu_without_gpu.memory().used
        found.append(gpu4d.sweep(cube, gpu4d.BraggDisks(scan.probe, refine="upsample"), device="cuda:0", memory=memory))
        assert gpu_without_gpu.memory().most_used - before <= gpu4d.device.parse_memory(memory)
    small, large = found
    assert small.counts.sum() > 10_000
    for name in ("qx", "qy", "intensity", "sx", "sy"):
        assert small.flat(name).tobytes() == large.flat(name).tobytes()


def test_a_cube_on_the_device_is_reduced_at_once(cupy):
    """Up to a gigabyte an update, scan rows longer than a tile included; the same bits as in small updates."""
    for shape, dtype in (((24, 96, 64, 64), "uint16"), ((6, 640, 64, 64), "uint16"), ((24, 96, 64, 64), "float32")):
        cube = gpu4d.DataCube(frames_of(cupy, dtype, shape))
        reductions = lambda: {"image": gpu4d.VirtualImage(disk()), "com": gpu4d.CenterOfMass(), "mean": gpu4d.MeanPattern()}  # noqa: E731
        results, calls = [], []
        for memory in ("300 MB", "6 MB"):
            with gpu_without_gpu.counting() as seen:
                results.append(gpu4d.sweep(cube, reductions(), memory=memory))
            calls.append(sum(n for name, n in seen.kernels.items() if name.startswith("frame_sums")))
        for name in results[0]:
            assert results[0][name].data.get().tobytes() == results[1][name].data.get().tobytes(), (shape, dtype, name)
        if dtype == "uint16":
            assert calls[0] == 1 < calls[1], "all three reductions in one reading"


def test_without_a_limit_half_of_what_the_card_has_free_is_used(cupy):
    cube = gpu4d.DataCube(frames_of(cupy, shape=(4, 8, 64, 64)))
    todo = plan(cube, {"image": gpu4d.VirtualImage(disk())})
    assert todo.budget == CudaProcessor(0).free_memory() // 2 and not todo.copied and todo.bytes == todo.held_bytes
    assert plan(gpu4d.DataCube(cube.source.array[:, :, 1:, :]), {"com": gpu4d.CenterOfMass()}).copied


def test_a_view_of_a_cube_on_the_device_is_copied_chunk_by_chunk(cupy):
    whole = frames_of(cupy, shape=(12, 40, 64, 70))
    view = gpu4d.DataCube(whole[:, :, :, 3:67])
    found = gpu4d.sweep(view, gpu4d.VirtualImage(disk()), memory="20 MB")
    np.testing.assert_array_equal(found.data.get(), whole.get()[:, :, :, 3:67][:, :, disk()].sum(-1))
