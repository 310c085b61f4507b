"""The fused disk kernel on the CPU: the whole against the definition of `find_disks`, what it takes, and broken copies that are caught."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from cuda_on_host import HostBackend
from disk_options import limited, operands
from fused_disk_stages import EVERY_SIZE, SEEDS, SIZES, assert_same, fused, given_for, greedy
from gpu4d.kernels import fused_disks
from operations.patterns import bragg_frames
from own_process import sanitized

from gpu4d.bragg.find_disks import Refinement, find_disks, local_maxima
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.device.backend import inlined, using_backend
from gpu4d.probe import Template, template

# ---------------------------------------------------------------- the whole


OPTIONS = {
    "defaults": {},
    "cross": {"power": 1.0},
    "same-map": {"refine_power": 0.85},
    "three-maps": {"power": 0.9, "refine_power": 0.8},
    "parabola": {"refine": "parabola"},
    "whole-pixels": {"refine": None},
    "thresholds": {"min_relative": 0.2, "min_absolute": 0.01, "min_significance": 0.0},
    "few": {"max_peaks": 2},
}


@EVERY_SIZE
@pytest.mark.parametrize("label", list(OPTIONS))
def test_whole_kernel(size, label):
    patterns, given = bragg_frames((size, size), 2, seed=size), given_for(size)
    options = {"min_spacing": 4.8, "max_peaks": 12, **OPTIONS[label]}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    results = [fused(patterns, given, seed, **options) for seed in (SEEDS if label == "defaults" else SEEDS[2:3])]
    assert wanted.count.min() >= 2
    assert_same(results[0], wanted)
    assert results[0].count.dtype == np.int64
    assert all(a.tobytes() == b.tobytes() for other in results[1:] for a, b in zip(results[0], other)), "thread order changes bits"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_whole_kernel_takes_every_pixel_type(dtype):
    patterns, given = np.minimum(bragg_frames((64, 64), 3), 255).astype(dtype), given_for(64)
    options = {"min_spacing": 4.8, "max_peaks": 8}
    assert_same(fused(patterns, given, **options), find_disks.definition(patterns, *given, **limited(**options)))


def test_whole_kernel_with_gaps():
    patterns, given = bragg_frames((64, 64), 6, "float32"), given_for(64)
    patterns[0] = 0
    patterns[1] = np.nan
    patterns[2, 63, 63] = np.inf
    patterns[3, 0, 0] = np.nan
    patterns[4] -= 3.0  # some negative
    options = {"min_spacing": 4.8, "max_peaks": 8}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    found = fused(patterns, given, **options)
    assert found.count[:4].tolist() == [0, 0, 0, 0]
    assert found.count[4] > 0
    assert np.isnan(found.qx[:4]).all()
    # Standard errors count negative pixels as 0, the correlation does not: the definition's for the fourth pattern as for the others
    assert_same(found, wanted)
    assert fused(patterns[:0], given, **options).qx.shape == (0, 8)


@pytest.mark.parametrize("power", [0.85, 0.0])
@pytest.mark.parametrize("exponent", [-80, -40, 40, 60])
def test_data_of_any_scale(power, exponent):
    """Multiplied by a power of two, positions stay what they are. Counts that small are not significant: no limit."""
    patterns, given = bragg_frames((64, 64), 2, "float32"), given_for(64)
    options = {"power": power, "min_significance": 0.0, "min_relative": 0.3, "min_spacing": 4.8, "max_peaks": 8}
    wanted = fused(patterns, given, **options)
    found = fused(patterns * np.float32(2.0**exponent), given, **options)
    assert np.array_equal(found.count, wanted.count)
    assert found.count.min() > 0
    scale = 2.0**exponent
    for name, factor in (("qx", 1), ("qy", 1), ("intensity", scale), ("sx", scale**-0.5), ("sy", scale**-0.5)):
        np.testing.assert_allclose(getattr(found, name), factor * getattr(wanted, name), rtol=1e-4)


def test_views_and_offsets():
    """A batch cut from a larger array, not contiguous, and starting at an odd address."""
    size, given = 64, given_for(64)
    patterns, options = bragg_frames((size, size), 2, "uint8"), {"min_spacing": 4.8, "max_peaks": 8}
    raw = np.zeros(patterns.size + 1, np.uint8)
    raw[1:] = patterns.ravel()
    wide = np.zeros((2, size, 2 * size), np.uint8)
    wide[..., ::2] = patterns
    wanted = fused(patterns, given, **options)
    for same in (raw[1:].reshape(patterns.shape), wide[..., ::2]):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(fused(same, given, **options), wanted))


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 96])
def test_more_maxima_than_there_is_room_for(size):
    """With a point for a template the n = 1 map is the pattern: every second pixel is a maximum, more than the list holds."""
    rng = np.random.default_rng(size)
    patterns = np.zeros((2, size, size), np.uint16)
    patterns[:, 1::2, 1::2] = rng.permutation(2 * (size // 2) ** 2).reshape(2, size // 2, size // 2) + 100
    point = np.zeros((size, size))
    point[0, 0] = 1.0
    kernel = Template.from_kernel(point, 1.0)
    allowed = np.zeros((size, size), bool)
    allowed[1:-1, 1:-1] = True
    moments = np.zeros((4, size, size))
    moments[0] = point
    given = (template_spectrum(kernel), moments, allowed)
    room = fused_disks.PLANS[size].candidates
    maxima = int(local_maxima(patterns.astype(float))[0][1:-1, 1:-1].sum())
    assert maxima > room
    for spacing, most in ((0.0, maxima + 3), (5.0, maxima), (0.0, room + 5), (3.0, 40)):
        found = fused(patterns, given, power=1.0, refine=None, min_significance=0.0, min_spacing=spacing, max_peaks=most, min_absolute=50.0)
        for pattern, count, qx, qy in zip(patterns, found.count, found.qx, found.qy):
            at = np.flatnonzero(local_maxima(pattern[None].astype(float))[0] & allowed)
            order = at[np.lexsort((at, -pattern.ravel()[at].astype(int)))]
            wanted = greedy(order, size, spacing, most, [])
            assert list(zip(qx[:count], qy[:count])) == wanted


@pytest.mark.parametrize("dose", ["poisson_1e5", "poisson_5e3"])
def test_patterns_of_a_strained_crystal(shared_data, dose):
    """Counts at two doses, 20 to 25 disks of unequal strength, most of the maxima noise: the definition's list, to 1e-4 px.

    Standard errors to a per cent: their Hessian is that of where the last step started, which noise lets change within 2e-3 px.
    """
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        patterns, probe = file[dose][5, 2::12], file["truth/vacuum_probe"][:]
    kernel = template(probe)
    given = operands(kernel, 6)
    options = {"min_spacing": 1.5 * kernel.radius, "max_peaks": 40}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    assert wanted.count.min() >= 19
    assert_same(fused(patterns, given, **options), wanted, 1e-4, 1e-2)


# ---------------------------------------------------------------- what it takes


def supported(size: int, shared: int, **options) -> bool:
    plain = {"refinement": Refinement(), "masked": False, "dtype": np.uint16}
    return fused_disks.supports((size, size), shared, **{**plain, **options})


def test_what_fits_a_devices_shared_memory():
    kilobytes = {"sm_75": 64, "sm_86": 99, "sm_80": 163, "sm_90": 227}
    taken = {card: [n for n in SIZES if supported(n, kb * 1024)] for card, kb in kilobytes.items()}
    assert taken == {"sm_75": [64, 96], "sm_86": [64, 96, 128], "sm_80": [64, 96, 128, 192], "sm_90": [64, 96, 128, 192]}


def test_what_is_left_to_the_staged_path():
    most = 227 * 1024
    assert not fused_disks.supports((128, 130), most, refinement=Refinement(None, 1.0), masked=False, dtype=np.uint16)
    assert not any(supported(n, most) for n in (32, 100, 130, 256, 514))
    assert not supported(64, most, masked=True)
    assert not supported(64, most, refinement=Refinement("upsample"))
    assert not any(supported(64, most, dtype=d) for d in (np.float64, np.int16, np.int32, bool))
    assert all(supported(64, most, dtype=d) for d in ("uint8", np.uint16, np.dtype("uint32"), np.float32))


def test_a_small_card_runs_what_it_supports():
    patterns, given = bragg_frames((96, 96), 1), given_for(96)
    with using_backend(HostBackend(shared=64 * 1024)):
        assert fused_disks.find_disks(patterns, *given, **limited(min_spacing=4.8, max_peaks=9)).count[0] == 5
    patterns, given = bragg_frames((128, 128), 1), given_for(128)
    with using_backend(HostBackend(shared=64 * 1024)), pytest.raises(AssertionError, match="shared memory"):
        fused_disks.find_disks(patterns, *given)


# ---------------------------------------------------------------- tests of the tests


BROKEN = {  # where in the source, what there, what instead
    "no barrier behind the columns": ("  filter_columns<N>(plane, filter, twiddle, me);\n  __syncthreads();", "__syncthreads();", ""),
    "no barrier behind the map": ("  invert_rows<N>(plane, twiddle, me);\n  __syncthreads();", "__syncthreads();", ""),
    "no barrier behind the choice": ("= there;\n      }\n      __syncthreads();", "__syncthreads();", ""),
    "no barrier in the exchange": ("  put_spread<N>(region, v, t);\n  __syncwarp();", "__syncwarp();", ""),
    "no barrier behind the list": ("  ceiling = floor;\n  __syncthreads();", "__syncthreads();", ""),
    "a row too few": ("q < S::ROWS; q += S::GROUPS) {\n    const int r = row_of", "ROWS;", "ROWS - 1;"),
    "a column too few": ("q < S::ROWS; q += S::GROUPS) {\n    const int t = fresh(me.t);\n    const ColumnTask", "ROWS;", "ROWS - 1;"),
    "the map shifted by a pixel": ("plane + (i >> 1) * Plan<N>::PITCH + j;", "j;", "j + 1;"),
    "the window cut short": ("dj <= last; dj += 8", "<=", "<"),
    "the last NaN forgotten": ("p < limits.max_peaks; p += S::THREADS)", "peaks;", "peaks - 1;"),
    "offsets in pixels for bytes": ("(offset_t)blockIdx.x * N * N * pixel_bytes", " * pixel_bytes", ""),
}


def check_thoroughly(text: str) -> None:
    """The whole kernel of this source against the definition, in every thread order."""
    patterns, (spectrum, moments, allowed) = bragg_frames((64, 64), 2, seed=64), given_for(64)
    away = np.abs(np.fft.fftfreq(64, 1 / 64))
    window = np.maximum(away[:, None], away) <= 5  # as much weight at its border as inside
    given = (spectrum, np.broadcast_to(1e-3 * window, moments.shape), allowed)
    for options in ({}, {"power": 1.0}, {"refine": "parabola"}):
        options = {"min_spacing": 4.8, "max_peaks": 12, **options}
        wanted = find_disks.definition(patterns, *given, **limited(**options))
        for seed in SEEDS:
            assert_same(fused(patterns, given, seed, {"fused_disks.cu": text}, **options), wanted)


def test_the_kernel_as_it_is_passes():
    check_thoroughly(inlined("fused_disks.cu"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_kernel_is_caught(fault):
    text = inlined("fused_disks.cu")
    where, right, wrong = BROKEN[fault]
    assert text.count(where) == 1 == where.count(right), "the kernel has changed: say again what to break"
    with pytest.raises((AssertionError, RuntimeError)):
        check_thoroughly(text.replace(where, where.replace(right, wrong)))


@pytest.mark.slow
def test_under_sanitizers():
    """The whole kernel at its smallest size, built with address and undefined-behaviour sanitizers."""
    which = "whole_kernel and (64 or gaps) or room_for and 64 or odd or views"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", which]
    done = subprocess.run(command, capture_output=True, text=True, env=sanitized())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
