"""Make the picture of README and the example report from a demo: ``gpu4d demo && python docs/demo_pictures.py gpu4d-demo``.

Pictures are reduced to few colours, so that the clone stays small. The report is otherwise as the demo wrote it, but for
the folder in which the demo lies.
"""

import base64
import io
import re
import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
COLOURS = 256  # a picture has a map of one or two colour scales, and text
PANEL = (352, 332)  # pixels, a bit less than half of a picture of one panel in the report
ONE = (856, 808)  # pixels of a picture of one panel in the report
PANELS = ("mean_pattern", "strain", "phase_object_dpc_field", "phase_object_ssb_phase")


def reduced(picture: Image.Image) -> bytes:
    """Return a picture as PNG of few colours."""
    written = io.BytesIO()
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return written.getvalue()


def report(text: str) -> str:
    """Return the report with smaller pictures."""

    def smaller(found: re.Match[str]) -> str:
        picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
        return "data:image/png;base64," + base64.b64encode(reduced(picture)).decode("ascii")

    return re.sub(r"data:image/png;base64,([A-Za-z0-9+/=]+)", smaller, text)


def row_of_panels(folder: Path) -> Image.Image:
    """Return four pictures of the demo beside each other. Of strain, it is the first of four panels."""
    row = Image.new("RGB", (PANEL[0] * len(PANELS), PANEL[1]), "white")
    for number, name in enumerate(PANELS):
        picture = Image.open(folder / f"{name}.png").convert("RGB")
        first = picture.crop((0, 0, *ONE))
        row.paste(first.resize(PANEL, Image.Resampling.LANCZOS), (number * PANEL[0], 0))
    return row


if __name__ == "__main__":
    demo = Path(sys.argv[1])
    row_of_panels(demo).save(DOCS / "pictures" / "demo.png", optimize=True)
    text = (demo / "report.html").read_text(encoding="utf-8").replace(f"{demo.resolve().parent}/", "")
    (DOCS / "examples" / "report.html").write_text(report(text), encoding="utf-8")
