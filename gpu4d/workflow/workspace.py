"""Make a workspace: a folder with recipes, scripts and a notebook to begin with. Nothing that exists is changed."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from gpu4d.errors import InputError

FILES = "workspace_files"  # beside this module: what is copied as it is
SCANS, NOTEBOOK = "scans", "first-look.ipynb"
SCRIPT = 0o755  # permissions of files that begin with #!

TEXT, CODE = "markdown", "code"
CELLS: tuple[tuple[str, str], ...] = (
    (TEXT, "# First look at a scan\n\nWrite the name of your scan below. Until there is one, a simulated crystal is taken."),
    (
        CODE,
        "from pathlib import Path\n\nimport gpu4d\n\n"
        'SCAN = Path("scans/scan.h5")\n\n'
        "cube = gpu4d.open(SCAN) if SCAN.exists() else gpu4d.simulate.bragg_scan((24, 24), (96, 96), dose=500, seed=1).cube\ncube",
    ),
    (
        TEXT,
        'Values that are "not known" can be given, as here. Without the energy, the semi-angle and the step, lengths are in pixels.',
    ),
    (
        CODE,
        "# cube.calibration.set(energy=200e3, semiangle=3.0, r_pixel=20.0)  # eV, mrad, Å\ncube.calibration",
    ),
    (TEXT, "One pass over the scan gives the mean pattern and the brightest value of every pixel. Nothing is loaded as a whole."),
    (
        CODE,
        'first = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}, progress=True)\n'
        'disk = gpu4d.probe.measure_disk(first["mean"])\n'
        "circle = [(disk.qx, disk.qy, disk.radius, \"bright-field disk\")]\n"
        'gpu4d.plot.diffraction(first["mean"], circles=circle)',
    ),
    (TEXT, "A bright-field and an annular dark-field image, in one pass."),
    (
        CODE,
        "detectors = {\n"
        '    "bf": gpu4d.detectors.disk(disk.radius),\n'
        '    "adf": gpu4d.detectors.annulus(1.2 * disk.radius, 3 * disk.radius),\n'
        "}\n"
        "images = gpu4d.virtual_image(cube, detectors, origin=(disk.qx, disk.qy), progress=True)\nimages",
    ),
    (TEXT, "Pictures go into your own figures by `ax=`."),
    (
        CODE,
        "import matplotlib.pyplot as plt\n\n"
        "figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout=\"constrained\")\n"
        'gpu4d.plot.image(images["bf"], "bright field", ax=left)\n'
        'gpu4d.plot.image(images["adf"], "dark field", ax=right);',
    ),
    (TEXT, "The whole analysis, as `gpu4d run` does it: the data decide which technique makes sense."),
    (CODE, 'state = gpu4d.workflow.analyse(cube, gpu4d.workflow.Recipe.load("recipes/strain.toml"))\nstate'),
    (CODE, 'state["strain"] if "strain" in state else sorted(state.results)'),
)  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """What `make_workspace` did.

    Attributes
    ----------
    folder : Path
    written, kept : tuple of str
        Names of files that were written, and of those that were there and are as they were.
    """

    folder: Path
    written: tuple[str, ...] = field(default=())
    kept: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Say in a few lines what is there, and which command comes next."""
        lines = [f"{self.folder / name}" for name in self.written]
        if self.kept:
            lines.append(f"kept as they were: {', '.join(self.kept)}")
        where = "" if self.folder == Path(".") else f"cd {self.folder}, "
        lines.append(f"next: {where}put scans into {SCANS}, then `gpu4d info {SCANS}/scan.h5`; README.md says what follows")
        return "\n".join(lines)


def make_workspace(folder: str | Path = ".") -> Workspace:
    """Write recipes, scripts, a notebook and a README into a folder. Files that exist are kept as they are.

    Parameters
    ----------
    folder : path
        It is made if it does not exist.

    Returns
    -------
    Workspace

    Raises
    ------
    InputError
        The folder cannot be written, or is a file.
    """
    folder = Path(folder)
    written: list[str] = []
    kept: list[str] = []
    try:
        (folder / SCANS).mkdir(parents=True, exist_ok=True)
        for name, text in contents().items():
            (written if _place(folder / name, text) else kept).append(name)
    except OSError as error:
        raise InputError(f"{folder} cannot be made a workspace ({error.strerror}): name another folder") from error
    return Workspace(folder, tuple(written), tuple(kept))


def contents() -> dict[str, str]:
    """Return the files of a workspace: names with their texts."""
    found = dict(_texts(resources.files("gpu4d.workflow") / FILES))
    found[NOTEBOOK] = notebook()
    return dict(sorted(found.items()))


def notebook() -> str:
    """Return the notebook as text in the format of Jupyter, nbformat 4.5."""
    cells = []
    for number, (kind, source) in enumerate(CELLS):
        cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == CODE else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _texts(folder: Traversable, above: str = "") -> list[tuple[str, str]]:
    found = []
    for one in folder.iterdir():
        if one.is_dir():
            found += _texts(one, f"{above}{one.name}/")
        else:
            found.append((above + one.name, one.read_text(encoding="utf-8")))
    return found


def _place(path: Path, text: str) -> bool:
    """Write a file beside its place and give it its name. Return False, and change nothing, if something has that name."""
    if os.path.lexists(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        passing.write_text(text, encoding="utf-8", newline="\n")
        if text.startswith("#!"):
            passing.chmod(SCRIPT)
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
    return True
