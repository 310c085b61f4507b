"""A frozen reference is the median of runs, or that of another tier in proportion to the work."""

import json
import math

import pytest
from gpu4d.benchmarks.suite import freeze_reference, score
from gpu4d.benchmarks.suite.freeze_reference import amount_of, by_work, frozen
from gpu4d.benchmarks.suite.workload import TIERS
from gpu4d.benchmarks.suite.workloads import all_workloads


def a_run(seconds, tier="S", label="a machine", scatter=None):
    entry = {"median": seconds, "amount": 64, "check": {"scatter": scatter}}
    return {"suite": {"tier": tier}, "machine": {"label": label}, "made": "2026-12-01T04:10:00Z", "workloads": {"a": entry}}


def test_the_median_of_the_runs_is_frozen():
    found = frozen([a_run(seconds, scatter=0.5) for seconds in (3.0, 1.0, 1.5)], "S")
    assert found == {"a": {"seconds": 1.5, "amount": 64, "scatter": 0.5, "runs": 3}}


@pytest.mark.parametrize("runs", [[], [a_run(1.0, tier="M")], [a_run(1.0), a_run(1.0, tier="M")], [a_run(1.0), a_run(1.0, label="other")]])
def test_runs_of_another_tier_or_machine_are_refused(runs):
    with pytest.raises(AssertionError):
        frozen(runs, "S")


def test_seconds_grow_with_the_work():
    known = {key: {"seconds": 2.0, "amount": amount_of(one.sizes["M"]), "scatter": 0.1, "runs": 1} for key, one in all_workloads().items()}
    found = by_work(known, "M", "L")
    times = {key: one["seconds"] / 2.0 for key, one in found.items()}
    assert times["one-pass"] == times["bragg-disks"] == 262144 / 32768
    assert times["lattice-fit"] == (512 / 256) ** 2 and times["file-to-strain"] == 448 * 512 / (128 * 256)
    assert times["poisson-solve"] == pytest.approx(4 * math.log2(8192**2) / math.log2(4096**2))
    assert times["ssb"] == pytest.approx(4 * math.log2(512**2) / math.log2(256**2) * (24 / 16) ** 2)  # 2.25 times the pixels in the disk
    assert found["ssb"]["scatter"] == pytest.approx(0.1 * 16 / 24) and found["bragg-disks"]["scatter"] == 0.1
    assert all(one["runs"] == 0 for one in found.values())


def test_amounts_are_those_of_the_workloads():
    """The reference has two tiers that were measured: one follows from the other, but for the seconds."""
    measured = score.reference()["tiers"]
    found = by_work(measured["S"], "S", "M")
    assert {key: one["amount"] for key, one in found.items()} == {key: one["amount"] for key, one in measured["M"].items()}
    for key, one in found.items():
        if one["scatter"]:
            assert one["scatter"] == pytest.approx(measured["M"][key]["scatter"], rel=0.08)
    assert all(amount_of(one.sizes[tier]) > 0 for one in all_workloads().values() for tier in TIERS)


def test_the_file_keeps_its_other_tiers(tmp_path, monkeypatch):
    file = tmp_path / "reference.json"
    file.write_text(json.dumps({"tiers": {"M": {"ssb": {"seconds": 1.0, "amount": 65536, "scatter": None, "runs": 1}}}}))
    monkeypatch.setattr(score, "REFERENCE", file)
    assert freeze_reference.main(["--tier", "L", "--from", "M"]) == 0
    tiers = json.loads(file.read_text())["tiers"]
    assert tiers["M"]["ssb"]["seconds"] == 1.0 and tiers["L"]["ssb"]["seconds"] > 4 and tiers["L"]["ssb"]["amount"] == 262144
