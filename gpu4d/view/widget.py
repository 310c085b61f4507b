"""Show a scan in a notebook: the same viewer as in the browser, which asks the kernel instead of a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Unpack

from gpu4d.data.datacube import DataCube
from gpu4d.errors import Gpu4dError, InputError
from gpu4d.on_host import on_host
from gpu4d.view import front_end
from gpu4d.view.answers import Answers, Outdated
from gpu4d.view.scan_view import ScanView, Spoken, ViewOptions, view_of

if TYPE_CHECKING:
    from anywidget import AnyWidget

RENDER = """
export default {
  async render({ model, el }) {
    const root = document.createElement("div");
    root.className = "gpu4d-view";
    el.append(root);
    globalThis.gpu4dView = await mount(root, widgetSource(model));
  },
};
"""


@on_host("shown")
def widget(scan: DataCube | ScanView, **options: Unpack[ViewOptions]) -> AnyWidget:
    """Make a widget for a notebook, in which a virtual detector is dragged and patterns are picked.

    Parameters
    ----------
    scan : DataCube or ScanView
        A ScanView is what `gpu4d.view.open_view` and `view_of` return.
    **options
        `title`, `device`, `memory` and `progress`, as of `view_of`.

    Returns
    -------
    AnyWidget
        Jupyter, VS Code and Marimo show it.

    Raises
    ------
    InputError
        anywidget is not installed: it comes with the extra `view`.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError("a widget needs anywidget: pip install 'gpu4d[view]'; or serve a page with `gpu4d view FILE`") from error

    class ViewWidget(anywidget.AnyWidget):
        """The viewer of gpu4d."""

        _esm = front_end.module() + RENDER
        _css = front_end.style()
        about = traitlets.Unicode("{}").tag(sync=True)

    view = scan if isinstance(scan, ScanView) else view_of(scan, **options)
    answers = Answers(view)
    made = ViewWidget(about=json.dumps(view.about()))
    made.on_msg(lambda shown, content, _buffers: shown.send(*reply(answers, content)))
    return made


def reply(answers: Answers, content: Spoken) -> tuple[Spoken, list[bytes]]:
    """Return what is sent for a message of the page: the answer with the message's number, and its values as float64, little-endian.

    Parameters
    ----------
    answers : Answers
    content : dict
        A request, as of `Answers.answer`, and its `number`.
    """
    number = content.get("number") if isinstance(content, dict) else None
    try:
        said, values = answers.answer(content)
    except Outdated:
        return {"number": number, "outdated": True}, []
    except Gpu4dError as error:
        return {"number": number, "error": str(error)}, []
    return {"number": number, **said}, [values.astype("<f8", copy=False).tobytes()]
