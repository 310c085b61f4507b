"""Analyse all scans among files, one after another, also those that arrive later, and go on after failures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu4d.errors import InputError
from gpu4d.io import leftovers
from gpu4d.workflow.batch.arriving import Arrivals, state_of
from gpu4d.workflow.batch.find import TABLE, Found, files_of, folders_not_looked_into, look_at
from gpu4d.workflow.batch.one_run import DONE, FAILED, SKIPPED, UNCHANGED, WAITING, Outcome, analyse_apart
from gpu4d.workflow.batch.overview import PAGE, read_table, write_overview
from gpu4d.workflow.keeping import identity_of
from gpu4d.workflow.keeping.identity import code_identity, digest, files_of_scan, setting_digest
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
    recursive : bool
        Take the files in folders under the given ones, too.
    exact : bool
        Read large files as a whole to see whether they have changed since an earlier batch.
    """

    watch: bool = False
    every: float = 10.0
    until_idle: float | None = None
    stop_on_error: bool = False
    timeout: float | None = None
    cache: bool = True
    again: bool = False
    recursive: bool = False
    exact: bool = False


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
        inputs, options = self._inputs(found), self.options
        if (before := self.done_before(found, inputs)) is not None:
            return replace(before, status=UNCHANGED)
        self.say(f"{place} {found.name} …")
        known = self.before.get(found.name + path)
        folder = known.folder if known is not None and known.folder else self._free_name(found)
        self.folders.add(folder)
        outcome = analyse_apart(found, self.out / folder, self.settings, options.cache, options.timeout, options.exact)
        outcome.path, outcome.inputs = path, inputs if outcome.status == DONE else ""
        return outcome

    def _inputs(self, found: Found) -> str:
        """Return a digest of what a result follows from: all files of the scan, the settings, the code."""
        files = [] if found.path.is_dir() else files_of_scan(found.path)
        contents = [(file.name, identity_of(file, self.options.exact)) for file in files or [found.path]]
        return digest([contents, found.dataset, self.all_settings, code_identity()])

    def done_before(self, found: Found, inputs: str = "") -> Outcome | None:
        """Return what an earlier batch made of a scan, if it need not be analysed again."""
        before = self.before.get(found.name + str(found.path.resolve()))
        if before is None or self.options.again or not self._is_there(before):
            return None
        return before if before.inputs == (inputs or self._inputs(found)) else None

    def _free_name(self, found: Found) -> str:
        """Return a name for the folder of a result that no other scan of the batch has."""
        name = re.sub(r"[^\w.+-]+", "_", str(Path(found.under).with_suffix("")) + found.dataset).strip("._") or "scan"
        names = [name, f"{name}_{found.path.suffix.lstrip('.')}", *(f"{name}_{number}" for number in range(2, 10_000))]
        return next(one for one in names if one not in self.folders)

    def write(self) -> None:
        """Write the table and the page, of this batch and of earlier ones in the folder whose results are still there."""
        earlier = [one for key, one in self.before.items() if key not in self.outcomes and self._is_there(one)]
        write_overview(self.out, [*self.outcomes.values(), *earlier], f"Batch {self.out.resolve().name}")

    def _is_there(self, one: Outcome) -> bool:
        return one.status in (DONE, UNCHANGED) and bool(one.folder) and (self.out / one.folder / RESULT).is_file()


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
    if not options.watch:
        _files(given, out, options, say)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SETTINGS).write_text(to_toml(recipe, comments=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with -o") from error
    leftovers.remove([path for name in (TABLE, PAGE) for path in leftovers.abandoned(out, f".{name}.")])
    batch = _Batch(out, recipe, options, say)
    if options.watch:
        _watch(given, batch)
    else:
        looked = look_at(files_of(given, out, options.recursive))
        for number, found in enumerate(looked, 1):
            if batch.take(found, f"[{number}/{len(looked)}]").status == FAILED and options.stop_on_error:
                say(f"stopped after the first failure, {found.name}")
                break
    batch.write()
    return list(batch.outcomes.values())


def plan_batch(
    given: Sequence[str], out: Path, recipe: Recipe, options: BatchOptions | None = None, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Say what `run_batch` would do with each file. Nothing is analysed or written.

    Parameters
    ----------
    given, out, recipe, options, say
        As of `run_batch`.

    Returns
    -------
    list of Outcome
        One for each file, in their order. Its status is "waiting", "unchanged", "failed" or "skipped".

    Raises
    ------
    InputError
        There are no files.
    """
    options = options or BatchOptions()
    recipe.resolve()
    batch, planned = _Batch(out, recipe, options, say), []
    for found in look_at(_files(given, out, options, say)):
        path, opens = str(found.path.resolve()), any(name.startswith("input.") for name in recipe.given)
        if found.complaint and not opens:
            planned.append(Outcome(found.name, path, FAILED, error=found.complaint))
        elif found.skipped or found.error:
            planned.append(Outcome(found.name, path, SKIPPED if found.skipped else FAILED, error=found.skipped or found.error))
        elif (before := batch.done_before(found)) is not None:
            planned.append(replace(before, status=UNCHANGED))
        else:
            planned.append(Outcome(found.name, path, WAITING, headline=" ".join(filter(None, (found.format, found.about)))))
    return planned


def _files(given: Sequence[str], out: Path, options: BatchOptions, say: Callable[[str], None]) -> dict[Path, str]:
    """Return the files that are given, with their names, and say which folders are left out."""
    files = files_of(given, out, options.recursive)
    if not options.recursive and (left := folders_not_looked_into(given, out)):
        say(f"not looked into: {', '.join(path.name for path in left)}; --recursive takes the files in folders, too")
    if not files:
        raise InputError(f"{', '.join(given)}: no files; give a folder, files, or a pattern in quotes such as 'day1/*.h5'")
    return files


def _watch(given: Sequence[str], batch: _Batch) -> None:
    """Look for files that are complete, and analyse each when it is. A file that changes afterwards is analysed again."""
    options, arrivals = batch.options, Arrivals(batch.options.every)
    taken: dict[Path, tuple[int, int]] = {}
    changed, number = time.monotonic(), 0
    batch.say(f"watching {', '.join(given)}: Ctrl-C ends it")
    while True:
        files = files_of(given, batch.out, options.recursive)
        new = [path for path in files if taken.get(path) != state_of(path)]
        ready = [path for path in new if arrivals.settled(path)]
        taken.update((path, state_of(path)) for path in ready)
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
