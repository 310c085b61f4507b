"""Put the page together: its files stand in the folder `front_end`, and need no other tool and no other site."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from importlib import resources

SCRIPTS = ("drawing.js", "panel.js", "sources.js", "viewer.js")  # one module, in this order
ELEMENT = '<div id="gpu4d-view" class="gpu4d-view"></div>'


@functools.cache
def _text(name: str) -> str:
    return resources.files("gpu4d.view").joinpath("front_end", name).read_text(encoding="utf-8")


def module() -> str:
    """Return all functions of the front end as one JavaScript module. It does nothing by itself."""
    return "\n".join(_text(name) for name in SCRIPTS)


def script() -> str:
    """Return the module, with the line that shows the scan of the server that sent it."""
    return f"{module()}\nglobalThis.gpu4dView = await startFromServer(document.getElementById('gpu4d-view'));\n"


def style() -> str:
    """Return the style sheet."""
    return _text("viewer.css")


def page_of_server() -> str:
    """Return the page that a server sends. Its script and its style are files of the same server."""
    head = '<link rel="stylesheet" href="/view.css">\n<script type="module" src="/view.js"></script>'
    return _page("gpu4d view", head, ELEMENT)


def part(data: str, name: str = "gpu4d-view") -> str:
    """Return a part of a page: the scan as JSON, the script and the style, in an element of its own.

    Parameters
    ----------
    data : str
        JSON of a packed scan.
    name : str
        Id of the element; different for several parts of one page.
    """
    start = f"\nglobalThis.gpu4dView = await startFromPage(document.getElementById('{name}'), document.getElementById('{name}-data'));\n"
    safe = data.replace("</", "<\\/").replace("<!--", "<\\!--")
    return (
        f"<style>{style()}</style>\n"
        f'<div id="{name}" class="gpu4d-view"></div>\n'
        f'<script type="application/json" id="{name}-data">{safe}</script>\n'
        f'<script type="module">{module()}{start}</script>'
    )


def script_source(part: str) -> str:
    """Return what a policy of a page must allow, so that the script of a part runs: its hash."""
    code = part[part.index('<script type="module">') + len('<script type="module">') : part.rindex("</script>")]
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def page(title: str, data: str) -> str:
    """Return a page that needs no server and no other file."""
    body = part(data)
    policy = f"default-src 'none'; script-src {script_source(body)}; style-src 'unsafe-inline'; img-src data: blob:"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return _page(title, head, body)


def _page(title: str, head: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{head}\n<title>{html.escape(title)}</title>\n</head>\n<body>\n"
        f"{body}\n"
        "</body>\n</html>\n"
    )
