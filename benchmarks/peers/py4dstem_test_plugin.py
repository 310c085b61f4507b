"""A pytest plugin for py4DSTEM's own tests: stand-ins for their data, and gpu4d as the engine if GPU4D_ACCELERATE is set.

The data of these tests are downloads of hundreds of MB. In the place of a file that is absent, py4DSTEM's readers give a small simulated
scan, or Bragg vectors, of the kind that the file has.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import py4DSTEM
import pytest

import gpu4d
from gpu4d.interop import py4dstem as interop

CALLS = "calls of replaced functions:"


@functools.cache
def scan(shape: tuple[int, int]) -> gpu4d.simulate.Simulated:
    """A scan of 64 × 64 pixels with disks of 4 px."""
    return gpu4d.simulate.bragg_scan(shape, (64, 64), seed=4, radius=4.0)


def stand_in(path: str) -> Any:
    """What a reader of py4DSTEM gives for a file of its tests, by the file's name."""
    name = Path(path).name
    if name == "legacy_v0.9_simAuNanoplatelet_bin.h5":
        return py4DSTEM.DataCube(np.array(scan((64, 72)).cube), name="polyAu_4DSTEM")
    if name == "small_datacube.dm4":
        return py4DSTEM.DataCube(np.array(scan((10, 12)).cube).astype(np.uint16))
    if name == "small_dm3_3Dstack.dm3":
        return py4DSTEM.Array(np.array(scan((10, 12)).cube)[0])
    if name == "downsample_Si_SiGe_analysis_braggdisks_cal.h5":
        made = scan((10, 12))
        points, shape = made.truth["positions"], made.truth["positions"].shape
        offsets = np.arange(0, shape[0] * shape[1] * shape[2] + 1, shape[2])
        fields = {"qx": points[..., 0].ravel(), "qy": points[..., 1].ravel(), "intensity": made.truth["amplitudes"].ravel()}
        disks = gpu4d.PointListArray(offsets, fields, shape[:2])
        return interop.to_braggvectors(disks, (64, 64), gpu4d.Calibration(origin=made.truth["origin"]))
    raise FileNotFoundError(path)


def _reading(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def read(path: Any, *args: Any, **options: Any) -> Any:
        absent = str(path).startswith(str(py4DSTEM._TESTPATH)) and not os.path.exists(path)
        return stand_in(str(path)) if absent else own(path, *args, **options)

    return read


@pytest.fixture(scope="session", autouse=True)
def _stand_ins_and_engine(pytestconfig: pytest.Config) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    Path(py4DSTEM._TESTPATH).mkdir(parents=True, exist_ok=True)
    for owner, name in ((py4DSTEM.io, "read"), (py4DSTEM, "read"), (py4DSTEM.io, "import_file"), (py4DSTEM, "import_file")):
        patch.setattr(owner, name, _reading(getattr(owner, name)))
    counted: dict[str, int] = {}
    engine = interop.accelerate() if os.environ.get("GPU4D_ACCELERATE") else None
    if engine is not None:
        from gpu4d.interop.py4dstem import _detection

        own = _detection._rows_of

        def rows_of(*args: Any) -> Any:
            counted["find_Bragg_disks"] = counted.get("find_Bragg_disks", 0) + 1
            return own(*args)

        patch.setattr(_detection, "_rows_of", rows_of)
    yield
    if engine is not None:
        engine.undo()
    patch.undo()
    if counted:
        print("\n" + CALLS, counted)
