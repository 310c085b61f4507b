"""The pages for contributors say what is true of this tree."""

import ast
import re
import warnings
from pathlib import Path

import pytest

import gpu4d
from gpu4d import deprecation

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = CHECKOUT / "docs" / "contributing"
FOLDERS = ("gpu4d/", "kernels/", "cpu_fallback/", "tests/", "benchmarks/", "docs/")


def text(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["setup.md", "map.md", "checklists.md", "deprecation.md", "submit-a-result.md"])
def test_the_files_they_name_exist(page):
    named = {n for n in re.findall(r"`([\w./]+)`", text(page)) if n.startswith(FOLDERS) and "NAME" not in n}
    missing = sorted(n for n in named if not (CHECKOUT / n).exists())
    assert not missing, f"docs/contributing/{page} names {missing}, which are not there"


def test_the_drawing_is_what_the_imports_are_held_to():
    """`test_imports` compares FLOORS with the code."""
    tree = ast.parse((CHECKOUT / "tests" / "project" / "test_imports.py").read_text(encoding="utf-8"))
    (floors,) = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "FLOORS"]
    drawing = text("map.md").partition("```text\n")[2].partition("```")[0].splitlines()
    assert [set(line.split()) for line in reversed(drawing)] == [{room for room in floor if room} for floor in floors]


@pytest.mark.parametrize(("shown", "example"), [("corner.py", "toy_stage.py"), ("toy.py", "toy_format.py")])
def test_the_worked_examples_have_the_size_the_page_shows(shown, example):
    lines = len((CHECKOUT / "tests" / "contracts" / example).read_text(encoding="utf-8").splitlines())
    new, edited = re.search(rf"__init__\.py +\| +(\d+) \+\n.*{re.escape(shown)} +\| (\d+)", text("checklists.md")).groups()[::-1]
    assert (int(new), int(edited)) == (lines, 1)


def test_what_is_deprecated_goes_in_time():
    """Two minor releases after its first warning."""
    now = tuple(int(n) for n in gpu4d.__version__.split(".")[:2])
    late = [name for name, goes in deprecation.REMOVALS.items() if name.startswith("gpu4d.") and now >= tuple(map(int, goes.split(".")))]
    assert not late, f"remove {late}"


def test_a_deprecated_name_works_and_warns_at_the_callers_line():
    @deprecation.deprecated(since="0.9", use="new")
    def old(x, *, y=1):
        """Add."""
        return x + y

    with pytest.warns(FutureWarning, match=r"old is deprecated since gpu4d 0\.9 and will be removed in 0\.11: use new") as seen:
        assert old(1, y=2) == 3
    assert seen[0].filename == __file__ and old.__doc__ == "Add."


def test_a_renamed_parameter_works_under_both_names():
    @deprecation.renamed_parameter("centre", "origin", since="0.2")
    def shifted(x, origin=0):
        return x - origin

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shifted(3, origin=1) == 2
    with pytest.warns(FutureWarning, match=r"shifted: centre= is deprecated"):
        assert shifted(3, centre=1) == 2
    with pytest.raises(TypeError, match="both centre= and origin="):
        shifted(3, centre=1, origin=1)


def test_a_version_is_major_and_minor():
    with pytest.raises(ValueError, match=r"need major\.minor"):
        deprecation.removed_in("0.2.1")


def test_tests_stand_in_folders_named_as_rooms():
    """`map.md` lists the folders that are no rooms."""
    rooms = {path.name for path in (CHECKOUT / "gpu4d").iterdir() if (path / "__init__.py").is_file()}
    others = set(re.findall(r"^\| `tests/(\w+)/` \|", text("map.md"), re.MULTILINE))
    folders = {path.name for path in (CHECKOUT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert others <= folders
    assert folders - others <= rooms
    files = {path.stem.removeprefix("test_") for path in (CHECKOUT / "tests").glob("test_*.py")}
    assert files <= {path.stem for path in (CHECKOUT / "gpu4d").glob("*.py")}
