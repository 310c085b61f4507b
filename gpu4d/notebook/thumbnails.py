"""Draw the small picture of a result. matplotlib is imported here, when the first one is drawn."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.source import below_views
from gpu4d.data.storable import Storable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Any, "Figure"], None]  # draws a result into an empty figure

LARGEST = 60_000  # bytes of a PNG file: a notebook keeps every one of them in its own file
SIZE, WIDE = (3.3, 2.9), (4.9, 4.3)  # inches, of one panel and of several
RESOLUTIONS = (96, 80, 64, 48)  # dots per inch, tried from the finest on until the file is small enough
COLOURS = 128  # of the file: enough for colour maps, and a third of the bytes
SIDE = 512  # pixels: a larger image is drawn with fewer of its pixels

PATTERNS = 16  # of a scan, in the mean pattern
SHARE = 32_000_000  # bytes of patterns that are read at most
PATIENCE = 0.3  # seconds after which no further pattern is read
SCRATCH = 256_000_000  # bytes that a source may decode for these patterns


def thumbnail(result: Any) -> bytes | None:
    """Return a PNG file of at most 60 kB. None if the result has no picture, or matplotlib is not installed."""
    draw = _how(result)
    if draw is None:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draw(result, figure)
    return _small_png(figure) if figure.axes else None


def _small_png(figure: Figure) -> bytes | None:
    """Return a figure as a PNG file with few colours, at the finest resolution at which it is small enough."""
    from PIL import Image  # a requirement of matplotlib

    for dpi in RESOLUTIONS:
        figure.set_dpi(dpi)
        figure.canvas.draw()  # once; `savefig` draws twice
        drawn = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        few = Image.fromarray(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        written = io.BytesIO()
        few.save(written, format="PNG", optimize=True)
        if written.tell() <= LARGEST:
            return written.getvalue()
    return None


def _how(result: Any) -> Draw | None:
    """Return the function that draws a result: one for its class, else the one for the first image that it is made of."""
    if isinstance(result, Storable) and (own := OWN.get(result.stored_name())):
        return own
    if isinstance(result, Slice):
        return _image
    if isinstance(result, DataCube):
        return _cube
    if isinstance(result, PointListArray):
        return _counts
    first = first_image(result) if isinstance(result, Storable) else None
    return None if first is None else lambda _, figure: _image(first, figure)


def first_image(result: Storable) -> Slice | None:
    """Return the first part of a result that is an image over the scan or the detector."""
    parts = result.to_parts()
    for value in parts.values():
        if isinstance(value, Slice) and value.ndim in (2, 3) and 0 not in value.shape:
            return value
    for name, value in parts.items():
        layout = result.stored_as(name)
        if layout is None or not arrays.is_array(value) or len(value.shape) != 2 or 0 in value.shape:
            continue
        kinds: dict[tuple[str, ...], type[Slice]] = {("Rx", "Ry"): RealSlice, ("Qx", "Qy"): DiffractionSlice}
        kind = kinds.get(layout.axes[-2:])
        if kind is not None:
            return kind(value, name.replace("_", " "), layout.unit)
    return None


def _coarse(item: Slice) -> Slice:
    """Return one real plane of a slice on the host, with so few pixels that it is drawn at once."""
    data = item.data
    if len(data.shape) == 3:
        data = data[0]
    step = max(1, -(-max(data.shape) // SIDE))
    host = arrays.to_numpy(data[::step, ::step])
    host = np.abs(host) if np.iscomplexobj(host) else host
    name = item.labels[0] if item.labels and len(item.data.shape) == 3 else item.name
    return type(item)(host, name, item.units, item.pixel_size * step, item.pixel_units)


def _image(item: Slice, figure: Figure) -> None:
    from gpu4d import plot

    if len(item.shape) not in (2, 3) or 0 in item.shape:
        return
    plane, ax = _coarse(item), figure.add_subplot()
    if isinstance(item, DiffractionSlice):
        plot.diffraction(plane, plane.name, ax=ax)
    else:
        finite = np.asarray(plane)[np.isfinite(np.asarray(plane))]
        plot.image(plane, plane.name, symmetric=bool(finite.size and finite.min() < 0 < finite.max()), ax=ax)


def _cube(cube: DataCube, figure: Figure) -> None:
    mean, count = few_patterns(cube)
    if mean is not None:
        _image(DiffractionSlice.calibrated(mean, f"mean of {count} patterns", "counts", cube.calibration.q_pixel), figure)


def few_patterns(cube: DataCube) -> tuple[np.ndarray | None, int]:
    """Return the mean of at most 16 patterns, spread evenly over a scan, and their number. None if reading them is not cheap."""
    rx, ry, qx, qy = cube.shape
    each = max(1, cube.nbytes // max(1, rx * ry))
    count = min(PATTERNS, rx * ry, SHARE // each)
    if count < 1 or not _is_cheap(cube):
        return None, 0
    total, done, begun = np.zeros((qx, qy)), 0, time.perf_counter()
    for number in np.linspace(0, rx * ry - 1, count).astype(int):
        row, column = divmod(int(number), ry)
        total += arrays.to_numpy(cube.source.read(slice(row, row + 1), slice(column, column + 1))).reshape(qx, qy)
        done += 1
        if time.perf_counter() - begun > PATIENCE:
            break
    mean = total / done
    if cube.detector_mask is not None:
        mean[~cube.detector_mask] = np.nan
    return mean, done


def _is_cheap(cube: DataCube) -> bool:
    """Say whether a few patterns are read at once: from memory or a file, and not by computing, or by decoding much."""
    below = below_views(cube.source)
    if below.resident:
        return True
    decoded = PATTERNS * (getattr(cube.source, "scratch_bytes", 0) or 0)
    return hasattr(below, "path") and not hasattr(below, "lazy") and decoded <= SCRATCH


def _counts(points: PointListArray, figure: Figure) -> None:
    if len(points.shape) == 2 and 0 not in points.shape:
        _image(RealSlice(arrays.to_numpy(points.counts).astype(float), "points per position", ""), figure)


def _strain(result: Any, figure: Figure) -> None:
    from gpu4d import plot

    lattice = hasattr(result, "theta")
    figure.set_size_inches(WIDE if lattice else (WIDE[0] * 1.25, WIDE[1] / 1.7))
    panels = figure.subplots(2, 2) if lattice else figure.subplots(1, 3)
    plot.strain(result, "", ax=panels)


def _one(name: str, size: tuple[float, float] = SIZE) -> Draw:
    """Return a function that draws by one of the functions of `gpu4d.plot`."""

    def draw(result: Any, figure: Figure) -> None:
        from gpu4d import plot

        figure.set_size_inches(size)
        getattr(plot, name)(result, ax=figure.add_subplot())

    return draw


def _drift(result: Any, figure: Figure) -> None:
    from gpu4d import plot

    count = len(result.positions)
    figure.set_size_inches(SIZE[0] * count, SIZE[1])
    plot.drift(result, ax=figure.subplots(1, count, squeeze=False)[0])


def _wave(result: Any, figure: Figure) -> None:
    from gpu4d import plot

    figure.set_size_inches(WIDE[0], 2.6)
    plot.wave(result, ax=figure.subplots(1, 2))


def _template(result: Any, figure: Figure) -> None:
    probe = result.probe if result.probe is not None else np.fft.fftshift(arrays.to_numpy(result.kernel))
    _image(DiffractionSlice(probe, "probe" if result.probe is not None else "kernel, centred", ""), figure)


def _profile(result: Any, figure: Figure) -> None:
    if np.ndim(result.peak) == 0:  # else there are several profiles, and none is the one to show
        _one("pair_distribution", WIDE_CURVE)(result, figure)


WIDE_CURVE = (4.4, 2.9)  # inches, of a curve with its legend
OWN: dict[str, Draw] = {
    "gpu4d.crystal.Strain": _strain,
    "gpu4d.amorphous.AmorphousStrain": _strain,
    "gpu4d.crystal.LatticesFit": _one("lattice_map", (4.2, 3.4)),
    "gpu4d.crystal.MeanCepstrum": _one("cepstrum"),
    "gpu4d.orientation.Orientations": _one("orientation_map", (4.4, 2.9)),
    "gpu4d.probe.RealSpaceProbe": _wave,
    "gpu4d.probe.Template": _template,
    "gpu4d.amorphous.RDF": _profile,
    "gpu4d.amorphous.FEM": _one("fem", WIDE_CURVE),
    "gpu4d.drift.ScanDrift": _drift,
    "gpu4d.preprocess.CountingSetup": _one("counting_histogram", WIDE_CURVE),
}
