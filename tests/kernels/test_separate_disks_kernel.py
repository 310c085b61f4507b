"""The kernel that fits close disks together and looks for hidden ones: against the definition, on scenes whose disks are known."""

import gpu4d.kernels.separate_disks as launcher
import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend

import gpu4d
from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit
from gpu4d.bragg.likelihood.separate_disks import separate_disks
from gpu4d.device.backend import using_backend
from gpu4d.probe import synthetic

FILE = "separate_disks.cu"
SHAPE, RADIUS = (48, 46), 3.2
PROFILE = disk_profile(synthetic((33, 33), RADIUS))
GIVEN = (PROFILE.table, PROFILE.pixels)
SCENES = {  # places and heights; those that a correlation finds come first, and how many these are
    "one disk alone": ([(23.2, 22.4, 300)], 1),
    "two that overlap": ([(20.2, 20.4, 300), (25.9, 21.6, 120)], 2),
    "one is hidden": ([(20.2, 20.4, 500), (27.9, 21.6, 40)], 1),
    "four are hidden": ([(23.2, 22.4, 900), (31.4, 22.0, 60), (15.1, 23.3, 50), (22.6, 30.8, 55), (23.9, 14.3, 45)], 1),
    "hidden by a hidden one": ([(20.2, 12.4, 2000), (20.5, 20.6, 250), (20.1, 28.5, 30)], 1),
    "two groups": ([(10.2, 10.4, 300), (16.9, 11.6, 80), (34.3, 34.1, 250), (35.0, 27.2, 200)], 4),
}


def counts(disks, n=1, seed=0):
    """Poisson counts of disks on a background with a slope."""
    mean = 1 + 0.03 * np.arange(SHAPE[0])[:, None] + 0 * np.arange(SHAPE[1])
    for x, y, height in disks:
        r = np.hypot(np.arange(SHAPE[0])[:, None] - x, np.arange(SHAPE[1]) - y)
        mean = mean + height / (1 + np.exp(np.clip(4 * (r - RADIUS), -60, 60)))
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (n, *SHAPE))).astype("uint16")


def call(frames, found, places=12, allowed=None, **options):
    """Arguments and options of `separate_disks`: starts half a pixel off, and the fits of single disks."""
    n, k = len(frames), len(found)
    some = np.asarray(found, float).reshape(k, 3)
    x, y, height = np.full((n, places), np.nan), np.full((n, places), np.nan), np.full((n, places), np.nan)
    off = np.random.default_rng(1).uniform(-0.5, 0.5, (2, n, k))
    x[:, :k], y[:, :k], height[:, :k] = some[:, 0] + off[0], some[:, 1] + off[1], some[:, 2]
    count, mask, parameters = np.full(n, k), options.get("mask"), options.get("parameters", 6)
    fit = poisson_fit(frames, x, y, count, *GIVEN, mask, parameters=parameters, spacing=PROFILE.spacing)
    allowed = np.ones(SHAPE, bool) if allowed is None else allowed
    options = {"radius": PROFILE.radius, "spacing": PROFILE.spacing, "significance": 5.0, **options}
    return (frames, count, height, fit.x, fit.y, fit.amplitude, fit.xx, fit.yy, fit.ok, *GIVEN, allowed), options


def on_host(given, options, host=None):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return separate_disks(*given, **options)


def same_as_defined(given, options, host=None):
    """Run the kernel and compare the disks with the definition's: positions within 1e-5 px, the rest within 1e-4 of its size."""
    found = on_host(given, options, host)
    with gpu4d.using("definition"):
        expected = separate_disks(given[0].astype(float), *given[1:], **options)
    for one, want in zip(found, expected, strict=True):
        assert one.dtype == want.dtype and one.shape == want.shape
    for name in ("disk", "fitted", "together"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    fitted = expected.fitted
    for name in ("x", "y", "amplitude", "xx", "yy"):
        one, want = getattr(found, name)[fitted], getattr(expected, name)[fitted]
        limit = 1e-5 if name in "xy" else 1e-4 * np.abs(want).max(initial=0.0)
        np.testing.assert_allclose(one, want, rtol=0, atol=limit, err_msg=name)
    return found


@pytest.mark.parametrize("name", SCENES)
def test_disks_are_where_they_are(name):
    """Within five standard errors, and no others."""
    disks, known = SCENES[name]
    found = same_as_defined(*call(counts(disks, 2), disks[:known]))
    for i in (0, 1):
        some = found.disk[i]
        assert some.sum() == len(disks)
        at = np.stack([found.x[i, some], found.y[i, some]], -1)
        errors = np.sqrt(np.stack([found.xx[i, some], found.yy[i, some]], -1))
        for x, y, _ in disks:
            nearest = np.hypot(*(at - (x, y)).T).argmin()
            assert (np.abs(at[nearest] - (x, y)) < 5 * errors[nearest]).all()


@pytest.mark.parametrize("parameters", [4, 8])
def test_other_numbers_of_parameters(parameters):
    disks, known = SCENES["four are hidden"]
    same_as_defined(*call(counts(disks, 2), disks[:known], parameters=parameters))


def test_masks_and_allowed_pixels():
    disks, known = SCENES["four are hidden"]
    frames, mask, allowed = counts(disks, 2), np.ones(SHAPE, bool), np.ones(SHAPE, bool)
    frames[:, 13:17, 18:29] = 60000  # broken pixels under the mask, where a hidden disk is
    mask[13:17, 18:29] = False
    allowed[28:] = False
    found = same_as_defined(*call(frames, disks[:known], allowed=allowed, mask=mask))
    assert (found.x[found.disk] < 30).all()


def test_patterns_do_not_change_each_other():
    """One without counts, one with a NaN, one without disks, and one as it should be."""
    disks, known = SCENES["one is hidden"]
    frames = counts(disks, 4).astype("float32")
    frames[0], frames[1, 22, 22] = 0, np.nan
    given, options = call(frames, disks[:known])
    given[1][2] = 0
    found = same_as_defined(given, options)
    assert found.disk.sum(1).tolist() == [0, 1, 0, 2] and found.fitted.sum(1).tolist() == [0, 0, 0, 2]
    alone = on_host((frames[3:], *(a[3:] for a in given[1:9]), *given[9:]), options)
    for whole, part in zip(found, alone, strict=True):
        np.testing.assert_array_equal(whole[3:], part)


def test_a_list_that_is_full_gets_no_disks():
    disks, known = SCENES["four are hidden"]
    for places in (1, 3):
        found = same_as_defined(*call(counts(disks), disks[:known], places=places))
        assert found.disk.sum() <= places


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_pixel_types_give_the_same_bits(dtype):
    disks = [(20.2, 20.4, 200), (27.9, 21.6, 30)]
    given, options = call(np.minimum(counts(disks), 255), disks[:1])
    for one, same in zip(on_host((given[0].astype(dtype), *given[1:]), options), on_host(given, options), strict=True):
        assert one.tobytes() == same.tobytes()


def test_empty_lists():
    given, options = call(counts([], 2), [], places=3)
    assert not on_host(given, options).disk.any()
    for some in ((given[0][:0], *(a[:0] for a in given[1:9])), (*given[:2], *(a[:, :0] for a in given[2:9]))):
        found = on_host((*some, *given[9:]), options)
        assert all(a.shape == some[2].shape for a in found)


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_order_of_threads_and_number_of_blocks_gives_the_same_bits(blocks, monkeypatch):
    """Also where the search works in global memory, because the card has little shared memory."""
    disks, known = SCENES["four are hidden"]
    given, options = call(counts(disks, 2), disks[:known], places=8)
    expected = on_host(given, options)
    monkeypatch.setattr(launcher, "block_count", lambda *_: blocks)
    for seed, shared in ((0, 227), (1, 8), (2, 8), (7, 227)):
        host = HostBackend(seed=seed, shared=shared * 1024)
        for one, same in zip(on_host(given, options, host), expected, strict=True):
            assert one.tobytes() == same.tobytes()
        (launch,) = host.launched
        assert launch[1] == (blocks,) and (launch[3] > 0) == (shared == 227)


BREAKS = {
    "removed disks": ("lists.disk[k] && !fit.gone[k] &&", "lists.disk[k] &&"),
    "search around all": ("found ? lists.most : first", "found && first ? lists.most : first"),
    "roles of new disks": ("(fresh ? joint::HIDDEN : ALONE)", "ALONE"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    sources = broken_copy(FILE, BREAKS[what])
    ghost = (31.0, 24.5, 40)
    scenes = [(disks, disks[:known]) for disks, known in SCENES.values()]
    scenes += [
        (SCENES["two groups"][0], [*SCENES["two groups"][0], ghost]),
        (SCENES["two that overlap"][0], [(20.2, 20.4, 300), (26.9, 23.0, 20)]),
    ]
    for disks, known in scenes:
        given, options = call(counts(disks), known)
        good = on_host(given, options)
        found = on_host(given, options, HostBackend(seed=7, sources=sources))
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(found, good, strict=True)):
            return
    raise AssertionError(f"without the {what} all answers are right")
