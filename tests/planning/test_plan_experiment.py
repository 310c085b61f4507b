"""Predictions of a plan against the guide's table, sums done by hand, shared data, and simulated scans that were measured."""

import json
import math

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.planning import TECHNIQUES, Acquisition, plan_experiment
from gpu4d.planning.volume import binary, volume_of


def scan(**given):
    return Acquisition(**{"scan_shape": (256, 256), "detector_shape": (256, 256)} | given)


NBED = dict(energy=200e3, semiangle=2.0, step=20.0, q_pixel=0.01, dwell=1e-3, current=20.0, spacings=(2.04, 1.44))


@pytest.mark.parametrize(
    ("side", "raw", "with_metadata"),
    [(128, 512 * 2**20, 550e6 * 2**20 / 1e6), (256, 8 * 2**30, 9 * 2**30), (512, 128 * 2**30, 140 * 2**30), (1024, 2 * 2**40, 2.2 * 2**40)],
)
def test_the_guides_table_of_sizes(side, raw, with_metadata):
    """4.1: raw volumes in binary units, exact; the column with metadata is rounded and 7 to 12 % more."""
    volume = volume_of(Acquisition(scan_shape=(side, side), detector_shape=(side, side), dtype=16))
    assert volume.bytes == raw
    assert volume.with_metadata == pytest.approx(with_metadata, rel=0.03)
    assert volume.pattern_bytes * side**2 == raw
    assert binary(raw) in ("512 MiB", "8 GiB", "128 GiB", "2 TiB")


def test_the_time_of_pitfall_5():
    """512 × 512 positions of 1 ms are 262 s, not 73 s."""
    volume = volume_of(Acquisition(scan_shape=(512, 512), detector_shape=(512, 512), dwell=1e-3))
    assert volume.seconds == pytest.approx(262.144)
    assert volume.rate == pytest.approx(128 * 2**30 / 262.144)
    slower = volume_of(Acquisition(scan_shape=(512, 512), detector_shape=(512, 512), dwell=1e-3, row_time=0.1))
    assert slower.seconds == pytest.approx(262.144 + 51.2)


def test_memory_is_that_of_maps_and_a_few_patterns_and_keeps_to_a_budget():
    small, large = (volume_of(Acquisition(scan_shape=(n, n), detector_shape=(256, 256))) for n in (64, 1024))
    assert large.bytes == 256 * small.bytes and large.memory < large.bytes / 1000
    assert large.memory - small.memory < 128 * (1024**2 - 64**2), "bytes of a position in maps"
    assert volume_of(scan(), memory="20 MB").memory <= 20e6
    with pytest.raises(MemoryBudgetError):
        plan_experiment(scan(), memory="1 kB")


def test_what_smaller_scans_save():
    """Bytes as gpu4d's own views have them: sums of uint16 need uint32, unless no pattern has so many electrons."""
    views = {"detector binned 2×2": {"detector": 2}, "detector binned 4×4": {"detector": 4}}
    source = gpu4d.DataCube(np.zeros((8, 8, 64, 64), "uint16"))
    for electrons, dtype in ((1e6, "uint32"), (1e4, "uint16")):
        a = Acquisition(scan_shape=(8, 8), detector_shape=(64, 64), electrons=electrons, energy=80e3, semiangle=10.0, q_pixel=0.05)
        savings = {s.what: s for s in volume_of(a).savings}
        for what, how in views.items():
            cube = source.bin(**how)
            assert (savings[what].shape, savings[what].dtype) == (cube.shape, dtype)
            assert savings[what].bytes == cube.nbytes if dtype == "uint32" else savings[what].bytes == cube.nbytes // 2
        assert savings["every 2nd position"].shape == source.select(every=2).shape
        cropped = savings["cropped to the bright-field disk"]
        assert cropped.shape[2] >= 2 * a.disk_radius and cropped.seconds == cropped.bytes / 1e9


def test_electrons_and_dose_by_hand():
    """20 pA for 1 ms: 2e-14 C over 1.602e-19 C. Steps of 20 Å; λ at 200 kV is 0.02508 Å, so the probe is 1.22 λ/α = 15.3 Å wide."""
    plan = plan_experiment(scan(**NBED))
    electrons = 2e-14 / 1.602176634e-19
    assert plan.dose.electrons == pytest.approx(electrons) == pytest.approx(124_830, rel=1e-4)
    assert plan.dose.scan == pytest.approx(electrons / 400)
    diameter = 1.22 * 0.0250793 / 2e-3
    assert plan.probe.diameter == pytest.approx(diameter, rel=1e-4)
    assert plan.dose.probe == pytest.approx(electrons / (math.pi * diameter**2 / 4), rel=1e-4)
    assert plan.dose.most == plan.dose.probe, "the probe is smaller than the step: one place gets one exposure"
    fine = plan_experiment(scan(**NBED | {"step": 2.0}))
    assert fine.dose.most == fine.dose.scan == pytest.approx(electrons / 4), "exposures add"
    assert scan(dose=100.0, step=3.0).electrons_of_pattern == 900 and scan(electrons=5.0).electrons_of_pattern == 5
    assert scan(current=1.0).electrons_of_pattern is None, "the dwell time is not known"


def test_the_dose_is_judged_where_a_limit_is_given():
    assert plan_experiment(scan(**NBED)).check("scan", "dose").passed is None
    for limit, passed in ((1e3, True), (100.0, False)):
        check = plan_experiment(scan(**NBED, dose_limit=limit)).check("scan", "dose")
        assert check.passed is passed and check.reference == "pitfall 5"


@pytest.mark.parametrize(("semiangle", "energy"), [(1.0, 200e3), (25.0, 80e3)])
def test_the_probe_is_that_of_the_wave(semiangle, energy):
    """Full width, and with a defocus the diameter, against the computed probe."""
    plan = plan_experiment(scan(energy=energy, semiangle=semiangle))
    k0 = plan.acquisition.disk_frequency
    wave = gpu4d.probe.wavefunction(semiangle, energy=energy, q_pixel=k0 / 16, shape=(128, 128))
    size = gpu4d.probe.probe_size(gpu4d.probe.real_space(wave, k0 / 16))
    assert plan.probe.fwhm == pytest.approx(size.fwhm, rel=0.01)
    assert plan.probe.resolution == pytest.approx(0.61 / k0)
    assert plan.probe.depth_of_field == pytest.approx(1.7 * plan.acquisition.wavelength / (semiangle * 1e-3) ** 2)
    defocus = 20 / (k0 * semiangle * 1e-3)  # a cone of 40/k₀, much wider than the probe in focus: its rays fill it evenly
    plan = plan_experiment(scan(energy=energy, semiangle=semiangle, defocus=defocus))
    wave = gpu4d.probe.wavefunction(semiangle, energy=energy, q_pixel=k0 / 100, shape=(256, 256), aberrations={"C10": -defocus})
    size = gpu4d.probe.probe_size(gpu4d.probe.real_space(wave, k0 / 100))
    assert plan.probe.diameter == pytest.approx(size.d50 * math.sqrt(2), rel=0.02), "half of an even disk is within 1/√2 of its radius"


def overlap_of_file(path, dataset, d):
    """The plan for a shared file, with what its attributes say."""
    with h5py.File(path) as file:
        said = dict(file.attrs)
    cube = gpu4d.open(path, dataset=dataset)
    given = dict(energy=said["energy_eV"], semiangle=said["semiangle_mrad"], q_pixel=said["detector_pixel_1_per_A"])
    return plan_experiment(Acquisition.of(cube, **given, step=said["scan_step_A"], spacings=d))


def test_disks_of_nbed_on_gold_are_apart(shared_data):
    """Au [001], 3 mrad: g(200) = 2/4.078 Å = 0.490 1/Å against 2 α/λ = 0.239 1/Å."""
    plan = overlap_of_file(shared_data / "au_nbed_strain.h5", "poisson_1e5", (4.078 / 2, 4.078 / math.sqrt(8)))
    apart, overlap = plan.check("strain", "disks apart"), plan.check("ssb", "overlap of disks")
    assert apart.passed and overlap.passed is False and overlap.value == 0
    assert apart.value == pytest.approx(0.4904 / (2 * 0.003 / 0.0250793), rel=1e-3)
    assert plan.suits("strain") and plan.suits("ssb") is False
    assert plan.dose.electrons == pytest.approx(1e5, rel=0.03), "what falls on the detector, counted in its patterns"


def test_disks_of_ptychography_on_mos2_overlap(shared_data):
    """MoS₂, 25 mrad at 80 kV: d(100) = 2.74 Å; the file's own Nyquist step is λ/4α = 0.4176 Å."""
    plan = overlap_of_file(shared_data / "mos2_ssb_infocus.h5", "poisson_1e5", (3.16 * math.sqrt(3) / 2,))
    assert plan.check("ssb", "overlap of disks").passed and plan.check("strain", "disks apart").passed is False
    k0, g = 0.025 / 0.0417572, 2 / (3.16 * math.sqrt(3))
    u = g / k0 / 2
    assert plan.check("ssb", "overlap of disks").value == pytest.approx(2 / math.pi * (math.acos(u) - u * math.sqrt(1 - u * u)), rel=1e-3)
    assert "0.418 Å" in plan.check("ssb", "step").text and plan.check("ssb", "step").passed
    assert plan.suits("ssb") and plan.check("dpc", "step").passed


@pytest.mark.parametrize(("step", "passed"), [(0.40, True), (0.43, False)])
def test_the_step_of_ssb(step, passed):
    assert plan_experiment(scan(energy=80e3, semiangle=25.0, step=step)).check("ssb", "step").passed is passed


def test_defocus_makes_probes_overlap():
    """Steps of 40 Å at 1 mrad and 300 kV: in focus the probe is 24 Å wide, at 13.5 µm underfocus 271 Å."""
    given = dict(energy=300e3, semiangle=1.0, step=40.0, q_pixel=1e-3)
    focus, defocused = (plan_experiment(scan(**given, defocus=c)) for c in (0.0, 1.35e5))
    assert focus.check("ptychography", "overlap of probes").passed is False
    overlap = defocused.check("ptychography", "overlap of probes")
    assert overlap.passed and overlap.value == pytest.approx(1 - 40 / math.hypot(1.22 * 0.0196874 / 1e-3, 2 * 1.35e5 * 1e-3), rel=1e-4)
    # the advice is enough
    advised = float(focus.check("ptychography", "overlap of probes").advice.split("defocus of ")[1].split()[0])
    assert plan_experiment(scan(**given, defocus=advised * 1e4 * 1.01)).check("ptychography", "overlap of probes").passed
    assert "µm" in focus.check("ptychography", "overlap of probes").advice
    assert (
        plan_experiment(scan(**given | {"q_pixel": 0.01}, defocus=1.35e5)).check("ptychography", "field of view of a pattern").passed
        is False
    )


def test_fem_and_rdf():
    fem = {alpha: plan_experiment(scan(energy=200e3, semiangle=alpha, step=50.0, q_pixel=0.012)) for alpha in (0.2, 1.0, 5.0)}
    assert [fem[a].check("fem", "probe").passed for a in fem] == [False, True, False]
    assert fem[1.0].check("fem", "probe").value == pytest.approx(0.61 * 0.0250793 / 1e-3, rel=1e-4)
    assert fem[1.0].check("rdf", "range of k").value == pytest.approx(128 * 0.012) and fem[1.0].suits("rdf")
    assert plan_experiment(scan(energy=200e3, semiangle=1.0, q_pixel=0.005)).check("rdf", "range of k").passed is False
    assert fem[5.0].check("rdf", "resolution of k").passed is False


def test_the_precision_of_dpc_is_that_of_counting():
    """The centre of mass of N electrons in a round disk scatters by half of its radius over √N."""
    n, alpha = 2000, 20.0
    check = plan_experiment(scan(energy=300e3, semiangle=alpha, electrons=float(n))).check("dpc", "precision")
    rng = np.random.default_rng(0)
    at = np.sqrt(rng.random((4000, n))) * np.cos(2 * np.pi * rng.random((4000, n)))
    assert check.value == pytest.approx(alpha * at.mean(axis=1).std(), rel=0.04)


def test_drift_rate_and_range():
    plan = plan_experiment(scan(**NBED, drift=30.0))
    assert plan.check("scan", "drift").value == pytest.approx(0.5 * 65.536) and plan.check("scan", "drift").passed is False
    fast = plan_experiment(scan(**NBED | {"dwell": 1e-5, "dtype": "uint8"}, drift=30.0))
    assert fast.check("scan", "drift").passed and fast.check("scan", "data rate").passed is False
    full = plan_experiment(scan(**NBED | {"dwell": 1e-3, "dtype": "uint8"})).check("scan", "range of the counter")
    assert full.passed is False and full.value == pytest.approx(124_830 / (math.pi * 7.9747**2), rel=1e-3)


def test_a_nominal_camera_length_is_a_warning():
    a = scan(energy=200e3, camera_length=300.0, detector_pitch=55.0)
    assert a.pixel == pytest.approx(55e-6 / 0.3 / 0.0250793, rel=1e-4)
    check = plan_experiment(a).check("scan", "detector pixel")
    assert check.passed is False and check.reference == "pitfall 2"


def test_what_is_not_known_is_not_judged():
    plan = plan_experiment(scan())
    assert plan.probe is plan.dose is plan.strain is None and plan.volume.seconds is None
    assert {one.name for one in plan.checks} == {"size", "memory"} and all(plan.suits(t) is None for t in TECHNIQUES)
    assert json.loads(json.dumps(plan.as_dict()))["suits"]["strain"] is None
    only = plan_experiment(scan(**NBED, purpose="strain"))
    assert {one.topic for one in only.checks} == {"scan", "strain"}
    said = json.loads(json.dumps(only.as_dict()))
    assert said["suits"] == {"strain": True} and said["volume"]["bytes"] == 8 * 2**30 and len(said["strain"]["disk"]) == 9
    assert not only.warnings and "WARN" in str(plan_experiment(scan(**NBED, purpose="ssb")))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"energy": 300}, "did you mean 300e3"),
        ({"semiangle": 0.002}, "did you mean 2"),
        ({"energy": "300 MJ"}, "also with a unit"),
        ({"current": 1.0, "dose": 2.0}, "give only one of them"),
        ({"q_pixel": 0.1, "camera_length": 30}, "give only one of them"),
        ({"purpose": "strains"}, "did you mean 'strain'"),
        ({"scan_shape": (3,)}, "scan_shape"),
        ({"dtype": "uint17"}, "dtype='uint17'"),
        ({"dtype": 0}, "1 to 64 bits"),
        ({"disks": 1}, "at least 2"),
        ({"spacings": (2.0, -1.0)}, "spacings is -1"),
        ({"dwell": math.nan}, "dwell is nan"),
        ({"step": "x"}, "need a number in Å"),
    ],
)
def test_what_is_impossible_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        scan(**given)


def test_disks_beside_the_detector_tell_nothing():
    """g = 0.49 1/Å: 49 px. On 256 pixels two orders along an axis are whole, on 120 one, on 100 none."""
    wide = plan_experiment(scan(**NBED | {"spacings": (2.04,)}, disks=40, disk_share=0.01)).strain
    small = plan_experiment(scan(**NBED | {"spacings": (2.04,)}, disks=40, disk_share=0.01, detector_shape=(120, 120))).strain
    assert (len(wide.disk), len(small.disk)) == (25, 9) and small.exx > wide.exx
    assert plan_experiment(scan(**NBED, detector_shape=(100, 256))).strain is None


def test_shares_of_more_than_all_electrons():
    with pytest.raises(InputError, match="more than all electrons"):
        plan_experiment(scan(**NBED, disks=20, disk_share=0.2))


@pytest.mark.parametrize(
    ("given", "dtype"), [(1, "uint8"), (6, "uint8"), (12, "uint16"), ("24", "uint32"), (64, "uint64"), ("float32", "float32")]
)
def test_bits_of_a_counter_are_stored_in_the_next_larger_type(given, dtype):
    assert scan(dtype=given).dtype == dtype


def test_units_and_toml(tmp_path):
    path = tmp_path / "scan.toml"
    path.write_text(
        'scan_shape = [64, 32]\ndetector_shape = [128, 128]\nenergy = "300 keV"\nstep = "2 nm"\ndwell = "0.5 ms"\ncurrent = "0.05 nA"\n'
        'drift = "1 nm/min"\nspacings = [2.0, "0.3 nm"]\npurpose = ["strain"]\n'
    )
    a = Acquisition.load(path, dwell="2 ms")
    assert (a.energy, a.step, a.dwell, a.current, a.drift, a.spacings) == (300e3, 20.0, 2e-3, 50.0, 10.0, (3.0, 2.0))
    for text, says in (("scan_shap = [1, 2]", "did you mean 'scan_shape'"), ("a b", "no TOML file")):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            Acquisition.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Acquisition.load(tmp_path / "none.toml")


def test_a_recorded_scan_is_judged_by_what_it_says():
    made = gpu4d.simulate.bragg_scan((6, 5), (64, 64), spacing=20.0, reach=1.1, dose=50.0, seed=2)
    mask = np.ones((64, 64), bool)
    mask[:, 40:] = False
    patterns = np.asarray(made.cube)
    a = Acquisition.of(gpu4d.DataCube(patterns, made.cube.calibration, detector_mask=mask))
    assert a.electrons == pytest.approx(patterns[..., :40].sum((2, 3)).mean()) and a.dtype == "uint16"
    assert (a.energy, a.semiangle, a.step, a.pixel) == (200e3, 3.0, 20.0, made.cube.calibration.q_pixel)
    assert Acquisition.of(made.cube, dose=7.0).electrons is None
    assert Acquisition.of(gpu4d.DataCube(patterns.astype("float32"))).electrons is None, "floats may be anything"
    assert Acquisition.of(made.cube, camera_length=100.0, detector_pitch=55.0).pixel == pytest.approx(55e-3 / 100 / a.wavelength)
