"""`gpu4d init`: what it writes is accepted by the other commands, and nothing that exists is changed."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from gpu4d.errors import InputError
from gpu4d.workflow import Recipe
from gpu4d.workflow.workspace import SCANS, contents, make_workspace

RECIPES = ("amorphous", "dpc", "orientation", "ssb", "strain")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "new" / "workspace"
    done = make_workspace(folder)
    assert not done.kept and {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()} == set(done.written)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_so_is_what_it_proposes(name, workspace, tmp_path):
    """With and without the settings that are commented out."""
    path = workspace / "recipes" / f"{name}.toml"
    Recipe.load(path).resolve()
    lines = [re.sub(r"^# (?=\w+ = )", "", line) for line in path.read_text().splitlines()]
    assert lines != path.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("calibration = ")]  # a file that is not there
    (tmp_path / "all.toml").write_text("\n".join(lines))
    used = Recipe.load(tmp_path / "all.toml")
    assert len(used.given) > len(Recipe.load(path).given)
    assert not used.advice(), "proposals are within the recommended ranges"


def test_every_recipe_of_the_folder_is_named_in_the_readme(workspace):
    text = (workspace / "README.md").read_text()
    assert {path.stem for path in (workspace / "recipes").iterdir()} == set(RECIPES)
    assert all(f"`{name}.toml`" in text for name in RECIPES)
    for name in contents():
        assert f"`{name.partition('/')[0]}`" in text or name == "README.md"


def test_commands_of_the_workspace_exist(workspace):
    import click

    from gpu4d.cli import _commands

    known = _commands()
    for name in ("README.md", "run-all.sh", "slurm-batch.sh"):
        for line in re.findall(r"gpu4d ([a-z][^`\n]*)", (workspace / name).read_text()):
            words = line.split()
            command = known.commands.get(words[0])
            if words[0] == "batch" and command is None:
                continue  # not in this version
            assert command is not None, line
            if isinstance(command, click.Group):
                command = command.commands[words[1]]
            flags = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", line)) - {"--standard"} <= flags, line


def test_nothing_is_changed_that_exists(tmp_path):
    mine = tmp_path / "recipes" / "strain.toml"
    mine.parent.mkdir()
    mine.write_text("mine")
    (tmp_path / "run-all.sh").symlink_to("nowhere")
    done = make_workspace(tmp_path)
    assert set(done.kept) == {"recipes/strain.toml", "run-all.sh"} and mine.read_text() == "mine"
    assert os.readlink(tmp_path / "run-all.sh") == "nowhere"
    again = make_workspace(tmp_path)
    assert not again.written and set(again.kept) == set(contents())
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / SCANS).is_dir()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="cannot be made a workspace"):
        make_workspace(tmp_path / "a")


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="scripts are for shells of Unix")
def test_tasks_of_slurm_take_one_scan_each(workspace, tmp_path):
    """A stand-in for gpu4d writes down what it is called with. Names have blanks; a scan that is done is skipped."""
    folder = tmp_path / "copy of it"
    shutil.copytree(workspace, folder)
    for name in ("b scan.h5", "a.h5", "notes.txt"):
        (folder / SCANS / name).touch()
    stand_in = tmp_path / "bin" / "gpu4d"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done >> called\nmkdir -p "$4" && touch "$4/result.h5"\n')
    stand_in.chmod(0o755)

    def task(*words, **given):
        environment = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", **given}
        return subprocess.run(["./slurm-batch.sh", *words], cwd=folder, env=environment, capture_output=True, text=True)

    assert task("--count").stdout == "2\n"
    assert task(SLURM_ARRAY_TASK_ID="2").returncode == 0
    called = (folder / "called").read_text().splitlines()
    assert called[:4] == ["run", "scans/b scan.h5", "-o", "results/b scan"] and "recipes/strain.toml" in called
    assert "nothing to do" in task(SLURM_ARRAY_TASK_ID="2").stdout and len((folder / "called").read_text().splitlines()) == len(called)
    late = task(SLURM_ARRAY_TASK_ID="3")
    assert late.returncode == 1 and "there are 2 files" in late.stderr
    assert "sbatch --array" in task().stderr


@pytest.mark.skipif(sys.platform == "win32", reason="scripts are for shells of Unix")
def test_all_scans_are_given_to_one_command(workspace, tmp_path):
    stand_in = tmp_path / "gpu4d"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECIPE": "recipes/dpc.toml"}
    done = subprocess.run([workspace / "run-all.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["recipe check recipes/dpc.toml", "batch scans -o results --recipe recipes/dpc.toml"], done.stderr


def test_the_command(tmp_path):
    from click.testing import CliRunner

    from gpu4d.cli import _commands

    done = CliRunner().invoke(_commands(), ["init", str(tmp_path / "w")])
    assert done.exit_code == 0 and "gpu4d info scans/scan.h5" in done.output and (tmp_path / "w" / "first-look.ipynb").is_file()
