"""The command `gpu4d capabilities`: print for each function what it takes, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def capabilities_command(commands: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    """Add `gpu4d capabilities` to the commands."""
    import click

    @commands.command(short_help="Say which arrays each function takes, and where it computes.")
    @click.argument("name", metavar="[FUNCTION]", required=False)
    @click.option("--json", "as_json", is_flag=True, help="Print all rows as JSON.")
    @debug
    def capabilities(name: str | None, as_json: bool, debug: bool) -> None:
        """Say for each function, or for FUNCTION, which array libraries it takes, its twins, and whether it takes scans and events.

        "yes" for a library: data stay on their device. "host", "in part": what is copied to the host, with the reason below the table.
        """
        from gpu4d._capabilities import Capabilities
        from gpu4d._capabilities import capabilities as found

        table = found()
        if name is not None:
            row = table[name.removeprefix("gpu4d.")]
            table = Capabilities((row,), tuple(op for op in table.operations if op.name in row.operations))
        say(json.dumps(table.as_dict(), indent=1) if as_json else str(table))
