"""Workloads from Bragg disks to radial sums: right answers pass, and one wrong value in any part of an answer does not."""

import importlib
import importlib.util
import pathlib

import numpy as np
import pytest
from gpu4d.benchmarks.suite import oracle
from gpu4d.benchmarks.suite.workload import QUICK, TIERS, Place, Unavailable, WrongAnswer, relative_error
from gpu4d.benchmarks.suite.workloads import bragg, disk_scene, lattice, masks, orientation, radial

import gpu4d

MODULES = (masks, bragg, lattice, orientation, radial)
WORKLOADS = {workload.key: workload for module in MODULES for workload in module.WORKLOADS}
PARTS = {
    "masks-64": ["images"],
    "bragg-disks": ["offsets", "qx", "qy", "intensity", "sx", "sy"],
    "refine-disks": ["x", "y", "amplitude", "background", "xx", "xy", "yy", "ok"],
    "lattice-fit": ["g1", "g2", "origin", "covariance", "residual", "count", "indexed_fraction", "mask", "exx", "eyy", "exy", "theta",
                    "uncertainty"],
    "orientation": ["matrices", "phase", "error"],
    "radial-sums": ["profiles"],
}  # fmt: skip
NO_GEMMI = importlib.util.find_spec("gemmi") is None
HOST = Place(np, False, "cpu", pathlib.Path())


def made(key, seed=1, place=HOST):
    if key == "orientation" and NO_GEMMI:
        pytest.skip("needs gemmi")
    return WORKLOADS[key].make(place, WORKLOADS[key].sizes[QUICK], seed)


@pytest.fixture(scope="module")
def answered():
    """Each workload with its answer, made once."""
    kept = {}

    def of(key):
        if key not in kept:
            prepared = made(key)
            kept[key] = prepared, prepared.arrays(prepared.call())
        return kept[key]

    return of


@pytest.fixture
def few_by_lot(monkeypatch):
    """One pattern alone goes to the definition, which takes the most time."""
    for module in (bragg, orientation, radial):
        monkeypatch.setattr(module, "DEFINED", 1)


@pytest.mark.parametrize("key", WORKLOADS)
def test_the_quick_size_runs_and_is_right(key, answered):
    prepared, found = answered(key)
    assert list(found) == PARTS[key]
    check = prepared.check(found)
    assert check.error <= check.tolerance == 1.0 and check.values >= sum(v.size for v in found.values())
    assert prepared.bytes > 0 and prepared.amount > 0 and prepared.implementation
    if check.bound is not None:  # 5000 values or more: their rms is known to a few per cent
        assert check.scatter > 0.95 * check.bound, "nothing is better than the bound"
        assert check.scatter < 1.4 * check.bound


@pytest.mark.parametrize("key", WORKLOADS)
def test_data_follow_from_the_seed(key, answered):
    assert made(key).data == answered(key)[0].data != made(key, seed=2).data


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in PARTS.items() for name in names])
def test_one_wrong_value_anywhere_is_a_wrong_answer(key, name, answered, few_by_lot):
    prepared, found = answered(key)
    value = found[name].copy()
    number = int(np.random.default_rng().integers(value.size))
    old = value.flat[number]
    value.flat[number] = not old if value.dtype == bool else old + 1 if value.dtype.kind in "iu" else 2 * old + 1
    with pytest.raises(WrongAnswer):
        prepared.check(found | {name: value})
    if value.dtype.kind == "f":
        value.flat[number] = np.nan
        with pytest.raises(WrongAnswer):
            prepared.check(found | {name: value})


@pytest.mark.parametrize("key", WORKLOADS)
def test_another_number_of_values_is_a_wrong_answer(key, answered, few_by_lot):
    prepared, found = answered(key)
    name = PARTS[key][0]
    with pytest.raises(WrongAnswer, match="has the shape"):
        prepared.check(found | {name: found[name][:-1]})


def test_a_disk_too_many_or_too_few_is_a_wrong_answer(answered, few_by_lot):
    prepared, found = answered("bragg-disks")
    fewer = {name: value[:-1] for name, value in found.items() if name != "offsets"}
    offsets = np.minimum(found["offsets"], found["offsets"][-1] - 1)
    with pytest.raises(WrongAnswer, match="another number was found"):
        prepared.check({"offsets": offsets, **fewer})
    twice = {name: np.concatenate([[value[1]], value[1:]]) for name, value in found.items() if name != "offsets"}
    with pytest.raises(WrongAnswer, match="pattern 0: a disk was not found"):
        prepared.check({"offsets": found["offsets"], **twice})


def first_moved(results):
    """Several results, with one value of the first changed."""
    first, *rest = results
    first = first.copy()
    first.flat[3] *= 1.1
    return (first, *rest)


@pytest.mark.parametrize(
    ("key", "twin", "spoil"),
    [
        ("masks-64", "masked_sums.masked_sums", lambda sums: first_moved([sums])[0]),
        (
            "bragg-disks",
            "find_disks.find_disks",
            lambda disks: type(disks)(disks.count, *first_moved(disks[1:])),
        ),
        ("refine-disks", "poisson_fit.poisson_fit", lambda fit: type(fit)(*first_moved(fit))),
        ("orientation", "refine_orientations.refine_orientations", lambda fit: (fit[0][..., [1, 0, 2], :], *fit[1:])),
        ("radial-sums", "polar_transform.radial_sums", lambda rings: (rings[0] + np.eye(*rings[0].shape, dtype=np.int64), rings[1])),
    ],
)
def test_a_corrupted_twin_gives_a_wrong_answer(key, twin, spoil, answered, few_by_lot, monkeypatch):
    prepared, _ = answered(key)
    module, _, name = twin.partition(".")
    module = importlib.import_module(f"gpu4d.cpu_fallback.{module}")
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: spoil(right(*args, **options)))
    with pytest.raises(WrongAnswer):
        prepared.check(prepared.arrays(prepared.call()))


def test_a_corrupted_lattice_fit_gives_a_wrong_answer(answered, monkeypatch):
    """The lattice has no twin: its least squares are spoilt by one part in a million."""
    from gpu4d.crystal import local_lattice

    solve = local_lattice._solve

    def spoilt(*args):
        x, inverse = solve(*args)
        return x * (1 + 1e-6), inverse

    monkeypatch.setattr(local_lattice, "_solve", spoilt)
    prepared, _ = answered("lattice-fit")
    with pytest.raises(WrongAnswer, match="weighted least squares"):
        prepared.check(prepared.arrays(prepared.call()))


@pytest.mark.parametrize("key", ["masks-64", "bragg-disks", "refine-disks"])
def test_other_tools_get_the_inputs(key, answered):
    given = answered(key)[0].inputs()
    names = {"patterns", "masks"} if key == "masks-64" else {"patterns", "probe", "radius", "positions"}
    assert set(given) == names and given["patterns"].dtype == np.uint16 and given["patterns"].shape[-2:] == (128, 128)
    if key != "masks-64":  # the faintest disk has 27 counts a pixel, the background 2
        x, y = np.rint(given["positions"][0]).astype(int).T
        assert (given["patterns"][0][x, y] > 5).all() and given["positions"].shape == (64, 21, 2)


def test_every_workload_has_all_sizes():
    for workload in WORKLOADS.values():
        assert set(workload.sizes) == {QUICK, *TIERS} and workload.explain.endswith(".")


def test_without_gemmi_orientations_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'gpu4d\[crystal\]'"):
        WORKLOADS["orientation"].make(HOST, {"positions": 64}, 1)


def test_the_worst_part_is_named():
    right, wrong = oracle.Part(np.array([0.5, -1.0]), 2.0), oracle.Part(3.0, np.array([4.0, 1.0]))
    assert oracle.judged({"a": right}, 2, "theory").error == 0.5
    with pytest.raises(WrongAnswer, match="b: 3 times the difference that is allowed, compared with theory"):
        oracle.judged({"a": right, "b": wrong}, 2, "theory")
    with pytest.raises(WrongAnswer, match="c: inf"):
        oracle.judged({"a": right, "c": oracle.Part(np.array([0.0, np.nan]), 1.0)}, 2, "theory")


def test_nobody_knows_which_patterns_are_drawn():
    drawn = [oracle.drawn(10**6, 20) for _ in range(2)]
    assert all(len(np.unique(some)) == 20 and (np.diff(some) > 0).all() and some.max() < 10**6 for some in drawn)
    assert not np.array_equal(*drawn) and oracle.drawn(3, 20).tolist() == [0, 1, 2]


def test_the_slope_of_a_smooth_disk_is_that_of_its_value():
    x, y = np.meshgrid(np.linspace(-8, 8, 41), np.linspace(-8, 8, 41), indexing="ij")
    disk, e = disk_scene.SmoothDisk(), 1e-5
    wanted = (disk.at(x + e, y) - disk.at(x - e, y)) / (2 * e), (disk.at(x, y + e) - disk.at(x, y - e)) / (2 * e)
    assert max(relative_error(got, want) for got, want in zip(disk.gradient(x, y), wanted)) < 1e-4
    fine = np.linspace(0, 8, 100001)
    area = 2 * np.pi * np.trapezoid(fine * disk.at(fine, 0 * fine), fine)
    assert area == pytest.approx(
        np.pi * (disk.radius**2 + disk.edge**2 / 20), rel=1e-6
    )  # of an edge 3t² − 2t³: ∫ (t − ½)² 6t(1 − t) dt = 1/20


def test_the_theory_of_a_correlation_is_what_noise_does():
    """Heights at the true positions of many patterns, by the sum over the counts that a correlation is."""
    scene = disk_scene.DiskScene.make(128, 3)
    template = gpu4d.probe.template(scene.probe)
    theory = disk_scene.CorrelationTheory.of(scene, template)
    patterns = scene.patterns(np, 16 * 20, 3).astype(float)
    maps = gpu4d.hybrid_correlation(patterns, template, power=1.0)
    whole = np.rint(scene.positions).astype(int)[scene.variants(len(patterns))]
    found = maps[np.arange(len(maps))[:, None], whole[..., 0], whole[..., 1]].reshape(20, 16, -1)
    assert np.sqrt((found.var(0, ddof=1) / theory.noise**2).mean()) == pytest.approx(1.0, abs=0.05)  # of 6 700 values
    assert (theory.height > 0.9 * found.mean(0)).all(), "half a pixel beside the maximum less is left"


def test_equivalent_orientations_of_a_cube_are_no_angle_apart():
    turn = orientation.rotations(np.array([[0.3, -0.2, 0.7, 0.1]]))
    assert len(np.unique(orientation.cubic().reshape(24, 9), axis=0)) == 24
    assert orientation.apart(turn @ orientation.cubic(), np.repeat(turn, 24, 0)).max() < 1e-7
    tilt = orientation.rotations(np.array([[np.cos(0.05), np.sin(0.05), 0.0, 0.0]]))  # by 0.1 rad about x
    assert orientation.apart(tilt @ turn, turn)[0] == pytest.approx(0.1)
    np.testing.assert_allclose(turn @ turn.swapaxes(1, 2), np.eye(3)[None], atol=1e-15)
    np.testing.assert_allclose(orientation._slab(np.linspace(-4.2, 4.2, 101)), np.sinc(np.linspace(-4.2, 4.2, 101)) ** 2, atol=1e-14)


@pytest.mark.skipif(NO_GEMMI, reason="needs gemmi")
def test_flops_of_orientations_are_those_of_the_library():
    structure = gpu4d.structures.Structure.standard("Au")
    disks = orientation.Gold.make(structure, 64, 1).disks
    farthest = orientation.Q_PIXEL * np.hypot(disks["qx"] - orientation.ORIGIN, disks["qy"] - orientation.ORIGIN).max()
    g_max = np.ceil(1.03 * farthest / 0.02) * 0.02  # as `match_orientations` rounds it
    library = gpu4d.orientation.orientation_library(structure, energy=orientation.ENERGY, thickness=orientation.THICKNESS, g_max=g_max)
    assert library.real.shape == (orientation.HARMONICS, orientation.SHELLS, orientation.AXES)


@pytest.mark.gpu
@pytest.mark.parametrize("key", WORKLOADS)
def test_a_gpu_gets_the_same_data_and_is_right(key, answered, tmp_path):
    import cupy

    prepared = made(key, place=Place(cupy, True, "cuda:0", tmp_path))
    assert prepared.data == answered(key)[0].data
    prepared.check(prepared.arrays(prepared.call()))
