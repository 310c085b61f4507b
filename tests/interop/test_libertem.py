"""Our UDFs in LiberTEM: equal to the definitions for any tiles, partitions, roi, dtype, offset, method and executor."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.interop import libertem as ours
from gpu4d.ptychography import SSBLive

SCAN, DETECTOR = (5, 6), (18, 22)
CENTER = (8.6, 10.3)
KNOWN = gpu4d.Calibration(r_pixel=2.5)
DTYPES = ("uint8", "uint16", "int16", "uint32", "uint64", "bool", "float32", "float64", ">u2")
# (tile shape, partitions): whole frames, one frame, parts of the detector along one axis and both, odd last tiles
TILES = [(None, 1), ((2, 18, 22), 3), ((1, 18, 22), 2), ((7, 5, 22), 2), ((3, 18, 7), 3), ((4, 4, 5), 3), ((1, 1, 22), 1)]


@pytest.fixture(scope="module")
def context(need):
    need("libertem")
    import libertem.api as lt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lt.Context.make_with("inline")


@pytest.fixture(autouse=True)
def no_warnings_of_tiles():
    """LiberTEM warns where a tile of the memory dataset is not the one it would choose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*adjust_tileshape")
        yield


def frames_of(dtype, shape=(*SCAN, *DETECTOR)):
    rng = np.random.default_rng(7)
    found = rng.poisson(3.0, shape)
    found[2, 3] = 0  # an empty frame
    return (found > 2 if dtype == "bool" else found).astype(dtype)


def wandering(seed=1):
    return np.random.default_rng(seed).normal(CENTER, 0.8, (*SCAN, 2))


def load(context, data, tiles=None, partitions=2, **options):
    return context.load("memory", data=data, sig_dims=2, tileshape=tiles, num_partitions=partitions, **options)


def distances(origin, shape=DETECTOR):
    x, y = np.indices(shape)
    return np.hypot(x - origin[0], y - origin[1])


def under(data, origins, inner, outer, valid):
    """Counts in an annulus about the origin of each position, from the definition, in float64."""
    out = np.empty(data.shape[:2])
    for at in np.ndindex(out.shape):
        r = distances(origins[at])
        out[at] = np.sum(data[at].astype(np.float64)[(r < outer) & ((r > inner) | (inner < 0)) & valid])
    return out


def com_of(data, valid):
    values = np.where(valid, data.astype(np.float64), 0.0)
    x, y = np.indices(DETECTOR)
    total = values.sum((-2, -1))
    with np.errstate(invalid="ignore"):
        return total, np.stack([(values * x).sum((-2, -1)) / total, (values * y).sum((-2, -1)) / total], -1)


def rings_of(data, origins, n_r, valid):
    sums, pixels = np.zeros((*data.shape[:2], n_r)), np.zeros((*data.shape[:2], n_r), int)
    for at in np.ndindex(data.shape[:2]):
        ring = np.floor(distances(origins[at])).astype(int)
        for k in range(n_r):
            inside = (ring == k) & valid
            sums[at][k], pixels[at][k] = data[at].astype(np.float64)[inside].sum(), inside.sum()
    return sums, pixels


VALID = np.ones(DETECTOR, bool)
VALID[4:7, 9] = False


def all_in_tiles():
    """UDFs that take parts of frames: images under fixed and moving detectors, centre of mass, rings."""
    disk = gpu4d.detectors.disk
    return {
        "fixed": ours.VirtualImageUDF({"a": disk(4.2, CENTER), "b": VALID & (distances(CENTER) > 5)}, KNOWN, detector_mask=VALID),
        "moving": ours.VirtualImageUDF([disk(4.2), gpu4d.detectors.annulus(3.1, 7.9)], origin=wandering(), detector_mask=VALID),
        "mixed": ours.VirtualImageUDF([gpu4d.detectors.segmented(2, 8, 3)[1], VALID * 0.5, disk(3.3)], origin=wandering()),
        "com": ours.CenterOfMassUDF.with_params(calibration=KNOWN, detector_mask=VALID),
        "rings": ours.RadialProfileUDF(CENTER, r_max=11, detector_mask=VALID),
        "moving rings": ours.RadialProfileUDF(wandering(), r_max=9.0),
    }


def check(udfs, results, data, seen):
    """Compare all results with the definitions at positions that were seen; the others must be NaN. Bits where counts are integers."""
    exact = data.dtype.kind in "biu" and data.dtype.itemsize < 8

    def same(got, wanted):
        wanted = np.where(seen.reshape(seen.shape + (1,) * (wanted.ndim - 2)), wanted, np.nan)
        if exact:
            np.testing.assert_array_equal(got, wanted)
        else:
            np.testing.assert_allclose(got, wanted, rtol=1e-12)

    fixed = np.broadcast_to(CENTER, (*SCAN, 2))
    images = udfs["fixed"].images(results["fixed"])
    assert images.labels == ("a", "b") and images.pixel_size == 2.5
    same(np.asarray(images["a"]), under(data, fixed, -1, 4.2, VALID))
    same(np.asarray(images["b"]), under(data, fixed, 5, 99, VALID))
    moving = np.asarray(udfs["moving"].images(results["moving"]))
    same(moving[0], under(data, wandering(), -1, 4.2, VALID))
    same(moving[1], under(data, wandering(), 3.1, 7.9, VALID))
    mixed = np.asarray(udfs["mixed"].images(results["mixed"]))
    same(mixed[1], 0.5 * np.where(VALID, data.astype(np.float64), 0).sum((-2, -1)))
    same(mixed[2], under(data, wandering(), -1, 3.3, np.ones(DETECTOR, bool)))
    _, com = com_of(data, VALID)
    found = udfs["com"].center_of_mass(results["com"])
    assert found.labels == ("com_x", "com_y")
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), 0, -1), np.where(seen[..., None], com, np.nan), rtol=1e-12)
    for name, origins, n_r, valid in (("rings", fixed, 11, VALID), ("moving rings", wandering(), 9, np.ones(DETECTOR, bool))):
        sums, pixels = rings_of(data, origins, n_r, valid)
        same(np.where(seen[..., None], np.asarray(results[name]["sums"].data), np.nan), sums)
        same(np.where(seen[..., None], np.asarray(results[name]["pixels"].data), np.nan), pixels.astype(float))
        with np.errstate(invalid="ignore"):
            same(udfs[name].profiles(results[name]), sums / pixels)


def run_all(context, dataset, **options):
    udfs = all_in_tiles()
    return udfs, dict(zip(udfs, context.run_udf(dataset=dataset, udf=list(udfs.values()), **options)))


@pytest.mark.parametrize(("tiles", "partitions"), TILES)
def test_any_tiles_give_the_definition(context, tiles, partitions):
    data = frames_of("uint16")
    check(*run_all(context, load(context, data, tiles, partitions)), data, np.ones(SCAN, bool))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_stays_native(context, dtype):
    data = frames_of(dtype)
    udfs, results = run_all(context, load(context, data, (4, 7, 9), 2))
    check(udfs, results, data, np.ones(SCAN, bool))
    assert udfs["com"].meta.input_dtype == np.dtype(dtype).newbyteorder("=")
    narrow = data.dtype.kind in "biu" and data.dtype.itemsize < 8
    assert results["fixed"]["intensity"].data.dtype == (np.int64 if narrow else np.float64)


def test_only_the_roi(context):
    data, roi = frames_of("uint16"), np.random.default_rng(3).random(SCAN) < 0.5
    for tiles in (None, (2, 7, 22)):
        check(*run_all(context, load(context, data, tiles, 3), roi=roi), data, roi)


@pytest.mark.parametrize("offset", [4, -7])
def test_an_offset_moves_frames_and_not_origins(context, offset):
    data = frames_of("uint16")
    moved = np.zeros_like(data).reshape(-1, *DETECTOR)
    seen = np.zeros(SCAN, bool).reshape(-1)
    flat = data.reshape(moved.shape)
    if offset > 0:
        moved[:-offset], seen[:-offset] = flat[offset:], True
    else:
        moved[-offset:], seen[-offset:] = flat[:offset], True
    udfs, results = run_all(context, load(context, data, (3, 9, 22), 2, sync_offset=offset))
    # LiberTEM calls positions without a frame valid: sums there are 0, and rings have no pixel
    for name in ("fixed", "moving", "mixed"):
        assert not np.asarray(udfs[name].images(results[name]))[:, ~seen.reshape(SCAN)].any()
    for name in ("com", "rings", "moving rings", "fixed", "moving", "mixed"):
        for buffer in results[name].values():
            if buffer.kind == "nav":
                buffer.valid_mask = buffer.valid_mask.reshape(-1, *buffer.extra_shape) & seen.reshape(-1, *(1,) * len(buffer.extra_shape))
    check(udfs, results, moved.reshape(data.shape), seen.reshape(SCAN))


@pytest.mark.parametrize("method", ["process_partition", "process_frame", "process_tile"])
def test_beside_udfs_of_every_method(context, method):
    """LiberTEM cuts tiles as its most demanding UDF needs them."""
    from libertem.udf.base import UDF

    class Other(UDF):
        def get_result_buffers(self):
            return {"total": self.buffer(kind="nav", dtype=np.float64)}

        def get_preferred_input_dtype(self):
            return np.float32

    def add(self, part):
        self.results.total[:] += part.reshape(-1, *part.shape[-2:]).sum((-2, -1)) if method != "process_frame" else part.sum()

    setattr(Other, method, add)
    data, udfs = frames_of("uint16"), all_in_tiles()
    *found, other = context.run_udf(dataset=load(context, data, None, 3), udf=[*udfs.values(), Other()])
    check(udfs, dict(zip(udfs, found)), data, np.ones(SCAN, bool))
    np.testing.assert_array_equal(other["total"].data, data.sum((-2, -1)))


def test_results_of_a_run_that_goes_on(context):
    """As for a live scan: after every partition what has come is right, and the rest is NaN."""
    data, udfs = frames_of("uint16"), all_in_tiles()
    seen_before = 0
    for part in context.run_udf_iter(dataset=load(context, data, (2, 9, 22), 4), udf=list(udfs.values())):
        seen = np.array(part.damage.data)
        assert seen.sum() > seen_before
        seen_before = seen.sum()
        check(udfs, dict(zip(udfs, part.buffers)), data, seen)
    assert seen_before == data.shape[0] * data.shape[1]


@pytest.mark.parametrize("kind", ["threads", "pickled"])
def test_other_executors(need, kind):
    """Threads that share a UDF's parameters; and tasks that are pickled as for other processes."""
    need("libertem")
    import libertem.api as lt
    from libertem.executor.inline import InlineJobExecutor

    made = lt.Context.make_with("threads", cpus=3) if kind == "threads" else lt.Context(executor=InlineJobExecutor(debug=True))
    data = frames_of("uint16")
    check(*run_all(made, load(made, data, (2, 9, 22), 4)), data, np.ones(SCAN, bool))
    made.close()


def test_delayed_results(need):
    """LiberTEM's delayed executor says of no position that it is valid, so its arrays are looked at as they are."""
    need("libertem")
    import libertem.api as lt
    from libertem.executor.delayed import DelayedJobExecutor

    made, data = lt.Context(executor=DelayedJobExecutor()), frames_of("uint16")
    _, results = run_all(made, load(made, data, (2, 9, 22), 4))
    total, com = com_of(data, VALID)
    np.testing.assert_array_equal(np.asarray(results["com"]["counts"].data), total)
    np.testing.assert_allclose(np.asarray(results["com"]["raw_com"].data)[total > 0], com[total > 0], rtol=1e-12)
    images = np.asarray(results["fixed"]["intensity"].data).reshape(*SCAN, 2)
    np.testing.assert_array_equal(images[..., 0], under(data, np.broadcast_to(CENTER, (*SCAN, 2)), -1, 4.2, VALID))


def test_sparse_frames_come_as_dense_ones(context):
    import sparse
    from libertem.io.dataset.memory import MemoryDataSet

    data = frames_of("uint16")
    held = MemoryDataSet(data=sparse.COO.from_numpy(data), sig_dims=2, num_partitions=2, array_backends=("sparse.COO",))
    check(*run_all(context, held.initialize(context.executor)), data, np.ones(SCAN, bool))


# ---------------------------------------------------------------- centre of mass in LiberTEM's words


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cy": 7.5, "cx": 9.25, "r": 6.0},
        {"cy": 7.5, "cx": 9.25, "r": 6.0, "ri": 2.0, "regression": 0},
        {"scan_rotation": 33.0, "flip_y": True, "regression": 1},
        {"scan_rotation": -120.0, "regression": np.array([[0.1, 0.2], [0.01, 0.0], [0.0, -0.02]])},
    ],
)
def test_options_and_results_of_libertems_own(context, options):
    """Every buffer is LiberTEM's, computed from the same frames in float64, where its own works."""
    from libertem.udf.com import CoMUDF

    data = frames_of("float64")
    for roi in (None, np.random.default_rng(5).random(SCAN) < 0.7):
        dataset = load(context, data, (3, 7, 22), 3)
        theirs = context.run_udf(dataset=dataset, udf=CoMUDF.with_params(**options), roi=roi)
        mine = context.run_udf(dataset=dataset, udf=ours.CenterOfMassUDF.with_params(**options), roi=roi)
        assert set(theirs) <= set(mine)
        for name in theirs:
            np.testing.assert_allclose(mine[name].data, theirs[name].data, atol=2e-5, err_msg=name)


def test_shifts_from_an_origin_of_each_position(context):
    data, origin = frames_of("uint16"), wandering()
    udf = ours.CenterOfMassUDF.with_params(origin=origin)
    found = context.run_udf(dataset=load(context, data, (3, 7, 22), 2), udf=udf)
    _, com = com_of(data, np.ones(DETECTOR, bool))
    wanted = np.where(np.isnan(com), 0.0, com - origin)  # a frame without counts has no shift
    np.testing.assert_allclose(found["raw_shifts"].data, wanted, atol=1e-12)
    again = ours.CenterOfMassUDF.with_params(calibration=gpu4d.Calibration(origin=origin))
    np.testing.assert_array_equal(context.run_udf(dataset=load(context, data), udf=again)["raw_shifts"].data, found["raw_shifts"].data)


def test_a_nan_spoils_its_own_frame_alone(context):
    data = frames_of("float32")
    data[1, 2, 3, 4] = np.nan
    udfs, results = run_all(context, load(context, data, (3, 7, 9), 2))
    com = np.asarray(udfs["com"].center_of_mass(results["com"]))
    assert np.isnan(com[:, 1, 2]).all() and np.isnan(com[:, 2, 3]).all() and np.isnan(com).sum() == 4
    assert np.isnan(np.asarray(udfs["mixed"].images(results["mixed"]))).sum() <= 3
    assert np.isfinite(udfs["rings"].profiles(results["rings"])).all()


# ---------------------------------------------------------------- Bragg disks and SSB


def bragg_frames():
    probe = gpu4d.probe.synthetic((40, 40), 3.5)
    rng = np.random.default_rng(0)
    frames = np.zeros((*SCAN, 40, 40))
    for at in np.ndindex(SCAN):
        for _ in range(5):
            frames[at] += np.roll(700 * probe, rng.integers(-13, 13, 2), (0, 1))
    frames[1, 1] = 0
    return probe, rng.poisson(frames).astype("uint16")


@pytest.mark.parametrize(("tiles", "partitions"), [(None, 1), ((2, 40, 40), 3)])
def test_bragg_disks_are_those_of_find_bragg_disks(context, tiles, partitions):
    probe, frames = bragg_frames()
    options = {"max_peaks": 12, "parameters": 6}
    wanted = gpu4d.find_bragg_disks(frames, probe, **options)
    assert wanted.counts[1, 1] == 0 and wanted.counts.sum() > 60
    udf, com = ours.BraggDisksUDF(probe, **options), ours.CenterOfMassUDF.with_params()
    dataset = load(context, frames, tiles, partitions)
    found, _ = context.run_udf(dataset=dataset, udf=[udf, com])
    disks = udf.disks(found)
    np.testing.assert_array_equal(disks.counts, wanted.counts)
    for name in wanted.fields:
        np.testing.assert_array_equal(disks.flat(name), wanted.flat(name))
    roi = np.arange(30).reshape(SCAN) % 3 == 0
    some = udf.disks(context.run_udf(dataset=dataset, udf=udf, roi=roi))
    np.testing.assert_array_equal(some.counts, np.where(roi, wanted.counts, 0))
    np.testing.assert_array_equal(some[3, 3].qx, wanted[3, 3].qx)


def test_many_frames_wait_for_one_search(context, monkeypatch):
    monkeypatch.setattr("gpu4d.interop.libertem.bragg_disks.SMALLEST_BATCH", 4)
    monkeypatch.setattr("gpu4d.interop.libertem.bragg_disks.BATCH_BYTES", 1)
    probe, frames = bragg_frames()
    udf = ours.BraggDisksUDF(probe, parameters=6)
    found = udf.disks(context.run_udf(dataset=load(context, frames, (3, 40, 40), 2), udf=udf))
    wanted = gpu4d.find_bragg_disks(frames, probe, parameters=6)
    np.testing.assert_array_equal(found.flat("qx"), wanted.flat("qx"))


@pytest.fixture(scope="module")
def phase_scan():
    scan = gpu4d.simulate.phase_object_scan((24, 20), (28, 26), r_pixel=0.25, strength=0.1)
    cube = gpu4d.DataCube(np.asarray(scan.cube), scan.cube.calibration)
    cube.calibration.set(origin=(14, 13), how="simulation")
    return cube


@pytest.mark.parametrize(("tiles", "partitions"), [(None, 1), ((7, 28, 26), 3), ((5, 3, 26), 2), ((4, 11, 9), 2)])
def test_ssb_is_that_of_gpu4d(context, phase_scan, tiles, partitions):
    wanted = gpu4d.ssb(phase_scan, mode="exact", rotation=0.2)
    udf = ours.SSBUDF(phase_scan.calibration, mode="exact", rotation=0.2)
    found = udf.phase(context.run_udf(dataset=load(context, np.asarray(phase_scan), tiles, partitions), udf=udf))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted.phase))
    assert found.units == "rad" and found.pixel_size == pytest.approx(0.25)


def test_ssb_of_what_has_come(context, phase_scan):
    """Rows after one another, and a roi: the bits of SSBLive, which fills what is missing with means."""
    data = np.asarray(phase_scan)
    udf = ours.SSBUDF(phase_scan.calibration)

    def live(seen):
        made = SSBLive(data.shape[:2], data.shape[2:], phase_scan.calibration)
        made.update(data[seen], np.argwhere(seen))
        return np.asarray(made.result().phase)

    for part in context.run_udf_iter(dataset=load(context, data, (5, 9, 26), 3), udf=udf):
        np.testing.assert_array_equal(np.asarray(udf.phase(part.buffers[0])), live(np.array(part.damage.data)))
    roi = np.zeros(data.shape[:2], bool)
    roi[2:, 1:17] = True
    some = udf.phase(context.run_udf(dataset=load(context, data), udf=udf, roi=roi))
    np.testing.assert_array_equal(np.asarray(some), live(roi))
    assert np.isnan(np.asarray(some)[~roi]).all()


def test_ssb_of_nothing_but_empty_frames(context, phase_scan):
    """Before electrons come there is no phase, and no error that would end a live run; at the end there is one."""
    dark = np.zeros(phase_scan.shape, np.uint16)
    parts = context.run_udf_iter(dataset=load(context, dark, None, 2), udf=ours.SSBUDF(phase_scan.calibration))
    assert np.isnan(next(iter(parts)).buffers[0]["phase"].data).all()
    with pytest.raises(InputError):
        context.run_udf(dataset=load(context, dark), udf=ours.SSBUDF(phase_scan.calibration))["phase"]


# ---------------------------------------------------------------- what does not fit


def test_what_does_not_fit_is_said(context, phase_scan):
    from libertem.io.dataset.memory import MemoryDataSet

    spectra = context.load("memory", data=np.ones((3, 4, 5)), sig_dims=1)
    with pytest.raises(InputError, match=r"1 axes \(5,\): need two"):
        context.run_udf(dataset=spectra, udf=ours.VirtualImageUDF(gpu4d.detectors.disk(2)))
    row = MemoryDataSet(data=np.ones((30, *DETECTOR)), sig_dims=2, num_partitions=2).initialize(context.executor)
    with pytest.raises(InputError, match="1 axes: ptychography needs two"):
        context.run_udf(dataset=row, udf=ours.SSBUDF(phase_scan.calibration))
    udf = ours.VirtualImageUDF(gpu4d.detectors.disk(99))
    assert np.asarray(udf.images(context.run_udf(dataset=row, udf=udf))).tolist() == [[396.0] * 30]
    with pytest.raises(InputError, match="complex64: need integers or real"):
        context.run_udf(dataset=load(context, frames_of("complex64")), udf=ours.RadialProfileUDF(CENTER))
    with pytest.raises(InputError, match="origin is not known"):
        context.run_udf(dataset=load(context, frames_of("uint8")), udf=ours.RadialProfileUDF())
    with pytest.raises(InputError, match=r"origin is \(3, 3, 2\)"):
        context.run_udf(
            dataset=load(context, frames_of("uint8")), udf=ours.VirtualImageUDF(gpu4d.detectors.disk(2), origin=np.ones((3, 3, 2)))
        )
    with pytest.raises(ValueError, match="Inner radius"):
        ours.CenterOfMassUDF.with_params(r=3, ri=4)
    counts = load(context, frames_of("uint8"))
    with pytest.raises(InputError, match=r"the template is \(20, 20\), the patterns are \(18, 22\)"):
        context.run_udf(dataset=counts, udf=ours.BraggDisksUDF(gpu4d.probe.synthetic((20, 20), 3.0)))
    with pytest.raises(InputError, match="calibration is a dict"):
        ours.CenterOfMassUDF.with_params(calibration={"origin": CENTER})
    with pytest.raises(InputError, match=r"no option 'enrgy' \(did you mean 'energy'\?\)"):
        ours.SSBUDF(enrgy=3e5)
    both = [ours.VirtualImageUDF(gpu4d.detectors.disk(2)), ours.RadialProfileUDF(CENTER)]
    with pytest.raises(InputError, match=r"no buffer 'mean' of RadialProfileUDF: .*one for each UDF of a list"):
        both[1].profiles(context.run_udf(dataset=counts, udf=both))


def test_a_scan_of_one_row_has_no_derivatives(context):
    data = frames_of("uint16")[:1]
    udf = ours.CenterOfMassUDF.with_params(cy=CENTER[0], cx=CENTER[1], scan_rotation=20.0, flip_y=True)
    found = context.run_udf(dataset=load(context, data), udf=udf)
    com = gpu4d.center_of_mass(data)
    assert np.allclose(found["raw_com"].data, com, rtol=0, atol=1e-12)
    assert np.allclose(found["magnitude"].data, np.hypot(*np.moveaxis(com - CENTER, -1, 0)), rtol=0, atol=1e-12)
    assert np.isnan(found["divergence"].data).all() and np.isnan(found["curl"].data).all()


def test_without_libertem_one_line_says_what_to_install(tmp_path):
    """The module and its converters are there; making a UDF is what needs LiberTEM."""
    code = """
import sys
sys.modules["libertem"] = None  # an import of it fails
import gpu4d
from gpu4d.interop.libertem import CenterOfMassUDF, VirtualImageUDF, from_libertem
assert from_libertem(90.0)["transpose"] is False
for make in (CenterOfMassUDF, lambda: VirtualImageUDF(gpu4d.detectors.disk(2)), CenterOfMassUDF.with_params):
    try:
        make()
    except gpu4d.errors.InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("pip install libertem" in line for line in lines), done.stdout


def test_importing_gpu4d_does_not_import_libertem(tmp_path):
    code = "import sys, gpu4d; gpu4d.interop; gpu4d.interop.to_xarray; assert not {'libertem', 'gpu4d.interop.libertem'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
