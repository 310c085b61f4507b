"""Correlation maps of 256 × 256 pixels by own FFTs, on the host shim: each kernel alone and all three against NumPy in float64, the
disks found on them against the definition, and which detectors take this path."""

import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_host import HostBackend
from disks_on_the_shim import OWN_PATH, arguments, on_the_shim, pattern_of
from gpu4d.kernels import find_disks as disk_launcher
from gpu4d.kernels import row_column_fft as launcher
from huge_arrays import huge_array
from own_process import call_in, sanitized

from gpu4d import device, fft
from gpu4d.bragg import find_disks as definition
from gpu4d.bragg.correlation_map import powered
from gpu4d.device import backend
from gpu4d.device.backend import using_backend
from gpu4d.errors import InputError

N = 256
ROWS_AND_COLUMNS = {"forward_rows_256", "filter_columns_256", "inverse_rows_256"}
PATH_OF_256 = {*ROWS_AND_COLUMNS, "strongest_maxima"}


def disks_on_the_shim(patterns, given, options, **host):
    found, names = on_the_shim(patterns, given, options, **host)
    return found, {re.sub("(_rows_256)_.*", r"\1", name) for name in names}


def noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def split(planes):
    """Columns 0 ... 128 of planes that hold columns 0 and 128 as one."""
    out = np.zeros((*planes.shape[:-1], N // 2 + 1), np.complex128)
    out[..., :-1] = planes
    out[..., 0], out[..., -1] = planes[..., 0].real, planes[..., 0].imag
    return out


def assert_same(found, want, within):
    assert np.isfinite(found).all()
    assert np.abs(found - want).max() <= within * np.abs(want).max()


# ---------------------------------------------------------------- one kernel at a time


def forward_rows(frames, first=0, counts=None):
    n = len(frames) - first
    planes = device.empty((n, N, N // 2), np.complex64)
    broken = device.empty((n, N // 4), np.uint8)
    kernel = device.kernel(launcher.FILE, f"forward_rows_256_{launcher.suffix(frames)}")
    copy = np.uint64(0) if counts is None else counts
    device.launch(kernel, (8, n), 256, (frames, copy, broken, planes, np.int64(first)))
    return planes, broken


def filter_columns(planes, columns, nyquist, powers=(1.0,), broken=None, together=2):
    """`planes` (n, 256, 128) and the template's values, not halved; the planes of the maps."""
    n = len(planes)
    out = device.empty((len(powers), n, N, N // 2), np.complex64)
    out[0] = planes
    broken = np.zeros((n, N // 4), np.uint8) if broken is None else broken
    exponents = [np.float32(p - 1) for p in (*powers, 1, 1)[:3]]
    sizes = [np.int32(v) for v in (len(powers), n, together)]
    call = (out, np.ascontiguousarray(columns), np.ascontiguousarray(nyquist), broken, *exponents, *sizes)
    device.launch(device.kernel(launcher.FILE, "filter_columns_256"), (8, -(-n // together)), 256, call)
    return out


def inverse_rows(planes, first=0, n=None):
    """`planes` (maps, tile, 256, 128)."""
    maps, tile = planes.shape[:2]
    n = n or first + tile
    out = np.full((maps, n, N, N), np.nan, np.float32)
    call = (np.ascontiguousarray(planes), out, np.int64(first), np.int64(n))
    device.launch(device.kernel(launcher.FILE, "inverse_rows_256"), (8, tile, maps), 256, call)
    return out


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_stage_rows_forward(dtype):
    frames = (np.random.default_rng(1).random((3, N, N)) * min(np.iinfo(dtype).max if dtype[0] == "u" else 1e6, 4e9)).astype(dtype)
    with using_backend(HostBackend()):
        counts = device.empty(frames.shape, np.float32)
        planes, broken = forward_rows(frames, first=1, counts=counts)
    assert not broken.any()
    np.testing.assert_array_equal(counts[1:], frames[1:].astype(np.float32))
    assert np.isnan(counts[0]).all(), "it writes its own patterns and no other"
    assert_same(split(planes), 2 * np.fft.rfft(frames[1:].astype(np.float64)), 5e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stage_rows_note_what_is_not_finite(value):
    """Anywhere in a frame, and of that frame alone; the largest float is a number."""
    rng = np.random.default_rng(2)
    frames = rng.random((7, N, N)).astype(np.float32)
    for k in range(1, 6):
        frames[k, rng.integers(51 * (k - 1), 51 * k), rng.integers(N)] = value
    frames[6, 255, 255] = np.finfo(np.float32).max
    with using_backend(HostBackend()):
        _, broken = forward_rows(frames)
    assert broken.max() == 1
    assert broken.sum(axis=1).tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_stage_columns_at_each_frequency():
    """A template that lets one frequency through: it comes back as its wave, in its own place."""
    planes = noise((1, N, N // 2))
    spectrum = np.fft.fft(split(planes), axis=1)[0]
    n = np.arange(N)[:, None]
    with using_backend(HostBackend()):
        for k in (0, 1, 15, 16, 17, 127, 128, 129, 240, 255):
            columns, nyquist = np.zeros((N, N // 2), np.complex64), np.zeros(N, np.complex64)
            columns[k, 1:] = 1
            found = filter_columns(planes, columns, nyquist)[0, 0]
            want = spectrum[k] * np.exp(2j * np.pi * (k * n % N) / N) / N**2
            assert_same(found[:, 1:], want[:, 1:-1], 1e-6)
            assert not found[:, 0].any(), "columns 0 and 128 have templates of their own"


def test_stage_columns_product():
    """Any spectrum: the circular convolution of every column; columns 0 and 128 with theirs, though they travel together."""
    planes, columns, nyquist = noise((5, N, N // 2)), noise((N, N // 2), 1), noise(N, 2)
    full = np.concatenate([columns, nyquist[:, None]], axis=1).astype(np.complex128)
    full[:, [0, -1]] = np.fft.fft(np.random.default_rng(3).normal(size=(N, 2)), axis=0)  # real columns, as of a real template
    columns[:, 0], nyquist = full[:, 0], full[:, -1].astype(np.complex64)
    with using_backend(HostBackend()):
        found = filter_columns(planes, columns, nyquist)[0]
    want = np.fft.ifft(np.fft.fft(split(planes), axis=1) * full, axis=1) / N
    assert_same(split(found), want, 1e-6)


@pytest.mark.parametrize("exponent", [-90, -40, 0, 30, 60])
def test_stage_columns_powers(exponent):
    """Three maps at once, from spectra of any scale: m, m·|m|^-0.15, m / √|m|; zeros stay zero."""
    planes, columns, nyquist = noise((3, N, N // 2)), noise((N, N // 2), 1), np.zeros(N, np.complex64)
    planes[..., 0] = 0
    planes[1, :, 40:50] = 0
    columns[100:120, 60:70] = 0
    powers = (1.0, 0.85, 0.5)
    scaled = planes * np.float32(2.0) ** exponent
    with using_backend(HostBackend()):
        found = filter_columns(scaled, columns, nyquist, powers)
    m = np.fft.fft(scaled.astype(np.complex128), axis=1) * columns
    for map_of, power in zip(found, powers):
        assert_same(map_of, np.fft.ifft(powered(m, power), axis=1) / N, 2e-6)  # the exponent of 2 is rounded: 2e-6 where it is 17


def test_stage_columns_of_broken_patterns_are_zero():
    """Whichever warp noted it; the patterns before and behind, taken by the same threads, keep their bits."""
    planes, columns, nyquist = noise((6, N, N // 2)), noise((N, N // 2), 1), noise(N, 2)
    spoilt = planes.copy()
    spoilt[[1, 3, 4], 77, 33] = np.nan
    broken = np.zeros((6, N // 4), np.uint8)
    broken[1, 0] = broken[3, 63] = broken[4, 31] = 1
    with using_backend(HostBackend()):
        want = filter_columns(planes, columns, nyquist, (1.0, 0.85), together=4)
        found = filter_columns(spoilt, columns, nyquist, (1.0, 0.85), broken, together=4)
    assert not found[:, [1, 3, 4]].any()
    assert found[:, [0, 2, 5]].tobytes() == want[:, [0, 2, 5]].tobytes()


def test_stage_rows_inverse():
    planes = noise((3, 2, N, N // 2))
    with using_backend(HostBackend()):
        maps = inverse_rows(planes, first=1, n=4)
    assert_same(maps[:, 1:3], N * np.fft.irfft(split(planes)), 5e-7)
    assert np.isnan(maps[:, [0, 3]]).all(), "it writes its own maps and no other"


def test_stage_twice_transformed_rows_are_the_rows():
    frames, _ = pattern_of((N, N), n=2)
    with using_backend(HostBackend()):
        planes, _ = forward_rows(frames)
        maps = inverse_rows(planes[None])
    np.testing.assert_allclose(maps[0], 2.0 * N * frames, atol=2e-6 * 2 * N * frames.max())


# ---------------------------------------------------------------- maps


def maps_of(frames, spectrum, powers, host=None, counts=None):
    with using_backend(host or HostBackend()):
        return launcher.correlation_maps_256(frames, launcher.filter_of(spectrum), powers, counts)


def assert_maps(found, frames, spectrum, powers, within=2e-6):
    """Of every pattern by itself, in units of its largest value."""
    m = fft.rfft2(frames.astype(np.float64)) * spectrum
    for maps, power in zip(found, powers, strict=True):
        want = fft.irfft2(m if power == 1.0 else powered(m, power), (N, N))
        worst = (np.abs(maps - want).max(axis=(1, 2)) / np.abs(want).max(axis=(1, 2))).max()
        assert worst <= within, f"power {power}: {worst}"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_maps_against_float64(dtype):
    frames = pattern_of((N, N), n=2)[0].clip(0, 255).astype(dtype)
    (spectrum, *_), _ = arguments((N, N))
    powers = (1.0, 0.85, 0.5)
    counts = np.zeros(frames.shape, np.float32)
    assert_maps(maps_of(frames, spectrum, powers, counts=counts), frames, spectrum, powers)
    np.testing.assert_array_equal(counts, frames)


def test_maps_of_noise_against_float64():
    """No structure to hide behind: every pixel and frequency counts."""
    frames = np.random.default_rng(3).normal(size=(2, N, N)).astype(np.float32)
    spectrum = fft.rfft2(np.random.default_rng(4).normal(size=(N, N)))
    for powers in ((1.0,), (0.85,), (0.85, 1.0), (0.0, 0.3, 1.2)):
        assert_maps(maps_of(frames, spectrum, powers), frames, spectrum, powers)


def test_tiles_do_not_change_a_bit(monkeypatch):
    """Patterns in flight, and how many a block takes one after the other, are nobody's business."""
    frames, _ = pattern_of((N, N), n=5)
    (spectrum, *_), _ = arguments((N, N))
    whole = maps_of(frames, spectrum, (1.0, 0.85))
    for tile, processors in ((1, 4), (2, 1), (5, 1), (3, 100)):
        monkeypatch.setattr(launcher, "tile_size", lambda maps, tile=tile: tile)
        monkeypatch.setattr(HostBackend, "multiprocessors", lambda self, n=processors: n)
        assert maps_of(frames, spectrum, (1.0, 0.85)).tobytes() == whole.tobytes()
    assert maps_of(frames[2:3], spectrum, (0.85,))[0].tobytes() == whole[1, 2:3].tobytes()


def test_tiles_fit_one_half_of_the_cache_and_occupy_the_device():
    class Card(HostBackend):
        def multiprocessors(self):
            return self.processors

        def l2_cache(self):
            return self.cache

    card = Card()
    for card.processors, card.cache, maps, want in ((132, 50 << 20, 2, 44), (108, 40 << 20, 1, 70), (40, 4 << 20, 2, 10)):
        with using_backend(card):
            assert launcher.tile_size(maps) == want
            fits = maps * want * launcher.PLANE_BYTES <= card.cache / 2
            assert fits or want * launcher.BLOCKS < (launcher.RESIDENT + 1) * card.processors


def test_the_order_of_threads_does_not_matter():
    frames, _ = pattern_of((N, N), n=2)
    (spectrum, *_), _ = arguments((N, N))
    bits = {maps_of(frames, spectrum, (1.0, 0.85), HostBackend(seed)).tobytes() for seed in (0, 1, 2, 7)}
    assert len(bits) == 1


def test_broken_frames_have_empty_maps():
    frames = pattern_of((N, N), n=4, dtype="float32")[0]
    (spectrum, *_), _ = arguments((N, N))
    broken = frames.copy()
    broken[0, 0, 0], broken[2, 200, 31] = np.nan, -np.inf
    found, want = (maps_of(f, spectrum, (1.0, 0.85)) for f in (broken, frames))
    assert not found[:, [0, 2]].any()
    assert found[:, [1, 3]].tobytes() == want[:, [1, 3]].tobytes()


def test_no_frames_no_maps():
    (spectrum, *_), _ = arguments((N, N))
    assert maps_of(np.zeros((0, N, N), np.uint16), spectrum, (1.0, 0.85)).shape == (2, 0, N, N)


def test_what_is_refused():
    (spectrum, *_), _ = arguments((N, N))
    frames = np.zeros((1, N, N), np.uint16)
    with pytest.raises(InputError, match="256 × 256"):
        maps_of(frames[:, 1:], spectrum, (1.0,))
    with pytest.raises(InputError, match="one to 3"):
        maps_of(frames, spectrum, (1.0, 0.9, 0.8, 0.7))
    with pytest.raises(InputError, match="float32"):
        maps_of(frames, spectrum, (1.0,), counts=np.zeros((1, N, N)))


# ---------------------------------------------------------------- disks


@pytest.mark.parametrize("more", [{}, {"power": 1.0}, {"refine_power": 0.85}, {"refine": "parabola", "power": 0.7, "refine_power": 0.9}])
@pytest.mark.parametrize("seed", [0, 2])
def test_disks_are_the_definitions(more, seed):
    """Positions to 1e-3 px, on a card with 64 kB of shared memory and in two orders of threads."""
    patterns, truth = pattern_of((N, N), n=2, seed=seed)
    given, options = arguments((N, N), **more)
    found, names = disks_on_the_shim(patterns, given, options, shared=64 * 1024, seed=seed)
    want = definition.find_disks.definition(patterns, *given, **options)
    assert names >= PATH_OF_256 and not names & {"spectrum_products", "frames_to_float"}
    np.testing.assert_array_equal(found.count, want.count)
    assert (found.count >= 4).all()
    for one, other in ((found.qx, want.qx), (found.qy, want.qy)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.intensity, want.intensity, rtol=1e-4)
    np.testing.assert_allclose(found.sx, want.sx, rtol=5e-3)
    if more.get("refine_power", 1.0) == 1.0:
        near = np.hypot(found.qx[:, :4, None] - truth[:, None, :, 0], found.qy[:, :4, None] - truth[:, None, :, 1]).min(axis=2)
        assert (near < 0.15).all(), "the disks are where they were put"


def test_frames_that_are_not_finite_have_no_disks(monkeypatch):
    monkeypatch.setattr(disk_launcher, "batch_size", lambda nx, ny: 3)
    patterns, _ = pattern_of((N, N), n=5, dtype="float32")
    broken = patterns.copy()
    broken[0, 3, 3], broken[2], broken[4, -1, -1] = np.inf, 0, np.nan
    given, options = arguments((N, N), refine="parabola")
    found, _ = disks_on_the_shim(broken, given, options)
    want, _ = disks_on_the_shim(patterns, given, options)
    assert found.count.tolist() == [0, want.count[1], 0, want.count[3], 0]
    for one, other in zip(found[1:], want[1:]):
        assert np.isnan(one[[0, 2, 4]]).all()
        assert one[[1, 3]].tobytes() == other[[1, 3]].tobytes()


def test_256_is_the_only_size():
    sizes = (1, 63, 64, 96, 128, 130, 192, 254, 255, 256, 257, 258, 512, 514, 1024)
    assert [(x, y) for x in sizes for y in sizes if launcher.supports((x, y), masked=False)] == [(256, 256)]
    assert not launcher.supports((256, 256), masked=True)


@pytest.mark.parametrize(
    ("shape", "masked"),
    [((256, 256), True), ((256, 255), False), ((255, 256), False), ((256, 128), False), ((130, 128), False), ((192, 96), False)],
)
def test_everything_else_takes_the_fft_library(shape, masked, monkeypatch):
    monkeypatch.setattr(disk_launcher, "batch_size", lambda nx, ny: 1)
    patterns, _ = pattern_of(shape)
    given, options = arguments(shape, np.ones(shape, bool) if masked else None, refine="parabola")
    _, names = disks_on_the_shim(patterns, given, options)
    assert names >= OWN_PATH and not names & ROWS_AND_COLUMNS


# ---------------------------------------------------------------- offsets behind 2³¹ elements, and the tests themselves

FAR = 40_000  # patterns before the one that is looked at


def far_pattern(offset_type="long long"):
    """The last of 40 001 patterns, the others left out: offsets into frames, counts and maps have to have 64 bits."""
    text = backend.inlined(launcher.FILE).replace("typedef long long offset_t", f"typedef {offset_type} offset_t")
    n = FAR + 1
    frames, counts, maps = huge_array((n, N, N), "u1"), huge_array((n, N, N), "f4"), huge_array((2, n, N, N), "f4")
    frames[-1] = np.random.default_rng(1).integers(0, 9, (N, N))
    with using_backend(HostBackend(sources={launcher.FILE: text})):
        planes, _ = forward_rows(frames, FAR, counts)
        planes = np.stack([planes, 2 * planes])
        call = (planes, maps, np.int64(FAR), np.int64(n))
        device.launch(device.kernel(launcher.FILE, "inverse_rows_256"), (8, 1, 2), 256, call)
    np.testing.assert_array_equal(counts[-1], frames[-1])
    for k in range(2):
        np.testing.assert_allclose(maps[k, -1], (k + 1) * 2.0 * N * frames[-1], atol=0.02)
    assert not maps[:, :-1:1000].any()


def test_offsets_have_64_bits():
    """In processes of their own: with offsets of 32 bits it writes elsewhere, or dies."""
    right, wrong = (call_in(Path(__file__).parent, "test_row_column_fft", call) for call in ("far_pattern()", "far_pattern('int')"))
    assert right.returncode == 0, right.stderr
    assert wrong.returncode != 0


BROKEN = {
    "rows: no barrier before the exchange is read": (
        "region[t * R + (j ^ t)] = v[j];\n    __syncwarp();",
        "region[t * R + (j ^ t)] = v[j];",
    ),
    "rows: no barrier before the upper half is read": ("region[t + R * j] = v[j];\n  __syncwarp();", "region[t + R * j] = v[j];"),
    "columns: no barrier before the exchange is read": ("column] = v[j];\n    __syncthreads();", "column] = v[j];"),
    "columns: no barrier before the exchange is used again": (
        "GROUPS = Square<N>::GROUPS;\n    __syncthreads();",
        "GROUPS = Square<N>::GROUPS;",
    ),
    "columns: no barrier behind the first column": (
        "first_column[t + R * j] = v[j];\n      __syncthreads();",
        "first_column[t + R * j] = v[j];",
    ),
    "one root": ("root_of<N>(t), t, RowExchange<N>{region});\n  // Two", "root_of<N>(t + 1), t, RowExchange<N>{region});\n  // Two"),
    "the mirrored frequency": ("(N - k) % N", "k"),
    "the wrong power of two": ("bits >> 23) - 127", "bits >> 23) - 126"),
    "half of the flags": ("flags[lane] | flags[lane + 32]", "flags[lane]"),
    "a pattern less": ("pattern < until", "pattern < until - 1"),
    "the next map elsewhere": ("plane += patterns * S::PLANE", "plane += (patterns - 1) * S::PLANE"),
}


def a_bit_of_everything(sources):
    frames = pattern_of((N, N), n=3, dtype="float32")[0]
    (spectrum, *_), _ = arguments((N, N))
    broken = frames.copy()
    broken[1, 250, 9] = np.nan
    for seed in (0, 1, 2, 7):
        found = maps_of(broken, spectrum, (1.0, 0.5), HostBackend(seed, sources=sources))
        assert_maps(found[:, ::2], frames[::2], spectrum, (1.0, 0.5))
        assert not found[:, 1].any()


def test_whole_copies_pass():
    a_bit_of_everything({launcher.FILE: backend.inlined(launcher.FILE)})


@pytest.mark.slow
@pytest.mark.parametrize("what", BROKEN)
def test_broken_copies_are_caught(what):
    """In a process of its own, because what is broken may well crash."""
    good, bad = BROKEN[what]
    text = backend.inlined(launcher.FILE)
    assert text.count(good) == 1, "the source has changed: break it elsewhere"
    sources = {launcher.FILE: text.replace(good, bad)}
    assert HostBackend(sources=sources).function(launcher.FILE, "filter_columns_256", ()), "it compiles"
    process = multiprocessing.get_context("fork").Process(target=a_bit_of_everything, args=(sources,))
    process.start()
    process.join()
    assert process.exitcode != 0


@pytest.mark.slow
def test_under_sanitizers():
    """Each kernel on the shim built with address and undefined-behaviour sanitizers, in a process that has them preloaded."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", "stage"]
    done = subprocess.run(command, capture_output=True, text=True, env=sanitized())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
