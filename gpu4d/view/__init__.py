"""Look at a scan: a page of this computer or of a notebook, in which a virtual detector is dragged and patterns are picked.

`gpu4d view FILE` serves the page. `export_page` writes one that holds a binned scan and needs no Python. `widget` shows the same in a
notebook. The page is our own and has no other program in it: its files are in `front_end`.

Examples
--------
>>> import numpy as np
>>> from gpu4d.data.datacube import DataCube
>>> view = view_of(DataCube(np.ones((4, 5, 16, 16), "uint16")))
>>> view.virtual_image(detector_from({"shape": "disk", "center": [7.5, 7.5], "outer": 2}))[0][0, 0].item()
12.0
"""

from gpu4d.view.page import export_page, page_part
from gpu4d.view.results import open_view
from gpu4d.view.scan_view import Overlays, ScanView, detector_from, view_of
from gpu4d.view.server import ViewServer
from gpu4d.view.widget import widget

__all__ = ["Overlays", "ScanView", "ViewServer", "detector_from", "export_page", "open_view", "page_part", "view_of", "widget"]


def __dir__() -> list[str]:
    return list(__all__)
