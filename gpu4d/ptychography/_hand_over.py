"""Hand a scan to another ptychography engine, as files that it reads: `gpu4d.ptychography.hand_over`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu4d import arrays, fft
from gpu4d.data.arguments import OriginLike
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.ptychography.engine_parameters import ANGSTROM, HandOver, as_yaml, phaser, pty_chi, ptyrad
from gpu4d.ptychography.experiment import geometry
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.load import given_positions
from gpu4d.ptychography.iterative.probes import first_wave, side_modes
from gpu4d.real_arrays import real_number

log = logging.getLogger("gpu4d")

FILES = {  # engine: what it gets
    "ptyrad": ("data.h5", "ptyrad.yaml"),
    "phaser": ("data.h5", "phaser.yaml"),
    "pty-chi": ("data.h5", "parameters.h5", "settings.json"),
}
OFF = 0.1  # px: an origin farther from a pixel's middle is warned of, because engines have it there
EDGE = 0.2  # of the positions' extent: border of the object around them, to each side


@on_host("statistics")
def hand_over(
    cube: DataCube,
    folder: str | os.PathLike[str],
    /,
    *,
    engine: str,
    aberrations: Mapping[str, float] | None = None,
    modes: int = 1,
    slices: int = 1,
    thickness: float | None = None,
    sweeps: int = 50,
    batch: int = 128,
    size: int | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a scan and parameters as another ptychography engine reads them.

    Patterns are written as they are, cropped or padded so that the bright-field disk is in the middle. If the detector is
    transposed, their axes are exchanged. Rotation, aberrations and scale go into the parameter file in the engine's units and signs.

    Parameters
    ----------
    cube : DataCube
    folder : path
        It is made if it does not exist.
    engine : {"ptyrad", "phaser", "pty-chi"}
        PtyRAD 1.0: `data.h5` and `ptyrad.yaml`, for `ptyrad run`. phaser 0.3: `data.h5` and `phaser.yaml`, for `phaser run`. Pty-Chi:
        `data.h5` (patterns), `parameters.h5` (probe, object and positions, in the layout of Ptychodus) and `settings.json`, for
        `LSQMLOptions.load_from_dict`.
    aberrations : mapping, optional
        As of `gpu4d.ssb`, with azimuths in detector axes. `defocus` = -C10, positive is underfocus.
    modes, slices, thickness : int, int, float
        As of `gpu4d.ptychography.reconstruct`: the thickness is that of the whole object, Å.
    sweeps, batch : int
        Iterations, and positions of a batch.
    size : int, optional
        Pixels of a side of a pattern. By default the longer side of the detector.
    rotation, transpose, energy, semiangle, q_pixel, r_pixel, origin
        As of `gpu4d.ssb`: by default from the calibration.
    overwrite : bool

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    InputError
        Another engine, a calibration that is missing, or a file that exists.

    Examples
    --------
    >>> import gpu4d, tempfile
    >>> scan = gpu4d.simulate.phase_object_scan((16, 16), (24, 24), r_pixel=0.4)
    >>> files = gpu4d.ptychography.hand_over(scan.cube, tempfile.mkdtemp(), engine="ptyrad", origin=(12, 12))
    >>> [file.name for file in files]
    ['data.h5', 'ptyrad.yaml']
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"hand_over takes a DataCube, not a {type(cube).__name__}: gpu4d.open(path) makes one")
    if engine not in FILES:
        raise InputError(f"engine={engine!r}: need one of {', '.join(map(repr, FILES))}")
    for name, value in (("modes", modes), ("slices", slices), ("sweeps", sweeps), ("batch", batch)):
        if real_number(value, name, whole=True) < 1:
            raise InputError(f"{name}={value!r}: need a whole number from 1 up")
    if slices > 1 and not thickness:
        raise InputError(f"{slices} slices and thickness={thickness!r}: need the thickness of the whole object, Å")
    given: dict[str, Any] = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = geometry(cube, rotation=rotation, transpose=transpose, **given)
    side = size or max(cube.detector_shape)
    told = HandOver(known, cube.scan_shape, side, aberrations, modes, slices, float(thickness or 0.0) / slices, sweeps, batch)
    told.polar()  # refuses unknown aberrations before anything is written
    calibrated = None if known.vectors is None else cube.calibration.positions
    positions = given_positions(calibrated, cube.scan_shape, known.r_pixel).reshape(-1, 2)
    grid = Grid.of(known, cube.detector_shape, (side, side), positions, 0.0)
    place = Path(folder)
    files = [place / name for name in FILES[engine]]
    _make_room(place, files, overwrite)
    _write_patterns(cube, grid, files[0], flat=engine != "phaser")
    if engine == "pty-chi":
        _write_start(told, grid, positions, files[1])
        _write_text(files[2], json.dumps(pty_chi(told), indent=1))
    else:
        values = (ptyrad if engine == "ptyrad" else phaser)(told, str(files[0].resolve()))
        _write_text(files[1], as_yaml(values))
    if calibrated is not None and engine != "pty-chi":
        known.warnings.append(f"{engine} is told of a regular scan of {known.r_pixel:.4g} Å: the calibrated positions go to pty-chi alone")
    for message in [*known.warnings, *_doubts(cube, grid)]:
        log.warning("hand_over: %s", message)
    return files


def _make_room(place: Path, files: list[Path], overwrite: bool) -> None:
    """Make the folder, and refuse to replace files that were not given up."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be made a folder ({error.strerror}): give another one") from error
    there = [file.name for file in files if file.exists()]
    if there and not overwrite:
        raise InputError(
            f"{place} has {', '.join(there)} already: give another folder, or allow replacing with --overwrite or overwrite=True"
        )


def _doubts(cube: DataCube, grid: Grid) -> list[str]:
    """Return warnings on what the engines are not told."""
    found = []
    if max(map(abs, grid.offset)) > OFF:
        found.append(f"the disk's centre is ({grid.offset[0]:+.2f}, {grid.offset[1]:+.2f}) px from the pixel that engines take for it")
    if grid.measured(cube.detector_mask) is not None:
        found.append("masked pixels, and those beyond the detector, are written as 0: these engines are not told of them")
    return found


def _write_patterns(cube: DataCube, grid: Grid, file: Path, flat: bool) -> None:
    """Write patterns (n, N, N), or (Rx, Ry, N, N), with the disk in the middle: pixel (N // 2, N // 2)."""
    rows, columns = (np.fft.fftshift(i) for i in (grid.rows, grid.columns))
    inside = np.outer(rows >= 0, columns >= 0)
    if cube.detector_mask is not None:
        inside &= cube.detector_mask[np.maximum(rows, 0)][:, np.maximum(columns, 0)]
    swap = np.linalg.det(grid.matrix) < 0
    rx, ry = cube.scan_shape
    with _whole(file) as out:
        shape = (rx * ry, *grid.patch) if flat else (rx, ry, *grid.patch)
        chunks = (*[1] * (len(shape) - 2), *grid.patch)
        data = out.create_dataset("dp", shape, str(cube.dtype), chunks=chunks, compression="gzip", compression_opts=1)
        for i in range(rx):
            block = arrays.to_numpy(cube.source.read(slice(i, i + 1), slice(0, ry)))[0]
            block = np.where(inside, block[:, np.maximum(rows, 0)][:, :, np.maximum(columns, 0)], 0)
            block = block.swapaxes(1, 2) if swap else block
            data[slice(i * ry, (i + 1) * ry) if flat else i] = block


def _write_start(told: HandOver, grid: Grid, positions: np.ndarray, file: Path) -> None:
    """Write what Pty-Chi begins with, in the axes of the written patterns: probe (1, M, N, N), object (S, X, Y), positions in m."""
    wave = first_wave(grid, told.known.energy, told.known.radius, told.aberrations, None, told.known.origin)
    modes = side_modes(wave, *grid.frequencies(), told.modes)
    probe = np.fft.fftshift(fft.ifft2(modes), axes=(1, 2)).astype(np.complex64)
    places = positions @ grid.matrix
    if told.known.transpose:
        probe, places = probe.swapaxes(1, 2), places[:, ::-1]
    places = places - (places.min(axis=0) + places.max(axis=0)) / 2
    extent = np.ptp(places, axis=0) / told.pixel * (1 + 2 * EDGE)
    shape = [int(np.ceil(e)) + told.pixels for e in extent]
    with _whole(file) as out:
        out["probe"] = probe[None]
        out["object"] = np.ones((told.slices, *shape), np.complex64)
        out["probe_position_y_m"], out["probe_position_x_m"] = places.T * ANGSTROM
        out["probe_position_indexes"] = np.arange(len(places))
        for name in ("probe", "object"):
            out[name].attrs.update({"pixel_height_m": told.pixel * ANGSTROM, "pixel_width_m": told.pixel * ANGSTROM})
        out["object"].attrs.update({"center_x_m": 0.0, "center_y_m": 0.0})


@contextlib.contextmanager
def _whole(file: Path) -> Any:
    """Give an HDF5 file that stands in its place only when it is complete."""
    beside = file.with_name(f"{file.name}.part")
    try:
        with h5py.File(beside, "w") as out:
            yield out
        os.replace(beside, file)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error}): give a folder with room") from error
    finally:
        beside.unlink(missing_ok=True)


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}): give a folder with room") from error
