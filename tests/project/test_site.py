"""The site: scripts of the gallery run and draw, its menu has every page, and names lead to their functions."""

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from forking import Forks

import gpu4d

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
SCRIPTS = sorted(path.stem for path in (DOCS / "gallery").glob("plot_*.py"))
DRAWN = """
import io
import numpy as np
from gpu4d.plot.canvas import figure_of
from matplotlib.image import imread

drawn = io.BytesIO()
figure_of(picture).savefig(drawn, format="png", dpi=50)
drawn.seek(0)
colours = np.unique(imread(drawn).reshape(-1, 4), axis=0)
assert len(colours) > 50, f"the picture has {len(colours)} colours"
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """What makes pages of the site, docs/site_pages.py."""
    wanted = importlib.util.spec_from_file_location("site_pages", DOCS / "site_pages.py")
    module = importlib.util.module_from_spec(wanted)
    sys.modules["site_pages"] = module  # named tuples look for their module
    wanted.loader.exec_module(module)
    return module


def test_there_are_enough_scripts():
    assert len(SCRIPTS) >= 15


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_have_a_title(name):
    text = (DOCS / "gallery" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 55, "40 lines of code, with its text"
    assert len([line for line in text.partition('"""\n\n')[2].splitlines() if line.strip()]) <= 40
    title, rule = text.splitlines()[1:3]
    assert set(rule) == {"="} and len(rule) == len(title)


@pytest.mark.exhaustive  # the build of the site runs them too, and ends if one fails
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs scripts in forks")
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run_and_draw(name, tmp_path, forks):
    code, said = forks.run((DOCS / "gallery" / f"{name}.py").read_text(encoding="utf-8") + DRAWN, tmp_path)
    assert code == 0, said


def test_every_page_is_in_the_list():
    """docs/README.md makes the menu of the site. Pages that another page shows as a part of it need no line."""
    readme = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", readme)}
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        if name.startswith(("generated/", "_build/", "reference/kernels/")) or name in ("README.md", "index.md"):
            continue
        assert name in listed, f"docs/README.md does not list {name}, so that the site has no way to it"


def test_the_ten_tasks_of_py4dstem_are_as_near_as_their_table_says():
    """One click is a link of the front page. The gallery is such a link, and its scripts are one click further."""
    front = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / "index.md").read_text(encoding="utf-8"))}
    table = (DOCS / "how-to" / "from-py4dstem.md").read_text(encoding="utf-8").partition("## Ten tasks")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if "](" in line]
    assert len(rows) >= 10
    for row in rows:
        pages = [(DOCS / "how-to" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", row)]
        clicks = row.rstrip(" |").rpartition("|")[2].strip()
        assert all(page.exists() for page in pages)
        if clicks == "1":
            assert set(pages) <= front, row
        else:
            assert clicks == "2, by the gallery" and DOCS / "gallery" / "README.rst" in front and pages[0].parent == DOCS / "gallery", row


def test_the_menu_is_that_of_the_list(site):
    text = "**How-to**: get it done.\n\n* [A](how-to/a.md): first.\n* Plain: [C](how-to/c.md#part).\n* [B](how-to/b.md#part): second.\n"
    (found,) = site.sections(text)
    page = site.section_page(found)
    assert found.title == "How-to" and site.slug(found.title) == "how-to"
    assert "* [A](../how-to/a.md): first.\n* Plain: [C](../how-to/c.md#part).\n* [B](../how-to/b.md#part): second." in page
    assert page.rstrip().endswith("/how-to/a\n```"), "a part of a page is no page"


def test_every_public_function_and_class_has_a_page(site, tmp_path):
    site.write_api(tmp_path / "api")
    made = {path.stem for path in (tmp_path / "api").glob("gpu4d*.rst")}
    index = (tmp_path / "api" / "index.rst").read_text(encoding="utf-8")
    for name in gpu4d.__all__:
        thing = getattr(gpu4d, name)
        if not inspect.ismodule(thing) and callable(thing):
            assert f"gpu4d.{name}" in made
    assert "gpu4d.calibrate.fit_rings" in made and "gpu4d.detectors.annulus" in made
    assert "gpu4d.deflection.dpc" not in made, "one thing has one page"
    assert all(f"<{name}>`" in index for name in made), "pages are in no menu, so the list must lead to each"


def test_names_and_folders_become_links_and_code_stays(site):
    text = "`gpu4d.dpc` and `gpu4d.dpc(cube)`, `gpu4d.nothing`, [`gpu4d.dpc`](x.md), [plug-in](../examples/plugin), [all](../README.md)"
    source = [f"{text}\n```python\n`gpu4d.dpc`\n```\n"]
    site.link_names(None, "how-to/dpc", source)
    assert source[0] == (
        "{py:obj}`gpu4d.dpc <gpu4d.dpc>` and {py:obj}`gpu4d.dpc(cube) <gpu4d.dpc>`, `gpu4d.nothing`, [`gpu4d.dpc`](x.md), plug-in, "
        "[all](/index.md)\n```python\n`gpu4d.dpc`\n```\n"
    )


def test_formulas_of_docstrings_are_no_marks(site):
    lines = ["|g| a * b `a|b` ``c*d`` `dpc`", "    * a * b", ">>> a * b | c"]
    site.plain_docstring(None, "function", "f", None, None, lines)
    assert lines == [r"\|g\| a \* b ``a|b`` ``c*d`` :py:obj:`dpc <gpu4d.dpc>`", r"    * a \* b", ">>> a * b | c"]


def test_anchors_are_those_of_code_hosts(site):
    assert site.heading_slug("SSB and WDD of 512² positions: `gpu4d`, what?") == "ssb-and-wdd-of-512-positions-gpu4d-what"


@pytest.mark.parametrize("form", ["bug", "wrong_number", "question", "new_format"])
def test_forms_for_issues_ask_for_what_is_needed(form, need):
    yaml = need("yaml")
    asked = yaml.safe_load((CHECKOUT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8"))
    assert asked["name"] and asked["description"] and asked["labels"]
    fields = [part for part in asked["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields) and any(part.get("validations", {}).get("required") for part in fields)


def test_pages_link_to_pages_that_the_site_has():
    """Pages outside of docs, such as README, are no pages of the site."""
    outside = [
        f"{page.relative_to(CHECKOUT)}: {link}"
        for page in DOCS.rglob("*.md")
        if not {"generated", "_build", "examples"} & set(page.relative_to(DOCS).parts) and page != DOCS / "README.md"
        for link in re.findall(r"\]\(([^)#\s:]+\.md)", page.read_text(encoding="utf-8"))
        if DOCS not in (page.parent / link).resolve().parents
    ]
    assert not outside
