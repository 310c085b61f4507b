"""Every command line of README and the pages is one that the program takes. Files, extras and scripts that it names exist."""

import importlib.util
import re
import tomllib

import pytest
from page_commands import CHECKOUT, OTHERS, PAGES, check_gpu4d, commands, parts


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
    for program, words, in_sentence, _ in commands(page):
        if program in OTHERS or "=" in program:
            continue
        assert program in CHECKS, f"{page}: say in this file what {program} takes"
        try:
            CHECKS[program]([*words])
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
    text = "a\n```sh\npip x  # y\ngpu4d run a \\\n  --bin 2\n```\n    gpu4d info b\n`gpu4d view c`\n```python\n    gpu4d run c\n```\n"
    assert [*parts(text)] == [(False, "pip x  # y"), (False, "gpu4d run a    --bin 2"), (False, "gpu4d info b"), (True, "gpu4d view c")]


QUESTIONS = [page for page in PAGES if page.startswith("docs/questions/")]


@pytest.mark.parametrize("page", QUESTIONS)
def test_questions_are_short_and_end_in_a_command(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert re.search(r"```sh\n[^`]+```\s*\Z", text), "the last thing on the page is a command"
