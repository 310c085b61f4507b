"""Our UDFs on LiberTEM's CuPy workers: frames and result buffers on the device, and the answers of the CPU."""

import numpy as np
import pytest

import gpu4d
from gpu4d.interop import libertem as ours

pytestmark = pytest.mark.gpu


@pytest.fixture
def context(need, monkeypatch):
    cupy = need("cupy")
    need("libertem")
    import libertem.api as lt
    import sparseconverter

    def dense_alone(self):
        """Without sparse arrays on the device, whose library a CUDA made of host memory has not."""
        self._converters[sparseconverter.NUMPY, sparseconverter.CUPY] = cupy.asarray
        self._converters[sparseconverter.CUPY, sparseconverter.NUMPY] = cupy.asnumpy

    monkeypatch.setattr(sparseconverter._ConverterDict, "_populate_cupy", dense_alone)
    monkeypatch.setenv("LIBERTEM_USE_CUDA", "0")
    monkeypatch.delenv("LIBERTEM_USE_CPU", raising=False)
    return lt.Context.make_with("inline")


@pytest.mark.filterwarnings("ignore:.*adjust_tileshape")
def test_parts_of_frames(context):
    import cupy

    class Watched(ours.CenterOfMassUDF):
        def process_tile(self, tile):
            kinds.append((type(tile), type(self.results.moments)))
            super().process_tile(tile)

    kinds, data = [], np.random.default_rng(0).poisson(3.0, (5, 6, 18, 22)).astype(np.uint16)
    origin = np.random.default_rng(1).normal((8.5, 10.2), 1.0, (5, 6, 2))
    disk = gpu4d.detectors.disk
    udfs = [
        Watched.with_params(r=7),
        ours.VirtualImageUDF([disk(4.2), gpu4d.detectors.segmented(2, 6, 3)[0]], origin=origin),
        ours.VirtualImageUDF([disk(4.2, (8, 9)), np.full((18, 22), 0.5)]),
        ours.RadialProfileUDF(origin, r_max=8),
    ]
    dataset = context.load("memory", data=data, sig_dims=2, num_partitions=3, tileshape=(2, 9, 22))
    com, moving, fixed, rings = found = context.run_udf(dataset=dataset, udf=udfs)
    assert set(kinds) == {(cupy.ndarray, cupy.ndarray)}
    cube = gpu4d.DataCube(data)
    x, y = np.indices((18, 22))
    inside = np.hypot(x - 9, y - 11) <= 7
    wanted = gpu4d.sweep(
        cube, {"com": gpu4d.CenterOfMass(inside), "moving": udfs[1].reduction(), "fixed": udfs[2].reduction()}, device="cpu"
    )
    np.testing.assert_allclose(np.asarray(udfs[0].center_of_mass(com)), np.asarray(wanted["com"]), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(udfs[1].images(moving)), np.asarray(wanted["moving"]), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(udfs[2].images(fixed)), np.asarray(wanted["fixed"]), rtol=1e-12)
    np.testing.assert_allclose(udfs[3].profiles(rings), gpu4d.radial_profile(cube, origin, r_max=8, device="cpu"), rtol=1e-12)
    assert len(found) == 4


def test_whole_frames(context):
    probe = gpu4d.probe.synthetic((40, 40), 3.5)
    rng = np.random.default_rng(0)
    frames = np.stack([700 * np.roll(probe, rng.integers(-12, 12, 2), (0, 1)) for _ in range(6)]).reshape(2, 3, 40, 40)
    frames = rng.poisson(frames).astype(np.uint16)
    udf = ours.BraggDisksUDF(probe, max_peaks=5, refine="correlation")
    found = udf.disks(context.run_udf(dataset=context.load("memory", data=frames, sig_dims=2, num_partitions=2), udf=udf))
    wanted = gpu4d.find_bragg_disks(frames, probe, max_peaks=5, refine="correlation")
    np.testing.assert_array_equal(found.counts, wanted.counts)
    np.testing.assert_allclose(found.flat("qx"), wanted.flat("qx"), atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*adjust_tileshape")
def test_ssb(context):
    scan = gpu4d.simulate.phase_object_scan((16, 16), (16, 16), r_pixel=0.25, strength=0.1)
    cube = gpu4d.DataCube(np.asarray(scan.cube), scan.cube.calibration)
    udf = ours.SSBUDF(cube.calibration, origin=(8, 8))
    dataset = context.load("memory", data=np.asarray(cube), sig_dims=2, num_partitions=2, tileshape=(4, 8, 16))
    found = udf.phase(context.run_udf(dataset=dataset, udf=udf))
    np.testing.assert_allclose(np.asarray(found), np.asarray(gpu4d.ssb(cube, origin=(8, 8), device="cpu").phase), atol=1e-6)
