"""A run with workloads that take no time: checks, passes, cuts, and every way to no score."""

import json

import numpy as np
import pytest
from gpu4d.benchmarks.suite import attainable, data, result, run, scaling, score, unit, workloads
from gpu4d.benchmarks.suite.workload import (
    COMPUTE,
    DISK,
    FLOOR,
    Check,
    Prepared,
    Unavailable,
    Workload,
    WrongAnswer,
    relative_error,
)

from gpu4d.errors import InputError

TIERS = ("quick", "S", "M", "L")


class Squares:
    """A workload that squares seeded numbers. `spoil` changes what it answers, as a kernel that is wrong would."""

    def __init__(self, key, part=COMPUTE):
        self.key, self.part, self.calls, self.closed = key, part, 0, 0
        self.spoil = lambda values, _call: values

    def make(self, place, size, seed):
        given = data.uniform(seed, size["patterns"])

        def call():
            self.calls += 1
            return self.spoil(given**2, self.calls)

        def check(found):
            return Check(relative_error(found["squares"], given * given), 1e-12, given.size, "products of NumPy")

        def close():
            self.closed += 1

        return Prepared(
            call, lambda found: {"squares": found}, check, given.size, data.digest(np, given), bytes=16.0 * given.size, close=close
        )

    def workload(self):
        return Workload(self.key, self.key, self.part, "patterns", {tier: {"patterns": 64} for tier in TIERS}, self.make)


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """Two workloads and a floor in place of the real ones, with a reference; each sample is the same, so that no interval is wide."""
    made = {key: Squares(key, part) for key, part in (("a", COMPUTE), ("b", DISK))}
    known = {key: one.workload() for key, one in made.items()}
    copy = Squares("copy", FLOOR).workload()
    monkeypatch.setattr(workloads, "all_workloads", lambda: known)
    for module in (run, run.assemble):
        monkeypatch.setattr(module, "all_workloads", lambda: known)
    monkeypatch.setattr(attainable, "floors", lambda _place: {"copy": copy})
    monkeypatch.setattr(scaling, "measure", lambda _place, _tier, _seed, _done=(): iter([("call", {"median": 1.0})]))
    monkeypatch.setattr(run, "PAUSE", dict.fromkeys(TIERS, 0.0))
    monkeypatch.setattr(run, "PASSES", dict.fromkeys(TIERS, 3))
    monkeypatch.setattr(run, "FLOORS", dict.fromkeys(TIERS, 1))
    monkeypatch.setattr(run, "MORE_PASSES", dict.fromkeys(TIERS, 3))
    tiers = {"S": {key: {"seconds": 1e-3, "amount": 64, "scatter": None} for key in known}}
    monkeypatch.setattr(score, "reference", lambda: {"tiers": tiers})
    monkeypatch.setattr(score, "BUSY", 1.0)  # other tests may run beside these
    timed = unit.timed
    monkeypatch.setattr(unit, "timed", lambda *given: ([1e-3] * 5, timed(*given)[1]))
    return made


def options(tmp_path, **given):
    return run.Options(tmp_path / "r.json", device="cpu", **given)


def test_a_good_run_has_the_score_of_its_reference(suite, tmp_path):
    found = run.run(options(tmp_path))
    assert found["score"]["why_not"] == []
    assert found["score"]["total"] == pytest.approx(1000)
    assert [len(entry["samples"]) for entry in found["workloads"].values()] == [3, 3]
    assert found["attainable"]["copy"]["value"] == pytest.approx(64 / 1e-3)
    assert found["scaling"] == {"call": {"median": 1.0}}
    assert all(one.closed for one in suite.values())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".gpu4d-bench-")]
    result.write(found, tmp_path / "r.json")
    assert result.read(tmp_path / "r.json")["score"] == found["score"]


@pytest.mark.parametrize("factor", [1 + 1e-9, np.nan])
def test_one_wrong_value_is_no_score(suite, tmp_path, factor):
    suite["b"].spoil = lambda values, _call: np.where(np.arange(values.size) == 17, values * factor, values)
    found = run.run(options(tmp_path))
    assert found["workloads"]["b"]["failed"].startswith("wrong answer")
    assert found["score"]["total"] is None and found["score"]["parts"] == {}
    assert found["score"]["why_not"][0].startswith("b: wrong answer")
    assert "samples" in found["workloads"]["a"], "the others are measured all the same"


def test_an_answer_that_changes_later_is_no_score(suite, tmp_path):
    """Right at first, and wrong within the tolerance from the sixth call on: other bits are another answer."""
    suite["b"].spoil = lambda values, call: values if call < 6 else values * (1 + 1e-15)
    found = run.run(options(tmp_path))
    assert "different bits" in found["workloads"]["b"]["failed"]
    assert found["score"]["total"] is None


@pytest.mark.parametrize(("given", "why"), [({"seed": 5}, "not the announced one"), ({"verify": True}, "the seed was drawn")])
def test_another_seed_is_no_score_but_right(suite, tmp_path, given, why):
    found = run.run(options(tmp_path, **given))
    assert found["score"]["total"] is None and why in found["score"]["why_not"][0]
    assert all("samples" in entry for entry in found["workloads"].values())
    assert found["suite"]["seed"] == 5 or found["suite"]["seed_is"] == "drawn"


def test_a_run_that_is_cut_goes_on_and_measures_nothing_twice(suite, tmp_path, monkeypatch):
    measure, done = run.measure, []

    def three_and_no_more(one, *given):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(one.key)
        return measure(one, *given)

    monkeypatch.setattr(run, "measure", three_and_no_more)
    with pytest.raises(KeyboardInterrupt):
        run.run(options(tmp_path))
    with pytest.raises(InputError, match="--resume"):
        run.run(options(tmp_path))
    kept = [json.loads(line) for line in options(tmp_path).parts.read_text().splitlines()]
    assert [one["key"] for one in kept if one["kind"] in ("floor", "workload")] == done
    monkeypatch.setattr(run, "measure", measure)
    found = run.run(options(tmp_path, resume=True))
    order = [tuple(one) for one in found["suite"]["order"]]
    assert len(order) == len(set(order)) == 9 and found["suite"]["resumed"] >= 3
    assert found["score"]["total"] == pytest.approx(1000)


def test_the_deadline_keeps_what_there_is(suite, tmp_path):
    with pytest.raises(run.Cut, match="--resume"):
        run.run(options(tmp_path, deadline=0.0))
    assert run.run(options(tmp_path, resume=True))["score"]["total"] == pytest.approx(1000)


def test_nothing_is_made_ready_after_the_deadline(suite, tmp_path):
    with pytest.raises(run.Cut):
        run.run(options(tmp_path, deadline=0.0))
    assert not any(one.calls for one in suite.values())


def test_the_sustained_phase_is_not_begun_if_it_would_end_after_the_deadline(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SUSTAINED", "a")
    with pytest.raises(run.Cut, match="under heat"):
        run.run(options(tmp_path, deadline=3000.0, sustained=3600.0))
    found = run.run(options(tmp_path, resume=True, sustained=0.01))
    assert found["score"]["total"] == pytest.approx(1000) and found["sustained"]["workload"] == "a"


def test_peers_do_not_begin_after_the_deadline(suite, tmp_path, monkeypatch):
    """The deadline comes while the first workload runs beside a peer: what is there is kept, and the next is not begun."""
    from gpu4d.benchmarks.suite import peers

    came, begun = [False], []
    monkeypatch.setattr(run.Run, "stop_in_time", lambda _self, _takes=0.0: came[0] and (_ for _ in ()).throw(run.Cut("--resume")))
    monkeypatch.setattr(peers, "chosen_peers", lambda names: [type("Peer", (), {"name": name}) for name in names])

    def beside(peer, *_given, save, done, **_more):
        for key in [key for key in ("a", "b") if key not in (done or {})]:
            begun.append((peer.name, key))
            came[0] = len(begun) == 1
            save({**(done or {}), key: 1})
        return {"a": 1, "b": 1}

    monkeypatch.setattr(peers, "beside", beside)
    with pytest.raises(run.Cut):
        run.run(options(tmp_path, peers=("one", "two")))
    assert begun == [("one", "a")]
    came[0] = False
    found = run.run(options(tmp_path, peers=("one", "two"), resume=True))
    assert begun[1:] == [("one", "b"), ("two", "a"), ("two", "b")] and set(found["peers"]) == {"one", "two"}


def test_files_of_a_run_that_was_killed_are_removed_by_the_one_that_goes_on(suite, tmp_path, monkeypatch):
    """`kill -9` leaves no time to remove them, and in tier L they have many gigabytes."""
    monkeypatch.setattr(run.shutil, "rmtree", lambda *_given, **_more: None)
    with pytest.raises(run.Cut):
        run.run(options(tmp_path, deadline=0.0))
    (left,) = tmp_path.glob(".gpu4d-bench-*")
    (left / "scan.h5").write_bytes(b"some gigabytes")
    monkeypatch.undo()
    with run._place(options(tmp_path, resume=True)) as place:
        assert place.folder == left and not list(left.iterdir())
    assert not left.exists()


@pytest.mark.parametrize(
    ("first", "then", "said"), [({"seed": 5}, {"seed": 6}, "seed was 5, is 6"), ({"seed": 5}, {}, "seed_is was given, is announced")]
)
def test_a_run_does_not_go_on_with_another_seed(suite, tmp_path, first, then, said):
    with pytest.raises(run.Cut):
        run.run(options(tmp_path, deadline=0.0, **first))
    with pytest.raises(InputError, match=said):
        run.run(options(tmp_path, resume=True, **then))


def test_reasons_hold_no_path(suite, tmp_path):
    """Results are published: whose folder it was is nobody's business."""

    def full(_values, _call):
        raise OSError(28, "No space left on device", str(next(tmp_path.glob(".gpu4d-bench-*")) / "scan.h5"))

    suite["b"].spoil = full
    failed = run.run(options(tmp_path))["workloads"]["b"]["failed"]
    assert str(tmp_path) not in failed and "No space left on device: 'scan.h5'" in failed


def test_a_floor_with_a_wrong_answer_is_no_score(suite, tmp_path, monkeypatch):
    copy = Squares("copy", FLOOR)
    copy.spoil = lambda values, _call: values + 1
    monkeypatch.setattr(attainable, "floors", lambda _place: {"copy": copy.workload()})
    found = run.run(options(tmp_path))
    assert found["score"]["total"] is None and found["score"]["why_not"][0].startswith("copy: wrong answer")


def test_what_the_machine_lacks_is_told(suite, tmp_path, monkeypatch):
    def lacking(_place, _size, _seed):
        raise Unavailable("no disk: name another folder")

    known = {key: one.workload() for key, one in suite.items()}
    known["b"] = Workload("b", "b", DISK, "patterns", known["b"].sizes, lacking)
    monkeypatch.setattr(run, "all_workloads", lambda: known)
    found = run.run(options(tmp_path))
    assert found["score"]["why_not"] == ["b was skipped: no disk: name another folder"]
    assert found["score"]["parts"]["Compute"]["score"] == pytest.approx(1000)


def test_a_workload_that_breaks_off_leaves_the_others(suite, tmp_path):
    def broken(_values, _call):
        raise RuntimeError("no such kernel")

    suite["a"].spoil = broken
    found = run.run(options(tmp_path))
    assert found["workloads"]["a"]["failed"] == "RuntimeError: no such kernel"
    assert len(found["workloads"]["b"]["samples"]) == 3


def test_wide_intervals_are_measured_more_often_and_then_refused(suite, tmp_path, monkeypatch):
    timed, seconds = unit.timed, iter(np.repeat([1e-3, 1.2e-3, 0.8e-3, 1.1e-3, 0.9e-3, 1.3e-3], 3))  # two workloads and a floor a pass
    monkeypatch.setattr(unit, "timed", lambda *given: ([next(seconds)] * 5, timed(*given)[1]))
    found = run.run(options(tmp_path))
    assert [len(entry["samples"]) for entry in found["workloads"].values()] == [6, 6]
    assert found["score"]["why_not"][0].startswith("the interval of the score is")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ("c",)}, "choose from a, b"),
        ({"tier": "XL"}, "S, M, L"),
        ({"verify": True, "seed": 3}, "leave one of the two out"),
    ],
)
def test_what_is_not_there_is_refused(suite, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        run.run(options(tmp_path, **given))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(suite, tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        run.run(run.Options(tmp_path / "nowhere" / "r.json", device="cpu"))


def test_a_result_is_not_replaced(suite, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(InputError, match="--overwrite"):
        run.run(options(tmp_path))


def test_a_check_with_nan_is_wrong():
    with pytest.raises(WrongAnswer):
        Check(float("nan"), 1.0, 1, "an oracle")


def test_a_run_that_is_stopped_says_what_is_kept(tmp_path, capsys, monkeypatch):
    pytest.importorskip("click")
    from gpu4d.cli import run_command

    def stopped(options, _say):
        options.parts.write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stopped)
    assert run_command(["bench", "run", "--quick", "-o", str(tmp_path / "r.json")]) == 1
    assert "r.json.parts keeps what was measured: go on with --resume" in capsys.readouterr().err
