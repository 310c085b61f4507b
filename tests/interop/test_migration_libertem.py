"""Rows of docs/how-to/from-libertem.md, each checked with LiberTEM itself; and one scan whose field both tools find."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from migration_rows import HOW_TO, assert_same_rows, rows_of

import gpu4d
from gpu4d.interop import libertem as ours
from gpu4d.interop.libertem import from_libertem, to_libertem

ROWS = rows_of("from-libertem")
SCAN, DETECTOR = (5, 6), (12, 14)
COUNTS = np.random.default_rng(2).poisson(3.0, (*SCAN, *DETECTOR)).astype(np.uint16)
COUNTS[3, 1] = 0


def cube():
    return gpu4d.DataCube(COUNTS)


class LiberTEM:
    """A context, and what most checks do with it."""

    def __init__(self, folder: Path):
        import libertem.api as lt

        self.folder, self.context = folder, lt.Context.make_with("inline")
        self.dataset = self.context.load("memory", data=COUNTS, sig_dims=2)

    def run(self, udf, **options):
        return self.context.run_udf(dataset=self.dataset, udf=udf, **options)

    def com(self, **options):
        from libertem.udf.com import CoMUDF

        return self.run(CoMUDF.with_params(**options))


@pytest.fixture(scope="module")
def theirs(need, tmp_path_factory):
    need("libertem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield LiberTEM(tmp_path_factory.mktemp("libertem"))


def shapes(t, row):
    assert tuple(t.dataset.shape.nav) == cube().scan_shape and tuple(t.dataset.shape.sig) == cube().detector_shape


def read_alike(t, dataset, opened):
    from libertem.udf.raw import PickUDF

    frames = t.context.run_udf(dataset=dataset, udf=PickUDF(), roi=np.ones(SCAN, bool))["intensity"].data
    np.testing.assert_array_equal(frames.reshape(COUNTS.shape), np.asarray(opened))
    np.testing.assert_array_equal(np.asarray(opened), COUNTS)


def raw(t, row):
    path = t.folder / "scan.raw"
    COUNTS.tofile(path)
    load = t.context.load("raw", path=str(path), nav_shape=SCAN, sig_shape=DETECTOR, dtype="uint16")
    read_alike(t, load, gpu4d.open(path, scan_shape=SCAN, layout=gpu4d.RawLayout(DETECTOR, "uint16")))


def npy(t, row):
    np.save(t.folder / "theirs.npy", COUNTS)
    load = t.context.load("npy", path=str(t.folder / "theirs.npy"), sig_dims=2)
    read_alike(t, load, gpu4d.open(t.folder / "theirs.npy"))


def hdf5(t, row):
    import h5py

    with h5py.File(t.folder / "theirs.h5", "w") as file:
        file["a/data"] = COUNTS
    load = t.context.load("hdf5", path=str(t.folder / "theirs.h5"), ds_path="a/data")
    read_alike(t, load, gpu4d.open(t.folder / "theirs.h5", dataset="a/data"))


def as_dask(t, row):
    from libertem.contrib.daskadapter import make_dask_array

    opened = gpu4d.interop.from_dask(make_dask_array(t.dataset, dtype=t.dataset.dtype)[0])
    assert opened.shape == COUNTS.shape and opened.dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(opened), COUNTS)


def total(t, row):
    from libertem.udf.sum import SumUDF

    mean = np.asarray(gpu4d.sweep(cube(), gpu4d.MeanPattern()))
    np.testing.assert_allclose(t.run(SumUDF())["intensity"].data, mean * SCAN[0] * SCAN[1])


def masks(t, row):
    from libertem.udf.masks import ApplyMasksUDF

    stack = np.random.default_rng(0).random((3, *DETECTOR)) > 0.5
    found = t.run(ApplyMasksUDF(mask_factories=lambda: stack.astype(np.float32)))["intensity"].data
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), np.asarray(gpu4d.virtual_image(cube(), stack)))


def disk(t, row):
    found = t.context.run(t.context.create_disk_analysis(t.dataset, cx=6, cy=5, r=3)).intensity.raw_data
    np.testing.assert_array_equal(found, np.asarray(gpu4d.virtual_image(cube(), gpu4d.detectors.disk(3 + 1e-6, (5, 6)))))
    assert (found > np.asarray(gpu4d.virtual_image(cube(), gpu4d.detectors.disk(3, (5, 6))))).any()  # pixels at 3 px exactly


def ring(t, row):
    found = t.context.run(t.context.create_ring_analysis(t.dataset, cx=6, cy=5, ri=2, ro=4)).intensity.raw_data
    annulus = gpu4d.detectors.annulus
    np.testing.assert_array_equal(found, np.asarray(gpu4d.virtual_image(cube(), annulus(2, 4 + 1e-6, (5, 6)))))
    assert (found > np.asarray(gpu4d.virtual_image(cube(), annulus(2, 4, (5, 6))))).any()


def com_axes(t, row):
    com = np.asarray(gpu4d.sweep(cube(), gpu4d.CenterOfMass()))
    seen = np.isfinite(com[0])
    np.testing.assert_allclose(np.moveaxis(t.com()["raw_com"].data, -1, 0)[:, seen], com[:, seen], atol=1e-4)


def com_reference(t, row):
    shifts = np.moveaxis(t.com()["raw_shifts"].data, -1, 0)
    known = cube()
    with pytest.raises(gpu4d.errors.InputError, match="origin is not known"):
        gpu4d.sweep(known, gpu4d.CenterOfMass(relative_to_origin=True))
    known.calibration.set(origin=(DETECTOR[0] // 2, DETECTOR[1] // 2), how="as LiberTEM")
    com = np.asarray(gpu4d.sweep(known, gpu4d.CenterOfMass(relative_to_origin=True)))
    seen = np.isfinite(com[0])
    np.testing.assert_allclose(shifts[:, seen], com[:, seen], atol=1e-4)


def empty(t, row):
    assert (t.com()["raw_shifts"].data[3, 1] == 0).all()
    assert row[0] == "NaN" and np.isnan(np.asarray(gpu4d.sweep(cube(), gpu4d.CenterOfMass()))[:, 3, 1]).all()


def dtypes(t, row):
    from libertem.udf.com import CoMUDF

    assert np.dtype(CoMUDF().get_preferred_input_dtype()) == np.float32 and t.com()["raw_com"].data.dtype == np.float32
    udf = ours.VirtualImageUDF(np.ones(DETECTOR, bool))
    assert t.run(udf)["intensity"].data.dtype == np.int64 and udf.meta.input_dtype == np.uint16
    assert np.asarray(gpu4d.sweep(cube(), gpu4d.CenterOfMass())).dtype == np.float64


def roi(t, row):
    chosen = np.arange(30).reshape(SCAN) % 2 == 0
    inside = np.ones(DETECTOR, bool)
    whole = np.asarray(gpu4d.virtual_image(cube(), inside, where=chosen))
    assert np.isnan(whole[~chosen]).all()
    udf = ours.VirtualImageUDF(inside)
    found = t.run(udf, roi=chosen)
    assert (found["intensity"].data[~chosen] == 0).all()  # a buffer of integers has no NaN
    assert np.isnan(t.run(udf.__class__(inside * 0.5), roi=chosen)["intensity"].data[~chosen]).all()
    np.testing.assert_array_equal(np.asarray(udf.images(found)), whole)


ANGLES = (0.0, 33.0, -120.0, 180.0)


def turned(angle, flip):
    """What LiberTEM does to the two unit vectors, as a matrix on (first axis, second axis)."""
    from libertem.udf.com import apply_correction

    columns = [apply_correction(np.array([a]), np.array([b]), scan_rotation=angle, flip_y=flip) for a, b in ((1.0, 0.0), (0.0, 1.0))]
    return np.array([[c[0][0], c[1][0]] for c in columns]).T


def rotation(t, row):
    for angle in ANGLES:
        found = from_libertem(angle)
        assert found["transpose"] is False and np.cos(found["rotation"] + np.deg2rad(angle)) == pytest.approx(1)
        np.testing.assert_allclose(gpu4d.calibrate.scan_matrix(**found), turned(angle, False), atol=1e-12)


def flipped(t, row):
    for angle in ANGLES:
        found = from_libertem(angle, True)
        assert found["transpose"] is True and np.cos(found["rotation"] - (np.pi / 2 - np.deg2rad(angle))) == pytest.approx(1)
        np.testing.assert_allclose(gpu4d.calibrate.scan_matrix(**found), turned(angle, True), atol=1e-12)


def reversed_rotation(t, row):
    """LiberTEM issue 1775, as 0.16.0 does it. When this fails, LiberTEM has changed, and `from_libertem` must ask which one it is."""
    from libertem.udf.com import apply_correction

    y, x = apply_correction(np.array([-1.0]), np.array([0.0]), scan_rotation=90, flip_y=False)
    np.testing.assert_allclose([y[0], x[0]], [0, 1], atol=1e-12)
    assert row[0] == "(0, +1)"
    np.testing.assert_allclose(gpu4d.calibrate.scan_matrix(**from_libertem(90)) @ [-1, 0], [0, 1], atol=1e-12)


def fields(t, angle, flip, regression, descan):
    """The same field by both, in pixels."""
    com = np.asarray(gpu4d.sweep(cube(), gpu4d.CenterOfMass(), where=None))
    com[:, 3, 1] = com[:, 3, 0]  # the frame without counts, which the two treat differently
    frames = COUNTS.copy()
    frames[3, 1] = frames[3, 0]
    dataset = t.context.load("memory", data=frames, sig_dims=2)
    from libertem.udf.com import CoMUDF

    params = {"cy": 5.5, "cx": 6.5, "scan_rotation": angle, "flip_y": flip, "regression": regression}
    theirs = t.context.run_udf(dataset=dataset, udf=CoMUDF.with_params(**params))["field"].data
    shifts = np.moveaxis(com, 0, -1) - (5.5, 6.5)
    mine = gpu4d.dpc(shifts, q_pixel=1.0, r_pixel=1.0, energy=2e5, descan=descan, **from_libertem(angle, flip))
    np.testing.assert_allclose(np.moveaxis(np.asarray(mine.com), 0, -1), theirs, atol=1e-4)


def field(t, row):
    for angle, flip in ((33.0, False), (-120.0, True)):
        fields(t, angle, flip, -1, None)


def mean_off(t, row):
    fields(t, 33.0, True, 0, "mean")


def plane_off(t, row):
    fields(t, 33.0, True, 1, "plane")


def to_npy(t, row):
    gpu4d.convert(cube(), t.folder / "scan.npy")
    read_alike(t, t.context.load("npy", path=str(t.folder / "scan.npy"), sig_dims=2), gpu4d.open(t.folder / "scan.npy"))


def to_hdf5(t, row):
    named = gpu4d.DataCube(COUNTS, name="scan")
    gpu4d.convert(named, t.folder / "ours.h5", codec="none")
    load = t.context.load("hdf5", path=str(t.folder / "ours.h5"), ds_path="/gpu4d/scan/data")
    read_alike(t, load, gpu4d.open(t.folder / "ours.h5"))


def back(t, row):
    for angle in ANGLES:
        for flip in (False, True):
            found = to_libertem(**from_libertem(angle, flip))
            assert found["flip_y"] is flip and -180 < found["scan_rotation"] <= 180
            assert np.cos(np.deg2rad(found["scan_rotation"] - angle)) == pytest.approx(1)
    assert to_libertem(None, None) == {"scan_rotation": 0.0, "flip_y": False}


def origin(t, row):
    shifts = t.run(ours.CenterOfMassUDF.with_params(calibration=gpu4d.Calibration(origin=(5.0, 7.5))))["raw_shifts"].data
    np.testing.assert_allclose(shifts, t.com(cy=5.0, cx=7.5)["raw_shifts"].data, atol=1e-4)


def our_results(t, row):
    udf = ours.VirtualImageUDF(gpu4d.detectors.disk(3))
    found = udf.images(t.run(udf))
    assert isinstance(found, gpu4d.RealSlice) and np.asarray(found).dtype == np.float64
    disks = ours.BraggDisksUDF(gpu4d.probe.synthetic(DETECTOR, 2.0), refine=None)
    assert isinstance(disks.disks(t.run(disks)), gpu4d.PointListArray)


def our_udf(make):
    """A row of the table of UDFs: its result buffers are those that the page names."""

    def check(t, row):
        named = set(re.findall(r"`(\w+)`", row[1]))
        assert set(t.run(make())) == named

    return check


def ssb_buffers(t, row):
    scan = gpu4d.simulate.phase_object_scan((16, 16), (16, 16), r_pixel=0.25, strength=0.1)
    dataset = t.context.load("memory", data=np.asarray(scan.cube), sig_dims=2)
    assert set(t.context.run_udf(dataset=dataset, udf=ours.SSBUDF(scan.cube.calibration, origin=(8, 8)))) == {"phase"}
    assert row[1] == "`phase`"


CHECKS = {
    "`VirtualImageUDF`": our_udf(lambda: ours.VirtualImageUDF(gpu4d.detectors.disk(3))),
    "`CenterOfMassUDF`": our_udf(ours.CenterOfMassUDF.with_params),
    "`RadialProfileUDF`": our_udf(lambda: ours.RadialProfileUDF((5, 6))),
    "`BraggDisksUDF`": our_udf(lambda: ours.BraggDisksUDF(gpu4d.probe.synthetic(DETECTOR, 2.0), refine=None)),
    "`SSBUDF`": ssb_buffers,
    "`dataset.shape.nav`, `dataset.shape.sig`": shapes,
    '`ctx.load("raw", path=…, nav_shape=…, sig_shape=…, dtype=…)`': raw,
    '`ctx.load("npy", path=…)`': npy,
    '`ctx.load("hdf5", path=…, ds_path=…)`': hdf5,
    "`make_dask_array(dataset, dtype=dataset.dtype)[0]` of `libertem.contrib.daskadapter`": as_dask,
    "`SumUDF()`": total,
    "`ApplyMasksUDF(mask_factories=…)`": masks,
    "`ctx.create_disk_analysis(cx=…, cy=…, r=…)`": disk,
    "`ctx.create_ring_analysis(cx=…, cy=…, ri=…, ro=…)`": ring,
    '`CoMUDF()["raw_com"]`': com_axes,
    "`CoMUDF()` without cy, cx": com_reference,
    "a frame without counts in `CoMUDF`": empty,
    "`UDF.get_preferred_input_dtype()`": dtypes,
    "`roi=`": roi,
    "`scan_rotation=θ`": rotation,
    "`scan_rotation=θ, flip_y=True`": flipped,
    "`apply_correction(y_centers=-1, x_centers=0, scan_rotation=90, flip_y=False)`": reversed_rotation,
    '`CoMUDF()["field"]`': field,
    "`regression=0`": mean_off,
    "`regression=1`": plane_off,
    '`gpu4d.convert(cube, "scan.npy")`': to_npy,
    '`gpu4d.convert(cube, "scan.h5", codec="none")`': to_hdf5,
    "`cube.calibration.rotation`, `.transpose`": back,
    "`cube.calibration.origin` (x, y)": origin,
    "a result of a UDF of gpu4d": our_results,
}


def test_every_row_has_a_check():
    assert_same_rows(ROWS, CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_row(row, theirs):
    CHECKS[row](theirs, ROWS[row])


def test_the_example_of_the_page_runs(theirs):
    code = re.findall(r"```py\n(.*?)```", (HOW_TO / "from-libertem.md").read_text(encoding="utf-8"), re.S)
    assert len(code) == 1
    exec(code[0], {})


@pytest.mark.parametrize(("turn", "mirrored"), [(25.0, False), (-70.0, False), (25.0, True), (140.0, True)])
def test_a_charge_at_the_origin_has_one_field_in_both(theirs, turn, mirrored):
    """Electrons are bent towards a positive charge in the middle of the scan, seen by a camera that is turned, and perhaps mirrored.

    The rotation that undoes it is known. LiberTEM with its numbers and gpu4d with `from_libertem` of them both find a field that points
    to the charge at every position.
    """
    x, y = np.meshgrid(np.arange(9.0) - 4, np.arange(11.0) - 5, indexing="ij")
    distance = np.hypot(x, y) + 1.0
    true = np.stack([-x, -y], -1) / distance[..., None] * 2.0  # in scan axes, pixels
    angle = np.deg2rad(turn)
    to_scan = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    shift = true @ np.linalg.inv(to_scan).T  # on the camera
    qx, qy = np.indices((31, 33))
    away = np.hypot(qx - 15 - shift[..., 0, None, None], qy - 16 - shift[..., 1, None, None])
    frames = np.clip(8.5 - away, 0, 1) * 1000.0
    dataset = theirs.context.load("memory", data=frames, sig_dims=2)
    from libertem.udf.com import CoMUDF

    numbers = {"scan_rotation": turn, "flip_y": mirrored}
    their_field = theirs.context.run_udf(dataset=dataset, udf=CoMUDF.with_params(cy=15, cx=16, **numbers))["field"].data
    our_field = theirs.context.run_udf(dataset=dataset, udf=ours.CenterOfMassUDF.with_params(cy=15, cx=16, **numbers))["field"].data
    known = gpu4d.Calibration(origin=(15, 16), **from_libertem(**numbers))
    com = gpu4d.sweep(gpu4d.DataCube(frames, known), gpu4d.CenterOfMass(relative_to_origin=True))
    units = {"q_pixel": 1.0, "r_pixel": 1.0, "energy": 2e5}
    phase = gpu4d.dpc(np.moveaxis(np.asarray(com), 0, -1), descan=None, rotation=known.rotation, transpose=known.transpose, **units)
    mine = np.moveaxis(np.asarray(phase.com), 0, -1)
    for found in (their_field, our_field, mine):
        np.testing.assert_allclose(found, true, atol=0.02)
    np.testing.assert_allclose(mine, their_field, atol=1e-4)
