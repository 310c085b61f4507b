"""The command `gpu4d init`: make a folder with recipes, scripts and a notebook to begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def init_command(commands: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    """Add `gpu4d init` to the commands."""
    import click

    @commands.command(short_help="Make a folder with recipes, scripts for many scans, and a notebook.")
    @click.argument("folder", metavar="[FOLDER]", required=False, type=click.Path(path_type=Path), default=Path("."))
    @debug
    def init(folder: Path, debug: bool) -> None:
        """Write recipes, a script for all scans of a folder, one for Slurm, a notebook and a README into FOLDER.

        By default FOLDER is the current folder. Files that exist are kept as they are.
        """
        from gpu4d.workflow.workspace import make_workspace

        say(make_workspace(folder).text())
