"""Workloads of reductions, phase, counting, decoding, streaming, disk and strain: one wrong value anywhere, and there is no score."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from gpu4d.benchmarks.suite import page_cache
from gpu4d.benchmarks.suite.workload import Place, Unavailable, WrongAnswer
from gpu4d.benchmarks.suite.workloads import all_workloads, integration, phase
from gpu4d.benchmarks.suite.workloads.decode import write_compressed
from gpu4d.benchmarks.suite.workloads.disk import write
from gpu4d.benchmarks.suite.workloads.repeated import RepeatedScan
from gpu4d.benchmarks.suite.workloads.strained_scan import ORDERS, StrainedScan, strain_components
from gpu4d.benchmarks.suite.workloads.weak_object import SAFE, TURNS, WeakObject, disk, expected_patterns, waves

import gpu4d

SEED = 20261201
ARRAYS = {
    "one-pass": ("mean", "max", "images", "com"),
    "ssb": ("phase",),
    "wdd": ("phase", "transmission"),
    "poisson-solve": ("function",),
    "counting": ("offsets", "qx", "qy", "intensity"),
    "decode-lz4": ("mean", "max", "images", "com"),
    "stream": ("mean", "max", "images", "com"),
    "disk-cold": ("mean", "max", "images", "com"),
    "file-to-strain": ("offsets", "qx", "qy", "intensity", "exx", "eyy", "exy", "theta"),
}
WORKLOADS = {key: workload for key, workload in all_workloads().items() if key in ARRAYS}


def place_in(folder: Path) -> Place:
    return Place(np, False, "cpu", folder)


def made(key: str, folder: Path, seed: int = SEED):
    try:
        return WORKLOADS[key].make(place_in(folder), WORKLOADS[key].sizes["quick"], seed)
    except Unavailable as lacking:
        pytest.skip(str(lacking))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every workload with the arrays of one call, made when it is first asked for."""
    held = {}

    def get(key):
        if key not in held:
            prepared = made(key, tmp_path_factory.mktemp("suite"))
            held[key] = prepared, prepared.arrays(prepared.call())
        prepared, found = held[key]
        return prepared, {name: value.copy() for name, value in found.items()}

    yield get
    for prepared, _ in held.values():
        if prepared.close is not None:
            prepared.close()


@pytest.mark.parametrize("key", ARRAYS)
def test_the_shipped_answer_is_right(key, answers):
    prepared, found = answers(key)
    assert tuple(found) == ARRAYS[key]
    check = prepared.check(found)
    assert check.error <= check.tolerance and check.values >= sum(v.size for v in found.values()) / 2
    assert prepared.bytes > 0 and prepared.amount > 0 and prepared.implementation == "cpu"
    assert (check.bound is None) == (check.scatter is None) and (check.bound is None or 1 < check.scatter / check.bound < 2)


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in ARRAYS.items() for name in names])
def test_one_wrong_value_is_found(key, name, answers):
    """Off by a thousandth of the largest value, by one count where it is a whole number, or not a number at all."""
    prepared, found = answers(key)
    value = found[name].reshape(-1)
    place = np.random.default_rng().integers(0, len(value))
    before = value[place]
    wrong = [before + 1] if value.dtype.kind in "iu" else [before + 1e-3 * np.nanmax(np.abs(value)), np.nan]
    for other in wrong:
        value[place] = other
        with pytest.raises(WrongAnswer):
            prepared.check(found)
    value[place] = before
    prepared.check(found)


@pytest.mark.parametrize("key", ["one-pass", "stream"])
@pytest.mark.parametrize(("name", "change"), [("mean", 1 / 262144), ("com", 1 / 20000)], ids=["lost", "moved"])
def test_a_single_count_in_a_wrong_place_is_found(key, name, change, answers):
    """Of all patterns of tier L one count is lost; of the 18 000 counts of a pattern one lies a pixel beside its own."""
    prepared, found = answers(key)
    found[name].flat[np.random.default_rng().integers(found[name].size)] += change
    with pytest.raises(WrongAnswer):
        prepared.check(found)


def dropped(electrons):
    """One electron of the last frame less."""
    offsets = electrons.offsets.copy()
    offsets[-1] -= 1
    return type(electrons)(offsets, *(values[:-1] for values in electrons[1:]))


def scaled(sums):
    return type(sums)(sums[0] * 1.001, *sums[1:]) if isinstance(sums, tuple) else sums * 1.001


@pytest.mark.parametrize(
    ("key", "operation", "wrong"),
    [
        ("ssb", "ssb_sum", scaled),
        ("poisson-solve", "integrate_gradient", scaled),
        ("counting", "count_electrons", dropped),
        ("one-pass", "frame_reductions", scaled),
        ("stream", "frame_reductions", scaled),
        ("file-to-strain", "find_disks", lambda found: type(found)(found[0], found[1] + 0.01, *found[2:])),
    ],
)
def test_a_wrong_twin_gets_no_score(key, operation, wrong, answers, monkeypatch):
    prepared, _ = answers(key)
    module = importlib.import_module(f"gpu4d.cpu_fallback.{operation}")
    twin = getattr(module, operation)
    monkeypatch.setattr(module, operation, lambda *given, **options: wrong(twin(*given, **options)))
    with pytest.raises(WrongAnswer):
        prepared.check(prepared.arrays(prepared.call()))


@pytest.mark.gpu
@pytest.mark.parametrize("key", ARRAYS)
def test_a_gpu_has_the_same_data_and_a_right_answer(key, tmp_path, answers):
    cupy = pytest.importorskip("cupy")
    on_host, _ = answers(key)
    prepared = WORKLOADS[key].make(Place(cupy, True, "cuda:0", tmp_path), WORKLOADS[key].sizes["quick"], SEED)
    assert prepared.data == on_host.data and prepared.implementation == "cuda"
    if prepared.before is not None:
        prepared.before()
    prepared.check(prepared.arrays(prepared.call()))
    if prepared.close is not None:
        prepared.close()


@pytest.mark.parametrize("key", ["ssb", "counting", "poisson-solve", "file-to-strain", "stream"])
def test_an_answer_of_another_length_is_found(key, answers):
    prepared, found = answers(key)
    name = ARRAYS[key][-1]
    found[name] = found[name][:-1]
    with pytest.raises((WrongAnswer, ValueError, IndexError)):
        prepared.check(found)


@pytest.mark.parametrize("key", ARRAYS)
def test_data_follow_from_the_seed_and_files_are_removed(key, answers, tmp_path):
    first, _ = answers(key)
    again, other = made(key, tmp_path), made(key, tmp_path, SEED + 1)
    assert first.data == again.data != other.data and len(first.data) == 16
    for prepared in (again, other):
        if prepared.close is not None:
            prepared.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ARRAYS)
def test_sizes_fit_their_tiers(key):
    sizes = WORKLOADS[key].sizes
    assert list(sizes) == ["quick", "S", "M", "L"] and len(WORKLOADS[key].explain) > 40
    assert [np.prod(list(size.values())) for size in sizes.values()] == sorted(np.prod(list(size.values())) for size in sizes.values())


def test_inputs_for_peers_are_those_of_the_call(answers):
    """What other tools get: patterns, masks, optics; a centre of mass whose integral is the answer."""
    for key in ("stream", "disk-cold"):
        prepared, found = answers(key)
        given = prepared.inputs()
        np.testing.assert_allclose(np.einsum("xyij,mij->mxy", given["patterns"], given["masks"].astype(int)), found["images"])
    prepared, found = answers("ssb")
    given = prepared.inputs()
    optics = {name: float(given[name]) for name in ("energy", "semiangle", "q_pixel", "r_pixel")}
    cube = gpu4d.DataCube(given["patterns"], gpu4d.Calibration(**optics))
    np.testing.assert_allclose(gpu4d.ssb(cube, origin=tuple(given["origin"]), device="cpu").phase.data, found["phase"], atol=1e-9)
    prepared, found = answers("poisson-solve")
    given = prepared.inputs()
    whole = gpu4d.dpc(given["com"], q_pixel=1.0, r_pixel=1.0, rotation=0.0, transpose=False, descan=None)
    np.testing.assert_allclose(whole.phase.data, found["function"], atol=1e-5)
    np.testing.assert_allclose(given["com"] * 2 * np.pi, given["gradient"], atol=1.01 * integration.NOISE)
    assert np.abs(found["function"] - given["phase"]).max() < 0.1


# ---------------------------------------------------------------- files


def test_a_chunk_that_decodes_to_other_values_is_found(tmp_path):
    """Patterns whose sums are the same, in another order: sums cannot see it, and the values of drawn patterns do."""
    prepared = made("decode-lz4", tmp_path)
    found = prepared.arrays(prepared.call())
    (path,) = tmp_path.iterdir()
    block = RepeatedScan.make(place_in(tmp_path), WORKLOADS["decode-lz4"].sizes["quick"], SEED).block
    path.unlink()
    write_compressed(path, RepeatedScan(np.ascontiguousarray(block[:, ::-1, ::-1]), 1))
    with pytest.raises(WrongAnswer, match="decoded to other values"):
        prepared.check(found)


def test_compressed_files_are_what_the_hdf5_library_reads(tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("hdf5plugin")
    scan = RepeatedScan(np.random.default_rng(0).integers(0, 900, (64, 12, 12)).astype(np.uint16), 2)
    size = write_compressed(tmp_path / "scan.h5", scan)
    with h5py.File(tmp_path / "scan.h5") as file:
        assert np.array_equal(file["scan"][:].reshape(2, 64, 12, 12), [scan.block] * 2) and file["scan"].id.get_storage_size() == size
        assert file["scan"].chunks == (1, 1, 12, 12)


def test_pages_are_dropped_or_it_is_said_why(tmp_path):
    path = tmp_path / "scan.h5"
    write(path, RepeatedScan(np.ones((64, 64, 64), np.uint16), 2))
    assert page_cache.resident(path) > 0.9
    try:
        page_cache.drop(path)
    except Unavailable as lacking:
        pytest.skip(str(lacking))
    assert page_cache.resident(path) < 0.1


def test_pages_that_a_cycle_of_references_has_mapped_are_dropped(tmp_path):
    path = tmp_path / "scan.h5"
    write(path, RepeatedScan(np.ones((64, 64, 64), np.uint16), 2))
    try:
        page_cache.drop(path)
    except Unavailable as lacking:
        pytest.skip(str(lacking))
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() > 0 and page_cache.resident(path) > 0.9
    cycle = [mapped]
    cycle.append(cycle)
    del mapped, cycle
    page_cache.drop(path)
    assert page_cache.resident(path) <= page_cache.MOST_LEFT


def test_a_folder_in_memory_has_no_cold_file():
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("this system has no /dev/shm")
    path = folder / "gpu4d-test-of-pages.bin"
    path.write_bytes(bytes(1 << 16))
    try:
        with pytest.raises(Unavailable, match=r"tmpfs.*"):
            page_cache.drop(path)
    finally:
        path.unlink()


def test_a_sweep_lets_the_file_go(tmp_path):
    """A file that stays mapped would keep its pages: the second call would not be cold."""
    prepared = made("disk-cold", tmp_path)
    for _ in range(2):
        prepared.before()
        (path,) = tmp_path.iterdir()
        assert page_cache.resident(path) <= page_cache.MOST_LEFT
        prepared.call()
        assert page_cache.resident(path) > 0.5
    prepared.close()


# ---------------------------------------------------------------- the thin object


def test_sixteenths_of_a_turn():
    np.testing.assert_allclose(TURNS, np.exp(-2j * np.pi * np.arange(16) / 16), atol=1e-15)


def test_patterns_are_those_of_the_transmission():
    """|Ψ₀ + iφ̂ * Ψ₀|² at one position, wave by wave with complex exponentials."""
    orders, amplitudes = waves(3)
    found = expected_patterns(20, 6, orders, amplitudes)
    at = np.stack(np.meshgrid(*[np.arange(20) - 10] * 2, indexing="ij"), -1)
    wave = disk(6, at) + 0j
    for order, c in zip(orders, amplitudes):
        wave += 1j * c * np.exp(2j * np.pi * (order @ [5, 11]) / 16) * disk(6, at - order * 1.5)
    np.testing.assert_allclose(found[5, 11], np.abs(wave) ** 2, atol=1e-14)
    assert {tuple(o) for o in orders} == {tuple(-o) for o in orders} and (np.hypot(*orders.T) / 4 < 1.7).all()


def test_errors_of_waves_are_those_of_counting(monkeypatch, tmp_path):
    """The rms of all waves' distances from the truth, over what Poisson statistics say, is 1."""
    ratios = []
    monkeypatch.setattr(phase, "expect_within", lambda away, allowed, where: ratios.append(SAFE * away[where] / allowed[where]))
    prepared = made("ssb", tmp_path, seed=5)
    prepared.check(prepared.arrays(prepared.call()))
    ratio = ratios[0][ratios[0] > 0]
    assert len(ratio) > 500 and abs(np.sqrt((ratio**2).mean()) - 1) < 0.1


def test_spectra_are_fourier_transforms_of_the_pixels_images(tmp_path):
    scan = WeakObject.make(place_in(tmp_path), {"scan": 16, "detector": 16, "radius": 5}, 1)
    x, y = (scan.pixels + 8).T
    images = np.fft.fft2(scan.patterns[:, :, x, y], axes=(0, 1))
    np.testing.assert_allclose(scan.spectra(np.array([[3, 14], [0, 0]])), [images[3, 14], images[0, 0]], atol=1e-9)


# ---------------------------------------------------------------- the integral


@pytest.mark.parametrize("n", [16, 31])
def test_integration_by_cosines_is_the_definition(n):
    field = np.random.default_rng(0).normal(size=(n, n, 2))
    with gpu4d.using("definition"):
        wanted = gpu4d.deflection.integrate_gradient(field)
    np.testing.assert_allclose(integration.integrated_by_cosines(field), wanted, atol=1e-12)


def test_the_field_is_the_gradient_of_the_true_function(monkeypatch, tmp_path):
    monkeypatch.setattr(integration, "NOISE", 0.0)
    field = integration.gradient_field(place_in(tmp_path), 64, 1)
    np.testing.assert_allclose(integration.integrated_by_cosines(field.astype(float)), integration.true_function(64), atol=2e-3)


# ---------------------------------------------------------------- the strained scan


def test_the_bound_of_a_disk_is_that_of_its_rim():
    """∮ cos²θ R dθ ∫ (a/w)² / (b + a t) w dt = π R (a/w) ln(1 + a/b) for an edge that falls linearly over w."""
    scan = StrainedScan.make(1)
    wanted = np.pi * 6.0 * scan.heights / 2.0 * np.log1p(scan.heights / 0.5)
    ratio = scan.disk_errors**-2 / wanted[..., None]  # of single disks it differs: few pixels lie where the edge is dark
    assert abs(ratio.mean() - 1) < 0.1 and ratio.std() < 0.3


def test_the_bound_of_strain_is_the_scatter_of_the_best_fit():
    scan, rng, state = StrainedScan.make(2), np.random.default_rng(0), 3
    q = scan.positions[state] + scan.disk_errors[state] * rng.normal(size=(20000, len(ORDERS), 2))
    rho = np.concatenate([np.ones((len(ORDERS), 1)), ORDERS], 1)
    g = np.empty((len(q), 2, 2))
    for axis in (0, 1):
        root = 1 / scan.disk_errors[state, :, axis]
        g[:, :, axis] = (q[:, :, axis] * root) @ np.linalg.pinv(rho * root[:, None]).T[:, 1:]
    strain = strain_components(np.linalg.inv(g) @ scan.lattices[0])
    np.testing.assert_allclose(strain.mean(0), strain_components(scan.deformation[state]), atol=5e-6)
    np.testing.assert_allclose(strain.std(0), scan.strain_errors[state], rtol=0.05)
