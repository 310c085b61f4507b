"""Define `gpu4d batch` and `gpu4d cache`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu4d.cli_flags import calibration_flags, with_flags

if TYPE_CHECKING:
    import click


OF_A_BATCH = (
    "watch",
    "every",
    "until_idle",
    "stop_on_error",
    "timeout",
    "again",
    "recursive",
    "exact",
)  # no settings of a run


def batch_command(commands: click.Group, debug: Any, say: Callable[..., None]) -> None:
    """Add `gpu4d batch` to the commands. `say` writes a result on standard output."""
    import click

    seconds = click.FloatRange(0.1)

    @commands.command(short_help="Analyse all scans of a folder, also as they arrive.")
    @click.argument("given", metavar="FOLDER|GLOB…", nargs=-1, required=True)
    @click.option(
        "-o", "--output", "out", metavar="OUT", type=click.Path(path_type=Path), help="Folder for results.  [default: gpu4d-batch]"
    )
    @click.option("--recipe", type=click.Path(path_type=Path), metavar="R.toml", help="File with settings of all runs. Flags override it.")
    @calibration_flags
    @click.option("-r", "--recursive", is_flag=True, help="Take the files in folders under FOLDER, too.")
    @click.option("--dry-run", is_flag=True, help="Say what would be done with each file, and do nothing.")
    @click.option("--watch", is_flag=True, help="Do not end, and analyse files as they arrive.")
    @click.option(
        "--every",
        type=seconds,
        default=10.0,
        metavar="S",
        help="Seconds between two looks, and for which a new file must not change.  [default: 10]",
    )
    @click.option("--until-idle", type=seconds, metavar="S", help="End watching after so many seconds without new files.")
    @click.option("--stop-on-error", is_flag=True, help="End after the first scan that fails.")
    @click.option("--timeout", type=seconds, metavar="S", help="End a run that takes longer, and go on.")
    @click.option("--again", is_flag=True, help="Analyse scans again that an earlier batch in OUT has done.")
    @click.option("--no-cache", is_flag=True, help="Compute everything, and keep nothing for later runs.")
    @click.option("--exact", is_flag=True, help="Read large files as a whole to see whether they have changed since an earlier batch.")
    @click.option("--memory", metavar="M", help="Memory that may be allocated, as 512MB or 2GiB.  [default: 512 MB]")
    @click.option("--device", metavar="D", help="auto, cpu, cuda, cuda:N, or several as cuda:0,cuda:1.  [default: auto]")
    @debug
    def batch(
        given: tuple[str, ...],
        out: Path | None,
        recipe: Path | None,
        dry_run: bool,
        debug: bool,
        **flags: Any,
    ) -> int:
        """Analyse every scan in folders, files and patterns, each by `gpu4d run` in a process of its own.

        A scan that fails is reported, and the others go on. OUT gets a folder for each scan, batch.json, and index.html, a page with
        pictures that link to the reports. The same command again continues: scans that are done are not analysed again. The exit code
        is 1 if something failed, with --dry-run if a file cannot be opened.
        """
        from gpu4d.errors import InputError
        from gpu4d.workflow.batch import BatchOptions, plan_batch, plan_table, run_batch, table

        cache = not flags.pop("no_cache")
        options = BatchOptions(cache=cache, **{name: flags.pop(name) for name in OF_A_BATCH})
        if options.until_idle is not None and not options.watch:
            raise InputError("--until-idle belongs to --watch: give both")
        folder, settings = out or Path("gpu4d-batch"), with_flags(recipe, flags)
        tell = lambda line: click.echo(line, err=True)  # noqa: E731
        if dry_run:
            outcomes = plan_batch(given, folder, settings, options, tell)
            say(plan_table(outcomes))
            return int(any(one.status == "failed" for one in outcomes))
        outcomes = run_batch(given, folder, settings, options, tell)
        say(f"{table(outcomes)}\nall results: {folder / 'index.html'}", f"the results are complete in {folder}")
        return int(any(one.status == "failed" for one in outcomes))


def cache_command(commands: click.Group, debug: Any, say: Callable[..., None]) -> None:
    """Add `gpu4d cache` to the commands."""
    import click

    @commands.group(invoke_without_command=True)
    @click.option("--limit", metavar="SIZE", help="Largest size of all that is kept, as 20GB.  [default: 5 GB]")
    @debug
    @click.pass_context
    def cache(context: click.Context, limit: str | None, debug: bool) -> None:
        """Show, bound or clear what runs have kept, so that later runs compute only what changed."""
        from gpu4d.errors import InputError
        from gpu4d.sizes import format_bytes
        from gpu4d.workflow.keeping.store import VARIABLE, open_store, set_limit

        store = open_store()
        if store is None:
            raise InputError(f'nothing is kept, because {VARIABLE} is "off" in the environment: unset it to keep results')
        context.obj = store
        if limit is not None:
            say(f"at most {format_bytes(set_limit(store, limit))} are kept in {store.folder}")
        elif context.invoked_subcommand is None:
            _list(store, say)

    @cache.command("list")
    @click.pass_obj
    def list_kept(store: Any) -> None:
        """List what is kept, by scan."""
        _list(store, say)

    @cache.command()
    @click.pass_obj
    def clear(store: Any) -> None:
        """Remove all that is kept. Results of runs are not touched."""
        from gpu4d.sizes import format_bytes

        number, size = store.clear()
        say(f"removed {number} entries, {format_bytes(size)}, from {store.folder}")


def _list(store: Any, say: Callable[..., None]) -> None:
    import datetime

    from gpu4d.sizes import format_bytes

    found = sorted(store.scans(), key=lambda scan: -scan[3])
    lines = [f"{store.folder}: {format_bytes(sum(scan[2] for scan in found))} of at most {format_bytes(store.limit)}"]
    for title, number, size, used in found:
        when = datetime.datetime.fromtimestamp(used).strftime("%Y-%m-%d %H:%M")
        lines.append(f"{when}  {format_bytes(size):>8}  {number:>4} entries  {title}")
    say("\n".join(lines))
