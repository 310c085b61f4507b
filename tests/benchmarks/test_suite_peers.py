"""Other tools beside the suite's workloads: a fake peer that multiplies, and what is written for the built-in ones."""

import pathlib
import re
import sys
import textwrap
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from gpu4d.benchmarks.peers.environments import Environment, SetupError
from gpu4d.benchmarks.peers.table import Check
from gpu4d.benchmarks.suite import peer_tasks, peers
from gpu4d.benchmarks.suite.workload import COMPUTE, Place, Prepared, Unavailable, Workload
from gpu4d.benchmarks.suite.workload import Check as Answer
from gpu4d.benchmarks.suite.workloads import all_workloads

from gpu4d import extensions
from gpu4d.errors import InputError

SCRIPT = pathlib.Path(__file__).with_name("fake_peer.py")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "ROUNDS", 2)
    return Place(np, False, "cpu", tmp_path)


def doubling(key="doubling", inputs=True):
    """A workload of ours: twice the numbers of the seed."""
    closed = []

    def make(place, size, seed):
        numbers = np.arange(size["numbers"]) + float(seed)
        return Prepared(
            lambda: 2 * numbers, lambda found: {"doubled": found}, lambda found: Answer(0.0, 0.0, 1, "itself"), size["numbers"], "", 1.0,
            inputs=(lambda: {"numbers": numbers}) if inputs else None, close=lambda: closed.append(key),
        )  # fmt: skip

    return Workload(key, "doubles", COMPUTE, "numbers", {"quick": {"numbers": 8}}, make)


def write(folder, inputs):
    np.save(folder / "numbers.npy", inputs["numbers"][:4])
    return peers.Given({"more": 0.0}, np.arange(4), 0.5)


def same(folder, theirs, ours):
    assert theirs["threads"] == "1", "answers are those of the peer on one thread"
    return [Check("differs by", float(np.abs(theirs["product"] - ours["doubled"]).max()), 1e-6)]


def task(name="times", **options):
    return peers.Task("multiplies", name, write, same, options, lambda ours, inputs, given: {"doubled": ours["doubled"][given.chosen]})


def fake(tasks, name="fake", **options):
    environment = Environment(name, ("fake==1.2",), ("fake",), str(SCRIPT))
    return peers.Peer(name, environment, tasks, **{"python": pathlib.Path(sys.executable), **options})


def compared(place, peer, *workloads, **options):
    return peers.beside(peer, place, "quick", 3, workloads, **options)


def test_who_agrees_is_timed_in_turns_and_compared_per_unit(place):
    said, saved = [], []
    peer = fake({"doubling": task(factor=2.0)}, cannot={"other": "has no other"})
    workloads = doubling(), doubling("other"), doubling("third")
    found = compared(place, peer, *workloads, say=said.append, save=lambda part: saved.append(str(part)))
    entry = found["workloads"]["doubling"]
    assert entry["agrees"] and "differs by 0 (≤ 1e-06)" in entry["differences"]
    assert [len(entry[kind]) for kind in ("samples_one_thread", "samples", "ours")] == [2, 2, 4]
    assert (entry["amount"], entry["ours_amount"], entry["unit"]) == (4.0, 8, "numbers")
    assert entry["low"] <= entry["ratio"] <= entry["high"]
    assert found["version"] == "1.2" and found["cannot"] == {"other": "has no other", "third": "no comparison is written"}
    assert said == ["fake: its environment", "fake: doubling"] and "multiplies" in saved[0]
    assert str(place.folder) not in str(found) and sys.executable not in str(found), "a result is published: it has no paths"
    assert not list(place.folder.iterdir())


def test_the_ratio_is_against_the_faster_way_of_the_peer():
    """By arithmetic: 10 of theirs in 4 s are 0.4 s each, 100 of ours in 2 s are 0.02 s each."""
    entry = {"samples_one_thread": [8.0] * 7, "samples": [4.0, 4.0, 3.0, 5.0, 4.0, 4.0, 4.0], "ours": [2.0] * 7}
    found = peers.ratio(entry | {"amount": 10, "ours_amount": 100})
    assert found == {"ratio": pytest.approx(20), "low": pytest.approx(15), "high": pytest.approx(25), "against": "default"}
    assert peers.ratio(entry | {"samples": [9.0] * 7, "amount": 1, "ours_amount": 1})["against"] == "one thread"


def test_who_differs_is_not_timed(place):
    found = compared(place, fake({"doubling": task(factor=2.1)}), doubling())
    entry = found["workloads"]["doubling"]
    assert not entry["agrees"] and entry["ratio"] is None and entry["ours"] == entry["samples"] == []
    assert "DIFFER" in peers.table({"fake": found}) and "NOT ≤ 1e-06" in peers.table({"fake": found})


def test_a_task_that_ends_its_process_leaves_the_others(place):
    tasks = {"doubling": task("dies"), "second": task(factor=2.0), "third": task(colour=1), "fourth": task(factor=2.0)}
    workloads = doubling(), doubling("second"), doubling("third"), doubling("fourth", inputs=False)
    found = compared(place, fake(tasks), *workloads)
    assert "ended with code 3" in found["failed"]["doubling"] and found["workloads"]["second"]["agrees"]
    assert "colour" in found["failed"]["third"] and "does not give its inputs" in found["failed"]["fourth"]


def test_figures_without_a_limit_are_no_agreement(place):
    stated = peers.Task("multiplies", "times", write, lambda *_: [Check("differs by", 0.0)], {"factor": 2.0})
    found = compared(place, fake({"doubling": stated}), doubling())
    assert "no figure of the task has a limit" in found["failed"]["doubling"]


def test_a_peer_that_cannot_be_had_is_said_and_the_next_one_runs(place, monkeypatch):
    def python_of(environment, folder):
        raise SetupError("no matching distribution found for gone==1.2")

    monkeypatch.setattr(peers.environments, "python_of", python_of)
    tasks = {"doubling": task(factor=2.0)}
    gone, moved = fake(tasks, "gone", python=None), fake(tasks, "moved", python=place.folder / "no-python")
    found = {peer.name: compared(place, peer, doubling()) for peer in (gone, moved, fake(tasks))}
    assert "no matching distribution" in found["gone"]["absent"] and "network" in found["gone"]["absent"]
    assert "there is no" in found["moved"]["absent"] and found["fake"]["workloads"]["doubling"]["agrees"]
    text = peers.table(found)
    assert "gone: ABSENT: gone could not be set up" in text and "| fake 1.2 | doubling | multiplies |" in text


def test_an_interrupted_comparison_goes_on(place):
    peer = fake({"doubling": task(factor=2.0), "second": task(factor=2.0)})
    done = {"version": "1.2", "workloads": {"doubling": {"agrees": False, "before": True}}, "failed": {"second": "cut"}}
    found = compared(place, peer, doubling(), doubling("second"), done=done)
    assert found["workloads"]["doubling"]["before"] and found["workloads"]["second"]["agrees"] and not found["failed"]


# ---------------------------------------------------------------- which peers there are

PLUGIN = """
from gpu4d.benchmarks.suite.peers import Peer
from gpu4d.benchmarks.peers.environments import Environment
PEER = Peer("mine", Environment("mine", (), (), "/no/script.py"), {})
"""


def test_peers_of_names_files_and_packages(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(PLUGIN))
    found = peers.chosen_peers(["py4DSTEM", "libertem", "quantem", "fast-acbf", str(file), str(file)])
    assert [peer.name for peer in found] == ["py4dstem", "libertem", "quantem", "fast-acbf", "mine"]
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        EntryPoint("a", "mine:PEER", peers.GROUP),
        EntryPoint("b", "mine:PEER", peers.GROUP),
        EntryPoint("c", "mine:Peer", peers.GROUP),
    ]
    monkeypatch.setattr(extensions, "_entries", lambda group: entries if group == peers.GROUP else [])
    assert list(peers.known_peers()) == ["py4dstem", "libertem", "quantem", "fast-acbf", "mine"], "the second and the third are left out"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "no such file"),
        ("PEER = 3", "is a int, need"),
        ("x = 1", "is a NoneType"),
        ("import nothing_there", "cannot be run: ModuleNot"),
    ],
)
def test_files_that_are_no_peers(tmp_path, text, match):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=match):
        peers.chosen_peers([str(tmp_path / "bad.py")])


def test_unknown_names():
    with pytest.raises(InputError, match="choose from py4dstem, libertem, quantem, fast-acbf"):
        peers.chosen_peers(["hyperspy"])


def test_built_in_tasks_are_in_their_scripts():
    for peer in peer_tasks.PEERS:
        text = (peers.SCRIPTS / peer.environment.script).read_text()
        names = set(re.findall(r'"([^"]+)": ', text.rpartition("serve(")[2]))
        assert {given.name for given in peer.tasks.values()} <= names, peer.name
        assert not set(peer.tasks) & set(peer.cannot)


# ---------------------------------------------------------------- what is written, and what agrees


@pytest.mark.parametrize("key", sorted({key for peer in peer_tasks.PEERS for key in peer.tasks}))
def test_inputs_of_a_workload_are_written_for_every_peer(place, key):
    """Names and shapes: the inputs of the smallest workload go into the files of the tasks, and our arrays are those that are compared."""
    workload = all_workloads()[key]
    try:
        prepared = workload.make(place, workload.sizes["quick"], 1)
    except Unavailable as why:
        pytest.skip(str(why))
    inputs = prepared.inputs()
    for peer in peer_tasks.PEERS:
        if key in peer.tasks:
            folder = place.folder / peer.name
            folder.mkdir()
            given = peer.tasks[key].write(folder, inputs)
            assert list(folder.iterdir()) and 0 < given.share <= 1
    if prepared.close is not None:
        prepared.close()


@pytest.mark.parametrize("most", [4096, 100])
def test_a_pass_over_all_or_some_patterns(place, monkeypatch, most):
    """NumPy stands in for a peer, on what was written for it."""
    import h5py

    workload = all_workloads()["one-pass"]
    prepared = workload.make(place, workload.sizes["quick"], 1)
    inputs = prepared.inputs()
    given = peer_tasks.write_scan(place.folder, inputs, most=most)
    with h5py.File(place.folder / "scan.h5") as file:
        patterns = file["data"][()].astype(float)
    assert given.share == min(1, most / 256) and patterns.shape[:2] == ((4, 64) if most > 256 else (1, 100))
    masks, side = np.load(place.folder / "masks.npy").astype(float), np.arange(128.0)
    total = patterns.sum((2, 3))
    theirs = {
        "images": np.einsum("abxy,mxy->mab", patterns, masks), "sum": patterns.sum((0, 1)),
        "com": np.stack([patterns.sum(3) @ side, patterns.sum(2) @ side]) / total,
    }  # fmt: skip
    ours = peer_tasks.of_chosen(prepared.arrays(prepared.call()), inputs, given)
    checks = peer_tasks.same_counts(place.folder, theirs, ours)
    assert all(check.ok for check in checks) and len(checks) == (3 if most > 256 else 2), "a sum over some patterns is not compared"
    theirs["images"][1, 0, 7] += 1
    assert not all(check.ok for check in peer_tasks.same_counts(place.folder, theirs, ours))


def test_disks_of_some_patterns(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_tasks, "FEW", 3)
    positions = np.arange(5 * 2 * 2, dtype=float).reshape(5, 2, 2) * 5
    inputs = {"patterns": np.zeros((5, 1, 8, 8)), "probe": np.ones((8, 8)), "radius": np.asarray(3.0), "positions": positions}
    given = peer_tasks.write_disks(tmp_path, inputs)
    assert given.chosen.tolist() == [0, 2, 4] and given.share == 0.6 and given.options == {"radius": 3.0}
    flat = positions.reshape(-1, 2)
    ours = peer_tasks.lists_of_chosen({"qx": flat[:, 0], "qy": flat[:, 1], "offsets": np.arange(6) * 2}, inputs, given)
    assert ours["points"].tolist() == positions[[0, 2, 4]].reshape(-1, 2).tolist() and ours["starts"].tolist() == [0, 2, 4, 6]
    agree = peer_tasks.PY4DSTEM.tasks["bragg-disks"].agree
    assert all(check.ok for check in agree(tmp_path, ours, ours))
    assert not all(check.ok for check in agree(tmp_path, ours | {"points": ours["points"] + 0.5}, ours))


def test_lattices_and_fields_as_they_are_written(place, monkeypatch):
    """A peer that fits the true lattices, and one that leaves some out."""
    monkeypatch.setattr(peer_tasks, "POSITIONS", 64)
    workload = all_workloads()["lattice-fit"]
    inputs = workload.make(place, workload.sizes["quick"], 1).inputs()
    given = peer_tasks.write_points(place.folder, inputs)
    with np.load(place.folder / "points.npz") as stored:
        q, local, origin = stored["q"], stored["local"], stored["origin"]
    assert q.shape == (2, 32, 22, 2) and given.share == 64 / 256
    true = {"g1": inputs["local"][..., 0], "g2": inputs["local"][..., 1]}
    nodes = origin[..., None, :] + np.einsum("kj,abij->abki", inputs["hk"], local)
    off = q[..., :-1, :] - nodes - np.nanmean(q[..., :-1, :] - nodes, axis=2, keepdims=True)
    assert np.nanmax(np.abs(off)) < 0.3, "disks lie on the nodes of the true lattice, but for their errors of 0.02 to 0.04 px"
    theirs = {name: value.reshape(-1, 2)[given.chosen].reshape(2, 32, 2) for name, value in true.items()}
    ours = peer_tasks.lattices_of_chosen(true, inputs, given)
    assert all(check.ok for check in peer_tasks.same_vectors(place.folder, theirs, ours))
    theirs["g2"][0, :3] = np.nan
    assert [check.text for check in peer_tasks.same_vectors(place.folder, theirs, ours) if not check.ok] == [
        "positions without g2 of the peer"
    ]


def test_images_agree_whatever_their_scale_and_phases_whatever_their_transfer():
    picture = np.random.default_rng(0).normal(size=(16, 16))
    assert peer_tasks.same_picture(None, {"image": 3 + 2 * picture}, {"image": picture})[0].value == pytest.approx(0, abs=1e-12)
    assert not peer_tasks.same_picture(None, {"image": picture.T}, {"image": picture})[0].ok
    k = np.fft.fftfreq(16)
    filtered = np.fft.ifft2(np.fft.fft2(picture) * np.exp(-(k[:, None] ** 2 + k**2) * 20)).real
    assert not peer_tasks.same_picture(None, {"image": filtered}, {"image": picture})[0].ok
    assert peer_tasks.same_waves(None, {"image": filtered}, {"phase": picture})[0].value == pytest.approx(0, abs=1e-12)
    assert not peer_tasks.same_waves(None, {"image": -filtered}, {"phase": picture})[0].ok
    assert not peer_tasks.same_waves(None, {"image": np.roll(picture, 1, 0)}, {"phase": picture})[0].ok
