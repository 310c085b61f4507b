"""Single-side-band ptychography: what changes nothing, what is refused, the stack of images, the wave, and kernels on the host shim."""

import logging

import h5py
import numpy as np
import pytest
from cuda_on_host import HostBackend
from ssb_scans import ABERRATIONS, ENERGY, correlation, random_cube

import gpu4d
from gpu4d import arrays, operation, physics
from gpu4d.device.backend import inlined, using_backend
from gpu4d.device.memory import parse_memory
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.probe.wavefunction import COEFFICIENTS, chi, chi_polynomial, wavefunction
from gpu4d.ptychography.bright_field_stack import BrightFieldStack, bright_field_stacks
from gpu4d.ptychography.gather_pixels import gather_pixels
from gpu4d.ptychography.ssb_sum import ssb_sum
from gpu4d.simulate import phase_object_scan
from gpu4d.testing.accounting import AccountingProcessor

# ---------------------------------------------------------------- what must not change the answer


def test_memory_threads_and_layout_change_no_bit(monkeypatch, tmp_path):
    cube = random_cube((30, 28), (24, 24), 9.3, origin=(11.8, 12.1))
    with h5py.File(tmp_path / "scan.h5", "w") as h:
        h.create_dataset("data", data=cube.source.array, chunks=(1, 28, 24, 24))
    expected = np.asarray(gpu4d.ssb(cube).phase)
    monkeypatch.setenv("GPU4D_THREADS", "1")
    np.testing.assert_array_equal(gpu4d.ssb(cube).phase, expected)
    monkeypatch.setenv("GPU4D_THREADS", "3")
    file = gpu4d.open(tmp_path / "scan.h5")
    file.calibration = cube.calibration
    pixels = np.arange(300)
    parts = [part for part, _ in bright_field_stacks(file, pixels, 32, memory="600 kB")]
    assert len(parts) == 2, "this budget does not ask for several passes"
    assert all(part.start % 32 == 0 for part in parts)
    np.testing.assert_array_equal(gpu4d.ssb(file, memory="600 kB").phase, expected)
    with pytest.raises(MemoryBudgetError, match="bright-field stack"):
        gpu4d.ssb(cube, memory="20 kB")


def test_through_a_device_in_as_many_passes_as_its_memory_asks():
    cube = random_cube()
    here = gpu4d.ssb(cube)
    crossed = []
    for memory in ("1 MB", "260 kB"):
        device = AccountingProcessor()
        there = gpu4d.ssb(cube, device=device, memory=memory)
        assert np.array_equal(np.asarray(there.phase), np.asarray(here.phase))
        assert not device.faults and not device.leaks() and device.peak <= parse_memory(memory)
        crossed.append(device.counts["bytes copied"])
    # each pixel of the disk crosses the link once, in however many passes; those whose corners alone it touches among them
    assert crossed[0] == crossed[1]
    assert np.pi * 4.3**2 <= crossed[0] / (7 * 9 * 2) <= np.pi * 5.1**2


def test_positions_without_a_pattern_are_nan_and_harm_nobody():
    scan = phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.05)
    whole = np.asarray(gpu4d.ssb(scan.cube, origin=(16, 16)).phase)
    data = scan.cube.source.array.copy()
    data[3, 4], data[20, 9] = 0, np.nan
    data[11, 12, 16, 18] = np.nan  # one pixel of the disk
    broken = gpu4d.ssb(gpu4d.DataCube(data, scan.cube.calibration), origin=(16, 16))
    gone = np.zeros((32, 32), bool)
    gone[[3, 20, 11], [4, 9, 12]] = True
    np.testing.assert_array_equal(np.isnan(broken.phase), gone)
    assert np.isnan(np.asarray(broken.transmission)[gone]).all()
    assert "3 of 1024 positions" in broken.warnings[-1]
    assert correlation(np.where(gone, 0, broken.phase), np.where(gone, 0, whole)) > 0.98
    where = ~gone
    some = gpu4d.ssb(scan.cube, origin=(16, 16), where=where)
    np.testing.assert_array_equal(np.isnan(some.phase), gone)
    np.testing.assert_allclose(np.asarray(some.phase)[where], np.asarray(broken.phase)[where], atol=1e-5)


def test_dead_pixels_take_no_part():
    scan = phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.05)
    mask = np.ones((32, 32), bool)
    mask[14:16, 12:20] = False
    data = scan.cube.source.array.copy()
    data[:, :, ~mask] = 1e3
    found = gpu4d.ssb(gpu4d.DataCube(data, scan.cube.calibration, detector_mask=mask), origin=(16, 16))
    good = gpu4d.ssb(scan.cube, origin=(16, 16))
    assert found.pixels < good.pixels
    np.testing.assert_allclose(found.incident, good.incident, rtol=0.02)
    assert correlation(found.phase, good.phase) > 0.995


@pytest.mark.parametrize("mode", ["weighted", "exact"])
@pytest.mark.parametrize("aberrations", [None, {"defocus": 50.0}])
def test_the_definition_gives_the_same(mode, aberrations):
    cube = random_cube()
    fast = gpu4d.ssb(cube, mode=mode, aberrations=aberrations)
    with gpu4d.using("definition"):
        plain = gpu4d.ssb(cube, mode=mode, aberrations=aberrations)
    np.testing.assert_allclose(fast.phase, plain.phase, atol=1e-6 * np.abs(plain.phase).max())


def test_arrays_of_other_libraries_stay_there(need):
    strict = need("array_api_strict")
    cube = random_cube((5, 6), (12, 12), 3.2, origin=(6, 6))
    device = strict.Device("device1")
    other = gpu4d.DataCube(strict.asarray(cube.source.array, device=device), cube.calibration)
    found = gpu4d.ssb(other)
    assert arrays.namespace(found.phase.data) is strict
    assert found.phase.data.device == device
    np.testing.assert_allclose(found.phase, gpu4d.ssb(cube).phase, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["weighted", "exact"])
@pytest.mark.parametrize("aberrations", [None, {"defocus": 50.0}, {"C30": 2e4, "defocus": 30.0}])
def test_on_a_gpu(mode, aberrations, need):
    cupy = need("cupy")
    cube = random_cube((34, 29), (32, 32), 9.3, origin=(15.8, 16.1))
    expected = gpu4d.ssb(cube, mode=mode, aberrations=aberrations)
    there = gpu4d.DataCube(cupy.asarray(cube.source.array), cube.calibration)
    found = gpu4d.ssb(there, mode=mode, aberrations=aberrations)
    assert isinstance(found.phase.data, cupy.ndarray)
    np.testing.assert_allclose(found.phase, expected.phase, atol=1e-5 * np.abs(expected.phase).max())
    again = gpu4d.ssb(there, mode=mode, aberrations=aberrations)
    assert cupy.array_equal(found.phase.data, again.phase.data)


# ---------------------------------------------------------------- what is said, what is refused


def test_the_disk_is_measured_where_it_is_not_known():
    scan = phase_object_scan((24, 24), (40, 40), r_pixel=0.25, strength=0.05)
    known = scan.cube.calibration
    calibrated = gpu4d.ssb(scan.cube, origin=(20, 20))
    found = gpu4d.ssb(scan.cube)
    assert np.hypot(found.origin[0] - 20, found.origin[1] - 20) < 0.05
    assert known.origin is None, "the cube's own calibration was written into"
    blank = gpu4d.DataCube(scan.cube.source.array, gpu4d.Calibration(energy=known.energy, semiangle=known.semiangle, r_pixel=0.25))
    free = gpu4d.ssb(blank)
    assert abs(free.radius / calibrated.radius - 1) < 0.02
    assert any("q_pixel" in line for line in free.decisions)
    assert correlation(free.phase, calibrated.phase) > 0.99


def test_warnings(caplog):
    with caplog.at_level(logging.WARNING, logger="gpu4d"):
        coarse = gpu4d.ssb(random_cube(step=3.0))
    assert "coarse" in coarse.warnings[0]
    assert "coarse" in caplog.text
    turned = random_cube(rotation=0.5)
    assert not gpu4d.ssb(turned).warnings
    assert "the calibration says 0.5 rad" in gpu4d.ssb(turned, rotation=0.0).decisions[0]
    assert "neither given nor calibrated" in gpu4d.ssb(random_cube()).decisions[0]
    origin = np.tile([7.8, 8.3], (7, 9, 1))
    origin[0, 0] += 3
    assert "the origin moves by up to" in gpu4d.ssb(random_cube(origin=origin)).warnings[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "'weighted' or 'exact'"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": "small"}, "need a number"),
        ({"adf": 60.0}, "inner < outer"),
        ({"rotation": 30.0}, "rotation is 30 rad, 4.8 turns"),
        ({"rotation": float("nan")}, "rotation is nan"),
        ({"aberrations": {"C1": 3.0}}, "C1"),
        ({"aberrations": {"C10": 3.0, "defocus": 2.0}}, "both defocus and C10"),
        ({"pupil": np.ones((3, 3))}, r"\(16, 17\)"),
        ({"origin": (-40.0, -40.0)}, "no pixel of a disk"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        gpu4d.ssb(random_cube(), **options)


def test_missing_calibration_is_named():
    cube = random_cube()
    for field in ("energy", "r_pixel"):
        bare = gpu4d.DataCube(cube.source.array, gpu4d.Calibration(**{**cube.calibration.known(), field: None}))
        with pytest.raises(InputError, match=field):
            gpu4d.ssb(bare)
    with pytest.raises(InputError, match="DataCube"):
        gpu4d.ssb(cube.source.array)
    empty = gpu4d.DataCube(np.zeros_like(cube.source.array), cube.calibration)
    with pytest.raises(InputError, match="no position has counts"):
        gpu4d.ssb(empty)


# ---------------------------------------------------------------- the stack of bright-field images


def test_stack_is_a_transposed_gather():
    data = np.random.default_rng(0).integers(0, 60000, (5, 7, 9, 8)).astype("uint16")
    mask = np.zeros((9, 8), bool)
    mask[2:5, 3:7] = True
    stack = gpu4d.sweep(gpu4d.DataCube(data), BrightFieldStack(mask))
    assert stack.dtype == np.uint16
    np.testing.assert_array_equal(stack, np.moveaxis(data[:, :, mask], -1, 0))
    where = np.random.default_rng(1).random((5, 7)) < 0.5
    part = gpu4d.sweep(gpu4d.DataCube(data), BrightFieldStack(np.flatnonzero(mask)), where=where)
    np.testing.assert_array_equal(part, np.where(where, stack, 0))


def test_stacks_of_two_workers_merge():
    data = np.random.default_rng(0).random((6, 4, 5, 5)).astype("float32")
    cube, rows = gpu4d.DataCube(data), np.arange(6)[:, None] + np.zeros(4, int)
    halves = []
    for where in (rows < 2, rows >= 2):
        stack = BrightFieldStack([7, 11, 12])
        gpu4d.sweep(cube, stack, where=where)
        halves.append(stack)
    assert np.isnan(halves[0].finish()[:, 2:]).all()
    halves[0].merge(halves[1].state())
    np.testing.assert_array_equal(halves[0].finish(), np.moveaxis(data.reshape(6, 4, 25)[:, :, [7, 11, 12]], -1, 0))


def test_stack_refuses_pixels_off_the_detector():
    cube = gpu4d.DataCube(np.ones((2, 2, 4, 4), "uint8"))
    for pixels in ([16], [-1], np.ones((4, 5), bool)):
        with pytest.raises(InputError, match="pixels must be"):
            gpu4d.sweep(cube, BrightFieldStack(pixels))


# ---------------------------------------------------------------- the wave in the aperture


def test_chi_is_krivaneks():
    """Defocus and third-order spherical aberration in closed form, an astigmatism along its own axis, the polynomial everywhere."""
    wavelength, k = physics.wavelength(ENERGY), 0.6
    np.testing.assert_allclose(chi(0, k, {"C10": 100.0}, ENERGY), np.pi * wavelength * k**2 * 100, rtol=1e-14)
    np.testing.assert_allclose(chi(k, 0, {"C30": 1e4}, ENERGY), np.pi / 2 * wavelength**3 * k**4 * 1e4, rtol=1e-14)
    angle = 0.4
    along, across = (chi(k * np.cos(a), k * np.sin(a), {"C12": 20.0, "phi12": angle}, ENERGY) for a in (angle, angle + np.pi / 2))
    np.testing.assert_allclose([along, across], np.pi * wavelength * k**2 * 20 * np.array([1, -1]), rtol=1e-12)
    rng = np.random.default_rng(0)
    every = {name: rng.normal() * 10 ** (1 + n) for name, (n, _) in COEFFICIENTS.items()}
    every |= {f"phi{n}{m}": rng.uniform(-3, 3) for n, m in COEFFICIENTS.values() if m}
    assert len(COEFFICIENTS) == 14
    table = chi_polynomial(every, ENERGY, 0.04)
    x, y = rng.uniform(-15, 15, (2, 50))
    plain = sum(table[i, j] * x**i * y**j for i in range(7) for j in range(7)) * np.pi
    np.testing.assert_allclose(plain, chi(x * 0.04, y * 0.04, every, ENERGY), rtol=1e-11, atol=1e-11)


def test_wavefunction_makes_the_probe_of_the_simulation():
    scan = phase_object_scan((32, 32), (32, 32), r_pixel=0.25, defocus=150.0)
    q = scan.cube.calibration.q_pixel
    round_one = wavefunction(25.0, energy=ENERGY, q_pixel=q, shape=(32, 32))
    wave = wavefunction(np.sqrt(round_one.real), {"defocus": 150.0}, energy=ENERGY, q_pixel=q)  # theirs: intensity 1 to 0 at the edge
    probe = np.fft.ifft2(np.fft.ifftshift(wave))
    np.testing.assert_allclose(probe / np.linalg.norm(wave), scan.truth["wave"], atol=1e-12)
    with pytest.raises(InputError, match="shape"):
        wavefunction(25.0, energy=ENERGY, q_pixel=q)
    own = wavefunction(np.ones((4, 5)), {"C10": 10.0}, energy=ENERGY, q_pixel=q)
    assert own.shape == (4, 5)
    np.testing.assert_allclose(np.abs(own), 1)


# ---------------------------------------------------------------- kernels on the host shim


@pytest.mark.parametrize("mode", ["weighted", "exact"])
@pytest.mark.parametrize("aberrations", [None, {"defocus": 50.0}, ABERRATIONS])
def test_the_whole_way_on_the_host_shim(mode, aberrations, monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "1")  # the shim runs one block at a time
    cube = random_cube((6, 7), (14, 15), 3.7, origin=(6.8, 7.1))
    expected = gpu4d.ssb(cube, mode=mode, aberrations=aberrations)
    host = HostBackend(seed=2)
    with using_backend(host), operation.using("cuda"):
        found = gpu4d.ssb(cube, mode=mode, aberrations=aberrations)
    kernels = {name for name, *_ in host.launched}
    assert "gather_native_u16" in kernels
    assert f"{mode}_disk{0 if aberrations is None else 2 if len(aberrations) == 1 else 6}" in kernels
    np.testing.assert_allclose(found.phase, expected.phase, atol=3e-6 * np.abs(expected.phase).max())


def test_a_stack_of_more_than_two_billion_pixels():
    frames = np.zeros((8193, 512, 512), "uint8")  # 2.15e9 bytes, of which few are ever touched
    frames[-1, 511, 511], frames[4096, 511, 511] = 200, 100
    index = np.array([0, 512 * 512 - 1])
    with using_backend(HostBackend()), operation.using("cuda"):
        found = gather_pixels(frames, index, real=True)
    assert found[1, 8192] == 200
    assert found[1, 4096] == 100
    assert found.sum() == 300


@pytest.mark.parametrize("mode", ["weighted", "exact"])
@pytest.mark.parametrize("n", [256, 257, 1500, 4500])
def test_pixels_shared_by_several_blocks(n, mode):
    """A small scan: the sums of the blocks that share its pixels, added in order, are the definition's."""
    rng = np.random.default_rng(n)
    spectra = (rng.normal(size=(n, 7, 5)) + 1j * rng.normal(size=(n, 7, 5))).astype("complex64")
    geometry = (rng.uniform(-3, 3, (n, 2)), rng.uniform(-3, 3, (7, 2)), rng.uniform(-3, 3, (5, 2)))
    want = ssb_sum.definition(spectra, *geometry, radius=3.0, chi=((2, 0, 0.02),), mode=mode)
    bits = set()
    for seed in (0, 1, 2, 7):
        host = HostBackend(seed=seed)
        with using_backend(host), operation.using("cuda"):
            found = ssb_sum(spectra, *geometry, radius=3.0, chi=((2, 0, 0.02),), mode=mode)
        assert abs(found.overlap - want.overlap).max() <= 1e-5 * abs(want.overlap).max()
        assert abs(found.weight - want.weight).max() <= 1e-5 * want.weight.max()
        bits.add(found.overlap.tobytes() + found.weight.tobytes())
    assert len(bits) == 1
    splits = {256: 1, 257: 2, 1500: 6, 4500: 6}[n]
    assert host.launched[0][1] == (2, splits) and len(host.launched) == 1 + (splits > 1)


def test_splits_follow_from_the_shape_alone():
    from gpu4d.kernels.ssb_sum import split

    assert split(8809, 256 * 129) == (2, 18 * 256) and split(8809, 128 * 65) == (7, 5 * 256) and split(8809, 64 * 33) == (7, 5 * 256)
    assert split(8809, 512 * 257) == (1, 35 * 256) and split(0, 64 * 33) == (1, 256)
    for n in (1, 255, 256, 3000, 70_000):
        splits, span = split(n, 64 * 33)
        assert (splits - 1) * span < n <= splits * span and splits <= 8


@pytest.mark.slow
@pytest.mark.parametrize("barrier", range(4))
def test_a_missing_barrier_is_noticed(barrier):
    """Copies of the kernel without one of its barriers give wrong sums in some order of threads."""
    text = inlined("ssb_sum.cu")
    pieces = text.split("__syncthreads();")
    at = len(pieces) - 5 + barrier  # the last four of the file are its own
    broken = "__syncthreads();".join([*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]])
    rng = np.random.default_rng(0)
    n = 8 * 2 * 256 + 100  # more than one chunk for every one of the blocks that share the pixels
    spectra = (rng.normal(size=(n, 5, 4)) + 1j).astype("complex64")
    geometry = (rng.uniform(-3, 3, (n, 2)), rng.uniform(-3, 3, (5, 2)), rng.uniform(-3, 3, (4, 2)))

    def answer(source, seed):
        with using_backend(HostBackend(seed=seed, sources={"ssb_sum.cu": source})), operation.using("cuda"):
            return ssb_sum(spectra, *geometry, radius=3.0).overlap.tobytes()

    right = answer(text, 0)
    assert any(answer(broken, seed) != right for seed in (0, 1, 2, 3))
