"""Analyse all scans among files, one after another, also those that arrive later, and go on after failures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu4d.errors import InputError
from gpu4d.workflow.batch.arriving import Arrivals
from gpu4d.workflow.batch.find import Found, files_of, look_at
from gpu4d.workflow.batch.one_run import DONE, FAILED, SKIPPED, UNCHANGED, Outcome, analyse_apart
from gpu4d.workflow.batch.overview import read_table, write_overview
from gpu4d.workflow.keeping import identity_of
from gpu4d.workflow.keeping.identity import code_identity, digest, setting_digest
from gpu4d.workflow.pipeline import needed
from gpu4d.workflow.recipe import Recipe, to_toml
from gpu4d.workflow.report.output import RESULT

SETTINGS = "batch-recipe.toml"  # the settings of all runs, in the folder of the results


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is made.

    Attributes
    ----------
    watch : bool
        Go on looking for new files.
    every : float
        Seconds between looks, and for which a file must not have changed before it is analysed.
    until_idle : float or None
        Seconds without new files after which watching ends. None watches until Ctrl-C.
    stop_on_error : bool
        End after the first scan that fails.
    timeout : float or None
        Seconds that one scan may take.
    cache : bool
        Keep what stages make, so that a run that was ended goes on where it was.
    again : bool
        Analyse scans again that an earlier batch has done.
    """

    watch: bool = False
    every: float = 10.0
    until_idle: float | None = None
    stop_on_error: bool = False
    timeout: float | None = None
    cache: bool = True
    again: bool = False


class _Batch:
    """A batch that is being made: what is done, and where."""

    def __init__(self, out: Path, recipe: Recipe, options: BatchOptions, say: Callable[[str], None]):
        self.out, self.options, self.say = out, options, say
        self.settings = out / SETTINGS
        self.outcomes: dict[str, Outcome] = {}
        self.before = {one.name + one.path: one for one in read_table(out)}
        self.folders = {one.folder for one in self.before.values() if one.folder}
        values = [(name, setting_digest(value, rule.kind, rule.choices)) for name, value, rule in recipe.values()]
        self.all_settings = digest([value for value in values if not value[0].startswith("compute.")])

    def take(self, found: Found, place: str) -> Outcome:
        """Analyse one scan, or say why it is not analysed, and write the overview. `place` says how far the batch is."""
        path = str(found.path.resolve())
        if found.skipped or found.error:
            outcome = Outcome(found.name, path, SKIPPED if found.skipped else FAILED, error=found.skipped or found.error)
        else:
            outcome = self._analysed(found, path, place)
        self.outcomes[found.name + path] = outcome
        if outcome.status != SKIPPED:
            said = outcome.error or f"{outcome.technique}: {outcome.headline}"
            self.say(f"{place} {outcome.name}: {outcome.status}, {outcome.seconds:.1f} s; {said}")
        self.write()
        return outcome

    def _analysed(self, found: Found, path: str, place: str) -> Outcome:
        inputs = digest([identity_of(found.path), found.dataset, self.all_settings, code_identity()])
        before = self.before.get(found.name + path)
        folder = before.folder if before is not None and before.folder else self._free_name(found)
        if before is not None and before.inputs == inputs and not self.options.again and (self.out / folder / RESULT).is_file():
            return replace(before, status=UNCHANGED)
        self.say(f"{place} {found.name} …")
        self.folders.add(folder)
        outcome = analyse_apart(found, self.out / folder, self.settings, self.options.cache, self.options.timeout)
        outcome.path, outcome.inputs = path, inputs if outcome.status == DONE else ""
        return outcome

    def _free_name(self, found: Found) -> str:
        """Return a name for the folder of a result that no other scan of the batch has."""
        name = re.sub(r"[^\w.+-]+", "_", found.path.stem + found.dataset.replace("/", "_")).strip("._") or "scan"
        names = [name, f"{name}_{found.path.suffix.lstrip('.')}", *(f"{name}_{number}" for number in range(2, 10_000))]
        return next(one for one in names if one not in self.folders)

    def write(self) -> None:
        write_overview(self.out, list(self.outcomes.values()), f"Batch {self.out.resolve().name}")


def run_batch(
    given: Sequence[str], out: Path, recipe: Recipe, options: BatchOptions | None = None, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Analyse every scan that folders, files and patterns name.

    Parameters
    ----------
    given : sequence of str
        As of `gpu4d.workflow.batch.find.files_of`.
    out : Path
        Folder for a result folder of each scan, `batch.json` and `index.html`. An earlier batch there is continued: scans whose file,
        settings and code are the same are not analysed again.
    recipe : Recipe
        Settings of all runs.
    options : BatchOptions, optional
    say : function
        Is called with a line for each scan.

    Returns
    -------
    list of Outcome
        One for each file that was looked at, in their order.

    Raises
    ------
    InputError
        There are no files, or the folder cannot be written.
    """
    options = options or BatchOptions()
    recipe.resolve()
    needed(recipe)
    if not options.watch and not files_of(given, out):
        raise InputError(f"{', '.join(given)}: no files; give a folder, files, or a pattern in quotes such as 'day1/*.h5'")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SETTINGS).write_text(to_toml(recipe, comments=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with -o") from error
    batch = _Batch(out, recipe, options, say)
    if options.watch:
        _watch(given, batch)
    else:
        looked = look_at(files_of(given, out))
        for number, found in enumerate(looked, 1):
            if batch.take(found, f"[{number}/{len(looked)}]").status == FAILED and options.stop_on_error:
                say(f"stopped after the first failure, {found.name}")
                break
    batch.write()
    return list(batch.outcomes.values())


def _watch(given: Sequence[str], batch: _Batch) -> None:
    """Look for files that are complete, and analyse each when it is. A file that changes afterwards is analysed again."""
    options, arrivals = batch.options, Arrivals(batch.options.every)
    taken: dict[Path, tuple[int, int]] = {}
    changed, number = time.monotonic(), 0
    batch.say(f"watching {', '.join(given)}: Ctrl-C ends it")
    while True:
        files = files_of(given, batch.out)
        new = [path for path in files if taken.get(path) != _stamp(path)]
        ready = [path for path in new if arrivals.settled(path)]
        taken.update((path, _stamp(path)) for path in ready)
        for found in (one for one in look_at(files) if one.path in ready):
            number += 1
            if batch.take(found, f"[{number}]").status == FAILED and options.stop_on_error:
                batch.say(f"stopped after the first failure, {found.name}")
                return
        if new:
            changed = time.monotonic()
        elif options.until_idle is not None and time.monotonic() - changed >= options.until_idle:
            return
        if not ready:
            time.sleep(min(options.every, options.until_idle or options.every))


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again. Zeros if it is gone."""
    try:
        about = path.stat()
        return about.st_size, about.st_mtime_ns
    except OSError:
        return 0, 0
