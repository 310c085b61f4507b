"""The command `gpu4d convert`: write a scan into a file of another format."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

# As in `gpu4d.io.writing`, which a test compares. Its modules are not imported here, so that --help takes no time.
CODECS = ("lz4", "zstd", "none")
TARGETS = ("emd", "hspy", "zarr", "zarr2", "zspy", "npy", "raw")


def convert_command(commands: click.Group, debug: Any, say: Any) -> None:
    """Add `gpu4d convert` to the commands."""
    import click

    from gpu4d.cli_flags import layout_of, region, scan_flags, timing_of

    path = click.Path(path_type=Path)

    @commands.command(short_help="Write a scan into a file of another format, compressed and checked.")
    @click.argument("file", metavar="IN", type=path)
    @click.argument("out", metavar="OUT", type=path)
    @click.option(
        "--codec", type=click.Choice(CODECS), help="Compression: lz4 is faster, zstd makes smaller files.  [default: lz4; none for .npy]"
    )
    @click.option("--to", metavar="FORMAT", type=click.Choice(TARGETS), help=f"{', '.join(TARGETS)}.  [default: by the ending of OUT]")
    @scan_flags
    @click.option("--crop", metavar="A,B,C,D", callback=region, help="Keep only rows A to B - 1, columns C to D - 1 of the scan.")
    @click.option("--bin", "binned", type=int, metavar="N", help="Sum N×N detector pixels.")
    @click.option("--overwrite", is_flag=True, help="Replace OUT.")
    @click.option("--drop-metadata", is_flag=True, help="Leave out the metadata of IN. The calibration is kept.")
    @click.option("--no-verify", is_flag=True, help="Do not read OUT back to compare it with IN.")
    @click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="Threads that read and compress.  [default: one a core]")
    @click.option("--quiet", is_flag=True, help="Show no progress, and print nothing.")
    @debug
    def convert(file: Path, out: Path, no_verify: bool, quiet: bool, debug: bool, **options: Any) -> None:
        """Write the scan IN, of any format that opens, as OUT: EMD 1.0 (.h5, .emd), HyperSpy (.hspy, .zspy), .zarr, .npy or .raw.

        Patterns, calibration and metadata are kept, and OUT is compared with IN before it gets its name. If the command is stopped or
        killed, the same command goes on where it was.
        """
        from gpu4d.workflow.convert_file import convert_file
        from gpu4d.workflow.terminal import watcher

        start, shape = time.perf_counter(), options.pop("scan_shape")
        opening = {"dataset": options.pop("dataset"), "scan_shape": tuple(shape) if shape else None}
        opening |= {"layout": layout_of(options), "timing": timing_of(options)}
        with watcher(quiet) as progress:
            done = convert_file(file, out, verify=not no_verify, watcher=progress, opening=opening, **options)
        if not quiet:
            say(convert_text(done, time.perf_counter() - start), f"{done.path} is complete")


def convert_text(done: Any, seconds: float) -> str:
    """Say what became of a conversion."""
    from gpu4d.sizes import format_bytes

    ratio = done.nbytes / max(1, done.stored_bytes)
    lines = [
        f"{done.path}",
        f"{format_bytes(done.nbytes)} of patterns in {format_bytes(done.stored_bytes)} ({ratio:.1f}×), {done.format}, codec {done.codec}, "
        f"{seconds:.1f} s",
    ]
    if done.checksum:
        lines.append(f"checksum {done.checksum}" + (", read back and compared" if done.verified else ", not read back"))
    return "\n".join([*lines, *(f"note: {note}" for note in done.notes)])
