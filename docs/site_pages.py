"""Pages of the site that are made from other files, and what is changed while pages are read.

``conf.py`` calls these functions. Nothing here is part of the library.
"""

import inspect
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gpu4d
from gpu4d.operation import Operation

DOCS = Path(__file__).resolve().parent
SECTION = re.compile(r"\*\*(.+?)\*\*: (.+)")
ITEM = re.compile(r"\* \[(.+?)\]\((.+?)\)(.*)")
SPAN = re.compile(r"(?<!\[)`(gpu4d(?:\.\w+)+)(\([^`<>]*\))?`")  # a name in backquotes that is not the text of a link
FENCE = re.compile(r"^\s*(```|~~~)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)\)")


class Section(NamedTuple):
    """A kind of pages: its title, what it is for, and the lines of its list."""

    title: str
    purpose: str
    lines: list[str]


def sections(readme: str) -> list[Section]:
    """Return the kinds of pages that docs/README.md lists, in its order."""
    found: list[Section] = []
    for line in readme.splitlines():
        if head := SECTION.fullmatch(line):
            found.append(Section(head[1], head[2], []))
        elif line.startswith("* ") and found:
            found[-1].lines.append(line)
    return found


def slug(title: str) -> str:
    """Return the name of the page of a kind: "How-to" is how-to."""
    return title.lower().replace(" ", "-")


def section_page(section: Section) -> str:
    """Return the page of a kind: the list with its links, and the same pages for the menu."""
    lines, menu = [], []
    for line in section.lines:
        item = ITEM.fullmatch(line)
        lines.append(re.sub(r"\]\((?!https:)", "](../", line))
        if item and item[2].endswith(".md"):
            menu.append("/" + item[2].removesuffix(".md"))
    if section.title == "Reference":
        menu.insert(0, "/generated/api/index")
        menu += sorted(f"/reference/kernels/{page.stem}" for page in (DOCS / "reference" / "kernels").glob("*.md"))
        lines.insert(0, "* [All functions](api/index.rst): every public function and class, with its signature and an example.")
    if section.title == "Contributing":
        menu.append("/generated/changelog")
        lines.append("* [Changes](changelog.md): what is new, and who is affected.")
    purpose = section.purpose[0].upper() + section.purpose[1:]
    body = "\n".join(lines)
    return f"# {section.title}\n\n{purpose}\n\n{body}\n\n```{{toctree}}\n:hidden:\n\n" + "\n".join(menu) + "\n```\n"


def changelog_page(text: str) -> str:
    """Return the change log with links as seen from the site's folder."""
    return re.sub(r"\]\(docs/", "](../", text)


def rooms() -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the front door and each of its modules by name, with the public functions and classes in it."""
    modules = {name: getattr(gpu4d, name) for name in sorted(gpu4d.__all__) if inspect.ismodule(getattr(gpu4d, name))}
    yield "gpu4d", {name: getattr(gpu4d, name) for name in sorted(gpu4d.__all__) if name not in modules and name[0] != "_"}
    for name, module in modules.items():
        names = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
        yield f"gpu4d.{name}", {one: getattr(module, one) for one in names if not inspect.ismodule(getattr(module, one))}


def pages_of_names() -> dict[str, str]:
    """Return the full name under which each public name is documented. A thing with two names has one page, of the first."""
    first: dict[int, str] = {}
    return {f"{room}.{name}": first.setdefault(id(thing), f"{room}.{name}") for room, names in rooms() for name, thing in names.items()}


def is_described(thing: object) -> bool:
    """Return True for functions, operations and classes. Tables and names of types have no page."""
    return inspect.isfunction(thing) or inspect.isclass(thing) or isinstance(thing, Operation)


def api_page(name: str, thing: object) -> str:
    """Return the page of one public name. It is in no menu: the menu stands on every page, and would be several times as long."""
    kind = "autoclass" if inspect.isclass(thing) else "autofunction"
    members = "   :members:\n" if inspect.isclass(thing) else ""
    return f":orphan:\n\n{name}\n{'=' * len(name)}\n\n.. {kind}:: {name}\n{members}"


def first_line(thing: object) -> str:
    """Return the first sentence of a docstring, for tables."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "").partition("\n\n")[0].replace("\n", " ")
    return text.replace("|", r"\|").replace("*", r"\*")


def write_api(folder: Path) -> None:
    """Write a page for each public name, and one with all of them by module."""
    folder.mkdir(parents=True)
    pages = pages_of_names()
    index = ["All functions", "=============", ""]
    for room, names in rooms():
        described = {name: thing for name, thing in names.items() if is_described(thing)}
        if not described:
            continue
        purpose = first_line(gpu4d if room == "gpu4d" else getattr(gpu4d, room.partition(".")[2]))
        index += [room, "-" * len(room), "", purpose, "", ".. list-table::", "   :widths: 40 60", ""]
        for name, thing in described.items():
            page = pages[f"{room}.{name}"]
            index += [f"   * - :py:obj:`{name} <{page}>`", f"     - {first_line(thing)}"]
            if page == f"{room}.{name}":
                (folder / f"{page}.rst").write_text(api_page(page, thing), encoding="utf-8")
        index.append("")
    (folder / "index.rst").write_text("\n".join(index), encoding="utf-8")


def make_pages(docs: Path) -> None:
    """Write the folder ``generated`` anew, but for the gallery in it, which sphinx-gallery keeps."""
    made = docs / "generated"
    shutil.rmtree(made / "api", ignore_errors=True)
    made.mkdir(exist_ok=True)
    for section in sections((docs / "README.md").read_text(encoding="utf-8")):
        (made / f"{slug(section.title)}.md").write_text(section_page(section), encoding="utf-8")
    (made / "changelog.md").write_text(changelog_page((docs.parent / "CHANGELOG.md").read_text(encoding="utf-8")), encoding="utf-8")
    write_api(made / "api")


def link_names(app: object, page: str, source: list[str]) -> None:
    """Link names in backquotes to their pages, and the list of pages to the site's own. Code blocks stay as they are."""
    if not (DOCS / f"{page}.md").is_file():
        return
    here, known, inside, lines = (DOCS / page).parent, pages_of_names(), False, []
    for line in source[0].split("\n"):
        if FENCE.match(line):
            inside = not inside
        lines.append(line if inside else LINK.sub(lambda link: _link(link, here), SPAN.sub(lambda span: _span(span, known), line)))
    source[0] = "\n".join(lines)


def _span(span: re.Match[str], known: dict[str, str]) -> str:
    """Return the role that links a name to its page, or the span as it is."""
    name = span[1]
    if name not in known:
        return span[0]
    return f"{{py:obj}}`{name}{span[2] or ''} <{known[name]}>`"


def _link(link: re.Match[str], here: Path) -> str:
    """Return a link that the site has: a script of the gallery is a page there, and so is a folder that is a kind of pages."""
    target = (here / link[2]).resolve()
    made = None
    if target == DOCS / "README.md":
        made = "index.md"
    elif target == DOCS / "gallery" / "README.rst":
        made = "generated/gallery/index.rst"
    elif target.parent == DOCS / "gallery":
        made = f"generated/gallery/{target.stem}.rst"
    elif target.is_dir():
        made = f"generated/{target.name}.md"
        if not (DOCS / made).is_file():
            return link[1]
    return f"[{link[1]}](/{made})" if made else link[0]


def plain_docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escape characters of formulas that reStructuredText takes for marks: \\|g\\| is a length, and \\* a product."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            mark, text = re.match(r"(\s*(?:\* )?)(.*)", line).groups()  # of a list
            parts = re.split(r"(``.*?``|`[^`]*`)", text)
            lines[number] = mark + "".join(_plain(part) for part in parts)


def _plain(part: str) -> str:
    """Return a part of a line of a docstring. Names of the front door are links; others, which several things may have, are code."""
    if part.startswith("`") and part.strip("`") in gpu4d.__all__:
        return f":py:obj:`{part.strip('`')} <gpu4d.{part.strip('`')}>`"
    if part.startswith("``") or part.startswith("`gpu4d."):
        return part
    return f"`{part}`" if part.startswith("`") else part.replace("|", r"\|").replace("*", r"\*")


def heading_slug(title: str) -> str:
    """Return the anchor of a heading as code hosts make it: letters, digits and hyphens; 512² becomes 512."""
    return "".join(c for c in title.lower().replace(" ", "-") if c in "-_" or unicodedata.category(c)[0] in "LM" or c.isdecimal())


def keep_figure(block: tuple, block_vars: dict, gallery_conf: dict) -> str:
    """Save the picture that a script of the gallery has made in this block. gpu4d draws without pyplot, which others watch."""
    from sphinx_gallery.scrapers import figure_rst

    from gpu4d.plot.canvas import figure_of

    variables = block_vars["example_globals"]
    picture = variables.get("picture")
    if picture is None or variables.get("_shown") is picture:
        return ""
    variables["_shown"] = picture
    path = next(iter(block_vars["image_path_iterator"]))
    figure_of(picture).savefig(path, dpi=110)
    return figure_rst([str(path)], gallery_conf["src_dir"])
