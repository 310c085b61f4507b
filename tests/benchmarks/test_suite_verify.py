"""A result that was altered does not fit, whether or not its hash was computed anew."""

import copy
import functools
import json
import operator
from collections.abc import Iterator
from typing import Any

import bench_results
import pytest
from bench_results import known_reference  # noqa: F401  a fixture
from gpu4d.benchmarks.suite import provenance, result, score, statistics, verify

pytestmark = pytest.mark.usefixtures("known_reference")


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return bench_results.result()


def leaves(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The path of every number, text and null."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*at, name))
    else:
        yield at


def altered(given: dict[str, Any], at: tuple, change: Any) -> dict[str, Any]:
    """A copy in which one leaf is another."""
    made = copy.deepcopy(given)
    holder = made
    for name in at[:-1]:
        holder = holder[name]
    holder[at[-1]] = change(holder[at[-1]])
    return made


def other(value: Any) -> Any:
    """A value of the same kind that differs as little as is worth while."""
    if isinstance(value, bool) or value is None:
        return 1.0
    return value + 1 if isinstance(value, int) else value * (1 + 1e-6) + 1e-300 if isinstance(value, float) else value + "."


def findings(given: dict[str, Any], *, rehash: bool = True, data: bool = False) -> list[str]:
    return verify.verify_result(given | ({"hash": result.own_hash(given)} if rehash else {}), data=data)[0]


def test_a_whole_result_fits(whole, tmp_path):
    path = tmp_path / "r.json"
    result.write(whole, path)
    found = verify.verify(path)
    assert found.ok and found.score == whole["score"]["total"] and "score 99" in found.text(), found.text()
    assert findings(whole, data=True) == []


def test_a_result_without_a_score_fits_and_says_why(tmp_path):
    path = tmp_path / "r.json"
    result.write(bench_results.result(failed=["ssb"]), path)
    found = verify.verify(path)
    assert found.ok and found.score is None and "no score: ssb: wrong answer" in found.text()


def test_every_altered_leaf_breaks_the_hash(whole):
    paths = [at for at in leaves(whole) if at != ("hash",)]
    assert len(paths) > 900
    text = result.canonical({name: value for name, value in whole.items() if name != "hash"})
    assert result.own_hash(json.loads(text)) == whole["hash"], "what is read back has the same hash"
    made = copy.deepcopy(whole)
    for *way, name in paths[::3]:
        holder = functools.reduce(operator.getitem, way, made)
        before = holder[name]
        holder[name] = other(before)
        assert result.own_hash(made) != whole["hash"], (*way, name)
        holder[name] = before
    assert made == whole
    assert "altered after it was written" in findings(altered(whole, ("hash",), lambda h: "0" * 64), rehash=False)[0]


def followed(whole: dict[str, Any]) -> list[tuple]:
    """Paths of what follows from the rest, of a workload and a floor of every kind."""
    workloads = [("workloads", key, name) for key in ("ssb", "refine-disks", "disk-cold") for name in verify.FOLLOWS]
    sizes = [
        ("workloads", "ssb", "size", "detector"),
        *(("workloads", "ssb", name) for name in ("title", "part", "unit", "amount", "bytes")),
    ]
    floors = [("attainable", "fft", name) for name in ("value", "low", "high", "amount")]
    scores = [("score", *at) for at in leaves(whole["score"])]
    suite = [("suite", "seed"), ("suite", "order", 3, 1), ("suite", "passes"), ("format",), ("version",)]
    return [at for at in workloads if at[-1] != "outliers"] + sizes + floors + scores + suite


@pytest.fixture
def scored_once(whole, monkeypatch):
    """What takes most of the time of verifying is not done again and again: the score of these samples, the hash of the code here."""
    monkeypatch.setattr(score, "score", lambda _result, _expected: whole["score"])
    monkeypatch.setattr(provenance, "code", lambda: {"origin": "unknown", "sha256": ""})


@pytest.mark.usefixtures("scored_once")
def test_what_follows_from_the_samples_does_not_fit_when_it_is_altered_and_hashed_anew(whole):
    change = {"bytes": lambda b: b * 1e3, "part": lambda _: "Disk"}
    for at in followed(whole):
        found = findings(altered(whole, at, change.get(at[-1], other)))
        assert found, at


@pytest.mark.usefixtures("scored_once")
def test_a_sample_that_is_made_the_fastest_is_found_although_the_hash_is_computed_anew(whole):
    for key in ("one-pass", "disk-cold"):
        for at in leaves(whole["workloads"][key]["samples"]):
            assert findings(altered(whole, ("workloads", key, "samples", *at), lambda s: s / 2)), (key, at)


def test_the_finding_names_the_line(whole):
    faster = altered(whole, ("workloads", "ssb", "median"), lambda s: s / 2)
    assert any(finding.startswith("workloads.ssb.median: is 0.12") for finding in findings(faster))
    more = altered(whole, ("score", "total"), lambda s: 2 * s)
    assert findings(more)[0].startswith("score.total: is 199")


def test_a_workload_that_was_left_out_is_missed(whole):
    made = copy.deepcopy(whole)
    del made["workloads"]["wdd"]
    assert "workloads.wdd: missing; tier S has it" in findings(made)


def test_a_workload_faster_than_its_floor_is_not_plausible():
    """Even if all that follows is computed anew."""
    found = findings(bench_results.result(faster={"wdd": 4.0}))
    assert len(found) == 1 and "workloads.wdd: takes 0.15" in found[0] and "its floor permits" in found[0] and "(fft)" in found[0]


def test_floors_of_a_busy_machine_are_no_limit():
    """Such a result has no score. It is not altered, and is not called so."""
    made = bench_results.result(faster={"wdd": 4.0})
    made["conditions"]["passes"] = [{"others_cores": 1.0, "processors": 2}] * 3
    found, notes = verify.verify_result(bench_results.sealed(made))
    assert found == [] and any("the machine was busy" in note for note in notes)
    assert bench_results.sealed(made)["score"]["total"] is None


def test_a_floor_that_was_measured_on_a_busy_machine_makes_no_workload_implausible():
    """One quick sample among slow ones shows what the machine can do."""
    made = bench_results.result()
    fft = made["attainable"]["fft"]
    fft["samples"] = [[5 * s for s in some] for some in fft["samples"]]
    fft["samples"][1][2] /= 5
    s = statistics.summarise([s for some in fft["samples"] for s in some])
    fft |= {name: fft["amount"] / seconds for name, seconds in (("value", s.median), ("low", s.high), ("high", s.low))}
    for key, entry in made["workloads"].items():
        made["workloads"][key] = score.complete(entry, made["attainable"], bench_results.REFERENCE["tiers"]["S"][key])
    assert made["workloads"]["wdd"]["fraction"] > 2 and findings(bench_results.sealed(made)) == []


def test_an_amount_that_the_size_does_not_have_is_found_although_all_is_computed_anew(whole):
    """Twice the amount would be twice the score."""
    made = copy.deepcopy(whole)
    entry = made["workloads"]["ssb"]
    entry["amount"] *= 2
    made["workloads"]["ssb"] = score.complete(entry, made["attainable"], bench_results.REFERENCE["tiers"]["S"]["ssb"])
    assert findings(bench_results.sealed(made)) == ["workloads.ssb.amount: is 8192, this size has 4096"]


def test_the_state_of_a_pass_that_was_taken_out_is_missed(whole):
    """So nobody takes out the passes in which others used the machine."""
    made = copy.deepcopy(whole)
    made["conditions"]["passes"].pop()
    assert findings(bench_results.sealed(made)) == ["conditions.passes: has 2 passes, suite says 3"]


def test_a_run_is_not_shorter_than_its_samples(whole):
    assert any(finding.startswith("seconds: is 1") for finding in findings(altered(whole, ("seconds",), lambda _: 1.0)))


def test_a_changed_seed_gives_other_inputs(whole):
    """Whoever writes the announced seed over a run with another one is found by the inputs."""
    other_seed = bench_results.result(seed=7)
    assert other_seed["score"]["total"] is None
    claimed = copy.deepcopy(other_seed)
    claimed["suite"] |= {"seed": whole["suite"]["seed"], "seed_is": "announced"}
    found = findings(bench_results.sealed(claimed), data=True)
    assert len(found) == len(bench_results.WORKLOADS) and "workloads.ssb.data: is" in "".join(found)


def test_changed_code_cannot_be_closed(whole):
    made = altered(whole, ("code", "changed"), lambda _: ["gpu4d/fft.py"])
    assert any("suite.division: is 'closed', but 1 source files were changed" in finding for finding in findings(made))


def test_the_code_of_a_commit_that_is_here_has_its_hash(whole, monkeypatch):
    monkeypatch.setattr(provenance, "hash_of_commit", lambda commit: "a" * 64 if commit == "c0ffee" else None)
    made = copy.deepcopy(whole)
    made["code"] |= {"origin": "checkout", "commit": "c0ffee"}
    assert findings(made)[0].startswith("code.sha256: is ")
    made["code"]["sha256"] = "a" * 64
    assert findings(made) == []
    made["code"]["commit"] = "beef"
    assert "commit beef is not here" in "".join(verify.verify_result(bench_results.sealed(made))[1])


def test_a_wrong_form_is_said_and_nothing_else_is_computed(whole):
    made = copy.deepcopy(whole)
    del made["workloads"]["ssb"]["samples"]
    made["suite"]["tier"] = "XL"
    found = findings(made)
    assert found == ["suite.tier: 'XL' is none of 'quick', 'S', 'M', 'L'", "workloads.ssb: samples missing"]


def test_command_line(whole, tmp_path, capsys):
    pytest.importorskip("click")
    from gpu4d.cli import run_command

    path = tmp_path / "r.json"
    result.write(whole, path)
    assert run_command(["bench", "verify", str(path)]) == 0
    assert "fits" in capsys.readouterr().out
    text = path.read_text().replace('"seconds": ', '"seconds": 1', 1)
    path.write_text(text)
    json.loads(text)
    assert run_command(["bench", "verify", str(path)]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_a_run_says_at_once_that_its_result_does_not_fit(tmp_path, capsys, monkeypatch):
    """A twin that keeps its answers passes the oracle, and is faster than its floor permits."""
    pytest.importorskip("click")
    from gpu4d.benchmarks.suite import run

    from gpu4d.cli import run_command

    monkeypatch.setattr(run, "run", lambda _options, _say: bench_results.result(faster={"wdd": 4.0}))
    assert run_command(["bench", "run", "-o", str(tmp_path / "r.json")]) == 0
    assert "bench verify refuses this result, and its score does not count: workloads.wdd: takes" in capsys.readouterr().err
