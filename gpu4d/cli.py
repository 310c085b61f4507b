"""Run the command line: turn flags into a recipe, call the workflow, and print errors as one line."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu4d.cli_signals import Stopped, end_cleanly_on_signals, was_stopped

if TYPE_CHECKING:
    import click

NEEDED = {"click": "click", "rich": "rich", "matplotlib": "matplotlib", "jinja2": "jinja2"}  # packages of the extra `app`
# Thresholds of Python's garbage collector, as `gc.set_threshold` takes them. Libraries that are imported, and pictures, make many
# objects that stay. Looking for garbage among them as often as Python does takes a tenth of a demo.
COLLECTIONS = (20_000, 20, 50)
STOPPED_AT_A_GATE = 3  # exit code of a run that its recipe ends at a gate that fails; 1 is an error, 2 is click's
_was_said = threading.Lock()  # is taken by the thread that says that the run was stopped


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `gpu4d` command and exit: code 0, code 1 after one line on standard error, or 3 if a run stopped at a gate."""
    end_cleanly_on_signals(_stopped)
    _prepare_output()
    gc.set_threshold(*COLLECTIONS)
    sys.exit(run_command(list(sys.argv[1:] if arguments is None else arguments)))


def run_command(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code. Errors become one line on standard error."""
    from importlib.util import find_spec

    was_stopped.clear()
    if _was_said.locked():
        _was_said.release()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(f"the command line needs {', '.join(missing)}: pip install 'gpu4d[app]'")
    debug = "--debug" in arguments
    if not debug:
        import warnings

        warnings.simplefilter("ignore")  # warnings of NumPy and other libraries; gpu4d's own are in the report
    try:
        return _carry_out(arguments)
    except (KeyboardInterrupt, Stopped):
        return _stopped()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output has closed the pipe: no message can reach it
        return 1
    except Exception as error:
        if was_stopped.is_set():  # modules that are being imported turn every error into one of their own
            return _stopped()
        if debug:
            raise
        return _fail(_one_line(error))


def _carry_out(arguments: list[str]) -> int:
    import click

    try:
        result = _commands().main(arguments, prog_name="gpu4d", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:  # click 8.2 and later
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "gpu4d"
        return _fail(f"{error.format_message()} See `{where} --help`.")
    except click.ClickException as error:
        return _fail(error.format_message())
    except click.Abort:
        raise KeyboardInterrupt from None


def _fail(message: str) -> int:
    sys.stderr.write(f"gpu4d: {' '.join(message.split())}\n")
    return 1


def _stopped() -> int:
    """Say that the run was stopped. Both the main thread and the one that ends the compiler may come here."""
    if _was_said.acquire(blocking=False):
        _fail("stopped; no results were written")
    return 1


def _one_line(error: Exception) -> str:
    """Return the line for an error: the message alone for gpu4d's own errors, else with the type of the error."""
    from gpu4d.errors import Gpu4dError

    if isinstance(error, Gpu4dError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"the machine has no memory left ({error or 'allocation failed'}): give a smaller --memory, or bin or crop the scan"
    if isinstance(error, OSError) and error.strerror:
        about = f"{error.filename}: " if error.filename else ""
        return f"{about}{error.strerror}; nothing was written: free some space or choose another folder with -o"
    return f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)"


def _prepare_output() -> None:
    """Write to nowhere where an output is closed, and write letters that it does not have as codes: neither may end a run."""
    import io

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str, done: str = "") -> None:
    """Write the result of a command on standard output. `done` says what is complete if that fails, as on a full disk."""
    import click

    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries again when it ends
        raise click.ClickException(f"standard output: {error.strerror}; {done or 'nothing else was to be done'}") from None


def _commands() -> click.Group:
    """Build all commands. This is a function because click is an optional dependency."""
    import click

    import gpu4d
    from gpu4d.cli_batch import batch_command, cache_command
    from gpu4d.cli_bench import bench_commands
    from gpu4d.cli_capabilities import capabilities_command
    from gpu4d.cli_compare import compare_command
    from gpu4d.cli_convert import convert_command
    from gpu4d.cli_doctor import doctor_command
    from gpu4d.cli_export import export_command
    from gpu4d.cli_flags import (
        calibration_flags,
        layout_of,
        run_flags,
        scan_flags,
        timing_of,
        with_flags,
    )
    from gpu4d.cli_init import init_command
    from gpu4d.cli_plan import plan_command
    from gpu4d.cli_recipe import recipe_commands
    from gpu4d.cli_view import view_command

    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

    @click.group(context_settings=settings, no_args_is_help=True)
    @click.version_option(gpu4d.__version__, prog_name="gpu4d")
    def commands() -> None:
        """Analyse 4D-STEM scans: images, strain, phase, an EMD file with all results, and a report."""

    out = click.option("-o", "--output", "out", metavar="OUT", type=click.Path(path_type=Path), help="Folder for the results.")
    overwrite = click.option("--overwrite", is_flag=True, help="Replace an earlier result in OUT.")
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    memory = click.option("--memory", metavar="M", help="Memory that may be allocated, as 512MB or 2GiB.  [default: 512 MB]")
    device = click.option("--device", metavar="D", help="auto, cpu, cuda, cuda:N, or several as cuda:0,cuda:1.  [default: auto]")
    file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))

    @commands.command(short_help="Analyse small simulated scans, and compare with their truth.")
    @out
    @overwrite
    @debug
    def demo(out: Path | None, overwrite: bool, debug: bool) -> None:
        """Simulate a strained crystal and a phase object, analyse them like measured scans, and compare with the truth.

        Nothing is downloaded. Results go to OUT, or to gpu4d-demo, where an earlier demo is replaced.
        """
        from gpu4d.workflow.demo import demo as run_demo
        from gpu4d.workflow.terminal import watcher

        with watcher() as progress:
            result = run_demo(out or Path("gpu4d-demo"), overwrite=overwrite or out is None, watcher=progress)
        _say(result.summary(), f"the results are complete in {result.folder}")

    @commands.command(short_help="Analyse a scan: images, strain or phase, EMD file, report.")
    @file
    @scan_flags
    @calibration_flags
    @click.option("--probe", metavar="FILE[:/P]", help="Image of the probe in vacuum.")
    @click.option("--recipe", type=click.Path(path_type=Path), metavar="R.toml", help="File with settings. Flags override it.")
    @out
    @overwrite
    @memory
    @device
    @click.option("--bundle", is_flag=True, help="Put the raw scan into result.h5, compressed, instead of a link to its file.")
    @click.option("--with-cube", is_flag=True, help="Put a binned scan into the report, for a virtual detector that readers drag.")
    @click.option(
        "--trace", metavar="T.json", type=click.Path(path_type=Path), help="Write when each part worked, as a trace for ui.perfetto.dev."
    )
    @click.option("--no-cache", is_flag=True, help="Compute everything, and keep nothing for later runs.")
    @click.option("--exact", is_flag=True, help="Compare the whole content of large files with an earlier run, and not samples of it.")
    @run_flags
    @click.option("--open", "show", is_flag=True, help="Open the report in the browser.")
    @click.option("--quiet", is_flag=True, help="Show no progress, and print only the path of the report.")
    @click.option("--json", "as_json", is_flag=True, help="Print figures, decisions, gates and warnings as JSON.")
    @debug
    def run(
        file: Path,
        recipe: Path | None,
        out: Path | None,
        overwrite: bool,
        bundle: bool,
        trace: Path | None,
        no_cache: bool,
        exact: bool,
        show: bool,
        quiet: bool,
        as_json: bool,
        debug: bool,
        **flags: Any,
    ) -> int:
        """Analyse FILE. The data decide which technique is used: Bragg disks and strain, or a bright-field disk and DPC.

        Results go to OUT: result.h5 (EMD 1.0), pictures, report.html. By default OUT has FILE's name with -gpu4d, in the current folder.
        The exit code is 3 if the recipe stopped the run at a quality gate. OUT then has the results so far.
        """
        from gpu4d.workflow import run as run_workflow
        from gpu4d.workflow.report.output import REPORT
        from gpu4d.workflow.terminal import watcher

        options: dict[str, Any] = {"with_cube": flags.pop("with_cube"), "cache": not no_cache, "exact": exact}
        settings = with_flags(recipe, flags)
        with watcher(quiet) as progress:
            options |= {"overwrite": overwrite, "watcher": progress, "trace": trace, "bundle": bundle}
            result = run_workflow(file, out, recipe=settings, command=_command_line(), **options)
        report = result.folder / REPORT
        code = STOPPED_AT_A_GATE if result.stopped else 0
        text = json.dumps(result.as_dict(), indent=1) if as_json else str(report) if quiet else result.summary()
        _say(text, f"the results are complete in {result.folder}")
        if trace is not None and not (quiet or as_json):
            click.echo(f"trace: {trace} (open it in ui.perfetto.dev)")
        if show:
            click.launch(str(report))
        return code

    @commands.command(short_help="Measure the calibration with a known crystal: origin, ellipse, rotation, pixel size.")
    @file
    @click.option("--standard", "standards", metavar="NAME", multiple=True, help="Known crystal: Au, Si, … or a CIF file. May be repeated.")
    @scan_flags
    @click.option("--mask", metavar="FILE[:/P]", help="Image of the detector that is not zero where pixels count.")
    @calibration_flags
    @click.option(
        "-o",
        "--output",
        "out",
        metavar="C.toml",
        type=click.Path(path_type=Path),
        default=Path("calibration.toml"),
        help="File for the calibration.  [default: calibration.toml]",
    )
    @overwrite
    @memory
    @device
    @debug
    def calibrate(file: Path, standards: tuple[str, ...], out: Path, overwrite: bool, debug: bool, **flags: Any) -> None:
        """Measure the calibration from FILE, with standard errors, and write it for `gpu4d run SCAN --calibration C.toml`.

        FILE is a scan of a known crystal: rings of a polycrystal, or Bragg disks. Without --standard, a diffuse ring gives the ellipse, and
        the centre of mass of a thin specimen gives the rotation.
        """
        from gpu4d.workflow.calibrate_file import calibrate_file
        from gpu4d.workflow.terminal import watcher

        settings = with_flags(None, flags)
        with watcher() as progress:
            found = calibrate_file(file, out, standards=standards, recipe=settings, overwrite=overwrite, watcher=progress)
        _say(found.summary(), f"the calibration is complete in {out}")

    @commands.command(short_help="Say what is in a file, and how to analyse it.")
    @file
    @scan_flags
    @memory
    @device
    @click.option("--plan", "with_plan", is_flag=True, help="Show how a pass over the scan is divided, and its shortest time.")
    @click.option("--shapes", is_flag=True, help="List the scan shapes that a row of frames may have. Reads the file.")
    @debug
    def info(
        file: Path,
        dataset: str | None,
        scan_shape: Any,
        memory: str | None,
        device: str | None,
        with_plan: bool,
        shapes: bool,
        debug: bool,
        **flags: Any,
    ) -> None:
        """Say what FILE is, what gpu4d knows of it, what is missing, and the command that analyses it.

        With --plan a few patterns are read, to measure the speed.
        """
        from gpu4d.workflow.describe import describe_file, describe_shapes

        layout, timing = layout_of(flags), timing_of(flags)
        if shapes:
            _say(describe_shapes(file, dataset, layout, timing))
        else:
            _say(describe_file(file, dataset, scan_shape, memory, device or "auto", with_plan, layout, timing))

    export_command(commands, debug, _say)

    @commands.command(short_help="Compile everything now, so that the first run does not wait for it.")
    @debug
    def warm(debug: bool) -> None:
        """Compile the code that usual scans need, once for this computer. Without this command, the first run compiles it."""
        from gpu4d.workflow.prepare import warm as compile_everything
        from gpu4d.workflow.record import Record
        from gpu4d.workflow.terminal import watcher

        with watcher() as progress:
            compile_everything(Record(progress))
        click.echo("ready: nothing needs to be compiled any more for usual scans")

    @commands.command()
    @click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
    def completion(shell: str) -> None:
        """Print code that completes gpu4d's commands and flags. Add it to the start file of the shell."""
        from click.shell_completion import get_completion_class

        complete = get_completion_class(shell)
        assert complete is not None, "click knows these shells"
        click.echo(complete(commands, {}, "gpu4d", "_GPU4D_COMPLETE").source())

    @commands.command()
    @debug
    def devices(debug: bool) -> None:
        """List the devices of this machine: CPU and GPUs."""
        from gpu4d.workflow.describe import describe_devices

        click.echo(describe_devices())

    plan_command(commands, debug)
    capabilities_command(commands, debug, _say)
    convert_command(commands, debug, _say)
    compare_command(commands, debug, _say)
    recipe_commands(commands, debug, _say)
    batch_command(commands, debug, _say)
    cache_command(commands, debug, _say)
    doctor_command(commands, debug, _say)
    init_command(commands, debug, _say)
    view_command(commands, debug, _say)
    bench_commands(commands, debug, _say)
    return commands


def _command_line() -> str:
    """Return the command line as it was typed, for the report."""
    import shlex

    return shlex.join(["gpu4d", *sys.argv[1:]])
