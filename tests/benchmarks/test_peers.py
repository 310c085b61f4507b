"""The comparison with other tools: processes, turns, agreement, table; with workers that stand in for the tools."""

import json
import sys
import textwrap

import numpy as np
import pytest
from gpu4d.benchmarks import crowded
from gpu4d.benchmarks.peers import close_disks, compare, comparisons, inputs, show_results, table
from gpu4d.benchmarks.peers.comparisons import Comparison
from gpu4d.benchmarks.peers.environments import Environment, SetupError
from gpu4d.benchmarks.peers.table import Check, Row, Target
from gpu4d.benchmarks.peers.worker import Worker, WorkerError, arrays_of

FAKE = """
import os, sys, time
sys.path.insert(0, {here!r})
import numpy as np
from serve import serve

def times(folder, factor, pause=0.0):
    numbers = np.load(folder / "numbers.npy")
    calls = []
    def call():
        print("a progress bar")
        time.sleep(pause)
        calls.append(1)
        return numbers * factor
    return call, lambda result: dict(result=result, calls=np.asarray(len(calls)), threads=np.asarray(os.environ.get("OMP_NUM_THREADS", "")))

def dies(folder):
    return (lambda: os._exit(3)), None

serve(dict(times=times, dies=dies), lambda: dict(fake="1.0"))
"""


@pytest.fixture
def start(tmp_path):
    """Starts workers that multiply; a peer called "absent" cannot be set up."""
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE.format(here=str(compare.HERE))))
    np.save(tmp_path / "numbers.npy", np.arange(4.0))
    started = []

    def start(peer, one_thread):
        if peer == "absent":
            raise SetupError("no such package")
        started.append(Worker(sys.executable, script, tmp_path, one_thread=one_thread, log=tmp_path / "log"))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def same(folder, theirs, ours):
    return [Check("differs by", float(np.abs(theirs["result"] - ours["result"]).max()), 1e-6)]


def case(key, peer, factor, ours=2.0, pause=0.0, task="times", **options):
    given = {"factor": factor, "pause": pause} if task == "times" else {}
    return Comparison(key, peer, ("doubles", "the same"), (task, given), ("times", {"factor": ours}), same, **options)


def test_a_worker_warms_up_once_and_says_how_long_one_call_took(start, tmp_path):
    worker = start("good", True)
    path = tmp_path / "out.npz"
    assert worker.run("times", {"factor": 3.0, "pause": 0.05}, path) >= 0.05
    found = arrays_of(path)
    assert found["result"].tolist() == [0, 3, 6, 9] and found["calls"] == 2 and found["threads"] == "1"
    worker.run("times", {"factor": 3.0, "pause": 0.05}, path)
    assert arrays_of(path)["calls"] == 3
    assert worker.ask("about")["about"] == {"fake": "1.0"}


def test_what_goes_wrong_in_a_worker_is_said(start):
    worker = start("good", True)
    with pytest.raises(WorkerError, match="unexpected keyword argument 'colour'"):
        worker.run("times", {"colour": 1})
    assert worker.run("times", {"factor": 1.0}) > 0, "it goes on after an error"
    with pytest.raises(WorkerError, match="ended with code 3"):
        worker.run("dies", {})


def test_rows_of_a_run(start, tmp_path):
    slow = Target("ten times", lambda row: row.ratio >= 10)
    chosen = [
        case("agrees", "good", 2.0, pause=0.02, unit="patterns", peer_amount=10, amount=1000, targets=(slow,)),
        case("differs", "good", 2.1),
        case("precise", "good", 2.5, precise=("times", {"factor": 2.0})),
        case("dies", "good", 2.0, task="dies"),
        case("not there", "absent", 2.0),
    ]
    rows, about = compare.run(chosen, start, tmp_path, rounds=2, full=True)
    agrees, differs, precise, dies, absent = rows
    assert [row.good for row in rows] == [True, False, True, False, False]
    assert precise.one_thread and not precise.targets
    assert len(agrees.one_thread) == len(agrees.default) == 2 and len(agrees.gpu4d) == 4 and agrees.targets == {"ten times": True}
    assert "NOT ≤ 1e-06" in str(differs.checks[0]) and "code 3" in dies.problem and "no such package" in absent.problem
    text = compare.report(rows, about)
    assert "PROBLEM not there" in text and "ANSWERS DIFFER differs" in text and "fake 1.0" in text
    back = json.loads(table.as_json(rows, about))
    again, said = table.from_json(json.dumps(back))
    assert compare.report(again, said) == text
    assert table.short_table(again).count("\n") == 3, "only what agrees"
    assert back["rows"][0]["ratio"] == pytest.approx(agrees.ratio) and not back["rows"][-1]["agrees"]


@pytest.mark.parametrize("only, code", [([], 1), (["good"], 0), (["AGREES"], 0), (["absent"], 1), (["nobody"], 1)])
def test_exit_code(start, tmp_path, monkeypatch, capsys, only, code):
    monkeypatch.setattr(compare, "comparisons", lambda sizes: [case("agrees", "good", 2.0), case("gone", "absent", 2.0)])
    monkeypatch.setattr(compare, "starter", lambda environments, folder: start)
    monkeypatch.setattr(inputs, "write", lambda folder, sizes: np.save(folder / "numbers.npy", np.arange(4.0)))
    path = tmp_path / "figures.json"
    arguments = ["--quick", "--json", str(path), *(word for name in only for word in ("--only", name))]
    assert compare.main(arguments) == code
    assert ("could not be run" in capsys.readouterr().out) == (only in ([], ["absent"]))


def test_ratios_are_per_unit_and_the_table_is_one():
    row = Row(
        "k", "peer", "disks", "disks too", "patterns", 200, 4000, [2.0, 1.9, 9.0], [4.0], [0.4, 0.5, 0.3], [Check("off by", 0.1, 0.2)]
    )
    assert row.rate == pytest.approx(10_000) and row.ratio == pytest.approx(100) and row.default_ratio == pytest.approx(200)
    row.judge((Target("fast", lambda r: r.ratio >= 100), Target("faster", lambda r: r.ratio > 1000)))
    lines = table.table([row, Row("gone", "peer", "a", "b", "s", 1, 1, problem="no wheel")]).splitlines()
    assert {line.count("|") for line in lines} == {len(table.HEAD) + 1} and len({len(line) for line in lines}) == 1
    assert "100 patterns/s" in lines[2] and "10 000 patterns/s" in lines[2] and "100 / 200" in lines[2]
    assert "fast: met; faster: missed" in lines[2] and "could not be run" in lines[3]


def test_positions_are_held_against_the_truth(tmp_path):
    truth = np.array([[[10.0, 10.0], [30.0, 30.0]], [[12.0, 10.0], [31.0, 30.0]]])
    np.savez(tmp_path / "bragg_truth.npz", positions=truth[None])
    np.save(tmp_path / "bragg_chosen.npy", [0, 1])

    def lists(*patterns):
        return {"points": np.concatenate(patterns), "starts": np.cumsum([0, *map(len, patterns)])}

    ours = lists(*(truth + np.array([0.03, 0.04])))
    theirs = lists(truth[0] + [0.0, 0.5], truth[1, :1], np.zeros((1, 2)))
    theirs["starts"] = np.array([0, 2, 4])
    found = {check.text: check.value for check in comparisons.near(0.1)(tmp_path, theirs, ours)}
    assert found["rms error of gpu4d"] == pytest.approx(np.sqrt(0.03**2 + 0.04**2) / np.sqrt(2))
    assert found["missed by the peer"] == 0.25 and found["false disks of the peer"] == 1 and found["false disks of gpu4d"] == 0
    assert not comparisons.near(0.1)(tmp_path, theirs, ours)[0].ok


def test_residual_of_the_gradient_equation():
    x, y = np.meshgrid(np.arange(20) * 0.5, np.arange(24) * 0.5, indexing="ij")
    phase, gradient = x**3 - 2 * x * y + y, np.stack([3 * x**2 - 2 * y, 1 - 2 * x], -1)
    assert comparisons.gradient_residual(phase / (2 * np.pi) + 7, gradient, 0.5) < 1e-12
    assert comparisons.gradient_residual(phase, gradient[..., ::-1], 0.5) > 0.1
    assert comparisons.phase_error(phase / (2 * np.pi) + 7, phase) < 1e-12 < comparisons.phase_error(phase + x, phase)


@pytest.mark.parametrize("n", [8, 9])
def test_side_bands_but_those_that_are_anybodys(n):
    rng = np.random.default_rng(0)
    phase = rng.normal(size=(n, n))
    ours = {"transmission": 1 + 1j * phase, "incident": np.asarray(3.0)}
    theirs = np.fft.fft2(ours["transmission"]) * 3.0
    theirs[0, 0] = 100.0
    if n == 8:
        theirs[4], theirs[:, 4] = 50.0, -50.0
    assert all(check.ok for check in comparisons.same_side_bands(None, {"transmission": theirs}, ours))
    theirs[2, 3] *= 1.001
    assert not comparisons.same_side_bands(None, {"transmission": theirs}, ours)[0].ok


def test_every_case_has_its_tasks():
    """Names of tasks are in the scripts, which import tools that are not here."""
    scripts = {"py4DSTEM": "py4dstem_tasks.py", "LiberTEM": "libertem_tasks.py", "quantem": "quantem_tasks.py", "gpu4d": "gpu4d_tasks.py"}
    texts = {peer: (compare.HERE / script).read_text().rpartition("serve(")[2] for peer, script in scripts.items()}
    every = comparisons.comparisons(inputs.FULL)
    assert {c.peer for c in every} == set(scripts) and len({c.key for c in every}) == len(every)
    for c in every:
        assert f'"{c.task[0]}":' in texts[c.peer] and f'"{c.ours[0]}":' in texts["gpu4d"], c.key


class Knows:
    """Stands in for a peer: it finds every disk 0.3 px too far along x, misses the last disk of each pattern, and finds one more."""

    def __init__(self, truth):
        self.truth, self.asked = truth, []

    def ask(self, task):
        return {"about": {"a peer": "1.0"}}

    def run(self, task, options, save):
        self.asked.append((task, options))
        lists = [np.concatenate([p[:-1] + np.array([0.3, 0.0]), [[2.0, 2.0]]]) for p in self.truth]
        np.savez(save, points=np.concatenate(lists), starts=np.cumsum([0, *map(len, lists)]))

    def close(self):
        self.asked.append("closed")


def test_close_disks_of_peers_are_judged_as_ours(monkeypatch, capsys):
    some = crowded.pairs(3000.0, 1.0, 3.4, 40)
    monkeypatch.setattr(crowded, "pair_scenes", lambda patterns: iter([({"dose": 3000.0}, some)]))
    workers = {}

    def start(peer, folder):
        return workers.setdefault(peer, Knows(some.positions[:10]))

    rows = {row["method"]: row for row in close_disks.crowded_peers(40, start)}
    assert list(rows) == [*crowded.METHODS, *close_disks.METHODS] and "a peer 1.0" in capsys.readouterr().out
    assert rows["likelihood"]["bright: ratio"] < 2 and rows["likelihood"]["weak: found"] == 1
    for method in close_disks.METHODS:
        row = rows[method]
        assert row["false"] == 1 and row["weak: found"] == 0 and row["bright: found"] == 1 and "weak: ratio" not in row
        assert row["bright: ratio"] * row["bright: bound"] == pytest.approx(0.3 / 2**0.5)
        assert "bright: inside 1 sigma" not in row  # peers know no standard errors
    assert all(len({options["scene"] for _, options in worker.asked[:-1]}) == 1 for worker in workers.values())
    assert all(worker.asked[-1] == "closed" for worker in workers.values())


READER = """
import json, pathlib, sys
seen = {"problem": "", "arrays": 2, "right": 2, "wrong": [], "axes": ["a"], "metadata": True, "has_metadata": True, "classes": ["Array"]}
files = {path.stem: dict(seen) for path in pathlib.Path(sys.argv[2]).glob("*.h5")}
if sys.argv[1] == "bad":
    files["Disk"]["problem"] = "no such thing"
    files["Ring"]["right"], files["Ring"]["wrong"] = 1, ["b has other values"]
print(json.dumps({"about": f"{sys.argv[1]} 1.0", "files": files}))
"""


@pytest.mark.parametrize(("reader", "code"), [("good", 0), ("bad", 1), ("absent", 1)])
def test_what_readers_give_of_results_is_counted(tmp_path, monkeypatch, capsys, reader, code):
    """A reader that refuses a file, gives other values, or cannot be set up, is a failure."""
    (tmp_path / "reader.py").write_text(READER)

    def python_of(environment, folder):
        if environment.name == "absent":
            raise SetupError("no such package")
        return sys.executable

    monkeypatch.setattr(show_results, "READERS", {reader: (Environment(reader, (), (), str(tmp_path / "reader.py")), "py4DSTEM")})
    monkeypatch.setattr(show_results.environments, "python_of", python_of)
    some = {name: kind for name, kind in show_results.classes().items() if name in ("Disk", "Ring", "DataCube", "RealSlice")}
    monkeypatch.setattr(show_results, "classes", lambda: some)
    assert show_results.main([]) == code
    said = capsys.readouterr().out
    assert {
        "good": "| good 1.0 | 4 of 4 | 8 of 8 | 4 | all | Array |",
        "bad": "PROBLEM bad, Disk: no such thing\nPROBLEM bad, Ring: b has other values",
        "absent": "PROBLEM absent: could not be set up: no such package",
    }[reader] in said
    assert reader != "bad" or "| Disk | refused: no such thing |" in said


def test_a_reader_compares_what_it_gives_with_the_file(tmp_path):
    """The script of the readers, with h5py as the reader."""
    from gpu4d.benchmarks.peers import results_readers

    show_results.gpu4d.save(tmp_path / "a.h5", {"strain": show_results.example("Strain"), "points": show_results.example("PointList")})
    arrays, lists, points, texts = results_readers.stored(tmp_path / "a.h5")
    assert {"gpu4d/strain", "gpu4d/strain/exx"} <= set(arrays) and not lists and list(points) == ["gpu4d/points"] and texts
    assert arrays["gpu4d/strain/exx"][1] == [("Rx", "A"), ("Ry", "A")]
    given = {name: results_readers.same(values, values) for name, (values, _) in arrays.items()}
    given["gpu4d/strain/exx"] = results_readers.same(arrays["gpu4d/strain/exx"][0] + 1, arrays["gpu4d/strain/exx"][0])
    said = results_readers.report(arrays, given, ["gpu4d/strain"], {"Array"}, True, texts)
    assert said["right"] == said["arrays"] - 1 and said["wrong"] == ["gpu4d/strain/exx has other values"]
