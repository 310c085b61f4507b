"""The commands `gpu4d bench …`: run, verify, compare, predict, doctor and kernels. Each reads flags and calls one function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def bench_commands(commands: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    """Add `gpu4d bench` to the commands."""

    @commands.group(no_args_is_help=True)
    def bench() -> None:
        """Measure speed, after checking every answer."""

    _run(bench, debug, say)
    _files(bench, debug, say)
    _predict(bench, debug, say)
    _doctor(bench, debug, say)
    _kernels(bench, debug, say)


def _path(exists: bool = False) -> Any:
    import click

    return click.Path(path_type=Path, exists=exists, dir_okay=False)


def _run(bench: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    import click

    @bench.command(short_help="Check and time workloads from counts to maps, and give the machine a score.")
    @click.option(
        "--tier",
        type=click.Choice(["S", "M", "L"]),
        default="S",
        help="Size: S for a laptop, M for a card of 8 GB, L of 80 GB.  [default: S]",
    )
    @click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N.  [default: auto]")
    @click.option("-o", "--output", "out", metavar="R.json", type=_path(), help="File for the result.  [default: gpu4d-bench-TIER.json]")
    @click.option(
        "--verify",
        is_flag=True,
        help="Draw a seed that is not known before, to show that no code is tuned to the announced seed. No score.",
    )
    @click.option("--seed", type=click.IntRange(0, 2**31 - 1), metavar="N", help="Use another seed than the announced one. No score.")
    @click.option("--only", metavar="NAME", multiple=True, help="Run one workload only. May be repeated. No score.")
    @click.option(
        "--peer", "peers", metavar="P", multiple=True, help="Also run py4dstem, libertem, quantem, fast-acbf or a plug-in. May be repeated."
    )
    @click.option(
        "--plugin",
        "plugins",
        metavar="MODULE",
        multiple=True,
        help="Import a module with your own twins, for the open division. May be repeated.",
    )
    @click.option(
        "--sustained",
        type=click.FloatRange(min=0),
        metavar="S",
        help="Also measure under heat, for so many seconds.  [default: 60 for M and L, 0 for S]",
    )
    @click.option("--for-predict", is_flag=True, help="Measure longer, for bench predict. Takes a minute and a half more.")
    @click.option(
        "--deadline",
        type=click.FloatRange(min=0),
        metavar="S",
        help="Begin nothing new after so many seconds. Go on with --resume.",
    )
    @click.option("--resume", is_flag=True, help="Go on with a run that was cut.")
    @click.option("--overwrite", is_flag=True, help="Replace an earlier result, or the parts of a run that was cut.")
    @click.option("--scratch", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder on the disk that is measured.")
    @click.option("--quick", is_flag=True, help="Use the smallest inputs, to see that everything runs. No score.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @debug
    def run(out: Path | None, tier: str, quick: bool, as_json: bool, debug: bool, **given: Any) -> None:
        """Check every workload against its float64 oracle, time it beside the floors of this machine, and give a score.

        The result goes to R.json. Parts are kept beside it as they come: a run that is cut goes on with --resume. Nothing is fetched or
        sent. `bench verify` checks a result, `bench compare` compares results, `bench predict` tells how long your scan takes.
        """
        from gpu4d.benchmarks.suite import result as files
        from gpu4d.benchmarks.suite.run import Options
        from gpu4d.benchmarks.suite.run import run as run_suite
        from gpu4d.benchmarks.suite.table import text
        from gpu4d.benchmarks.suite.verify import verify_result
        from gpu4d.cli_signals import Stopped

        tier = "quick" if quick else tier
        options = Options(out or Path(f"gpu4d-bench-{tier}.json"), tier, **given)
        try:
            found = run_suite(options, lambda line: click.echo(line, err=True))
        except (KeyboardInterrupt, Stopped):
            if options.parts.exists():
                click.echo(f"{options.parts} keeps what was measured: go on with --resume", err=True)
            raise
        written = files.write(found, options.out, overwrite=options.overwrite)
        options.parts.unlink(missing_ok=True)
        for finding in verify_result(written)[0]:
            click.echo(f"bench verify refuses this result, and its score does not count: {finding}", err=True)
        say(json.dumps(written, indent=1) if as_json else f"{text(found)}\n\nresult: {options.out}")


def _files(bench: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    import click

    @bench.command(short_help="Check that a result is whole, unaltered and plausible.")
    @click.argument("file", metavar="R.json", type=_path())
    @click.option("--data", is_flag=True, help="Also make all inputs again, and compare their digests.")
    @debug
    def verify(file: Path, data: bool, debug: bool) -> int:
        """Compute everything in R.json again from its raw samples, and say what does not fit. The exit code is then 1."""
        from gpu4d.benchmarks.suite.verify import verify as check

        found = check(file, data=data)
        say(found.text())
        return 0 if found.ok else 1

    @bench.command(short_help="Compare results, with intervals: table, picture, page.")
    @click.argument("results", metavar="A.json B.json …", nargs=-1, required=True, type=_path())
    @click.option("--html", type=_path(), metavar="P.html", help="Write a page that needs no other file.")
    @click.option("--png", type=_path(), metavar="P.png", help="Write a picture.")
    @click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
    @click.option("--open", "allow_open", is_flag=True, help="Allow results of the open division beside those of the closed one.")
    @debug
    def compare(results: tuple[Path, ...], html: Path | None, png: Path | None, as_json: bool, allow_open: bool, debug: bool) -> None:
        """Compare results with the first one. Results of another tier, seed or input are refused, and so is a result that fails."""
        from gpu4d.benchmarks.suite.compare import compare as side_by_side

        found = side_by_side(results, allow_open=allow_open)
        if html is not None:
            html.write_text(found.html(), encoding="utf-8")
        if png is not None:
            found.png(png)
        say(json.dumps(found.as_dict(), indent=1) if as_json else found.text())


def _predict(bench: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    import click

    @bench.command(short_help="Say how long a scan takes on the machine of a result.")
    @click.argument("result", metavar="R.json", type=_path())
    @click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
    @click.option(
        "--scan",
        metavar="A×B×C×D:T",
        help="Shape and type of a scan in place of FILE, as 512x512x256x256:uint16. May end with :lz4 or :gzip.",
    )
    @click.option(
        "--price", type=click.FloatRange(min=0, min_open=True), metavar="€", help="Price of the machine, to compute scans per 1 000 €."
    )
    @click.option(
        "--power", type=click.FloatRange(min=0, min_open=True), metavar="W", help="Power of the machine, if the result has no energy."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the prediction as JSON.")
    @debug
    def predict(result: Path, file: Path | None, scan: str | None, as_json: bool, debug: bool, **given: Any) -> None:
        """Say for each technique how long FILE takes on the machine of R.json, what limits it, and which detectors it keeps up with."""
        from gpu4d.benchmarks.suite.predict import predict_from

        found = predict_from(result, file, scan, **given)
        say(json.dumps(found.as_dict(), indent=1) if as_json else found.text())


def _doctor(bench: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    import click

    @bench.command(short_help="Say what slows this machine down, and what to install.")
    @click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N.  [default: auto]")
    @click.option(
        "--scratch", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(), help="Folder on the disk to look at."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
    @debug
    def doctor(device: str, scratch: Path, as_json: bool, debug: bool) -> None:
        """Look at GPU, driver, link, disk, threads, load and packages. Nothing is changed."""
        from gpu4d.benchmarks.suite import doctor as looking
        from gpu4d.findings import as_text

        found = looking.doctor(device, scratch)
        say(json.dumps([one.as_dict() for one in found], indent=1) if as_json else as_text(found))


def _kernels(bench: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    import click

    @bench.command(short_help="Time every operation that has a fast twin.")
    @click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N.  [default: auto]")
    @click.option("--only", metavar="NAME", multiple=True, help="Time one operation only. May be repeated.")
    @click.option("--quick", is_flag=True, help="Use small inputs and few rounds, to see that it runs.")
    @click.option("--json", "path", metavar="FILE", type=_path(), help="Also write the figures to FILE.")
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
        say(benchmark.table(*figures))
