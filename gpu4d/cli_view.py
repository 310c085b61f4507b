"""Define `gpu4d view`: look at a scan in the browser, or write a page with a binned copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def view_command(commands: click.Group, debug: Any, say: Any) -> None:
    """Add `gpu4d view` to the commands."""
    import click

    from gpu4d.cli_flags import layout_of, scan_flags, timing_of

    path = click.Path(path_type=Path)

    @commands.command(short_help="Look at a scan or a result in the browser: drag a virtual detector, pick patterns.")
    @click.argument("file", metavar="FILE|RESULT", type=path)
    @scan_flags
    @click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Port of the page.  [default: a free one]")
    @click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
    @click.option("--device", metavar="D", help="auto, cpu, cuda or cuda:N.  [default: auto]")
    @click.option("--memory", metavar="M", help="Memory for the images of all pixels.  [default: half of what is free]")
    @click.option("--export", metavar="PAGE.html", type=path, help="Do not serve: write a page with a binned copy of the scan, and end.")
    @click.option(
        "--bin", "binned", type=click.IntRange(1), metavar="N", help="With --export: sum N×N detector pixels.  [default: by the size]"
    )
    @click.option("--most", metavar="SIZE", help="With --export: largest size of the page.  [default: 25MB]")
    @click.option("--overwrite", is_flag=True, help="With --export: replace the page.")
    @click.option("--quiet", is_flag=True, help="Show no progress.")
    @debug
    def view(file: Path, export: Path | None, debug: bool, quiet: bool, **options: Any) -> None:
        """Serve a page for FILE, or for a result of `gpu4d run`, to the browser of this computer, until Ctrl-C.

        The page is reachable from this computer alone, by an address with a random token. Files are only read.
        """
        shape = options.pop("scan_shape")
        opening: Any = {"dataset": options.pop("dataset"), "scan_shape": tuple(shape) if shape else None}
        opening |= {"layout": layout_of(options), "timing": timing_of(options)}
        writing = {name: options.pop(name) for name in ("binned", "most", "overwrite")}
        if export is None and (given := [f"--{'bin' if name == 'binned' else name}" for name, value in writing.items() if value]):
            raise click.UsageError(f"{', '.join(given)} belongs to --export PAGE.html.")
        if export is not None:
            _export(file, export, opening, writing, quiet, say)
        else:
            _serve(file, opening, quiet=quiet, say=say, **options)


def _export(file: Path, export: Path, opening: Any, writing: dict[str, Any], quiet: bool, say: Any) -> None:
    from gpu4d.sizes import format_bytes
    from gpu4d.view.page import MOST, export_page
    from gpu4d.view.results import open_scan_or_result
    from gpu4d.workflow.terminal import watcher

    cube, title, maps, overlays, _ = open_scan_or_result(file, opening)
    with watcher(quiet) as shown:
        shown.begin("binned scan")
        done = export_page(
            cube,
            export,
            bin=writing["binned"],
            most=writing["most"] or MOST,
            overwrite=writing["overwrite"],
            title=title,
            maps=maps,
            overlays=overlays,
            progress=shown.advance,
        )
    say(f"{done} ({format_bytes(done.stat().st_size)}): any browser opens it", f"{done} is complete")


def _serve(file: Path, opening: Any, *, port: int, no_browser: bool, quiet: bool, say: Any, **options: Any) -> None:
    from gpu4d.cli_signals import Stopped
    from gpu4d.errors import InputError
    from gpu4d.view.results import open_view
    from gpu4d.view.server import ViewServer
    from gpu4d.workflow.terminal import watcher

    options["device"] = options["device"] or "auto"
    with watcher(quiet) as shown:
        shown.begin("reading the scan")
        scan = open_view(file, opening=opening, progress=shown.advance, **options)
    try:
        server = ViewServer(scan, port)
    except OSError as error:
        raise InputError(f"--port {port}: {error.strerror}; leave it out for a free port") from error
    say(f"{server.url}\nCtrl-C ends the viewer")
    try:
        if not no_browser:
            import webbrowser

            webbrowser.open(server.url)
        server.serve_forever(poll_interval=0.1)
    except (KeyboardInterrupt, Stopped):
        say("the viewer has ended")
    finally:
        server.server_close()
