"""Simulated scans, images and probes of abTEM, and back.

abTEM is under the GPL. It is imported in the functions that make its objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice, Slice
from gpu4d.errors import InputError
from gpu4d.interop.lazy_patterns import patterns_of
from gpu4d.interop.libraries import is_of, library, refused
from gpu4d.interop.stated import StatedAxis, carried_text, cube_of, slice_of, stated_calibration, taken_over
from gpu4d.io.units import log
from gpu4d.probe.wavefunction import aberration_terms

if TYPE_CHECKING:
    from abtem import Probe
    from abtem.measurements import DiffractionPatterns, Images

__all__ = ["from_abtem", "probe_from_abtem", "probe_to_abtem", "to_abtem"]

OFF = 0.5  # px that the origin may be beside the pixel where abTEM has it
DARK = 0.0  # of abTEM's dictionaries: what is 0 is not stated
OURS = "gpu4d"
UNIT = "electrons per incident electron"
ARBITRARY = "arb. unit"  # as abTEM names the unit of its intensities


def __dir__() -> list[str]:
    return list(__all__)


def from_abtem(measurement: DiffractionPatterns | Images) -> DataCube | Slice:
    """Return a measurement of abTEM as a scan or an image.

    abTEM's x is our first axis, in scan and detector. Intensities are parts of one incident electron: multiply by the number of electrons,
    and draw Poisson counts, before counting statistics are used (`gpu4d.find_bragg_disks(refine="likelihood")`, errors of DPC).

    Parameters
    ----------
    measurement : DiffractionPatterns or Images
        Lazy ones stay lazy. The other axes of patterns are at most two, those of the scan.

    Returns
    -------
    DataCube
        Of patterns over a scan (a line of positions: Rx is 1), with pixel sizes, origin, energy and semi-angle. Patterns with the zero
        frequency in the corner are shifted, so that it is in the middle.
    DiffractionSlice, RealSlice
        Of one pattern; of images, whose further axis becomes planes.

    Raises
    ------
    InputError
        Another kind of object, or more axes: frozen phonons, defocus series. Take their mean, or one of them.

    Examples
    --------
    >>> measurement = probe.scan(potential, scan, detectors=abtem.PixelatedDetector())  # doctest: +SKIP
    >>> cube = from_abtem(measurement)  # doctest: +SKIP
    """
    if is_of(measurement, "abtem", "DiffractionPatterns"):
        return _patterns(measurement)
    if is_of(measurement, "abtem", "Images"):
        return _image(measurement)
    raise refused(measurement, "the measurement", "DiffractionPatterns or Images of abTEM")


def to_abtem(result: DataCube | Slice) -> DiffractionPatterns | Images:
    """Return a scan, a pattern or an image as a measurement of abTEM.

    Parameters
    ----------
    result : DataCube, DiffractionSlice or RealSlice
        Patterns need `q_pixel`. abTEM has the zero frequency at pixel n // 2: where the origin is known, it must be there.

    Returns
    -------
    DiffractionPatterns
        Of a scan: lazy if Dask is installed. Values are the counts. Of a pattern.
    Images
        Of an image, or a stack of images, over the scan.

    Raises
    ------
    InputError
        abTEM is not installed, the size of a pixel (`q_pixel`, that of an image) is not known, the origin is more than half a pixel
        beside the middle (crop the detector), or the result is of another kind.
    """
    if not isinstance(result, DataCube | Slice):
        raise refused(result, "result", "a DataCube or a slice")
    measurements = library("abtem.measurements", "to_abtem", "abTEM", "abtem")
    axes = library("abtem.core.axes", "to_abtem", "abTEM", "abtem")
    if isinstance(result, DataCube):
        return _to_patterns(measurements, axes, result)
    values = arrays.to_numpy(result.data)
    planes = [axes.OrdinalAxis(label="plane", values=result.labels or tuple(map(str, range(n)))) for n in values.shape[:-2]]
    about = {"label": result.name, "units": result.units, "energy": None}
    about = {key: value for key, value in about.items() if value}
    if isinstance(result, RealSlice):
        if result.pixel_units != "Å":
            raise InputError("the size of the image's pixels is not known: set calibration.r_pixel (Å) before the image is made")
        return measurements.Images(values, sampling=result.pixel_size, ensemble_axes_metadata=planes, metadata=about)
    if result.pixel_units != "1/Å":
        raise InputError("the size of the pattern's pixels is not known: set calibration.q_pixel (1/Å) before the pattern is made")
    return measurements.DiffractionPatterns(
        values, sampling=result.pixel_size, fftshift=True, ensemble_axes_metadata=planes, metadata=about
    )


def probe_from_abtem(probe: Any) -> tuple[Calibration, dict[str, float]]:
    """Return energy and semi-angle of a probe of abTEM, and its aberrations as gpu4d takes them.

    Both libraries have Krivanek's coefficients in Å, with angles in radians from the first axis to the second and C10 = −defocus: the
    numbers are the same.

    Parameters
    ----------
    probe : Probe, CTF, Aberrations

    Returns
    -------
    (Calibration, dict of str to float)
        The calibration knows what the probe says. The aberrations are for `gpu4d.probe.wavefunction`, `gpu4d.ssb` and others; what is 0
        is left out.

    Raises
    ------
    InputError
        It has no aberrations, or distributions of them: a source size, a spread of focus.
    """
    held = getattr(probe, "aberrations", probe) if is_of(probe, "abtem") else None
    stated = getattr(held, "aberration_coefficients", None)
    if not isinstance(stated, Mapping):
        raise refused(probe, "the probe", "a Probe, CTF or Aberrations of abTEM")
    aberrations: dict[str, float] = {}
    for name, value in stated.items():
        if np.ndim(np.asarray(getattr(value, "values", value))):
            raise InputError(f"{name} of the probe is a distribution: give a probe with one value")
        if float(value) != DARK:
            aberrations[str(name)] = float(value)
    known = Calibration()
    energy, angle = getattr(probe, "energy", None), getattr(probe, "semiangle_cutoff", None)
    if angle is None:
        angle = getattr(getattr(probe, "aperture", None), "semiangle_cutoff", None)
    for field, value in (("energy", energy), ("semiangle", angle)):
        if value is not None and np.isfinite(value):
            known.set(**{field: float(value)}, how="probe of abTEM")  # type: ignore[arg-type]
    return known, {name: value for name, value in aberrations.items() if not name.startswith("phi") or f"C{name[3:]}" in aberrations}


def probe_to_abtem(calibration: Calibration, aberrations: Mapping[str, float] | None = None) -> Probe:
    """Return a probe of abTEM with the energy and semi-angle of a calibration, and aberrations.

    Parameters
    ----------
    calibration : Calibration
        With energy and semi-angle.
    aberrations : mapping, optional
        As for `gpu4d.probe.wavefunction`.

    Returns
    -------
    abtem.Probe

    Raises
    ------
    InputError
        abTEM is not installed, energy or semi-angle is not known, or a coefficient is.
    """
    abtem = library("abtem", "probe_to_abtem", "abTEM", "abtem")
    given: dict[str, float] = {}
    for n, m, size, angle in aberration_terms(aberrations):
        given[f"C{n}{m}"] = size
        if m:
            given[f"phi{n}{m}"] = angle
    return abtem.Probe(energy=calibration.require("energy"), semiangle_cutoff=calibration.require("semiangle"), aberrations=given)


# ---------------------------------------------------------------- from abTEM


def _stated(axis: Any) -> StatedAxis:
    return StatedAxis(float(getattr(axis, "sampling", None) or 1.0), str(getattr(axis, "units", None) or "px"), 0.0)


def _patterns(measurement: Any) -> DataCube | Slice:
    data, outer = measurement.array, list(measurement.ensemble_axes_metadata)
    if len(outer) > 2:
        raise InputError(
            f"the patterns have {len(outer)} axes beside the detector's: need a scan, of two at most (mean or reduce_ensemble first)"
        )
    if not measurement.fftshift:
        data = _centred(data)
    size, steps = data.shape[-2:], [float(step) for step in measurement.sampling]
    inner = [StatedAxis(step, "1/Å", -(n // 2) * step) for step, n in zip(steps, size)]
    about = dict(measurement.metadata or {})
    beam = about.get("energy"), about.get("semiangle_cutoff")
    if not outer:
        values = data.compute() if hasattr(data, "compute") else data
        unit = str(about.get("units") or ARBITRARY)
        return slice_of(values, inner, True, (str(about.get("label", "")), UNIT if unit == ARBITRARY else unit, ()))
    positions = [_stated(axis) for axis in outer]
    data, positions = (data[None], positions * 2) if len(outer) == 1 else (data, positions)
    stated = stated_calibration([*positions, *inner], *beam, "abTEM's measurement", tuple(size))
    known = taken_over(about.pop(OURS, None), stated, tuple(data.shape))
    return cube_of(data, known.calibration, {**known.metadata, "abtem": about}, known.detector_mask, known.name or "abTEM")


def _centred(data: Any) -> Any:
    """Return patterns with the zero frequency moved from the corner to pixel n // 2."""
    if hasattr(data, "compute"):
        import dask.array

        return dask.array.fft.fftshift(data, axes=(-2, -1)).rechunk({-2: -1, -1: -1})
    xp = arrays.namespace(data)
    return xp.roll(data, tuple(n // 2 for n in data.shape[-2:]), axis=(-2, -1))


def _image(measurement: Any) -> Slice:
    data, outer = measurement.array, list(measurement.ensemble_axes_metadata)
    if len(outer) > 1:
        raise InputError(f"the images have {len(outer)} axes beside their own: need one image, or a stack")
    values = data.compute() if hasattr(data, "compute") else data
    about = dict(measurement.metadata or {})
    labels = tuple(map(str, getattr(outer[0], "values", ()))) if outer else ()
    axes = [StatedAxis(float(step), "Å") for step in measurement.sampling]
    return slice_of(values, axes, False, (str(about.get("label", "")), str(about.get("units", "")), labels))


# ---------------------------------------------------------------- to abTEM


def _to_patterns(measurements: Any, axes: Any, cube: DataCube) -> Any:
    c = cube.calibration
    step, origin = c.require("q_pixel"), c.origin_mean
    middle = [n // 2 for n in cube.detector_shape]
    if origin is not None and max(abs(origin - middle)) > OFF:
        at = ", ".join(f"{place:.2f}" for place in origin)
        raise InputError(f"the origin is ({at}), and abTEM has it at {tuple(middle)}: crop the detector (cube.crop) to put it there")
    if origin is not None and max(abs(origin - middle)) > 0.01:
        log.warning("to_abtem: the origin is (%.2f, %.2f), abTEM takes %s for it", *origin, tuple(middle))
    scan = [
        axes.ScanAxis(label=label, sampling=c.r_pixel or 1.0, units="Å" if c.r_pixel else "pixels", endpoint=False) for label in ("x", "y")
    ]
    about = {"energy": c.energy, "semiangle_cutoff": c.semiangle, "label": "intensity", "units": "counts", OURS: carried_text(cube)}
    about = {key: value for key, value in about.items() if value is not None}
    return measurements.DiffractionPatterns(patterns_of(cube), sampling=step, fftshift=True, ensemble_axes_metadata=scan, metadata=about)
