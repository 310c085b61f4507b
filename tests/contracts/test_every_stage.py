"""Every stage of the library, and one of another package, keeps to the contract."""

import numpy as np
import pytest

import gpu4d
from gpu4d.testing.stages import StageTests
from gpu4d.workflow import Recipe
from gpu4d.workflow.clean import clean
from gpu4d.workflow.record import Record
from gpu4d.workflow.stages import known_stages


class CrystalScan(StageTests):
    """On a small scan of a crystal, with everything asked for."""

    def cube(self):
        made = gpu4d.simulate.bragg_scan(
            (14, 13), (96, 96), strain="inclusion", strain_size=0.02, dose=60.0, thickness=0.4, vacuum_rows=3, seed=4
        )
        return gpu4d.DataCube(made.cube.source, gpu4d.Calibration(energy=200e3, semiangle=3.0, r_pixel=20.0, rotation=0.2))

    def recipe(self):
        recipe = Recipe()
        recipe.set("analysis.technique", "both", origin="test")
        recipe.set("probe.vacuum_region", [0, 3, 0, 13], origin="test")
        return recipe


class TestDpcOfAPhaseObject(StageTests):
    """Where the detector's rotation is not known, and found."""

    name = "dpc"
    optional = ("dpc_potential",)  # only with a thickness


class TestRadialProfile(StageTests):
    """On a glass: a diffuse ring about a small beam."""

    name = "radial"

    def cube(self):
        x, y = np.arange(64)[:, None] - 31.6, np.arange(64) - 32.3
        r = np.hypot(x, y)
        mean = 4 * np.exp(-(((r - 20) / 3) ** 2)) + 0.2 + 1000 / (1 + np.exp(4 * (r - 1.7)))
        return gpu4d.DataCube(np.random.default_rng(0).poisson(mean, (9, 10, 64, 64)).astype("uint16"))


class TestCorrections(StageTests):
    """On raw frames, with a dark reference."""

    name = "corrections"
    optional = ("corrected_pixels",)

    @pytest.fixture(autouse=True)
    def dark(self, tmp_path):
        self.folder = tmp_path
        np.save(tmp_path / "dark.npy", np.random.default_rng(1).normal(60, 3, (8, 64, 64)).astype("float32"))

    def cube(self):
        made = gpu4d.simulate.bragg_scan((6, 7), (64, 64), radius=4.0, spacing=15.0, dose=40.0, seed=4)
        raw = np.random.default_rng(2).normal(60, 3, made.cube.shape) + 20.0 * np.asarray(made.cube.source.array)
        known = gpu4d.Calibration(energy=200e3, semiangle=3.0)
        return clean(gpu4d.DataCube(np.rint(raw).clip(0).astype("uint16"), known), self.recipe(), Record())

    def recipe(self):
        recipe = Recipe()
        recipe.set("corrections.dark", str(self.folder / "dark.npy"), origin="test")
        return recipe


class GlassScan(StageTests):
    """On a strained glass whose rotation and composition are known."""

    def cube(self):
        pytest.importorskip("gemmi")
        made = gpu4d.simulate.amorphous_scan((9, 10), (72, 72), radius=19.0, dose=4e4, q_pixel=0.02, seed=5)
        known = gpu4d.Calibration(energy=200e3, semiangle=0.8, q_pixel=0.02, r_pixel=20.0, rotation=0.2)
        return gpu4d.DataCube(made.cube.source, known)

    def recipe(self):
        recipe = Recipe()
        recipe.set("rdf.composition", "Zr", origin="test")
        recipe.set("rdf.fit_from", 0.4, origin="test")
        return recipe


class TestGlass(GlassScan):
    name = "glass"


class TestFem(GlassScan):
    name = "fem"


class TestRdf(GlassScan):
    name = "rdf"


class TestGlassStrain(GlassScan):
    name = "amorphous_strain"


class TestEllipse(StageTests):
    """On a glass seen through an elliptical detector."""

    name = "ellipse"

    def cube(self):
        x, y = (np.arange(64)[:, None] - 31.6) / 1.03, (np.arange(64) - 32.3) * 1.03
        r = np.hypot(x, y)
        mean = 4 * np.exp(-(((r - 20) / 3) ** 2)) + 0.2 + 1000 / (1 + np.exp(4 * (r - 1.7)))
        return gpu4d.DataCube(np.random.default_rng(0).poisson(mean, (9, 10, 64, 64)).astype("uint16"))


class TestShadow(StageTests):
    """With points that were found in a STEM image and in a shadow image."""

    name = "shadow"
    optional = ("shadow_images",)

    def recipe(self):
        recipe = Recipe()
        recipe.set("shadow.points", [[3.0, 3.0, 0.0, 0.0], [3.0, 8.0, 10.0, 0.0], [9.0, 3.0, 0.0, 12.0]], origin="test")
        recipe.set("shadow.side", "over", origin="test")
        return recipe


class TestMagnetic(StageTests):
    """With one scan, so that no electric part is told apart."""

    name = "magnetic"
    optional = ("electric_momentum",)

    def recipe(self):
        recipe = Recipe()
        recipe.set("magnetic.induction", True, origin="test")
        return recipe


class FineScan(StageTests):
    """On a thin object, with steps fine enough for side bands."""

    def cube(self):
        made = gpu4d.simulate.phase_object_scan((17, 18), (32, 32), r_pixel=0.4, dose=2e4, seed=1)
        return gpu4d.DataCube(made.cube.source, gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=0.4, rotation=0.0))


class TestAberrations(FineScan):
    name = "aberrations"


class TestSsb(FineScan):
    name = "ssb"


class TestWdd(FineScan):
    """As it is asked for."""

    name = "wdd"

    def recipe(self):
        recipe = Recipe()
        recipe.set("analysis.technique", "wdd", origin="test")
        return recipe


class TestPtychography(FineScan):
    """A few sweeps, as they are asked for."""

    name = "ptychography"

    def recipe(self):
        recipe = Recipe()
        recipe.set("analysis.technique", "ptychography", origin="test")
        recipe.set("ptychography.sweeps", 3, origin="test")
        return recipe


class TestDrift(FineScan):
    """Of rows against each other."""

    name = "drift"

    def recipe(self):
        recipe = Recipe()
        recipe.set("drift.jitter", True, origin="test")
        return recipe


class TestParallax(FineScan):
    """As it is asked for."""

    name = "parallax"

    def recipe(self):
        recipe = Recipe()
        recipe.set("analysis.technique", "parallax", origin="test")
        return recipe


class GrainScan(StageTests):
    """On two orientations of one crystal, with a structure named."""

    def cube(self):
        for library in ("sklearn", "gemmi"):
            pytest.importorskip(library)
        made = [
            gpu4d.simulate.bragg_scan((5, 8), (64, 64), spacing=15.0, radius=3.5, dose=60.0, angle=angle, strain=None, seed=1)
            for angle in (8, 40)
        ]
        patterns = np.concatenate([one.cube.source.array for one in made])
        return gpu4d.DataCube(patterns, gpu4d.Calibration(energy=200e3, q_pixel=0.0327, r_pixel=20.0))

    def recipe(self):
        recipe = Recipe()
        recipe.set("orientation.structures", ["Au"], origin="test")
        return recipe


class TestClassification(GrainScan):
    name = "classification"


class TestOrientation(GrainScan):
    name = "orientation"


ELSEWHERE = (
    *(
        TestRadialProfile,
        TestEllipse,
        TestShadow,
        TestMagnetic,
        TestAberrations,
        TestSsb,
        TestWdd,
        TestPtychography,
        TestParallax,
        TestDrift,
    ),
    *(TestClassification, TestOrientation),
    *(TestCorrections, TestGlass, TestFem, TestRdf, TestGlassStrain),
)
OPTIONAL = {  # the rotation is given; a ring is no crystal's; this crystal has one lattice
    "dpc": ("rotation", "dpc_potential"),
    "technique": ("ring",),
    "lattice": ("lattices", "lattices_fit", "which_lattice"),
}
OWN = {
    stage.name: type(f"Test_{stage.name}", (CrystalScan,), {"name": stage.name, "optional": OPTIONAL.get(stage.name, ())})
    for stage in known_stages()
    if stage.name not in {kind.name for kind in ELSEWHERE}
}
globals().update((kind.__name__, kind) for kind in OWN.values())


@pytest.mark.usefixtures("with_corner")
class TestToy(StageTests):
    name = "corner"

    def test_it_sums_the_corner(self):
        state, _ = self._run()
        np.testing.assert_array_equal(np.asarray(state["corner"]), np.asarray(state.cube.source.array)[..., :4, :4].sum((2, 3)))
