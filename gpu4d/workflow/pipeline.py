"""Run `gpu4d run`: analyse a file, and write a folder with an EMD file, pictures and a report."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d._version import __version__
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import below_views
from gpu4d.device.timeline import Timeline, place_of_trace
from gpu4d.errors import InputError
from gpu4d.io.raw_files import raw_files
from gpu4d.sizes import format_bytes
from gpu4d.workflow import terminal
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.content import Contents
from gpu4d.workflow.gate_file import NAME as GATES
from gpu4d.workflow.gate_file import gates_table, plain
from gpu4d.workflow.inputs import open_scan, preview_warning
from gpu4d.workflow.keeping import KeptRecord, calls_of
from gpu4d.workflow.picture import Picture
from gpu4d.workflow.recipe import Recipe, to_toml
from gpu4d.workflow.record import Record, SilentWatcher, Watcher, minus
from gpu4d.workflow.report import output
from gpu4d.workflow.report.methods import methods, methods_of_parts
from gpu4d.workflow.report.pictures import draw, stages_that_made_something
from gpu4d.workflow.report.provenance import provenance
from gpu4d.workflow.report.report import Page, Table, write
from gpu4d.workflow.report.verdict import Verdict, verdict
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.shown import shown
from gpu4d.workflow.stage import Stage
from gpu4d.workflow.stages import known_stages
from gpu4d.workflow.workers import check_workers

MOST_OF_A_CUBE = "20 MB"  # of a report: mail takes such pages


@dataclass
class Result:
    """Result of a run: a folder, and the state in memory.

    Attributes
    ----------
    folder : Path
        Holds result.h5, report.html, recipe.toml, methods.txt, references.bib, and pictures as PNG and SVG.
    state : RunState
        All results in memory. `state.products` has the names of the result file.
    kept : list of str
        Titles of the stages that were not computed, because an earlier run has made the same.
    pictures : list of str
        Names of the pictures, in the order of the report.
    """

    folder: Path
    state: RunState
    kept: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str | None:
        return shown(self.state, f"Run · {self.folder.name}", self.folder)

    @property
    def record(self) -> Record:
        return self.state.record

    @property
    def stopped(self) -> bool:
        """Whether the run stopped at a gate that failed, as its recipe says."""
        return self.record.stopped is not None

    def summary(self) -> str:
        """Summarise the run in a few lines for the terminal, as wide as the terminal."""
        record, columns = self.record, terminal.width()

        def wrapped(text: str, first: str = "", then: str = "    ") -> str:
            return textwrap.fill(text, columns, initial_indent=first, subsequent_indent=then, break_long_words=False)

        lines = []
        for d in record.decisions:
            lines += [wrapped(d.what), wrapped(d.why, "    ")]
        lines.append("")
        wide = max((len(what) for what, _, _ in record.figures), default=0)
        for what, value, remark in record.figures:
            lines.append(wrapped(f"{value}  ({remark})" if remark else value, f"{what:<{wide}}  ", " " * (wide + 4)))
        lines.append("")
        lines += [wrapped(f"warning: {line}") for line in record.warnings]
        missed = [g for g in record.gates if not g.passed]
        for g in missed:
            lines.append(wrapped(f"{'failed' if g.failed else 'look at'}: {g.name}: {g.measured}, expected {g.expected}: {g.advice}"))
        passed, seconds = len(record.gates) - len(missed), sum(s.seconds for s in record.stages)
        gates = f"{passed} of {len(record.gates)} quality gates passed, " if record.gates else ""
        kept = f", {len(self.kept)} steps kept from an earlier run" if self.kept else ""
        lines.append(f"{gates}{seconds:.1f} s{kept}")
        lines.append(f"report: {self.folder / output.REPORT}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return what `summary` says, for other programs: plain texts, numbers and lists."""
        record = self.record
        return {
            "folder": str(self.folder),
            "results": sorted(self.state.products),
            "technique": self.state.get("technique"),
            "headline": found(self.state),
            "trust": asdict(verdict_of(self.state)),
            "figures": [{"name": what, "value": value, "remark": remark} for what, value, remark in record.figures],
            "decisions": [asdict(d) for d in record.decisions],
            "gates": [plain(g) for g in record.gates],
            "stopped": None if record.stopped is None else record.stopped.name,
            "warnings": record.warnings,
            "pictures": self.pictures,
            "kept": self.kept,
            "seconds": sum(s.seconds for s in record.stages),
        }


def run(
    path: str | Path,
    out: str | Path | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    command: str = "",
    trace: str | Path | None = None,
    bundle: bool = False,
    with_cube: bool = False,
    cache: bool = False,
    exact: bool = False,
) -> Result:
    """Analyse a scan and write its results into a folder.

    Parameters
    ----------
    path : path
        A file that `gpu4d.open` reads.
    out : path, optional
        Folder for the results. By default `<FILE stem>-gpu4d` in the current folder. It appears when it is complete.
    recipe : Recipe or path, optional
        Settings. The defaults if it is not given.
    overwrite : bool
        Replace an earlier result.
    watcher : Watcher, optional
        Receives stages and progress.
    command : str
        The command line, for the report.
    trace : path, optional
        File for a Chrome trace of reading, copying and computing in all passes. It is written also if the run fails.
    bundle : bool
        Write the raw scan into result.h5, compressed without loss. By default it has a link to the scan's file.
    with_cube : bool
        Put a binned scan into the report, up to 20 MB. In the page a virtual detector can be dragged, without Python.
    cache : bool
        Keep what each stage makes in the user's folder for caches, and compute only what an earlier run with the same inputs has not
        made. `gpu4d run` does so. With `trace` everything is computed, so that the trace shows it.
    exact : bool
        Read large files as a whole to see whether they are those of an earlier run, as of `gpu4d.workflow.keeping.identity_of`.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        The file or a setting cannot be used, or the folder cannot be written. Nothing is left behind.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe) if recipe is not None else Recipe()
    recipe.resolve()
    path = Path(path)
    out = output.default_folder(path) if out is None else Path(out)
    needed(recipe)
    output.check_free(out, overwrite, (path,))
    if trace is not None and (recipe.compute.workers or recipe.compute.scheduler):
        raise InputError(f"--trace {trace} shows one process: leave it out with --workers or --scheduler, and look at Dask's dashboard")
    trace = None if trace is None else check_trace(Path(trace), out, overwrite)
    cache = cache and trace is None
    record = (KeptRecord if cache else Record)(watcher or SilentWatcher())
    with record.stage("open"):
        cube = open_scan(path, recipe, record)
    contents = Contents(exact)
    calls = calls_of(path, cube, recipe, record, contents) if cache else None
    if recipe.input.preview:
        record.warn(preview_warning(cube))
    with tracing(trace) as timeline, output.folder(out, overwrite, (path,)) as new:
        state = analyse(cube, recipe, record, timeline=timeline, cleaned=True, calls=calls)
        title = path.name if not recipe.input.dataset else f"{path.name} · {recipe.input.dataset}"
        pictures = publish(state, new, out, About(title, command, path, with_cube, contents), bundle)
    return Result(Path(out), state, [] if calls is None else calls.kept, [picture.name for picture in pictures])


def needed(recipe: Recipe) -> None:
    """Check before the work what would fail later: a device that is not there, a missing package."""
    from importlib.util import find_spec

    check_workers(recipe)
    if missing := [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]:
        raise InputError(f"pictures and report need {' and '.join(missing)}: pip install 'gpu4d[app]'")


def check_trace(path: Path, out: Path, overwrite: bool) -> Path:
    """Return the absolute path of a trace. Refuse a place that cannot be written to or holds another file.

    Raises
    ------
    InputError
    """
    path = Path(os.path.abspath(path))
    if Path(os.path.abspath(out)) in path.parents:
        raise InputError(f"--trace {path} is in the result folder, which appears only when it is complete: choose another place")
    if path.is_file() and not overwrite:
        raise InputError(f"--trace {path} exists: choose another name, or replace it with --overwrite")
    return place_of_trace(path, f"--trace {path}")


@contextmanager
def tracing(path: Path | None) -> Iterator[Timeline | None]:
    """Yield a timeline, and write it when the block ends or fails. Yields None without a path."""
    if path is None:
        yield None
        return
    timeline = Timeline()
    try:
        yield timeline
    except BaseException:
        if timeline.events:
            with suppress(OSError):  # the first error is the one to report
                timeline.write(path)
        raise
    try:
        timeline.write(path)
    except OSError as error:
        raise InputError(f"--trace {path} cannot be written ({error.strerror or error}); the results are complete") from error


@dataclass(frozen=True)
class About:
    """What the report says of a run beside its results: title, command line, the scan's file, None if it was in memory, whether a
    binned scan is in it, and the contents of files that were read before.
    """

    title: str
    command: str = ""
    path: Path | None = None
    with_cube: bool = False
    contents: Contents | None = None


def publish(state: RunState, new: Path, out: Path, about: About, bundle: bool = False) -> list[Picture]:
    """Write recipe, pictures, EMD file and report into the folder `new`, which becomes `out`. Return the pictures."""
    with writing(new, out):
        with state.record.stage("pictures"):
            pictures = draw(state, new)
            for stage in stages_that_made_something(state):
                stage.files(state, new)
        with state.record.stage("result file"):
            save_results(state, new / output.RESULT, bundle)
        write_report(state, new, pictures, about)
    return pictures


@contextmanager
def writing(new: Path, out: Path) -> Iterator[None]:
    """Name `out`, the folder that the user knows, in errors of writing into `new`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}): free some space or choose another folder with -o"
        ) from error
    except InputError as error:
        raise InputError(str(error).replace(str(new), str(out))) from error


def save_results(state: RunState, path: Path, bundle: bool = False) -> None:
    """Write the EMD file: calibrated results, settings, log, and a link to the raw scan, or with `bundle` the scan itself, compressed."""
    import gpu4d

    items: dict[str, Any] = {}
    if state.cube.source is below_views(state.cube.source):
        items["datacube"] = state.cube
    else:
        changed = "corrected" if state.cube.corrections else "cropped, binned, reshaped or transposed"
        what = "holds" if bundle else "links to"
        state.record.note(f"the scan was {changed} while reading: raw_datacube {what} the file as it is")
        items["raw_datacube"] = DataCube(below_views(state.cube.source), metadata=state.cube.metadata, name="raw_datacube")
    items.update((name, thing) for name, thing in state.products.items() if thing is not None)
    _say_where_the_scan_is(state, path, bundle)
    items["calibration"] = state.calibration
    if state.record.gates:
        items[GATES] = gates_table(state.record.gates)
    links = "bundle" if bundle else "external"
    gpu4d.save(path, items, settings=_storable(state.recipe.as_dict()), log=state.record.log, links=links)


def _say_where_the_scan_is(state: RunState, path: Path, bundle: bool) -> None:
    """Record whether the result holds its raw scan, or only knows where it is (the guide's pitfall 8)."""
    files = sorted(raw_files(state.cube))
    if bundle:
        state.record.decide("Raw data: in result.h5, compressed without loss", "--bundle was given")
    elif files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        place = f"{Path(files[0]).name}, beside it" if Path(files[0]).parent == path.absolute().parent else files[0]
        advice = "it is the primary record: keep it, and move both together. With --bundle it is in result.h5, compressed without loss"
        state.record.decide("Raw data: a link in result.h5, and not the scan itself", f"the scan is in {place}{more}; {advice}")


def _storable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are decided automatically."""
    return {k: _storable(v) if isinstance(v, dict) else v for k, v in settings.items() if v is not None}


def write_report(
    state: RunState,
    folder: Path,
    pictures: list[Picture],
    about: About,
    introduction: str = "",
    tables: Sequence[Table] = (),
    parts: Sequence[tuple[str, RunState]] = (),
) -> None:
    """Write the recipe as it was used, the methods paragraph with its references, and the page of the report.

    `parts` are the scans of a report about several, with their names: the first is `state`.
    """
    recipe = to_toml(state.recipe, comments=False)
    (folder / output.RECIPE).write_text(recipe, encoding="utf-8", errors="replace")
    paragraph = methods_of_parts([(name, part, _in_order(part)) for name, part in parts]) if parts else methods(state, _in_order(state))
    paragraph.write(folder)
    page = Page(
        title=about.title,
        subtitle=subtitle(state.cube),
        introduction=introduction,
        headline=found(state),
        record=state.record,
        calibration=state.calibration,
        recipe=state.recipe,
        pictures=pictures,
        command=about.command,
        versions=versions(),
        tables=list(tables),
        stages=[(", ".join(s.guide), s.title, *astuple(state.reasons[s.name])) for s in known_stages() if s.name in state.reasons],
        verdict=verdict_of(state),
        methods=paragraph,
        provenance=provenance(about.path, state.cube.metadata, state.recipe.compute.device, about.command, about.contents),
        recipe_text=recipe,
        scan_shape=state.cube.scan_shape,
        viewer=viewer_of(state, about.title) if about.with_cube else "",
    )
    write(page, folder, output.REPORT)


def _in_order(state: RunState) -> list[Stage]:
    """Return the stages that made something, in the order in which they were asked."""
    order = list(state.reasons)
    return sorted(stages_that_made_something(state), key=lambda stage: order.index(stage.name))


def viewer_of(state: RunState, title: str) -> str:
    """Return the part of the page that shows a binned scan, with the maps, the disks and the lattices of the run."""
    from gpu4d.view import page_part
    from gpu4d.view.results import maps_of, overlays_of

    maps, overlays = maps_of(state.products, state.cube.scan_shape), overlays_of(state.products)
    with state.record.stage("binned scan for the report", state.patterns, state.pass_bytes):
        return page_part(state.cube, title=title, maps=maps, overlays=overlays, most=MOST_OF_A_CUBE)


def verdict_of(state: RunState) -> Verdict:
    """Say whether the results of a run can be trusted."""
    rests_on: dict[str, list[str]] = {}
    made = stages_that_made_something(state)
    for stage in made:
        for name in stage.rests_on:
            rests_on.setdefault(name, []).append(stage.title.partition(":")[0])
    measured = any(stage.headline(state) and stage.has_result(state) for stage in made)
    return verdict(state.record, state.calibration, rests_on, preview=state.recipe.input.preview, measured=measured)


def found(state: RunState) -> str:
    """Say in one or two sentences what was found."""
    said = (stage.headline(state) for stage in stages_that_made_something(state))
    headline = minus(next((line for line in said if line), "Nothing was measured."))
    record = state.record
    if record.stopped is not None:
        where = f"The run stopped at the gate “{record.stopped.name}”: {record.stopped.measured}."
        headline = f"{where} What was made before is kept. {headline}"
    if not record.gates:
        return headline
    return f"{headline} {sum(g.passed for g in record.gates)} of {len(record.gates)} quality gates passed."


def subtitle(cube: DataCube) -> str:
    """Describe the scan in one line."""
    rx, ry, qx, qy = cube.shape
    return f"{rx}×{ry} scan positions, {qx}×{qy} detector pixels, {cube.dtype}, {format_bytes(cube.nbytes)}; {cube.source.description}"


def versions() -> str:
    """Return the date and the versions of the software."""
    import datetime

    import h5py
    import scipy

    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    parts = [f"gpu4d {__version__}", f"Python {platform.python_version()}", f"NumPy {np.__version__}", f"SciPy {scipy.__version__}"]
    return " · ".join([now, *parts, f"h5py {h5py.__version__}", f"{platform.system()} {platform.machine()}"])
