"""Run other tools beside the workloads: on the same data, in turns, with answers compared before times. Peers never enter the score.

A peer has an environment of its own, made from PyPI on first use and kept, and a script that serves its tasks (benchmarks/peers). For a
workload it has a `Task`: what it does, how the workload's inputs are written for it, and when the two answers agree. What is built in
is in `peer_tasks`. A package adds a peer by an entry point of the group "gpu4d.bench_peers", a user by a Python file with `PEER`.

Names of inputs (`Prepared.inputs`), as the workload's call gets them:

    one-pass, masks-64, stream, disk-cold   patterns (Rx, Ry, Qx, Qy), masks (M, Qx, Qy)
    bragg-disks, refine-disks               patterns (…, Qx, Qy), probe (Qx, Qy), radius, positions (N, disks, 2): the truth
    lattice-fit                             q (Rx, Ry, K, 2), intensity (Rx, Ry, K), NaN where nothing was found, hk (disks, 2), g1 (2,),
                                            g2 (2,), origin (Rx, Ry, 2), local (Rx, Ry, 2, 2): the truth, vectors as columns
    orientation                             peaks (m, 3): qx, qy, intensity; starts (N + 1,), energy, thickness, g_max, q_pixel, origin,
                                            turns (N, 3, 3): the truth
    ssb, wdd                                patterns (Rx, Ry, Qx, Qy), energy, semiangle, q_pixel, r_pixel, origin (2,)
    poisson-solve                           com (Rx, Ry, 2), q_pixel, r_pixel, phase and its gradient (Rx, Ry, 2): the truth
"""

from __future__ import annotations

import importlib.util
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gpu4d.benchmarks.peers import environments
from gpu4d.benchmarks.peers.environments import Environment, SetupError
from gpu4d.benchmarks.peers.table import Check, aligned, speed
from gpu4d.benchmarks.peers.worker import Worker, WorkerError, arrays_of
from gpu4d.benchmarks.suite.measuring import one_call
from gpu4d.benchmarks.suite.statistics import summarise
from gpu4d.benchmarks.suite.workload import Place, Prepared, Workload

from gpu4d.errors import InputError

GROUP = "gpu4d.bench_peers"
SCRIPTS = pathlib.Path(environments.__file__).resolve().parent
ROUNDS = 5  # calls of a peer for each way; ours gets two for each

Arrays = dict[str, np.ndarray]
Ours = tuple[Callable[[], Any], Callable[[Any], Arrays]]  # a call, and arrays of its result
Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """What was written for a peer.

    Attributes
    ----------
    options : mapping
        Further options of its task, from the inputs.
    chosen : integers or None
        Which patterns the peer gets, counted over the whole scan; all where None.
    share : float
        Of the workload's amount.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: np.ndarray | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Task:
    """How a peer does a workload.

    Attributes
    ----------
    does : str
        The peer's function, for readers: "find_Bragg_disks(corrPower=0.85)".
    name : str
        Of its script's task.
    write : callable
        Of a folder and the inputs: writes the files that the task reads, and says what they are.
    agree : callable
        Of the folder, the peer's arrays and ours: figures with limits. Every one must keep its limit.
    options : mapping
        Of the task.
    adapt : callable
        Of our arrays, the inputs and what was given: our arrays under the names that `agree` knows.
    ours, ours_does : callable, str
        Of the place and the inputs: another call of ours for the same work, where the workload's own does something else; what it does.
    before : callable or None
        Of the folder: called before every timed call of the peer, to drop pages of its files, say.
    precise : mapping or None
        Options for the compared answer, where the timed one is of less precision.
    """

    does: str
    name: str
    write: Callable[[pathlib.Path, Arrays], Given]
    agree: Callable[[pathlib.Path, Arrays, Arrays], list[Check]]
    options: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Arrays, Arrays, Given], Arrays] = lambda ours, inputs, given: ours
    ours: Callable[[Place, Arrays], Ours] | None = None
    ours_does: str = ""
    before: Callable[[pathlib.Path], None] | None = None
    precise: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Attributes
    ----------
    name : str
        As in `--peer`.
    environment : Environment
        Packages from PyPI, and the script: a name in benchmarks/peers, or an absolute path.
    tasks : mapping of str to Task
        By the key of the workload.
    cannot : mapping of str to str
        Workloads that it cannot do, and why.
    python : path or None
        An interpreter that is there already: nothing is installed.
    """

    name: str
    environment: Environment
    tasks: Mapping[str, Task]
    cannot: Mapping[str, str] = field(default_factory=dict)
    python: pathlib.Path | None = None

    def interpreter(self, folder: pathlib.Path) -> pathlib.Path:
        """Return the interpreter of its environment, which is made in `folder` if it is not there."""
        if self.python is not None:
            if not self.python.exists():
                raise SetupError(f"there is no {self.python}")
            return self.python
        try:
            return environments.python_of(self.environment, folder)
        except SetupError as error:
            packages = " ".join(self.environment.packages)
            raise SetupError(f"{error}; pip install {packages} is what is tried, which needs a network on first use") from error


# ---------------------------------------------------------------- which peers there are


def known_peers() -> dict[str, Peer]:
    """Return the built-in peers, and those that packages add."""
    from gpu4d.benchmarks.suite.peer_tasks import PEERS

    from gpu4d.extensions import check_free, extensions

    found = {peer.name: peer for peer in PEERS}

    def accept(name: str, loaded: Any, package: str) -> None:
        peer = _checked(loaded, f"the entry point {name!r}")
        check_free(peer.name, found, "peer")
        found[peer.name] = peer

    extensions(GROUP, accept)
    return found


def chosen_peers(names: Sequence[str]) -> list[Peer]:
    """Return the peers of `--peer`: names, or Python files that define `PEER`."""
    known = known_peers()
    return [_of_file(pathlib.Path(name)) if name.endswith(".py") else _named(name, known) for name in dict.fromkeys(names)]


def _named(name: str, known: Mapping[str, Peer]) -> Peer:
    by_lower = {key.lower(): peer for key, peer in known.items()}
    if name.lower() not in by_lower:
        raise InputError(f"--peer {name}: there is no such peer; choose from {', '.join(known)}, or give a Python file that defines PEER")
    return by_lower[name.lower()]


def _of_file(path: pathlib.Path) -> Peer:
    if not path.is_file():
        raise InputError(
            f"--peer {path}: there is no such file; give a Python file that defines PEER, or one of {', '.join(known_peers())}"
        )
    spec = importlib.util.spec_from_file_location(f"gpu4d_peer_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--peer {path}: the file cannot be run: {type(error).__name__}: {error}") from error
    return _checked(getattr(module, "PEER", None), f"PEER of {path}")


def _checked(found: Any, where: str) -> Peer:
    if not isinstance(found, Peer):
        raise InputError(f"{where} is a {type(found).__name__}, need a gpu4d.benchmarks.suite.peers.Peer")
    return found


# ---------------------------------------------------------------- a run


@dataclass(frozen=True)
class Run:
    """What a comparison with a peer is made of, as of `beside`."""

    place: Place
    tier: str
    seed: int
    workloads: Mapping[str, Workload]
    say: Say


def beside(
    peer: str | Peer, place: Place, tier: str, seed: int, workloads: Sequence[Workload], *, say: Say = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda found: None, done: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run one peer beside the workloads, and return its entry in the part "peers" of a result.

    What the peer lacks, what fails and what differs is in the entry: nothing is raised for it.

    Parameters
    ----------
    peer : str or Peer
        As of `chosen_peers`, which raises an error where a name is unknown.
    place : Place
    tier, seed : str, int
        As of the run: the inputs are the same.
    workloads : sequence of Workload
        Those of the run.
    say : callable
        Gets a line of progress.
    save : callable
        Gets the entry after every workload, so that a cut loses little.
    done : mapping, optional
        The entry as far as an earlier run came: its workloads are not run again. What failed is tried again.
    """
    peer = chosen_peers([peer])[0] if isinstance(peer, str) else peer
    run = Run(place, tier, seed, {workload.key: workload for workload in workloads}, say)
    done = done or {}
    entry: dict[str, Any] = {
        "version": done.get("version"), "environment": _described(peer), "workloads": dict(done.get("workloads", {})),
        "cannot": _cannot(peer, run.workloads), "failed": {},
    }  # fmt: skip
    left = [key for key in run.workloads if key in peer.tasks and key not in entry["workloads"]]
    if left:
        try:
            _run_peer(peer, left, entry, run, lambda: save(entry))
        except (SetupError, WorkerError) as error:
            entry["absent"] = f"{peer.name} could not be set up: {error}"
            say(entry["absent"])
    return entry


def _described(peer: Peer) -> str:
    """Say what the environment is. No paths: results are published."""
    return "an interpreter that was given" if peer.python is not None else " ".join(peer.environment.packages)


def _cannot(peer: Peer, workloads: Mapping[str, Workload]) -> dict[str, str]:
    return {key: peer.cannot.get(key, "no comparison is written") for key in workloads if key not in peer.tasks}


def _run_peer(peer: Peer, keys: Sequence[str], entry: dict[str, Any], run: Run, save: Callable[[], None]) -> None:
    run.say(f"{peer.name}: its environment")
    python = peer.interpreter(environments.default_folder())
    with tempfile.TemporaryDirectory(prefix="peer-", dir=run.place.folder) as made:
        inputs = pathlib.Path(made) / "inputs"
        inputs.mkdir()
        workers = _started(peer, python, inputs)
        try:
            versions = workers[0].ask("about")["about"]
            entry |= {"version": next(iter(versions.values()), None), "versions": versions}
            for key in keys:
                run.say(f"{peer.name}: {key}")
                if any(worker.process.poll() is not None for worker in workers):
                    _close(workers)
                    workers = _started(peer, python, inputs)
                try:
                    entry["workloads"][key] = _compared(peer.tasks[key], run.workloads[key], workers, inputs, run)
                except Exception as error:  # a workload or a plug-in may raise anything; the others are still of use
                    entry["failed"][key] = " ".join(f"{error}".split()) or type(error).__name__
                    run.say(f"{peer.name}: {key}: {entry['failed'][key]}")
                for path in inputs.iterdir():
                    path.unlink()
                save()
        finally:
            _close(workers)


def _started(peer: Peer, python: pathlib.Path, inputs: pathlib.Path) -> list[Worker]:
    """Start the peer on one thread, and as it is by default."""
    script = SCRIPTS / peer.environment.script
    return [Worker(python, script, inputs, one_thread=one, log=inputs.with_name(f"log-{one}")) for one in (True, False)]


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()


def _compared(task: Task, workload: Workload, workers: Sequence[Worker], folder: pathlib.Path, run: Run) -> dict[str, Any]:
    """Return the entry of one workload: answers first, then the rounds in turns if they agree."""
    with _prepared(workload, run) as prepared:
        if prepared.inputs is None:
            raise InputError("the workload does not give its inputs to peers")
        inputs = prepared.inputs()
        given = task.write(folder, inputs)
        if task.ours is not None:
            call, arrays = task.ours(run.place, inputs)
            prepared = replace(prepared, call=call, arrays=arrays)
        options = {**task.options, **given.options}
        for worker in workers:
            worker.ask("forget")
        saved = folder / "theirs.npz"
        workers[0].run(task.name, {**options, **(task.precise or {})}, saved)
        _, result = one_call(prepared, run.place)
        checks = _checks(task, folder, arrays_of(saved), task.adapt(prepared.arrays(result), inputs, given))
        del inputs, result
        entry: dict[str, Any] = {
            "does": task.does, "ours_does": task.ours_does or workload.title, "ours_on": run.place.device, "unit": workload.unit,
            "amount": prepared.amount * given.share, "ours_amount": prepared.amount, "agrees": all(check.ok for check in checks),
            "differences": "; ".join(map(str, checks)), "samples_one_thread": [], "samples": [], "ours": [],
            "ratio": None, "low": None, "high": None, "against": None,
        }  # fmt: skip
        if entry["agrees"]:
            _take_turns(entry, task, options, workers, folder, lambda: one_call(prepared, run.place)[0])
            entry |= ratio(entry)
        return entry


@contextmanager
def _prepared(workload: Workload, run: Run) -> Iterator[Prepared]:
    prepared = workload.make(run.place, workload.sizes[run.tier], run.seed)
    try:
        yield prepared
    finally:
        if prepared.close is not None:
            prepared.close()


def _checks(task: Task, folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    try:
        checks = task.agree(folder, theirs, ours)
    except (KeyError, ValueError, IndexError) as error:  # arrays of another shape, or none
        raise InputError(f"the answers cannot be compared: {error!r}") from error
    if not any(check.limit is not None for check in checks):
        raise InputError("the answers cannot be compared: no figure of the task has a limit")
    return checks


def _take_turns(
    entry: dict[str, Any], task: Task, options: Mapping[str, Any], workers: Sequence[Worker], folder: pathlib.Path,
    ours: Callable[[], float],
) -> None:  # fmt: skip
    """Time the peer on one thread, ours, the peer as it is by default, ours, and again. Every way is called once before."""

    def theirs(worker: Worker) -> float:
        if task.before is not None:
            task.before(folder)
        return worker.run(task.name, dict(options))

    for worker in workers:
        theirs(worker)
    for _ in range(ROUNDS):
        for worker, kind in zip(workers, ("samples_one_thread", "samples"), strict=True):
            entry[kind].append(theirs(worker))
            entry["ours"].append(ours())


def ratio(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many times faster ours is per unit than the peer in the faster of its two ways: ratio, low, high, against.

    `low` and `high` are the smallest and the largest ratio that the intervals of both medians permit.
    """
    ways = {"one thread": entry["samples_one_thread"], "default": entry["samples"]}
    against = min(ways, key=lambda way: statistics.median(ways[way]))
    theirs, ours = summarise(ways[against]), summarise(entry["ours"])
    units = entry["ours_amount"] / entry["amount"]
    return {
        "ratio": units * theirs.median / ours.median,
        "low": units * theirs.low / ours.high,
        "high": units * theirs.high / ours.low,
        "against": against,
    }


# ---------------------------------------------------------------- for the terminal

HEAD = ("peer", "workload", "it does", "on one thread", "by default", "gpu4d", "gpu4d is faster", "answers")


def table(peers: Mapping[str, Any]) -> str:
    """Return the part "peers" of a result as text: a table, figures of agreement, and what could not be done."""
    lines: list[tuple[str, ...]] = [HEAD]
    notes = []
    for name, found in peers.items():
        label = f"{name} {found.get('version') or ''}".strip()
        lines += [_line(label, key, entry) for key, entry in found["workloads"].items()]
        notes += [f"{name}, {key}: {entry['differences']}" for key, entry in found["workloads"].items()]
        notes += [f"{name}, {key}: FAILED: {why}" for key, why in found["failed"].items()]
        notes += [f"{name}: ABSENT: {found['absent']}"] if "absent" in found else []
        notes += [f"{name} cannot do {key}: {why}" for key, why in found["cannot"].items()]
    return "\n\n".join(part for part in (aligned(lines) if len(lines) > 1 else "", "\n".join(notes)) if part)


def _line(label: str, key: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    if not entry["agrees"]:
        return label, key, entry["does"], "–", "–", "–", "–", "DIFFER"
    unit, times = entry["unit"], f"{entry['ratio']:.3g} times ({entry['low']:.3g} to {entry['high']:.3g})"
    theirs = (speed(entry[kind], entry["amount"], unit) for kind in ("samples_one_thread", "samples"))
    return label, key, entry["does"], *theirs, speed(entry["ours"], entry["ours_amount"], unit), times, "agree"
