"""Carry out a run: everything is made ready once, then passes over all floors and workloads in random order, each part kept as it comes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite import assemble, attainable, conditions, data, machine, provenance, scaling, score, sustained
from gpu4d.benchmarks.suite.measuring import Rounds
from gpu4d.benchmarks.suite.parts import Parts
from gpu4d.benchmarks.suite.statistics import WIDEST
from gpu4d.benchmarks.suite.unit import Kept, Unit, measure
from gpu4d.benchmarks.suite.workload import QUICK, TIERS, Place, Workload
from gpu4d.benchmarks.suite.workloads import all_workloads

from gpu4d.errors import Gpu4dError, InputError

# A workload is measured at several times of a run, because machines drift from minute to minute.
PASSES = {QUICK: 1, "S": 12, "M": 3, "L": 5}
MORE_PASSES = {QUICK: 0, "S": 16, "M": 3, "L": 5}  # at most, while the interval of the score is too wide
FLOORS = {QUICK: 1, "S": 5, "M": 1, "L": 2}  # floors are measured in each pass of so many
PAUSE = {QUICK: 0.0, "S": 0.02, "M": 0.5, "L": 0.5}  # s between two workloads: writes to disk end, and clocks come to rest
# In tier S a pass calls every workload once. Nothing warms it up but the first pass: others have used the caches, as in an analysis.
HOW = {QUICK: Rounds(2), "S": Rounds(1, warm=0), "M": Rounds(4, digests=False), "L": Rounds(4, digests=False)}
HOW_FLOORS = {tier: Rounds(2) for tier in HOW}
KEEP = {QUICK: 1 << 30, "S": 3 << 30, "M": 0, "L": 0}  # bytes of inputs that stay between passes; others are made again
HEAT = {QUICK: 0.0, "S": 0.0, "M": 60.0, "L": 60.0}  # s of the sustained phase
SUSTAINED = "bragg-disks"  # the workload of the sustained phase: processors draw most power with it


@dataclass(frozen=True)
class Options:
    """What a run was asked for.

    Attributes
    ----------
    out : Path
        The result file.
    tier : {"S", "M", "L", "quick"}
    device : str
    seed : int or None
        Another seed than the announced one.
    verify : bool
        Draw an unknown seed.
    only, plugins, peers : tuple of str
        Keys of workloads; modules that are imported before anything runs; peers.
    sustained : float or None
        Seconds of the sustained phase; None for that of the tier.
    for_predict : bool
        Take longer measurements for `predict` than tier S does.
    resume, overwrite : bool
    deadline : float or None
        Seconds after which nothing new is begun; the sustained phase only if it ends before. What is there is kept, and `resume` goes on.
    scratch : Path or None
        Folder for the files of the workloads; by default beside the result, because the disk is measured there.
    """

    out: Path
    tier: str = "S"
    device: str = "auto"
    seed: int | None = None
    verify: bool = False
    only: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    sustained: float | None = None
    for_predict: bool = False
    resume: bool = False
    overwrite: bool = False
    deadline: float | None = None
    scratch: Path | None = None

    @property
    def seed_is(self) -> str:
        """How the seed came about: "announced", "drawn" or "given"."""
        return "drawn" if self.verify else "announced" if self.seed in (None, data.SEED) else "given"

    @property
    def parts(self) -> Path:
        """The file of the parts of a run that is not finished."""
        return self.out.with_name(self.out.name + ".parts")


class Cut(Gpu4dError):
    """The deadline came. What was measured is kept."""


def run(options: Options, say: Callable[[str], None] = lambda _text: None) -> dict[str, Any]:
    """Carry out a run, and return its result with its score. It is not written yet.

    Parameters
    ----------
    options : Options
    say : callable
        Is given a line for every part as it comes.

    Raises
    ------
    InputError
        Unknown names, a result that is there already, a run that cannot be gone on with.
    Cut
        The deadline came.
    """
    started = time.perf_counter()
    chosen = _checked(options)
    for plugin in options.plugins:
        _import(plugin)
    with _place(options) as place:
        about = machine.describe(place)
        code = provenance.code()
        header = {
            "kind": "header",
            "tier": options.tier,
            "device": place.device,
            "label": about["label"],
            "threads": about["threads"],
            "code": code["sha256"],
            "for_predict": options.for_predict,
            "passes": PASSES[options.tier],
            "floors": floor_passes(options.tier),
            "pause_s": PAUSE[options.tier],
            "only": list(options.only),
            "plugins": list(options.plugins),
            "seed_is": options.seed_is,
            "seed": secrets.randbits(31) if options.verify else data.SEED if options.seed is None else options.seed,
            "before": conditions.state(place),
        }
        parts = Parts(options.parts, header, resume=options.resume)
        going = Run(options, place, parts, chosen, started, say)
        going.everything()
        seconds = time.perf_counter() - started - going.preparing
        return assemble.result(parts, about, code, place, seconds, going.preparing)


class Run:
    """A run under way."""

    def __init__(
        self, options: Options, place: Place, parts: Parts, chosen: dict[str, Workload], started: float, say: Callable[[str], None]
    ):
        self.options, self.place, self.parts, self.started, self.say = options, place, parts, started, say
        self.seed = parts.header["seed"]
        floors = attainable.floors(place)
        self.units = [
            *(Unit("floor", floor, floor.sizes[options.tier]) for floor in floors.values()),
            *(Unit("workload", one, one.sizes[options.tier]) for one in chosen.values()),
        ]
        self.kept, self.preparing = Kept(KEEP[options.tier]), 0.0

    def everything(self) -> None:
        """Carry out all passes and phases that are not there yet."""
        try:
            self.prepare()
            passes = PASSES[self.options.tier]
            for number in range(passes):
                self.one_pass(number, floors=number % FLOORS[self.options.tier] == 0)
                if number == 0:
                    self.scale()
            for number in range(passes, passes + MORE_PASSES[self.options.tier]):
                if score.spread(assemble.entries(self.parts, "workload")) > WIDEST:
                    self.one_pass(number, floors=False)
            self.heat()
        finally:
            self.kept.close()
        self.ask_peers()

    def prepare(self) -> None:
        """Call every workload once with its smallest inputs, so that nothing is compiled any more when it is timed."""
        begun = time.perf_counter()
        for unit in self.units:
            self.stop_in_time()
            with contextlib.suppress(Exception):  # what fails here fails again where it is measured, and is told there
                prepared = unit.workload.make(self.place, unit.workload.sizes[QUICK], self.seed)
                prepared.call()
                if prepared.close is not None:
                    prepared.close()
        self.preparing = time.perf_counter() - begun
        self.say(f"ready after {self.preparing:.0f} s: code is compiled, and libraries are loaded")

    def one_pass(self, number: int, *, floors: bool) -> None:
        """Measure all workloads, or floors too, in a random order."""
        units = [unit for unit in self.units if floors or unit.kind == "workload"]
        before, tier = conditions.mark(self.place), self.options.tier
        for unit in random.SystemRandom().sample(units, len(units)):
            its_number = number if unit.kind == "workload" else number // FLOORS[tier]
            if self.parts.has(unit.kind, unit.key, its_number):
                continue
            self.stop_in_time()
            time.sleep(PAUSE[tier])
            earlier = [part for part in self.parts.of(unit.kind) if part["key"] == unit.key]
            how = HOW[tier] if unit.kind == "workload" else HOW_FLOORS[tier]
            found = measure(unit, self.place, self.seed, how, self.kept, earlier)
            self.parts.add(unit.kind, unit.key, its_number, **found)
            self.say(f"{time.perf_counter() - self.started:5.0f} s  {_line(unit, number, found)}")
        if not self.parts.has("pass", "all", number):
            self.parts.add("pass", "all", number, between=conditions.between(before, conditions.mark(self.place)))

    def scale(self) -> None:
        """Measure what `bench predict` needs beside the workloads."""
        have = {part["key"] for part in self.parts.of("scaling")}
        if self.options.only:
            return
        sizes = scaling.LONG if self.options.for_predict and self.options.tier == "S" else self.options.tier  # M and L are long already
        for key, found in scaling.measure(self.place, sizes, self.seed, have):
            self.parts.add("scaling", key, 0, found=found)
            self.stop_in_time()
        self.say(f"{time.perf_counter() - self.started:5.0f} s  scaling: measured for other shapes and layouts")

    def heat(self) -> None:
        """Run one workload until the machine is as warm as it gets."""
        seconds = HEAT[self.options.tier] if self.options.sustained is None else self.options.sustained
        unit = next((unit for unit in self.units if unit.key == SUSTAINED), None)
        if not seconds or unit is None or self.parts.has("sustained", SUSTAINED, 0) or not self.parts.has("workload", SUSTAINED, 0):
            return
        self.stop_in_time(seconds)
        self.say(f"sustained: {SUSTAINED} for {seconds:.0f} s")
        prepared = self.kept.get(unit, self.place, self.seed)
        found = sustained.sustain(prepared.call, self.place, seconds, workload=SUSTAINED, before=prepared.before)
        self.parts.add("sustained", SUSTAINED, 0, found=found)

    def ask_peers(self) -> None:
        """Run peers on the inputs of the workloads. They never enter the score."""
        if not self.options.peers:
            return
        from gpu4d.benchmarks.suite import peers

        workloads = [unit.workload for unit in self.units if unit.kind == "workload"]
        for peer in peers.chosen_peers(self.options.peers):
            earlier = [part for part in self.parts.of("peer") if part["key"] == peer.name]
            if earlier and earlier[-1]["complete"]:
                continue
            self.stop_in_time()
            self.say(f"{peer.name}: beside gpu4d, on the same inputs")

            def keep(found: dict[str, Any], complete: bool = False, name: str = peer.name) -> None:
                self.parts.add("peer", name, 0, found=found, complete=complete)
                if not complete:
                    self.stop_in_time()

            done = earlier[-1]["found"] if earlier else None
            keep(peers.beside(peer, self.place, self.options.tier, self.seed, workloads, say=self.say, save=keep, done=done), True)

    def stop_in_time(self, takes: float = 0.0) -> None:
        """Raise `Cut` if the deadline has come, or comes before something has ended that takes so many seconds."""
        deadline = self.options.deadline
        if deadline is None or time.perf_counter() - self.started + takes <= deadline:
            return
        came = f"the deadline of {deadline:.0f} s " + (f"comes before {takes:.0f} s under heat have ended" if takes else "came")
        raise Cut(f"{came}: {self.parts.path} keeps {len(self.parts.found)} parts; go on with --resume")


def floor_passes(tier: str) -> int:
    """Return in how many passes floors are measured."""
    return -(-PASSES[tier] // FLOORS[tier])


def _checked(options: Options) -> dict[str, Workload]:
    """Return the workloads that were asked for, after checking names and files."""
    known = all_workloads()
    if options.tier not in (*TIERS, QUICK):
        raise InputError(f"--tier {options.tier}: need one of {', '.join(TIERS)}")
    if options.verify and options.seed is not None:
        raise InputError(f"--verify draws a seed, and --seed {options.seed} gives one: leave one of the two out")
    if unknown := [name for name in options.only if name not in known]:
        raise InputError(f"--only {', '.join(unknown)}: there is no such workload; choose from {', '.join(known)}")
    if options.peers:
        from gpu4d.benchmarks.suite.peers import chosen_peers

        chosen_peers(options.peers)  # unknown names are refused before anything is measured
    if not options.out.resolve().parent.is_dir():
        raise InputError(f"{options.out}: there is no folder {options.out.parent}: make it, or name another file with -o")
    if options.out.exists() and not options.overwrite:
        raise InputError(f"{options.out} exists: give another name with -o, or replace it with --overwrite")
    if options.parts.exists() and not (options.resume or options.overwrite):
        raise InputError(f"{options.parts} holds a run that was cut: go on with --resume, or begin again with --overwrite")
    return {key: one for key, one in known.items() if not options.only or key in options.only}


def _import(plugin: str) -> None:
    """Import a plug-in, which replaces twins by its own."""
    try:
        importlib.import_module(plugin)
    except Exception as error:  # a module may raise anything
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"--plugin {plugin} cannot be imported ({why}): name a module that Python finds, as with PYTHONPATH=.") from error


@contextlib.contextmanager
def _place(options: Options) -> Iterator[Place]:
    """Give the device and a folder for files, which is removed in the end."""
    from gpu4d.benchmarks.kernels import array_library

    from gpu4d.device import choose

    device = choose(options.device)
    xp, on_gpu = array_library(device)
    beside = options.scratch or options.out.resolve().parent
    # The same folder for each run with this result: what one left behind that was killed is removed by the one that goes on.
    folder = beside / f".gpu4d-bench-{hashlib.sha256(os.fsencode(options.out.resolve())).hexdigest()[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise InputError(
            f"{beside} cannot be written ({error.strerror}): name a folder for the files of the workloads with --scratch"
        ) from None
    try:
        yield Place(xp, on_gpu, str(device), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _line(unit: Unit, number: int, found: dict[str, Any]) -> str:
    """Describe one part as it comes."""
    if "samples" not in found:
        return f"pass {number + 1}  {unit.key:18s} {found.get('failed') or 'skipped: ' + found['skipped']}"
    middle = sorted(found["samples"])[len(found["samples"]) // 2]
    return f"pass {number + 1}  {unit.key:18s} {1e3 * middle:9.2f} ms"
