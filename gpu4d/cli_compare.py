"""The command `gpu4d compare`: compare results with a truth, or with each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

BEYOND = 3  # exit code if a quantity is beyond its tolerance: 1 is an error, 2 is click's


def compare_command(commands: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    """Add `gpu4d compare` to the commands."""
    import click

    def limits(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
        found = {}
        for text in given:
            name, mark, number = text.partition("=")
            try:
                found[name.strip()] = float(number)
            except ValueError:
                raise click.BadParameter(f"{text!r}: need NAME=VALUE, as strain=0.002") from None
            if not mark or not name.strip() or not found[name.strip()] >= 0:
                raise click.BadParameter(f"{text!r}: need NAME=VALUE with a number of at least 0, as strain=0.002")
        return found

    path = click.Path(path_type=Path)

    @commands.command(short_help="Compare results with a truth, or with those of another run.")
    @click.argument("result", metavar="RESULT", type=path)
    @click.argument("other", metavar="TRUTH|RESULT", type=path)
    @click.option(
        "--tolerance",
        metavar="NAME=VALUE",
        multiple=True,
        callback=limits,
        help="Largest rms difference that a quantity may have. May be repeated.",
    )
    @click.option("--only", metavar="NAME", multiple=True, help="Quantity that is compared, as strain or dpc_phase. May be repeated.")
    @click.option("--picture", metavar="P.png", type=path, help="Draw both, and their differences.")
    @click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
    @debug
    def compare(
        result: Path, other: Path, tolerance: dict[str, float], only: tuple[str, ...], picture: Path | None, as_json: bool, debug: bool
    ) -> int:
        """Compare RESULT, a folder of `gpu4d run` or its result.h5, with another one, or with the group truth/ of a simulated scan's file.

        FILE:/truth/PART names the part of a truth with several scans; without it, that of the scan of RESULT is taken.

        Printed are for each quantity: bias, rms, correlation, slope, the largest difference and where it is, and the share within two
        standard errors. The exit code is 3 if a quantity is beyond its --tolerance, and 1 after an error.
        """
        from gpu4d.workflow.compare import compare as compare_files

        found = compare_files(result, other, tolerance=tolerance, only=only)
        if picture is not None:
            from gpu4d.workflow.comparing.picture import draw

            draw(found, picture)
        say(json.dumps(found.as_dict(), indent=1) if as_json else str(found))
        return 0 if found.passed else BEYOND
