"""4, 6 or 8 parameters: the choice is judged by the true errors of the positions, which the simulation knows."""

import logging
import tracemalloc

import numpy as np
import pytest
from gpu4d.benchmarks.disk_bound import bullseye
from gpu4d.benchmarks.disk_scenes import find, lattice, scene

import gpu4d
from gpu4d.bragg.likelihood.choose_parameters import LEAST_PATTERNS, SAMPLE, SampleFits
from gpu4d.data.sample import read_sample, sample_places
from gpu4d.errors import InputError
from gpu4d.probe import synthetic, template

LIKELIHOOD = {"refine": "likelihood"}


def as_scan(some):
    """The patterns of a scene as a scan of four rows."""
    return gpu4d.DataCube(some.patterns.reshape(4, -1, *some.patterns.shape[1:]))


def chosen(some, **options):
    return gpu4d.BraggDisks(template(some.probe()), **{**LIKELIHOOD, **options}).choose(as_scan(some))


def evidence(some):
    reduction = gpu4d.BraggDisks(template(some.probe()), refine="likelihood")
    return SampleFits(some.patterns[None], reduction.prepare(some.patterns.dtype))


CASES = {
    "even, few counts": (dict(electrons=1e3), {4, 6}),
    "even": (dict(electrons=1e4), {4, 6}),
    "even, many counts": (dict(electrons=3e5), {6}),  # a diffuse background slopes
    "1 % of slope inside": (dict(electrons=1e4, tilt=0.01), {4, 6}),
    "1 % of slope inside, many counts": (dict(electrons=3e5, tilt=0.01), {8}),
    "4 % of slope inside": (dict(electrons=1e4, tilt=0.04), {8}),
    "30 % of slope inside": (dict(electrons=3e5, tilt=0.3), {8}),
    "30 % of slope inside, few counts": (dict(electrons=1e3, tilt=0.3), {8}),
    "slope inside, no lattice": (dict(electrons=1e4, tilt=0.1, scatter=2.0), {8}),
    "even, no lattice": (dict(electrons=1e4, scatter=2.0), {4, 6}),
    "flat background": (dict(electrons=1e4, background=0.0, flat=0.2), {4}),
    "sloping background": (dict(electrons=1e4, background=0.0, flat=0.2, ramp=0.01), {6}),
    "sloping background, many counts": (dict(electrons=3e5, background=0.0, flat=0.2, ramp=0.003), {6}),
    "bullseye": (dict(electrons=1e4, profile=bullseye(9.0)), {4, 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_chosen_locates_best(case):
    options, right = CASES[case]
    some = scene(patterns=24, seed=11, **options)
    reduction = chosen(some)
    assert reduction.parameters in right, reduction.parameters_reason
    probe = template(some.probe())
    found = {p: find(some, probe, parameters=p, **LIKELIHOOD) for p in (4, 6, 8)}
    seen = np.all([f.seen for f in found.values()], axis=0)
    rms = {p: np.sqrt((f.errors[seen] ** 2).mean()) for p, f in found.items()}
    assert rms[reduction.parameters] <= 1.03 * min(rms.values()), rms


@pytest.mark.parametrize("dose", [20.0, 300.0, 20000.0])
def test_a_crystal_of_even_disks_keeps_six(dose):
    assert chosen(lattice(dose, scan=6)).parameters == 6


@pytest.mark.parametrize("dose", ["poisson_1e5", "poisson_5e3"])
def test_multislice_gold_gets_no_slopes(shared_data, dose):
    """Its disks are uneven, but not sloping: 8 parameters miss the lattice, and the strain, by more than 6."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        cube, probe = gpu4d.DataCube(file[dose][:]), file["truth/vacuum_probe"][:]
    reduction = gpu4d.BraggDisks(probe, **LIKELIHOOD).choose(cube)
    assert reduction.parameters in (4, 6), reduction.parameters_reason
    if dose == "poisson_1e5":
        assert "lattice" in reduction.parameters_reason, "no noise explains what is in these disks"


@pytest.mark.parametrize("scatter", [0.0, 2.0])
def test_values_that_are_no_electrons_are_no_slopes(scatter):
    some = scene(1e3, patterns=24, scatter=scatter, seed=12)
    some.patterns = some.patterns * 10
    assert chosen(some).parameters == 6


def test_the_ratio_is_one_without_slopes_and_counts_the_squared_bias():
    even, sloping = (evidence(scene(1e4, patterns=24, tilt=t, seed=13)) for t in (0.0, 0.05))
    t = even.ratio(6, 8)
    assert abs(t.excess - 1) < 0.15 and 0.3 < t.extra < 0.5  # 2 × 600 Gaussian terms: 0.04; a fifth of the precision
    known, other = (dict(e.position) for e in (sloping, even))
    bias = 0.05 * 0.5  # px, as documented
    expected = 1 + bias**2 * np.mean(1 / sloping.variance[6][:, sloping.sharp]) / sloping.ratio(6, 8).extra
    assert abs(sloping.ratio(6, 8).excess / expected - 1) < 0.25
    even.position = {p: v + 1.0 for p, v in other.items()}
    assert abs(even.ratio(6, 8).excess - t.excess) < 1e-6, "only differences count"
    even.position[8] = even.position[6] + np.where(np.arange(known[6].shape[1])[:, None] == 0, 1.0, other[8] - other[6])
    assert even.ratio(6, 8).excess > 2
    even.variance[8] = 0.9 * even.variance[6]
    assert np.isnan(even.ratio(6, 8).excess)


def test_few_wild_disks_do_not_decide():
    e = evidence(scene(1e4, patterns=24, seed=14))
    before = e.ratio(6, 8).excess
    e.position[8] = e.position[8].copy()
    e.position[8][:, :1, :5] += 3.0
    assert abs(e.ratio(6, 8).excess - before) < 0.1


def test_dispersion_is_that_of_the_noise():
    some = scene(1e4, patterns=16, seed=15)
    one = evidence(some).dispersion()
    some.patterns = some.patterns * 5
    assert abs(one - 1) < 0.05 and abs(evidence(some).dispersion() - 5) < 0.25
    sloping = evidence(scene(1e4, patterns=16, tilt=0.3, seed=15))
    assert abs(sloping.dispersion() - 1) < 0.05, "slopes are in the model"


# ---------------------------------------------------------------- the sample


class Watched:
    """A source that notes what is read of it."""

    def __init__(self, shape, blocks=(1, 1), resident=True):
        self.shape, self.dtype, self.blocks, self.resident, self.description = (*shape, 2, 3), np.dtype("int32"), blocks, resident, ""
        self.visited = np.zeros(shape, int)

    def read(self, rows, columns, out=None):
        self.visited[rows, columns] += 1
        number = np.arange(self.shape[0])[rows, None] * 1000 + np.arange(self.shape[1])[None, columns]
        return np.broadcast_to(number[:, :, None, None], (*number.shape, 2, 3)).astype(self.dtype)


def spread_sample(cube, where=None):
    return read_sample(cube, sample_places(cube, where, SAMPLE))


SHAPES = [(64, 64), (24, 24), (8, 8), (3, 5), (1, 1), (1, 500), (500, 1), (2, 300), (7, 90), (33, 17), (1000, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resident", [True, False])
def test_the_sample_lies_all_over_the_scan_and_is_all_that_is_read(shape, resident):
    source = Watched(shape, resident=resident)
    sample = spread_sample(gpu4d.DataCube(source))
    assert source.visited.max() == 1 and source.visited.sum() == sample.shape[0] * sample.shape[1] <= SAMPLE.most
    n = int(np.prod(shape))
    assert source.visited.sum() >= (SAMPLE.most // 2 if n >= 4 * SAMPLE.most else min(n, LEAST_PATTERNS))
    where = np.argwhere(source.visited)
    np.testing.assert_array_equal(sample[..., 0, 0].ravel(), where[:, 0] * 1000 + where[:, 1], "in scan order")
    for axis, n in enumerate(shape):
        at = np.unique(where[:, axis])
        gaps = np.diff(np.concatenate([[-1], at, [n]]))
        assert len(at) == n or gaps.max() <= max(3, 2.5 * 2 * n / len(at)), "no part of the scan is left out"


def test_only_positions_that_are_asked_for_are_in_the_sample():
    source = Watched((40, 40))
    allowed = np.zeros((40, 40), bool)
    allowed[:25, 3:] = True
    sample = spread_sample(gpu4d.DataCube(source), allowed)
    rows, columns = np.divmod(sample[..., 0, 0].ravel().astype(int), 1000)
    assert len(rows) >= SAMPLE.most // 4 and allowed[rows, columns].all() and np.ptp(rows) > 15
    allowed[:] = False
    allowed[2, 30:35] = allowed[20, 7] = True
    sample = spread_sample(gpu4d.DataCube(source), allowed)
    assert sorted(sample[0, :, 0, 0].tolist()) == [2030, 2031, 2032, 2033, 2034, 20007]
    assert spread_sample(gpu4d.DataCube(source), np.zeros((40, 40), bool)).shape[:2] == (0, 0)
    with pytest.raises(InputError, match=r"where is \(3, 4\)"):
        spread_sample(gpu4d.DataCube(source), np.ones((3, 4), bool))


@pytest.mark.parametrize("shape", SHAPES)
def test_of_few_patterns_a_quarter_is_looked_at(shape):
    n = int(np.prod(shape))
    rows, columns = spread_sample(gpu4d.DataCube(Watched(shape))).shape[:2]
    assert min(n, LEAST_PATTERNS) <= rows * columns <= max(n // 4, LEAST_PATTERNS + 2)


class Crystal(Watched):
    """Seven sloping disks in every pattern, made as they are read."""

    def __init__(self, shape, detector, dtype="uint32"):
        super().__init__(shape, resident=False)
        self.shape, self.dtype = (*shape, *detector), np.dtype(dtype)
        centre = [n // 2 + o for n, o in zip(detector, (0.3, -0.2))]
        x = np.arange(detector[0])[:, None] - centre[0]
        disk = 800 * np.clip(1 + x / 24, 0, None) * synthetic(detector, 12.0, center=centre)
        steps = ((0, 0), (80, 7), (-80, -7), (-7, 80), (7, -80), (87, -73), (73, 87))
        self.pattern = np.random.default_rng(0).poisson(sum(np.roll(disk, s, (0, 1)) for s in steps) + 2).astype(dtype)

    def read(self, rows, columns, out=None):
        self.visited[rows, columns] += 1
        shape = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        out = np.empty(shape, self.dtype) if out is None else out
        out[...] = np.roll(self.pattern, (rows.start, columns.start), (0, 1))
        return out


BYTES = [
    ((512, 512), "uint16", 64),
    ((512, 512), "uint32", 24),  # so many squares as lie evenly and take no more than 32 MiB
    ((1024, 1024), "uint32", 16),
    ((4096, 4096), "uint32", 16),
]  # 24: as many squares as 32 MiB hold evenly


@pytest.mark.parametrize("detector,dtype,number", BYTES)
def test_of_large_patterns_fewer_are_looked_at(detector, dtype, number):
    source = Watched((64, 64))
    source.shape, source.dtype = (64, 64, *detector), np.dtype(dtype)
    places = sample_places(gpu4d.DataCube(source), None, SAMPLE).places
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in places) == number


def test_looking_stays_within_the_memory_of_the_sweep():
    probe = template(1000 * synthetic((512, 512), 12.0))
    gpu4d.BraggDisks(probe).choose(gpu4d.DataCube(Crystal((4, 4), (512, 512))))  # compiles, and keeps what depends on the template
    source = Crystal((16, 16), (512, 512))
    tracemalloc.start()
    try:
        reduction = gpu4d.BraggDisks(probe).choose(gpu4d.DataCube(source), memory="100 MB")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "disks of 24 patterns)" in reduction.parameters_reason
    assert peak < 100e6, "25 MB of them are patterns"


def test_memory_changes_no_choice_but_where_it_cannot_hold_the_sample():
    probe, cubes = template(1000 * synthetic((256, 256), 12.0)), [gpu4d.DataCube(Crystal((8, 8), (256, 256))) for _ in range(3)]
    found = [gpu4d.BraggDisks(probe).choose(c, memory=m) for c, m in zip(cubes, (None, "20 MB", "10 MB"))]
    assert found[0].parameters_reason == found[1].parameters_reason and "16 patterns" in found[0].parameters_reason
    assert found[2].parameters == 6 and "looking at the scan takes 15.2 MB, memory= allows 10 MB" in found[2].parameters_reason
    assert cubes[1].source.visited.sum() == 16 and not cubes[2].source.visited.any()
    with pytest.raises(InputError, match="memory='much'"):
        gpu4d.find_bragg_disks(cubes[0], probe, memory="much")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_scan_without_positions_has_no_disks(shape, sloping):
    cube, probe = gpu4d.DataCube(np.zeros((*shape, 128, 128), "uint16")), template(sloping.probe())
    assert spread_sample(cube).shape == (0, 0, 128, 128)
    assert "no patterns" in gpu4d.BraggDisks(probe).choose(cube).parameters_reason
    found = [gpu4d.find_bragg_disks(cube, probe, parameters=p, progress=False) for p in ("auto", 6)]
    assert [f.shape for f in found] == [shape] * 2 and [len(f.flat("qx")) for f in found] == [0, 0]


def test_the_bytes_of_another_machine_are_counts_too(sloping):
    probe, patterns = template(sloping.probe()), sloping.patterns[:20]
    native = gpu4d.find_bragg_disks(patterns, probe)
    for order in "<>":
        some = patterns.astype(order + "u2")
        reduction = gpu4d.BraggDisks(probe)
        reduction.prepare(some.dtype)
        assert reduction.refinement == "likelihood"
        np.testing.assert_array_equal(gpu4d.find_bragg_disks(some, probe).flat("qx"), native.flat("qx"))


# ---------------------------------------------------------------- where it is chosen


@pytest.fixture(scope="module")
def sloping():
    return scene(1e4, patterns=32, tilt=0.1, seed=16)


def test_a_search_chooses_and_says_so(sloping, caplog):
    probe, cube = template(sloping.probe()), as_scan(sloping)
    with caplog.at_level(logging.INFO, "gpu4d"):
        found = gpu4d.find_bragg_disks(cube, probe, progress=False)
    assert "parameters='auto' is 8" in caplog.text
    eight = gpu4d.find_bragg_disks(cube, probe, parameters=8, progress=False)
    np.testing.assert_array_equal(found.flat("qx"), eight.flat("qx"))
    assert (found.flat("qx") != gpu4d.find_bragg_disks(cube, probe, parameters=6, progress=False).flat("qx")).any()
    some = gpu4d.find_bragg_disks(cube, probe, positions=[(1, 2), (3, 3)])  # a trial shows what the scan will give
    np.testing.assert_array_equal(some[0].qx, found[1, 2].qx)
    array = gpu4d.find_bragg_disks(cube.source.read(slice(0, 4), slice(0, 8)), probe)
    np.testing.assert_array_equal(array.flat("qx"), found.flat("qx"))
    with gpu4d.using("definition"):  # nor does it depend on what the scan is reduced with
        assert chosen(sloping).parameters == 8


def test_a_sweep_on_its_own_takes_six_and_says_so(sloping, caplog):
    probe, cube = template(sloping.probe()), as_scan(sloping)
    plain = gpu4d.BraggDisks(probe)
    with caplog.at_level(logging.INFO, "gpu4d"):
        found = gpu4d.sweep(cube, plain, progress=False)
    assert plain.parameters == 6 and "parameters='auto' is 6: no pattern of the scan has been looked at" in caplog.text
    np.testing.assert_array_equal(found.flat("qx"), gpu4d.find_bragg_disks(cube, probe, parameters=6, progress=False).flat("qx"))
    assert plain.choose(cube) is plain and plain.parameters == 8 and "times what noise explains" in plain.parameters_reason
    caplog.clear()
    with caplog.at_level(logging.INFO, "gpu4d"):
        found = gpu4d.sweep(cube, plain, progress=False)
    assert "nobody" not in caplog.text
    np.testing.assert_array_equal(found.flat("qx"), gpu4d.find_bragg_disks(cube, probe, progress=False).flat("qx"))
    even = as_scan(scene(1e4, patterns=24, seed=17))
    assert plain.choose(even).parameters == 6, "another scan, another choice"


def test_what_is_asked_for_is_not_touched(sloping):
    cube, probe = as_scan(sloping), template(sloping.probe())
    for options in ({"parameters": 4}, {"parameters": np.int64(6)}, {"refine": "correlation"}, {"refine": None}):
        reduction = gpu4d.BraggDisks(probe, **options)
        reduction.choose(cube)
        assert reduction.parameters == options.get("parameters", 6)
    for wrong in (5, "many", None):
        with pytest.raises(InputError, match="need 'auto', 4"):
            gpu4d.BraggDisks(probe, parameters=wrong)
    with pytest.raises(InputError, match="template"):
        gpu4d.BraggDisks(probe).choose(gpu4d.DataCube(Watched((40, 40))))


def test_too_little_to_tell_is_six(sloping):
    few = gpu4d.DataCube(sloping.patterns[None, : LEAST_PATTERNS - 1])
    dark = as_scan(scene(100.0, patterns=16, tilt=0.3, seed=18))
    empty = gpu4d.DataCube(np.zeros((5, 5, 128, 128), "uint16"))
    for cube in (few, dark, empty):
        reduction = gpu4d.BraggDisks(template(sloping.probe())).choose(cube)
        assert reduction.parameters == 6 and "too few to tell" in reduction.parameters_reason


def test_masked_pixels_have_no_say():
    some = scene(1e4, patterns=24, seed=19)
    mask = np.ones((128, 128), bool)
    mask[60:63] = False
    broken = np.where(mask, some.patterns, 60000).astype("uint16").reshape(4, -1, 128, 128)
    reduction = gpu4d.BraggDisks(template(some.probe())).choose(gpu4d.DataCube(broken, detector_mask=mask))
    assert reduction.parameters in (4, 6), reduction.parameters_reason


def test_arrays_of_other_libraries_choose_alike(sloping):
    strict = pytest.importorskip("array_api_strict")
    patterns = sloping.patterns.astype("int32").reshape(4, 8, 128, 128)
    of = [gpu4d.BraggDisks(template(sloping.probe())).choose(gpu4d.DataCube(a)) for a in (patterns, strict.asarray(patterns))]
    assert of[0].parameters == of[1].parameters == 8 and of[0].parameters_reason == of[1].parameters_reason
