"""What the code of a run is said to be: of a wheel, of a commit, changed, or with implementations of others."""

import base64
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gpu4d.benchmarks.suite import provenance

import gpu4d
from gpu4d.operation import OPERATIONS, Operation, Twin, all_operations


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def small_checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of git with one file in each folder; gpu4d seems to lie in it."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path / "checkout"
    for folder in provenance.FOLDERS:
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").write_text(f'"""{folder}."""\n')
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "README.md").write_text("no code\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(gpu4d, "__file__", str(root / "gpu4d" / "__init__.py"))
    return root


def test_a_checkout_has_its_commit_and_no_change(small_checkout):
    found = provenance.code()
    assert found["origin"] == "checkout" and found["changed"] == []
    assert found["commit"] == git(small_checkout, "rev-parse", "HEAD").strip()
    assert provenance.hash_of_commit(found["commit"]) == found["sha256"]
    assert provenance.hash_of_commit("0" * 40) is None and provenance.hash_of_commit("--help") is None


def test_changes_of_code_are_listed_and_others_are_not(small_checkout):
    before = provenance.code()
    (small_checkout / "kernels" / "__init__.py").write_text("changed = 1\n")
    (small_checkout / "kernels" / "added.cu").write_text("// new\n")
    (small_checkout / "gpu4d" / "__init__.py").unlink()
    (small_checkout / "README.md").write_text("other words\n")
    results = small_checkout / "benchmarks" / "results"
    results.mkdir()
    (results / "mine.json").write_text("{}")
    found = provenance.code()
    assert found["changed"] == ["gpu4d/__init__.py", "kernels/__init__.py", "kernels/added.cu"]
    assert found["sha256"] != before["sha256"] and provenance.hash_of_commit(found["commit"]) == before["sha256"]


def test_line_ends_of_windows_give_the_same_hash(small_checkout):
    before = provenance.code()["sha256"]
    (small_checkout / "kernels" / "__init__.py").write_bytes(b'"""kernels."""\r\n')
    assert provenance.code()["sha256"] == before


def test_a_folder_below_another_checkout_is_no_checkout(small_checkout, monkeypatch):
    """As a site-packages inside somebody's repository."""
    below = small_checkout / "site-packages" / "gpu4d"
    below.mkdir(parents=True)
    (below / "__init__.py").write_text("")
    monkeypatch.setattr(gpu4d, "__file__", str(below / "__init__.py"))
    found = provenance.code()
    assert found["origin"] == "unknown" and found["commit"] is None


class Installed:
    """What importlib.metadata says of a package that was installed from a wheel into a folder."""

    def __init__(self, site: Path):
        self.files = []
        for path in sorted((site / "gpu4d").rglob("*")):
            if path.is_file():
                file = importlib.metadata.PackagePath(path.relative_to(site))
                file.dist = self
                digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
                file.hash = importlib.metadata.FileHash(f"sha256={digest}")
                self.files.append(file)
        self.site = site

    def locate_file(self, path):
        return self.site / path


def installed_from(checkout: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay the files of a checkout out as a wheel does."""
    for folder, inside in provenance.FOLDERS.items():
        shutil.copytree(checkout / folder, site / "gpu4d" / inside, dirs_exist_ok=True)
    installed = Installed(site)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: installed)
    monkeypatch.setattr(gpu4d, "__file__", str(site / "gpu4d" / "__init__.py"))


def test_a_wheel_has_the_hash_of_its_commit_and_knows_every_changed_file(small_checkout, tmp_path, monkeypatch):
    of_checkout = provenance.code()["sha256"]
    site = tmp_path / "site"
    installed_from(small_checkout, site, monkeypatch)
    found = provenance.code()
    assert found == {"gpu4d": gpu4d.__version__, "origin": "wheel", "commit": None, "changed": [], "sha256": of_checkout}
    (site / "gpu4d" / "kernels" / "__init__.py").write_text("changed = 1\n")
    (site / "gpu4d" / "added.py").write_text("")
    (site / "gpu4d" / "benchmarks" / "__init__.py").unlink()
    assert provenance.code()["changed"] == ["gpu4d/added.py", "gpu4d/benchmarks/__init__.py (missing)", "gpu4d/kernels/__init__.py"]


def test_a_recorded_wheel_elsewhere_says_nothing_of_this_code(small_checkout, tmp_path, monkeypatch):
    here = gpu4d.__file__
    installed_from(small_checkout, tmp_path / "site", monkeypatch)
    monkeypatch.setattr(gpu4d, "__file__", here)
    assert provenance.code()["origin"] == "checkout"


def test_without_git_nothing_is_known_of_a_checkout(small_checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = provenance.code()
    assert found["origin"] == "unknown" and found["commit"] is None and len(found["sha256"]) == 64
    assert provenance.division(found, [], operations=())[0] == "open"


# ---------------------------------------------------------------- divisions

CLEAN = {"origin": "wheel", "changed": []}


def test_shipped_code_is_closed():
    assert provenance.division(CLEAN, [], "announced") == ("closed", [])
    assert provenance.division(CLEAN, [], "drawn") == ("closed", [])


@pytest.mark.parametrize(
    ("code", "plugins", "seed_is", "why"),
    [
        (CLEAN | {"changed": ["gpu4d/fft.py"]}, [], "announced", "1 source files were changed: gpu4d/fft.py"),
        (CLEAN | {"origin": "unknown"}, [], "announced", "no origin"),
        (CLEAN, ["fast_sums"], "announced", "plug-ins were loaded: fast_sums"),
        (CLEAN, [], "given", "the seed was chosen"),
    ],
)
def test_everything_else_is_open(code, plugins, seed_is, why):
    division, reasons = provenance.division(code, plugins, seed_is, operations=())
    assert division == "open" and len(reasons) == 1 and why in reasons[0]


def an_operation(definition, **twins) -> Operation:
    """An operation that is not left in the list of all."""
    known = dict(OPERATIONS)
    made = Operation(definition, twins)
    OPERATIONS.clear()
    OPERATIONS.update(known)
    return made


def test_a_twin_of_another_module_is_open():
    own = all_operations()["masked_sums"]
    made = an_operation(own.definition, cpu=Twin("fast_sums"))
    assert provenance.foreign_code([own]) == [] and provenance.foreign_code([made]) == ["masked_sums: cpu of fast_sums"]


def test_a_twin_that_was_replaced_in_its_own_module_is_open(monkeypatch):
    from gpu4d.cpu_fallback import masked_sums

    monkeypatch.setattr(masked_sums, "masked_sums", lambda patterns, masks: patterns)
    assert provenance.foreign_code([all_operations()["masked_sums"]]) == ["masked_sums: cpu of gpu4d.cpu_fallback.masked_sums"]


def test_a_definition_of_another_package_is_open():
    def masked_sums(patterns, masks):
        return patterns

    assert provenance.foreign_code([an_operation(masked_sums)]) == [f"masked_sums: definition of {masked_sums.__module__}"]


@pytest.mark.slow
def test_a_wheel_that_was_built_has_the_hash_of_its_checkout(checkout, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "docs"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, copy]
    subprocess.run(command, check=True, cwd=tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    of_wheel = provenance.source_hash(provenance._contents(tmp_path / "site" / "gpu4d"))
    assert of_wheel == provenance.source_hash(provenance._contents(checkout / "gpu4d"))
