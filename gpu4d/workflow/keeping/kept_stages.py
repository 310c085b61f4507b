"""Call the stages of a run, unless an earlier run with the same inputs has called them: then do what they did."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu4d.workflow.keeping.effects import Before, Effects, content_digest, read_effects, shared_things, write_effects
from gpu4d.workflow.keeping.identity import code_identity, computer_identity, digest, setting_digest
from gpu4d.workflow.keeping.store import Entry, Store
from gpu4d.workflow.keeping.watching import (
    FIELD,
    HISTORY,
    HOW,
    ORDER,
    ORIGIN,
    PRODUCT,
    RESULT,
    SETTING,
    Watch,
    WatchedItems,
    WatchedRecipe,
    unwatch_calibration,
    watch_calibration,
)
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import StageCalls
from gpu4d.workflow.stage import Stage

ASK, FINISH = "ask", "finish"
MOST_NAMED = 3  # things that changed, in one line of the log
ABSENT = "none"  # version of a result that no stage made

log = logging.getLogger("gpu4d")


class KeptStages(StageCalls):
    """Calls stages and keeps what they made. A stage that reads the same as in an earlier run is not called again.

    Parameters
    ----------
    store : Store
    scan : str
        Identity of the scan.
    title : str
        Name of its file, for lists of what is kept.
    """

    def __init__(self, store: Store, scan: str, title: str):
        self.store, self.scan, self.title = store, scan[:32], title
        self.versions: dict[str, str] = {}  # of results and products: digests of their content
        self.asked: dict[str, str] = {}  # of stages: digest of the reductions that they asked for
        self.why: dict[str, list[str]] = {}  # of stages: what differs from the last run, if they are called
        self.kept: list[str] = []  # titles of the stages that were not called
        self.watch = Watch(self._digest)
        self.expected: dict[str, Entry] = {}  # of stages that share a pass, found before it
        self._calibration: dict[str, Any] = {}  # before the pass
        self._start = 0  # entries of the calibration's history before the stage that is watched
        self._failed = False

    @contextmanager
    def watching(self, state: RunState) -> Iterator[None]:
        """Watch what stages read of the state inside the block."""
        self.state, self.recipe = state, state.recipe
        calibration = state.calibration
        state.recipe = WatchedRecipe(self.recipe, self.watch)
        state.results = WatchedItems(state.results, self.watch, RESULT)
        state.products = WatchedItems(state.products, self.watch, PRODUCT)
        watch_calibration(calibration, self.watch)
        state.record.__dict__["tell"] = lambda name: self.watch.read(SETTING, name)
        try:
            yield
        finally:
            self.watch.end()
            del state.record.__dict__["tell"]
            state.recipe = self.recipe
            state.results, state.products = dict(state.results), dict(state.products)
            unwatch_calibration(calibration)
            self.store.tidy()

    def ask(self, stage: Stage, state: RunState) -> dict[str, Any] | None:
        """Return the reductions that a stage asked for in an earlier run, or ask it."""
        if (kept := self._restored(stage, ASK)) is not None:
            return kept.reductions
        before = self._begin(stage)
        asked = super().ask(stage, state)
        self._end(stage, ASK, before, asked)
        return asked

    def is_kept(self, stage: Stage, state: RunState) -> bool:
        found, differs = self._matching(stage, FINISH, with_pass=True)
        self._calibration = dict(state.calibration._values)
        if found is not None:
            self.expected[stage.name] = found
        else:
            self._because(stage, differs)
        return found is not None

    def _because(self, stage: Stage, differs: list[str]) -> None:
        self.why[stage.name] = list(dict.fromkeys([*self.why.get(stage.name, []), *differs]))

    @contextmanager
    def reading(self, asked: dict[str, dict[str, Any]]) -> Iterator[None]:
        """Watch what a pass reads of the calibration. A pass that is made later than planned reads what it was then."""
        values = self.state.calibration._values
        now = dict(values)
        values.update(self._calibration)
        self.watch.begin()
        self.watch.passing = {name: list(reductions.values()) for name, reductions in asked.items()}
        self.watch.pass_reads.update({name: {} for name in asked})
        try:
            yield
        finally:
            self.watch.end()
            self.watch.passing = {}
            values.update(now)

    def restore(self, stage: Stage, state: RunState) -> bool:
        if self._restored(stage, FINISH) is None:
            return False
        self.kept.append(stage.title)
        state.record.note(f"kept from an earlier run: {stage.title}")
        return True

    def finish(self, stage: Stage, state: RunState, results: dict[str, Any]) -> None:
        if changed := self.why.pop(stage.name, []):
            more = ", …" * (len(changed) > MOST_NAMED)
            state.record.note(f"computed: {stage.title}, because {', '.join(changed[:MOST_NAMED])}{more} changed")
        before = self._begin(stage)
        super().finish(stage, state, results)
        self._end(stage, FINISH, before, None)

    def _begin(self, stage: Stage) -> Before:
        self.watch.end()
        self._start = len(self.state.calibration.history)
        before = Before.of(self.state)
        self.watch.begin()
        if stage.section:  # files that the caller of the run has read for the stage
            for key, rule in self.recipe.rules(stage.section):
                if rule.kind == "file":
                    self.watch.read(SETTING, f"{stage.section}.{key}")
        return before

    def _end(self, stage: Stage, phase: str, before: Before, reductions: dict[str, Any] | None) -> None:
        """Keep what a stage did."""
        self.watch.end()
        reads, written = self.watch.reads, self.watch.written
        results, products = ({name[len(kind) + 1 :] for name in written if name.startswith(kind + " ")} for kind in (RESULT, PRODUCT))
        effects = before.effects(self.state, results, products)
        if phase == ASK:
            effects.reason, effects.reductions = self.state.reasons.get(stage.name), reductions
        read = {name.partition(" ")[2] for name in reads if name.startswith(RESULT + " ")} - results
        shared = shared_things(self.state, read)
        head: dict[str, Any] = {"reads": reads | self._always(stage, phase), "scan file": self.title}
        head["pass"] = self.watch.pass_reads.pop(stage.name, {}) if phase == FINISH else {}
        try:
            self._set_versions(stage, phase, effects, shared)
            head |= {
                "versions": {name: self.versions[name] for name in written if name in self.versions},
                "asked": self.asked.get(stage.name),
            }
            key = hashlib.sha256(repr([sorted(head[part].items()) for part in ("reads", "pass")]).encode()).hexdigest()[:32]
            if not self._failed:
                self.store.put(self.scan, f"{stage.name}.{phase}", key, head, lambda file: write_effects(effects, file, shared))
        except Exception as error:  # a full disk, or a result of another package that cannot be written: the run goes on
            self._not_kept(stage, error, effects, phase)

    def _set_versions(self, stage: Stage, phase: str, effects: Effects, shared: dict[int, tuple[str, str]]) -> None:
        """Set the versions of what a stage made: digests of the content, so that an equal result counts as unchanged."""
        for kind, things in ((RESULT, effects.results), (PRODUCT, effects.products)):
            for name, thing in things.items():
                self.versions[f"{kind} {name}"] = content_digest(thing, shared)
        if phase == ASK:
            self.asked[stage.name] = content_digest(effects.reductions, shared)

    def _not_kept(self, stage: Stage, error: BaseException, effects: Effects, phase: str) -> None:
        """Go on without keeping a stage. What follows from it is then computed again in the next run, because its version is new."""
        fresh = digest([stage.name, phase, id(effects), len(self.versions)])
        self.versions.update({f"{RESULT} {name}": fresh for name in effects.results if f"{RESULT} {name}" not in self.versions})
        self.versions.update({f"{PRODUCT} {name}": fresh for name in effects.products if f"{PRODUCT} {name}" not in self.versions})
        self.asked.setdefault(stage.name, fresh)
        if isinstance(error, OSError | MemoryError) and not self._failed:
            self._failed = True
            log.info("results are not kept for later runs from here on: %s", error)
        else:
            self.state.record.note(f"not kept for later runs: {stage.title} ({type(error).__name__}: {error})")

    def _always(self, stage: Stage, phase: str) -> dict[str, str]:
        """Return what every stage follows from, with digests."""
        names = ["code", "computer", "positions", "pixels", *([f"pass {stage.name}"] if phase == FINISH else [])]
        return {name: self._digest(name) for name in names}

    def _restored(self, stage: Stage, phase: str) -> Effects | None:
        """Do what a stage did in an earlier run, and return it. None if no run with the same inputs is known."""
        self.watch.end()
        expected = self.expected.pop(stage.name, None) if phase == FINISH else None
        entry, differs = self._matching(stage, phase, among=expected)
        if entry is not None and (content := self.store.read(entry)) is not None:
            try:
                effects = read_effects(content, self.state)
            except Exception as error:  # of any class that was written: the entry is of no use
                self.state.record.note(f"what was kept of {stage.title} cannot be read ({type(error).__name__})")
            else:
                effects.repeat(self.state, stage.name)
                self.versions.update(entry.head["versions"])
                if phase == ASK:
                    self.asked[stage.name] = entry.head["asked"]
                return effects
        self._because(stage, differs)
        return None

    def _matching(self, stage: Stage, phase: str, with_pass: bool = False, among: Entry | None = None) -> tuple[Entry | None, list[str]]:
        """Return the entry whose inputs are those of now. Without one, return which inputs of the last entry differ, for people.

        What a pass reads is compared before the pass alone: `with_pass`. After it only the entry that was found then is looked at: `among`.
        """
        on, self.watch.on = self.watch.on, False
        self._start = len(self.state.calibration.history)
        first: list[str] = []
        try:
            for entry in self.store.entries(self.scan, f"{stage.name}.{phase}") if among is None else [among]:
                inputs = entry.head["reads"] | (entry.head["pass"] if with_pass else {})
                differs = [name for name, known in inputs.items() if self._digest(name) != known]
                if not differs:
                    return entry, []
                first = first or [_for_people(name) for name in differs]
        finally:
            self.watch.on = on
        return None, first

    def _digest(self, name: str) -> str:
        """Return the digest of what a name stands for now."""
        on, self.watch.on = self.watch.on, False
        try:
            kind, _, which = name.partition(" ")
            return self._of_settings(name) or self._of_calibration(kind, which) or self._of_state(kind, which, name)
        finally:
            self.watch.on = on

    def _of_settings(self, name: str) -> str:
        recipe: Recipe = self.recipe
        if name.startswith(SETTING + " "):
            section, _, key = name.partition(" ")[2].partition(".")
            rule = dict(recipe.rules(section)).get(key)
            return digest(name) if rule is None else setting_digest(getattr(recipe[section], key), rule.kind, rule.choices)
        if name.startswith(ORIGIN + " "):
            return digest(recipe.given.get(name[len(ORIGIN) + 1 :]))
        return digest(sorted(recipe.given.items())) if name.strip() == f"all {ORIGIN}" else ""

    def _of_calibration(self, kind: str, which: str) -> str:
        calibration = self.state.calibration
        history = calibration.history[: self._start]
        if kind == FIELD:
            return digest(calibration._values.get(which))
        if kind == HOW:
            return digest(next((entry.how for entry in reversed(history) if entry.field == which), None))
        if kind == HISTORY:
            return digest([(entry.field, entry.value, entry.how) for entry in history])
        if kind == ORDER:
            return digest([entry.field for entry in history if entry.measured])
        if kind == "all" and which.startswith(FIELD):
            return digest([(name, digest(value)) for name, value in sorted(calibration._values.items())])
        return ""

    def _of_state(self, kind: str, which: str, name: str) -> str:
        if kind == "all":
            return digest(sorted(item for item in self.versions.items() if item[0].startswith(which.strip() + " ")))
        if kind == "code":
            return code_identity()
        if kind == "computer":
            from gpu4d.operation import forced_kind

            return digest([computer_identity(self.recipe.compute.device), forced_kind()])
        if kind == "positions":
            return digest(self.state.where)
        if kind == "pixels":
            return digest(self.state.cube.detector_mask)
        if kind == "pass":
            return self.asked.get(which, ABSENT)
        return self.versions.get(name, ABSENT)


def _for_people(name: str) -> str:
    """Return a name for the log.

    Examples
    --------
    >>> _for_people("setting bragg.power"), _for_people("result disks"), _for_people("code")
    ('bragg.power', 'disks', "gpu4d's code")
    """
    words = {
        "code": "gpu4d's code",
        "computer": "the computer",
        "positions": "the scan mask",
        "pixels": "the detector mask",
    }
    kind, _, which = name.partition(" ")
    if name.startswith(ORIGIN + " "):
        return f"where {name[len(ORIGIN) + 1 :]} is set"
    return words.get(kind) or {"pass": "what it reads", HISTORY: "the calibration", ORDER: "the calibration"}.get(kind) or which or kind
