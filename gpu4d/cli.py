"""Run the command line: turn flags into a recipe, call the workflow, and print errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

    from gpu4d.data.calibration_fields import GivenAs

NEEDED = {"click": "click", "rich": "rich", "matplotlib": "matplotlib", "jinja2": "jinja2"}  # packages of the extra `app`


class Stopped(BaseException):
    """Ctrl-C or a signal to end. It is not a KeyboardInterrupt, because click prints an empty line for those."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `gpu4d` command and exit: code 0, or code 1 after one line on standard error."""
    _end_cleanly_on_signals()
    sys.exit(run_command(list(sys.argv[1:] if arguments is None else arguments)))


def run_command(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code. Errors become one line on standard error."""
    from importlib.util import find_spec

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(f"the command line needs {', '.join(missing)}: pip install 'gpu4d[app]'")
    debug = "--debug" in arguments
    if not debug:
        import warnings

        warnings.simplefilter("ignore")  # warnings of NumPy and other libraries; gpu4d's own are in the report
    try:
        return _carry_out(arguments)
    except (KeyboardInterrupt, Stopped):
        return _fail("stopped; no results were written")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output has closed the pipe: no message can reach it
        return 1
    except Exception as error:
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


def _end_cleanly_on_signals() -> None:
    """End cleanly on Ctrl-C, when the terminal is closed, and when a batch system ends the process."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        return

    def stop(*_: Any) -> None:
        raise Stopped

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


def _commands() -> click.Group:
    """Build all commands. This is a function because click is an optional dependency."""
    import click

    import gpu4d

    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

    @click.group(context_settings=settings, no_args_is_help=True)
    @click.version_option(gpu4d.__version__, prog_name="gpu4d")
    def commands() -> None:
        """Analyse 4D-STEM scans: images, strain, phase, an EMD file with all results, and a report."""

    out = click.option("-o", "--output", "out", metavar="OUT", type=click.Path(path_type=Path), help="Folder for the results.")
    overwrite = click.option("--overwrite", is_flag=True, help="Replace an earlier result in OUT.")
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    dataset = click.option("--dataset", metavar="/P", help="Path of the scan inside an HDF5 file.")
    shape = click.option("--scan-shape", metavar="A,B", callback=_pair, help="Shape of the scan, for files that store a list of patterns.")
    memory = click.option("--memory", metavar="M", help="Memory that may be allocated, as 512MB or 2GiB.  [default: 512 MB]")
    device = click.option("--device", metavar="D", help="auto, cpu, cuda, cuda:N, or several as cuda:0,cuda:1.  [default: auto]")
    file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))

    @commands.command(short_help="Analyse small simulated scans, and compare with their truth.")
    @out
    @overwrite
    @debug
    def demo(out: Path | None, overwrite: bool, debug: bool) -> None:
        """Simulate a strained crystal and a phase object, analyse them like measured scans, and compare with the truth.

        Nothing is downloaded. Results go to OUT (gpu4d-demo).
        """
        from gpu4d.workflow.demo import demo as run_demo
        from gpu4d.workflow.terminal import watcher

        with watcher() as progress:
            result = run_demo(out or Path("gpu4d-demo"), overwrite=overwrite, watcher=progress)
        click.echo(result.summary())

    @commands.command(short_help="Analyse a scan: images, strain or phase, EMD file, report.")
    @file
    @dataset
    @shape
    @_calibration_flags
    @click.option("--probe", metavar="FILE[:/P]", help="Image of the probe in vacuum.")
    @click.option("--recipe", type=click.Path(path_type=Path), metavar="R.toml", help="File with settings. Flags override it.")
    @out
    @overwrite
    @memory
    @device
    @click.option("--trace", metavar="T.json", type=click.Path(path_type=Path), help="Write a trace of the work, for ui.perfetto.dev.")
    @debug
    def run(file: Path, recipe: Path | None, out: Path | None, overwrite: bool, trace: Path | None, debug: bool, **flags: Any) -> None:
        """Analyse FILE. The data decide which technique makes sense: Bragg disks and strain, or a bright-field disk and DPC.

        Results go to OUT (FILE's name with -gpu4d): result.h5 (EMD 1.0), pictures, report.html.
        """
        from gpu4d.workflow import run as run_workflow
        from gpu4d.workflow.terminal import watcher

        settings = _with_flags(recipe, flags)
        with watcher() as progress:
            result = run_workflow(file, out, recipe=settings, overwrite=overwrite, watcher=progress, command=_command_line(), trace=trace)
        click.echo(result.summary())
        if trace is not None:
            click.echo(f"trace: {trace} (open it in ui.perfetto.dev)")

    @commands.command(short_help="Show what is in a file, and the plan of a pass over it.")
    @file
    @dataset
    @shape
    @memory
    @device
    @debug
    def info(file: Path, dataset: str | None, scan_shape: Any, memory: str | None, device: str | None, debug: bool) -> None:
        """Show shape, type, layout, size and calibration of FILE, and the plan of a pass over it with the memory given.

        Reads a few patterns to measure the speed, and says how long a pass takes at least.
        """
        from gpu4d.workflow.describe import describe_file

        click.echo(describe_file(file, dataset, scan_shape, memory, device or "auto"))

    @commands.command()
    @debug
    def devices(debug: bool) -> None:
        """List the devices of this machine: CPU and GPUs."""
        from gpu4d.workflow.describe import describe_devices

        click.echo(describe_devices())

    _recipe_commands(commands, overwrite, debug)
    _bench_commands(commands, debug)
    return commands


def _bench_commands(commands: click.Group, debug: Any) -> None:
    import click

    @commands.group(no_args_is_help=True)
    def bench() -> None:
        """Measure speed, after checking every answer."""

    @bench.command()
    @click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N.  [default: auto]")
    @click.option("--only", metavar="NAME", multiple=True, help="Time one operation only. May be given several times.")
    @click.option("--quick", is_flag=True, help="Use small inputs and few rounds, to see that it runs.")
    @click.option("--json", "path", metavar="FILE", type=click.Path(path_type=Path), help="Also write the figures to FILE.")
    @debug
    def kernels(device: str, only: tuple[str, ...], quick: bool, path: Path | None, debug: bool) -> None:
        """Time every operation that has a fast twin, against the bandwidth and FFT rate measured in the same run."""
        from gpu4d.benchmarks import kernels as benchmark
        from gpu4d.errors import InputError

        if unknown := set(only) - {case.operation for case in benchmark.CASES}:
            known = ", ".join(sorted({case.operation for case in benchmark.CASES}))
            raise InputError(f"--only {', '.join(sorted(unknown))}: there is no such operation; choose from {known}")
        figures = benchmark.run(device, quick=quick, only=only)
        if path is not None:
            path.write_text(benchmark.as_json(*figures), encoding="utf-8")
        click.echo(benchmark.table(*figures))


def _recipe_commands(commands: click.Group, overwrite: Any, debug: Any) -> None:
    import click

    @commands.group(no_args_is_help=True)
    def recipe() -> None:
        """Write, check or explain the settings of a run (a TOML file)."""

    path = click.argument("file", required=False, type=click.Path(path_type=Path))

    @recipe.command()
    @path
    @overwrite
    @debug
    def new(file: Path | None, overwrite: bool, debug: bool) -> None:
        """Write a commented recipe with all settings and their defaults to FILE, or to the terminal."""
        from gpu4d.errors import InputError
        from gpu4d.workflow.recipe import Recipe, to_toml

        text = to_toml(Recipe())
        if file is None:
            click.echo(text, nl=False)
            return
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists: give another name, or replace it with --overwrite")
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{file} cannot be written ({error.strerror}): give another name") from error
        click.echo(f"{file} written: edit it, then `gpu4d run FILE --recipe {file}`")

    @recipe.command()
    @click.argument("file", type=click.Path(path_type=Path))
    @debug
    def check(file: Path, debug: bool) -> None:
        """Find mistakes in a recipe, and settings outside the recommended ranges."""
        from gpu4d.workflow.recipe import Recipe

        loaded = Recipe.load(file)
        for line in loaded.advice():
            click.echo(f"note: {line}")
        click.echo(f"{file} is valid: {len(loaded.given)} settings")

    @recipe.command()
    @path
    @click.option("--only", metavar="SECTION[.KEY]", help="Explain one section or one setting only.")
    @debug
    def explain(file: Path | None, only: str | None, debug: bool) -> None:
        """Say what each setting does, what it accepts, and what is recommended. With FILE, show its values too."""
        from gpu4d.errors import InputError
        from gpu4d.workflow.recipe import Recipe
        from gpu4d.workflow.recipe import explain as text_of

        text = text_of(Recipe.load(file) if file is not None else Recipe(), only)
        if not text:
            raise InputError(f"--only {only}: there is no such section or setting; sections are {', '.join(Recipe().sections)}")
        click.echo(text)


def _given_by_flag() -> list[GivenAs]:
    """Return the calibration fields that have a flag of their own."""
    from gpu4d.data.calibration_fields import FIELDS

    return [field.given for field in FIELDS.values() if field.given is not None and field.given.flag]


def _calibration_flags(command: Any) -> Any:
    """Add a flag for every calibration field that has one."""
    import click

    for given in reversed(_given_by_flag()):
        words = f"{given.explain.split('.')[0].split(',')[0]}, {given.units}."
        command = click.option(f"--{given.name.replace('_', '-')}", type=float, metavar=given.flag, help=words)(command)
    return command


FLAGS = {
    "dataset": "input.dataset",
    "scan_shape": "input.scan_shape",
    "probe": "probe.file",
    "memory": "compute.memory",
    "device": "compute.device",
}


def _with_flags(path: Path | None, flags: dict[str, Any]) -> Any:
    """Return the recipe of a run: a file's or the defaults, overridden by flags."""
    from gpu4d.workflow.recipe import Recipe

    recipe = Recipe() if path is None else Recipe.load(path)
    names = FLAGS | {given.name: f"calibration.{given.name}" for given in _given_by_flag()}
    for name, value in flags.items():
        if value is not None:
            recipe.set(names[name], value, origin="--" + name.replace("_", "-"))
    recipe.check()
    return recipe


def _pair(_context: Any, _parameter: Any, value: str | None) -> list[int] | None:
    import click

    if value is None:
        return None
    parts = value.replace("x", ",").replace("×", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is not two whole numbers: write --scan-shape 64,64")
    return [int(part) for part in parts]


def _command_line() -> str:
    """Return the command line as it was typed, for the report."""
    import shlex

    return shlex.join(["gpu4d", *sys.argv[1:]])
