"""Define `gpu4d export`: hand a scan to another ptychography engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def export_command(commands: click.Group, debug: Any, say: Any) -> None:
    """Add `gpu4d export` to the commands."""
    import click

    from gpu4d.cli_flags import calibration_flags, named_numbers, scan_flags, with_flags

    file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
    out = click.option("-o", "--output", "out", metavar="OUT", type=click.Path(path_type=Path), help="Folder for the files.")
    overwrite = click.option("--overwrite", is_flag=True, help="Replace an earlier result in OUT.")

    @commands.command(short_help="Write a scan and its parameters for another ptychography engine.")
    @file
    @click.option("--for", "engine", required=True, type=click.Choice(["ptyrad", "phaser", "pty-chi"]), help="Engine that will read them.")
    @scan_flags
    @calibration_flags
    @click.option("--rotation", type=float, metavar="DEG", help="Rotation from detector to scan axes, in degrees.")
    @click.option("--transpose/--no-transpose", default=None, help="Exchange the detector axes before the rotation, or do not.")
    @click.option("--defocus", type=float, metavar="A", help="First guess of the probe's defocus, Å. Positive is underfocus.")
    @click.option(
        "--aberrations", metavar="C10=A,…", callback=named_numbers, help="First guess of the aberrations: C12=42,phi12=0.5 (Å, rad)."
    )
    @click.option("--fit", is_flag=True, help="Fit the aberrations to the scan. The object must be thin, and the steps must resolve it.")
    @click.option("--slices", type=int, default=1, metavar="N", help="Number of slices of the object.  [default: 1]")
    @click.option("--thickness", type=float, metavar="A", help="Thickness of the whole object, Å. Is needed for more than one slice.")
    @out
    @overwrite
    @debug
    def export(
        file: Path,
        engine: str,
        out: Path | None,
        overwrite: bool,
        debug: bool,
        fit: bool,
        slices: int,
        thickness: float | None,
        **flags: Any,
    ) -> None:
        """Write FILE for another ptychography engine: patterns as HDF5, and the file with its parameters.

        Files go to OUT, by default FILE's name with the engine's in the current folder.
        """
        from gpu4d.workflow.export import export_scan

        given = {**(flags.pop("aberrations") or {}), "defocus": flags.pop("defocus")}
        given = {name: value for name, value in given.items() if value is not None}
        options = {"slices": slices, "thickness": thickness, "overwrite": overwrite}
        written = export_scan(file, out, engine=engine, recipe=with_flags(None, flags), aberrations=given or None, fit=fit, **options)
        say("\n".join(map(str, written)), "the files are complete")
