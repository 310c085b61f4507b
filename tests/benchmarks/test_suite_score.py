"""The score: its arithmetic, and every reason why there is none."""

import pytest
from gpu4d.benchmarks.suite import score

PARTS = {"a": "Compute", "b": "Compute", "c": "Bandwidth", "d": "Disk"}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A reference of four workloads: one second for 100 units each."""
    tiers = {"S": {key: {"seconds": 1.0, "amount": 100, "scatter": 0.1 if key == "a" else None} for key in PARTS}}
    monkeypatch.setattr(score, "reference", lambda: {"tiers": tiers})


def a_result(seconds=1.0, spread=0.01, **changes):
    """A result in which every workload takes these seconds for 100 units."""
    attainable = {"copy": {"value": 1e9}, "fft": {"value": 1e9}, "read": {"value": 2e9}}
    workloads = {}
    for key, part in PARTS.items():
        samples = [[seconds * (1 + spread * (i / 7 - 0.5)) for i in (0, 4, 2, 6, 7, 1)] for _ in range(3)]
        entry = {
            "part": part, "amount": 100, "samples": samples, "bytes": 1e8, "flops": 3e8, "moved": "copy", "rate": "fft",
            "more": {"read": 1e8}, "check": {"scatter": 0.1 if key == "a" else None}, **changes.get(key, {}),
        }  # fmt: skip
        workloads[key] = score.complete(entry, attainable, score.reference_of("S")[key])
    conditions = {"passes": [{"others_cores": 0.01, "processors": 2, "steal": 0.0}] * 3}
    return {"suite": {"tier": "S", "seed": 1, "seed_is": "announced"}, "workloads": workloads, "conditions": conditions}


def scored(result):
    return score.score(result, PARTS)


def test_the_reference_has_1000():
    found = scored(a_result())
    assert found["why_not"] == []
    assert found["total"] == pytest.approx(1000, rel=0.01)
    assert found["low"] <= found["total"] <= found["high"]
    assert set(found["parts"]) == {"Compute", "Bandwidth", "Disk", "Precision"}


def test_twice_as_fast_is_twice_the_score():
    assert scored(a_result(0.5))["total"] == pytest.approx(2 * scored(a_result(1.0))["total"])


def test_a_workload_counts_with_its_root():
    """The geometric mean of four: one of them 16 times as fast gives twice the score."""
    faster = a_result()
    entry = {**faster["workloads"]["c"], "samples": [[s / 16 for s in some] for some in faster["workloads"]["c"]["samples"]]}
    faster["workloads"]["c"] = score.complete(entry, {"copy": {"value": 1e9}}, score.reference_of("S")["c"])
    assert scored(faster)["total"] == pytest.approx(2 * scored(a_result())["total"])
    assert scored(faster)["parts"]["Bandwidth"]["score"] == pytest.approx(16 * scored(a_result())["parts"]["Bandwidth"]["score"])
    assert scored(faster)["parts"]["Compute"] == scored(a_result())["parts"]["Compute"]


def test_other_amounts_are_taken_by_unit():
    entry = {**a_result()["workloads"]["a"], "amount": 300}
    assert score.complete(entry, {}, score.reference_of("S")["a"])["reference"] == 3.0


def test_the_floor_is_the_longest_of_all_that_bind():
    """0.1 s for the bytes, 0.3 s for the flops, 0.05 s for what is read."""
    entry = a_result()["workloads"]["a"]
    assert (entry["bound_by"], entry["floor"]) == ("fft", pytest.approx(0.3))
    assert entry["fraction"] == pytest.approx(0.3, rel=0.01)
    assert score.floor_of(entry, {"read": {"value": 2e9}}) == ("read", pytest.approx(0.05))
    assert score.floor_of(entry, {}) == (None, None)


def test_precision_compares_distances_from_the_truth():
    better = a_result(a={"check": {"scatter": 0.05}})
    assert scored(better)["parts"]["Precision"]["score"] == pytest.approx(2000)
    assert scored(better)["total"] == scored(a_result())["total"]


def uneven(result, key, passes):
    """Give a workload other times in each pass."""
    entry = {**result["workloads"][key], "samples": [[s] * 3 for s in passes]}
    result["workloads"][key] = score.complete(entry, {}, score.reference_of("S")[key])


def test_a_wide_interval_takes_the_total_and_its_part():
    """A workload whose passes differ by a factor of 1.6 moves the mean of four by its fourth root."""
    result = a_result()
    uneven(result, "c", (0.8, 1.0, 1.28))
    found = scored(result)
    assert found["total"] is None and "Bandwidth" not in found["parts"] and "Compute" in found["parts"]
    assert found["why_not"][0].startswith("the interval of the score is 11.7 % wide")
    assert score.spread(result["workloads"]) == pytest.approx(0.12, abs=0.01)


def test_a_part_with_a_wide_interval_is_left_out_where_the_total_is_steady():
    result = a_result()
    uneven(result, "c", (0.95, 1.0, 1.06))
    found = scored(result)
    assert found["total"] == pytest.approx(1000, rel=0.01) and "Bandwidth" not in found["parts"]


@pytest.mark.parametrize(("one", "why"), [({"others_cores": 1.0}, "other processes used 50 %"), ({"steal": 0.2}, "the host took 20 %")])
def test_a_busy_machine_has_no_figures_however_even_its_times_are(one, why):
    result = a_result()
    result["conditions"]["passes"] = [{"others_cores": 0.0, "processors": 2, "steal": 0.0} | one] * 2 + result["conditions"]["passes"][:1]
    found = scored(result)
    assert found["total"] is None and found["parts"] == {} and found["why_not"][0].startswith(why)


def test_a_short_disturbance_is_left_to_the_interval():
    result = a_result()
    result["conditions"]["passes"][0] = {"others_cores": 1.0, "processors": 2, "steal": 0.0}
    assert scored(result)["total"] == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["workloads"].update(b={"part": "Compute", "failed": "wrong answer: error 1, allowed 0"}), "b: wrong answer"),
        (lambda r: r["suite"].update(seed=5, seed_is="given"), "the seed 5 is not the announced one"),
        (lambda r: r["suite"].update(seed=5, seed_is="drawn"), "the seed was drawn"),
    ],
)
def test_no_figure_at_all_is_given(change, why):
    result = a_result()
    change(result)
    found = scored(result)
    assert found["total"] is None and found["parts"] == {} and found["why_not"][0].startswith(why)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["workloads"].pop("b"), "b was not run"),
        (lambda r: [r["workloads"].pop(key) for key in "ab"], "a, b were not run"),
        (lambda r: r["workloads"].update(b={"part": "Compute", "skipped": "does not fit"}), "b was skipped: does not fit"),
    ],
)
def test_a_missing_workload_takes_the_total_and_its_part(change, why):
    result = a_result()
    change(result)
    found = scored(result)
    assert found["total"] is None and found["why_not"] == [why]
    assert "Disk" in found["parts"] and found["parts"]["Disk"]["score"] == pytest.approx(1000, rel=0.01)
    assert "Compute" not in found["parts"]


def test_a_tier_without_a_reference_has_no_score():
    result = a_result()
    result["suite"]["tier"] = "M"
    assert "tier M has no reference" in scored(result)["why_not"]
