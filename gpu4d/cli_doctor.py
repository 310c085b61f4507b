"""The command `gpu4d doctor`: look over the machine and the environment, and say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


def doctor_command(commands: click.Group, debug: Any, say: Callable[[str], None]) -> None:
    """Add `gpu4d doctor` to the commands."""
    import click

    @commands.command(short_help="Look over this machine: packages, GPU, memory, disk, caches, and what to do.")
    @click.option("--folder", type=click.Path(path_type=Path), default=Path("."), help="Where results will be written.  [default: here]")
    @click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
    @debug
    def doctor(folder: Path, as_json: bool, debug: bool) -> int:
        """Check everything that gpu4d needs, and say what to do: ok, note, warn (it works, but slower or with less) or fail.

        Nothing is changed or sent. The exit code is 1 if something is broken, else 0. `gpu4d bench doctor` looks at what speed depends on.
        """
        from gpu4d.findings import FAIL
        from gpu4d.workflow.doctor import as_text
        from gpu4d.workflow.doctor import doctor as look

        found = look(folder)
        say(json.dumps([one.as_dict() for one in found], indent=1, ensure_ascii=False) if as_json else as_text(found))
        return 1 if any(one.level == FAIL for one in found) else 0
