"""The commands of README and of the pages, in the order in which a reader meets them."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
MADE = ("docs/generated", "docs/_build")  # by sphinx-build
PAGES = sorted(
    str(page.relative_to(CHECKOUT))
    for page in (CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md"))
    if not str(page.relative_to(CHECKOUT)).startswith(MADE)
)
# Programs of shells, schedulers and version control: what they take is not ours to check.
OTHERS = {"dask", "do", "done", "export", "git", "mypy", "printf", "ruff", "sbatch", "source", "srun", "sleep", "while", "xdg-open"}
FOR_CALLS = ("gpu4d", "pytest", "pip", "python", "python3", "sphinx-build")  # what a command in a sentence begins with
SHELLS = ("sh", "console", "bash")  # languages of blocks with commands
# A block, a line of code that is indented, or code in a sentence. There, … stands for what the reader knows.
PARTS = re.compile(
    rf"^[ \t]*```(?P<language>\w*)\n(?P<block>.*?)^[ \t]*```"
    rf"|^    (?P<indented>(?:{'|'.join(FOR_CALLS)}) [^\n]*)$"
    rf"|(?<!`)`(?P<sentence>(?:\.venv/bin/)?(?:{'|'.join(FOR_CALLS)}) [^`…]+)`(?!`)",
    re.S | re.M,
)


class Command(NamedTuple):
    """One command of a page."""

    program: str
    words: tuple[str, ...]  # behind the program
    in_sentence: bool
    line: str  # as it stands on the page

    @property
    def text(self) -> str:
        """Return the command without its prompt, its variables and its comment."""
        return " ".join([self.program, *self.words])


def parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yield lines with commands, and whether they stand in a sentence. Continued lines are one."""
    for part in PARTS.finditer(text):
        if part["block"] is not None:
            if part["language"] in SHELLS:
                yield from ((False, line.strip()) for line in part["block"].replace("\\\n", " ").splitlines())
        elif part["indented"] is not None:
            yield False, part["indented"].strip()
        else:
            yield True, part["sentence"]


def commands(page: str) -> Iterator[Command]:
    """Yield each command of a page."""
    for in_sentence, line in parts((CHECKOUT / page).read_text(encoding="utf-8")):
        for part in re.split(r"\s+(?:&&|\|)\s+", line):
            words = shlex.split(part, comments=True)
            while words and (words[0] == "$" or re.match(r"[A-Z_]+=", words[0])):  # a prompt, and variables for one command
                words = words[1:]
            if words:
                yield Command(words[0].removeprefix(".venv/bin/"), tuple(words[1:]), in_sentence, line)


@functools.cache
def group():
    from gpu4d.cli import _commands

    return _commands()


def check_gpu4d(words: list[str]) -> None:
    """Read a command line as the program reads it, and put its settings into a recipe. Nothing is run."""
    import click

    from gpu4d.cli_flags import FLAGS, with_flags

    command, name = group(), "gpu4d"
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            command.make_context(name, list(words))
            return
        assert set(words) <= {"--help", "--version", "-h"}, words
        return
    if "--help" in words:
        return
    context = command.make_context(name, list(words))
    if name in ("run", "calibrate"):
        with_flags(None, {k: v for k, v in context.params.items() if k in FLAGS or k in ("energy", "q_pixel", "semiangle")})
