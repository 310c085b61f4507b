"""Every command line of README and the pages is one that the program takes. Files, extras and scripts that it names exist."""

import functools
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def blocks(text: str) -> list[str]:
    """Lines of fenced blocks for shells, and of blocks that are indented outside of any fence. Continued lines are one."""
    lines: list[str] = []
    fence = None
    for line in text.replace("\\\n", " ").splitlines():
        if mark := re.match(r"\s*```(\w*)", line):
            fence = None if fence is not None else mark[1]
        elif fence in ("sh", "console", "bash") or (fence is None and re.match(rf"    (?:{'|'.join(FOR_CALLS)}) ", line)):
            lines.append(line.strip())
    return lines


def commands(page: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield the words of each command of a page, and whether it stands in a sentence. There, … stands for what the reader knows."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    outside = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.S | re.M)
    inline = re.findall(rf"(?<!`)`((?:\.venv/bin/)?(?:{'|'.join(FOR_CALLS)}) [^`…]+)`(?!`)", outside)
    for in_sentence, lines in ((False, blocks(text)), (True, inline)):
        for part in (part for line in lines for part in re.split(r"\s+(?:&&|\|)\s+", line)):
            words = shlex.split(part, comments=True)
            while words and (words[0] == "$" or re.match(r"[A-Z_]+=", words[0])):  # a prompt, and variables for one command
                words = words[1:]
            if words:
                yield in_sentence, [words[0].removeprefix(".venv/bin/"), *words[1:]]


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


def check_pip(words: list[str]) -> None:
    """Extras of gpu4d that are installed exist."""
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        if asked := re.fullmatch(r"(?:gpu4d|\.)\[([\w,]+)\]", word):
            assert set(asked[1].split(",")) <= set(extras), word


def check_python(words: list[str]) -> None:
    """A script exists, and has the flags in its text; a module can be found."""
    words = [word for word in words if word not in ("-P", "-q")]
    if words[0] == "-c":
        compile(words[1], "page", "exec")
    elif words[0] == "-m":
        if words[1] == "pip":
            check_pip(words[2:])
        else:
            assert importlib.util.find_spec(words[1]), words
    else:
        script = CHECKOUT / words[0]
        assert script.is_file(), words
        text = "".join(path.read_text(encoding="utf-8") for path in script.parent.rglob("*.py"))  # flags may be read beside it
        for flag in (word for word in words[1:] if word.startswith("--")):
            assert f'"{flag}"' in text, f"{words[0]} has no {flag}"


def check_pytest(words: list[str]) -> None:
    """Files exist, and marks are ours."""
    marks = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]["markers"]
    known = {re.match(r"\w+", mark)[0] for mark in marks}
    for before, word in zip(["", *words], words):
        if word.startswith("tests/"):
            assert (CHECKOUT / word.partition("::")[0]).exists(), word
        if before == "-m":
            assert set(re.findall(r"\w+", word)) - {"and", "or", "not"} <= known, word


CHECKS = {
    "gpu4d": check_gpu4d,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
    "pytest": check_pytest,
    "sphinx-build": lambda words: [(CHECKOUT / "docs" / "conf.py").read_text(encoding="utf-8")],
}


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]])
def test_their_commands_are_accepted(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for in_sentence, (program, *words) in commands(page):
        if program in OTHERS or "=" in program:
            continue
        assert program in CHECKS, f"{page}: say in this file what {program} takes"
        try:
            CHECKS[program](words)
        except Exception as error:
            if in_sentence and re.search("Missing parameter|requires an argument", str(error)):
                continue  # a sentence may name a command or a flag without its values
            wrong.append(f"{program} {' '.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_wrong_commands_are_found(tmp_path):
    """This file would pass everything if it read nothing."""
    for words in (["run", "scan.h5", "--memry", "1GB"], ["bench", "predikt"], ["run", "scan.h5", "--energy", "much"]):
        with pytest.raises(Exception, match=r"memry|predikt|much"):
            check_gpu4d(words)
    for check, words in (
        (check_pip, ["install", "gpu4d[apps]"]),
        (check_python, ["benchmarks/peers/compare.py", "--quickly"]),
        (check_pytest, ["-m", "slowly"]),
    ):
        with pytest.raises(AssertionError):
            check(words)
    text = "a\n```sh\npip x  # y\ngpu4d run a \\\n  --bin 2\n```\n    gpu4d info b\n```python\n    gpu4d run c\n```\n"
    assert blocks(text) == ["pip x  # y", "gpu4d run a    --bin 2", "gpu4d info b"]


QUESTIONS = [page for page in PAGES if page.startswith("docs/questions/")]


@pytest.mark.parametrize("page", QUESTIONS)
def test_questions_are_short_and_end_in_a_command(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert re.search(r"```sh\n[^`]+```\s*\Z", text), "the last thing on the page is a command"
