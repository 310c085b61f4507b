"""Every gate passes on data that are right, and warns and fails on data made for it; a recipe may stop a run at one that fails."""

import json
import math
from types import SimpleNamespace

import h5py
import made_for_gates
import numpy as np
import pytest
from lattice_points import OBLIQUE, disks_of
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.cli import run_command
from gpu4d.crystal.lattice import canonical
from gpu4d.errors import InputError
from gpu4d.workflow import Recipe, Record, RunState, Stage, analyse, run
from gpu4d.workflow.gate_file import gates_table, read_gates
from gpu4d.workflow.gates import BY_KEY, RULES, GatePolicy, judged, policy_of
from gpu4d.workflow.schedule import carry_out
from gpu4d.workflow.stages.acquisition_checks import AcquisitionChecks
from gpu4d.workflow.stages.corrections import RawFrames
from gpu4d.workflow.stages.disks import Disks
from gpu4d.workflow.stages.dpc import _gates as dpc_gates
from gpu4d.workflow.stages.lattice import LatticeFit
from gpu4d.workflow.stages.lattice_checks import LatticeChecks
from gpu4d.workflow.stages.probe import _background_gate
from gpu4d.workflow.stages.vector_map import VectorMap
from gpu4d.workflow.strain_figures import magnitude_gate
from gpu4d.workflow.strain_gates import strain_gates

SHAPE, ORIGIN = (12, 10), (63.0, 64.5)


def state_of(shape=(6, 5, 32, 32), dtype=np.uint16, **results):
    return RunState(DataCube(np.zeros(shape, dtype)), Recipe(), Record(), results=results)


def gate(record, key):
    (found,) = [g for g in record.gates if g.key == key]
    return found


# ---------------------------------------------------------------- data made for each gate: it passes, warns, fails


def background(level):
    """A disk of 100 counts on a level at the edge of the detector."""
    x, y = np.mgrid[:32, :32]
    disk = np.hypot(x - 16, y - 16) < 6
    state = state_of(mean_pattern=np.where(disk, 100.0, level), mean_disk=gpu4d.probe.Disk(16.0, 16.0, 6.0, 0.5, 0.1))
    _background_gate(state)
    return state.record


def edge_background(level, monkeypatch):
    """Raw frames with noise of 2 whose edge keeps a level."""
    edge = np.zeros((32, 32), bool)
    edge[:3] = True
    measured = SimpleNamespace(
        background=np.zeros((32, 32)),
        bad_pixels=np.zeros((32, 32), bool),
        edge=edge,
        detector_shape=(32, 32),
        noise=2.0,
        level=0.0,
        level_error=0.0,
    )
    monkeypatch.setattr("gpu4d.workflow.stages.corrections.measured_background", lambda cube: measured)
    state = state_of(mean_pattern=np.full((32, 32), level))
    RawFrames().finish(state, {})
    return state.record


def vector_map(missing):
    """Disks of a lattice; of a share of the pairs one is never seen."""
    orders = [(h, k) for h in (1, 2, 3) for k in range(-4, 5)] + [(0, k) for k in (1, 2, 3)]
    disks = disks_of(OBLIQUE, shape=SHAPE, absent=orders[: round(missing * len(orders))])
    state = state_of((*SHAPE, 128, 128), braggvectors=disks, origin=SimpleNamespace(fitted=np.broadcast_to(ORIGIN, (*SHAPE, 2))))
    state.results["template"] = SimpleNamespace(radius=4.0)
    VectorMap().finish(state, {})
    return state.record


def sharpness(sigma):
    """Disks of a radius of 4 px that lie off their lattice by this much."""
    state = state_of(template=SimpleNamespace(radius=4.0))
    LatticeFit()._sharpness_gate(state, SimpleNamespace(residual=np.full(SHAPE, sigma)))
    return state.record


def peak_count(number):
    """As many disks in every pattern."""
    counts = np.full(SHAPE, number)
    points = gpu4d.PointListArray(np.arange(0, counts.size * number + 1, number), {"qx": np.zeros(counts.size * number)}, SHAPE)
    state = state_of()
    Disks().finish(state, {"braggvectors": points})
    return state.record


def strain_of(f, reference=None, **options):
    fit = gpu4d.fit_lattice(disks_of(OBLIQUE, f, shape=f.shape[:2], sigma=0.02), canonical(OBLIQUE), origin=ORIGIN)
    calibration = gpu4d.Calibration(rotation=options.pop("rotation", 0.0))
    return fit, gpu4d.strain_map(fit, reference=OBLIQUE if reference is None else reference, calibration=calibration, **options)


def stretched(share, size, where=slice(None)):
    """The first positions of a crystal are stretched along x."""
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f.reshape(-1, 2, 2)[: round(share * np.prod(SHAPE)), 0, 0] += size
    return f


def magnitude(share):
    record = Record()
    magnitude_gate(record, strain_of(stretched(share, 0.15))[1], 0.1)
    return record


def continuity(number):
    """Single positions, apart from each other, with a lattice vector taken for another."""
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    for place in [(x, y) for x in range(1, 11, 3) for y in range(1, 9, 2)][:number]:
        f[place] = np.diag([1.08, 1.0])
    record = Record()
    strain_gates(record, strain_of(f)[1])
    return record


def compatibility(turn):
    """A wave of the displacement, and a rotation that is calibrated wrongly by an angle."""
    x = np.arange(SHAPE[0], dtype=float)[:, None]
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[..., 0, 0] += 0.01 * np.sin(2 * np.pi * x / 10)
    record = Record()
    strain_gates(record, strain_of(f, rotation=math.radians(turn))[1])
    return record


def trace(factor):
    """Strain whose trace is multiplied: 1 is right, −1 that of g taken for d."""
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[..., 0, 0] += 0.01 * np.sin(np.arange(SHAPE[0]))[:, None]
    fit, strain = strain_of(f)
    wrong = SimpleNamespace(exx=factor * np.asarray(strain.exx), eyy=factor * np.asarray(strain.eyy), uncertainty=strain.uncertainty)
    state = state_of(lattice=SimpleNamespace(indexed_fraction=1.0, lengths=(12.0, 12.0)), lattice_fit=fit, strain=wrong)
    LatticeChecks().finish(state, {})
    return state.record


def reference_region(size):
    """A region that is called unstrained, and is strained up and down."""
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[..., 0, 0] += size * np.sign(np.sin(np.arange(SHAPE[0]) + 0.5))[:, None]
    region = np.zeros(SHAPE, bool)
    region[:6] = True
    record = Record()
    strain_gates(record, strain_of(f, region)[1])
    return record


def boundary(ghost):
    """A phase whose gradient is the field but in a border, where a copy of the other edge adds to it."""
    x, y = np.mgrid[:24, :24].astype(float)
    rng = np.random.default_rng(0)
    phase = np.sin(x / 4) + np.cos(y / 5)
    com = np.stack(np.gradient(phase)) / (2 * np.pi) + rng.normal(0, 1e-3, (2, 24, 24))
    border = np.minimum.reduce([x, y, 23 - x, 23 - y]) < 2
    copy = np.where(border, ghost * np.sin(3 * (x + y)), 0.0)
    found = SimpleNamespace(curl=None, validity=None, phase=phase + copy, com=com)
    state = state_of()
    dpc_gates(state, found)
    return state.record


def curl(share):
    return gates_of_a_phase(curl={False: share}, error=math.nan)


def rotation_error(degrees):
    return gates_of_a_phase(curl={False: 0.1}, error=math.radians(degrees))


def gates_of_a_phase(**curl):
    phase = {"rotation": 0.4, "transpose": False, "validity": None, "phase": np.zeros((8, 8)), "com": np.zeros((2, 8, 8))}
    state = state_of()
    dpc_gates(state, SimpleNamespace(curl=SimpleNamespace(**curl), **phase))
    return state.record


def acquisition(total, **results):
    state = state_of((*total.shape, 8, 8), total=total, technique="bragg", **results)
    AcquisitionChecks().finish(state, {})
    return state.record


def electrons(number):
    return acquisition(np.random.default_rng(0).poisson(number, SHAPE).astype(float))


def steadiness(lost):
    """Counts that fall from the first row to the last by a share."""
    return acquisition(1000 * np.linspace(1, 1 - lost, SHAPE[0])[:, None] * np.ones(SHAPE))


MADE = {  # key: (maker, what passes, what warns, what fails); those of techniques are in made_for_gates.py
    **made_for_gates.MADE,
    "background": (background, 0.1, 2.0, 20.0),
    "edge_background": (edge_background, 0.05, 0.5, 5.0),
    "vector_map_symmetry": (vector_map, 0.0, 0.4, 1.0),
    "sharpness": (sharpness, 0.2, 2.0, 3.5),
    "peak_count": (peak_count, 12, 40, 2),
    "strain_magnitude": (magnitude, 0.0, 0.05, 0.5),
    "strain_continuity": (continuity, 1, 5, 16),
    "strain_compatibility": (compatibility, 0.0, 30.0, 90.0),
    "strain_trace": (trace, 1.0, 1.4, -1.0),
    "strain_reference": (reference_region, 1e-4, 5e-3, 3e-2),
    "dpc_boundary": (boundary, 0.0, 2e-2, 1.0),
    "dpc_curl": (curl, 0.1, 0.3, 0.5),
    "dpc_rotation": (rotation_error, 0.5, 8.0, 20.0),
    "electrons": (electrons, 2000, 50, 3),
    "steadiness": (steadiness, 0.05, 0.4, 0.9),
}


CASES = [
    (key, status) for key, (_, *values) in MADE.items() for status, value in zip(("pass", "warn", "fail"), values) if value is not None
]


def test_every_gate_is_made_to_pass_and_to_fail():
    """A gate that is added to the table needs data with which it passes and fails, here or in made_for_gates.py."""
    assert set(MADE) == set(BY_KEY) and len(BY_KEY) == len(RULES)
    assert {(rule.key, status) for rule in RULES for status in ("pass", "fail")} <= set(CASES)


@pytest.mark.parametrize(("key", "status"), CASES)
def test_a_gate_passes_warns_and_fails_on_data_made_for_it(key, status, monkeypatch, tmp_path):
    make, *values = MADE[key]
    if key == "pixel_structure":
        pytest.importorskip("gemmi")
    options = {"edge_background": {"monkeypatch": monkeypatch}, "drift_agreement": {"folder": tmp_path}}.get(key, {})
    found = gate(make(dict(zip(("pass", "warn", "fail"), values))[status], **options), key)
    rule = BY_KEY[key]
    assert found.status == status, (found.value, found.measured)
    assert found.passed is (status == "pass") and found.unit == rule.unit and math.isfinite(found.value)
    assert (found.warn, found.fail) == (rule.warn, rule.fail) and found.advice and rule.reason


# ---------------------------------------------------------------- limits, policy


def test_limits_are_inclusive_and_a_value_that_is_no_number_is_looked_at():
    assert [judged(v, (5.0, 30.0), (3.0, 200.0)) for v in (5, 30, 3, 200, 2.9, 201)] == ["pass", "pass", "warn", "warn", "fail", "fail"]
    assert judged(math.nan, (None, 1.0), (None, 2.0)) == "warn" and judged(math.inf, (None, 1.0), (None, 2.0)) == "fail"


def test_limits_of_fail_are_never_tighter_than_those_of_warn():
    for rule in RULES:
        for warn, fail, outer in zip(rule.warn, rule.fail, (min, max)):
            assert (warn is None) == (fail is None) and (warn is None or outer(warn, fail) == fail), rule.key


def test_a_recipe_sets_limits():
    policy = policy_of(Recipe.from_toml("[gates]\nstrain_magnitude_warn = 5\npeak_count_fail = [1, 500]").gates)
    record = Record(policy=policy)
    assert record.measure("strain_magnitude", 3.0, "3 %").passed and not Record().measure("strain_magnitude", 3.0, "3 %").passed
    assert record.measure("peak_count", 300.0, "300").status == "warn" and Record().measure("peak_count", 300.0, "300").failed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stop = ["peak countt"]', "did you mean 'peak_count'"),
        ("stop = 3", "need a list of electrons"),
        ('stop = ["sharpness"]\nproceed = ["sharpness"]', "both name sharpness"),
        ("peak_count_warn = [30, 5]", "the lowest accepted value, then the highest"),
        ('on_fail = "halt"', "need one of continue, stop"),
    ],
)
def test_a_recipe_with_wrong_gates_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        Recipe.from_toml(f"[gates]\n{text}")


def test_which_gates_stop():
    assert not GatePolicy().stops("sharpness") and GatePolicy(stop=frozenset({"sharpness"})).stops("sharpness")
    strict = policy_of(Recipe.from_toml('[gates]\non_fail = "stop"\nproceed = ["peak count"]').gates)
    assert strict.stops("sharpness") and not strict.stops("peak_count")
    record = Record(policy=strict)
    record.measure("peak_count", 1.0, "1")
    record.measure("sharpness", 0.5, "a warning stops nothing")
    assert record.stopped is None
    record.measure("sharpness", 2.0, "far off")
    assert record.stopped.key == "sharpness" and "stopped at the gate “Sharpness of the lattice”" in record.warnings[-1]


def test_no_stage_begins_after_a_stop():
    done = []

    class First(Stage):
        name, title, makes = "first", "first", ("one",)

        def finish(self, state, results):
            state.record.measure("electrons", 1.0, "one electron")
            state.keep("one", 1)
            done.append(self.name)

    class Second(Stage):
        name, title, needs = "second", "second", ("one",)

        def finish(self, state, results):
            done.append(self.name)

    for stopping, expected in (("stop", ["first"]), ("continue", ["first", "second"])):
        done.clear()
        settings = recipe(gates__on_fail=stopping)
        state = RunState(DataCube(np.zeros((2, 2, 4, 4), np.uint8)), settings, Record(policy=policy_of(settings.gates)))
        carry_out((First(), Second()), state)
        assert done == expected and state["one"] == 1
    assert not hasattr(state.reasons["first"], "gate") and state.reasons["second"].wanted


# ---------------------------------------------------------------- in the file, on the command line


def test_gates_come_back_from_the_file(results):
    again = read_gates(results.folder)
    assert [(g.name, g.status, g.key, g.advice) for g in again] == [(g.name, g.status, g.key, g.advice) for g in results.record.gates]
    measured = [g for g in again if g.key]
    assert len(measured) >= 6 and all(g.value == pytest.approx(h.value) for g, h in zip(again, results.record.gates) if h.value is not None)
    assert {"warn_low", "fail_high", "value", "unit", "status"} <= set(gates_table(again))
    with pytest.raises(InputError, match="no such file"):
        read_gates(results.folder / "nowhere")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, only_blank_pictures):
    """A run that its recipe stops because patterns have too few disks, on the command line."""
    root = tmp_path_factory.mktemp("stopped")
    scan = gpu4d.simulate.bragg_scan((8, 8), (64, 64), spacing=15.0, radius=3.5, dose=60.0, strain_size=0.01, seed=1)
    with h5py.File(root / "scan.h5", "w") as file:
        file["data"] = scan.cube.source.array
    (root / "r.toml").write_text('[gates]\npeak_count_fail = [100, 200]\nstop = ["peak_count"]\n')
    code = run_command(["run", str(root / "scan.h5"), "-o", str(root / "out"), "--recipe", str(root / "r.toml"), "--quiet"])
    return root, code


def test_a_stop_has_its_own_exit_code_and_keeps_what_was_made(stopped):
    root, code = stopped
    assert code == 3
    saved = gpu4d.io.read_emd(root / "out" / "result.h5")
    assert {"bf", "mean_pattern", "braggvectors"} <= set(saved) and "strain" not in saved and "bragg_vector_map" not in saved
    failed = [g for g in read_gates(root / "out") if g.status == "fail"]
    assert [g.key for g in failed] == ["peak_count"] and failed[0].fail == (100.0, 200.0)
    page = (root / "out" / "report.html").read_text(encoding="utf-8")
    assert "The run stopped at the gate “Bragg disks per pattern”" in page and "the run stopped at the gate" in page


def test_the_same_run_goes_on_without_a_stop(stopped, capfd):
    root, _ = stopped
    settings = Recipe.from_toml("[gates]\npeak_count_fail = [100, 200]")
    done = run(root / "scan.h5", root / "on", recipe=settings)
    assert not done.stopped and "strain" in done.state and "failed: Bragg disks per pattern" in done.summary()
    said = json.loads(json.dumps(done.as_dict()))
    assert said["stopped"] is None and {g["status"] for g in said["gates"]} >= {"pass", "fail"}


def test_good_data_pass_all_gates(crystal):
    state = analyse(DataCube(crystal.cube.source.array[:10, :10]))
    assert [g.name for g in state.record.gates if not g.passed] == []
    assert {"background", "vector_map_symmetry", "sharpness", "peak_count", "strain_magnitude"} <= {g.key for g in state.record.gates}
