"""Hold what is known of a scan before it is recorded: sizes, beam, detector, specimen."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, physics
from gpu4d.data.acquisition_quantities import QUANTITIES, SPACING, TECHNIQUES
from gpu4d.data.arguments import two_sizes
from gpu4d.data.datacube import DataCube
from gpu4d.data.quantities import GivenAs
from gpu4d.data.sample import end_to_end
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError, did_you_mean
from gpu4d.real_arrays import real_number

Given = (
    float | int | str | Sequence[float] | Sequence[int] | Sequence[str] | None
)  # what a field takes: a number, a text with a unit, several
SAMPLED = 64  # patterns of a file that are read for the mean number of counts


@dataclass(frozen=True, kw_only=True)
class Acquisition(
    Storable,
    stored="energy: [eV]; semiangle: [mrad]; step defocus thickness spacings: [Å]; q_pixel: [1/Å]; camera_length: [mm]; "
    "detector_pitch: [µm]; dwell row_time: [s]; current: [pA]; dose dose_limit: [e/Å²]; drift: [Å/min]; edge: [px]",
):
    """What is known of a scan before it is recorded. What is None is not known, and what rests on it is not judged.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
        (Rx, Ry) positions, (Qx, Qy) pixels.
    dtype : str or int
        Of the values: "uint16", or the bits of a counter, 12, which are stored in the next larger type.
    energy : float, optional
        eV.
    semiangle : float, optional
        Convergence semi-angle, mrad.
    step : float, optional
        Distance of positions, Å.
    q_pixel : float, optional
        Detector pixel, 1/Å, g = 1/d. `camera_length` (mm) and `detector_pitch` (µm) give it too, less reliably: the guide's pitfall 2.
    camera_length, detector_pitch : float, optional
    dwell : float, optional
        Time at a position, s.
    row_time : float
        Time lost in each row, s.
    current : float, optional
        pA. Or, instead of it, `electrons` in a pattern, or `dose` in e/Å² (electrons in a pattern over the square of the step).
    electrons, dose : float, optional
    dose_limit : float, optional
        e/Å² that the specimen bears.
    drift : float, optional
        Å/min.
    defocus : float
        Å. Positive is underfocus (−C10). Its size alone counts here.
    thickness : float, optional
        Å.
    spacings : tuple of float
        Lattice spacings d of the specimen that matter, Å.
    disks : int
        Diffracted disks that are found in a pattern, for the precision of the strain.
    disk_share, background : float
        Shares of the electrons in one of them, and in the diffuse background. Assumptions, unless they are measured.
    edge : float
        Width of the edge of a disk, px.
    strain_error : float, optional
        Standard error of the strain that is wanted.
    purpose : tuple of str
        Techniques that the scan is for: "strain", "ssb", "ptychography", "dpc", "fem", "rdf". All are judged if it is empty.

    Raises
    ------
    InputError
        A value outside its range, with the unit that may have been meant; two ways to give the dose; an unknown technique.

    Examples
    --------
    >>> a = Acquisition(scan_shape=(256, 256), detector_shape=(256, 256), energy=300e3, dwell=1e-3, current=10.0)
    >>> round(a.electrons_of_pattern), a.wavelength
    (62415, 0.0196874...)
    """

    scan_shape: tuple[int, int]
    detector_shape: tuple[int, int]
    dtype: str | int = "uint16"
    energy: float | None = None
    semiangle: float | None = None
    step: float | None = None
    q_pixel: float | None = None
    camera_length: float | None = None
    detector_pitch: float | None = None
    dwell: float | None = None
    row_time: float = 0.0
    current: float | None = None
    electrons: float | None = None
    dose: float | None = None
    dose_limit: float | None = None
    drift: float | None = None
    defocus: float = 0.0
    thickness: float | None = None
    spacings: tuple[float, ...] = ()
    disks: int = 8
    disk_share: float = 0.02
    background: float = 0.2
    edge: float = 1.0
    strain_error: float | None = None
    purpose: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("scan_shape", two_sizes(self.scan_shape, "scan_shape"))
        put("detector_shape", two_sizes(self.detector_shape, "detector_shape"))
        put("dtype", _dtype_name(self.dtype))
        for name, given in QUANTITIES.items():
            value = getattr(self, name)
            if value is not None:
                put(name, _number(value, name, given))
        spacings = self.spacings if isinstance(self.spacings, tuple | list | np.ndarray) else (self.spacings,)
        put("spacings", tuple(sorted((_number(d, "spacings", SPACING) for d in spacings), reverse=True)))
        purpose = (self.purpose,) if isinstance(self.purpose, str) else tuple(self.purpose)
        put("purpose", purpose)
        for one in purpose:
            if one not in TECHNIQUES:
                raise InputError(f"purpose {one!r}: need some of {', '.join(TECHNIQUES)}{did_you_mean(str(one), TECHNIQUES)}")
        if isinstance(self.disks, bool) or not isinstance(self.disks, int | np.integer) or self.disks < 2:
            raise InputError(f"disks={self.disks!r}: need a whole number of diffracted disks, at least 2")
        if sum(v is not None for v in (self.current, self.electrons, self.dose)) > 1:
            raise InputError("current, electrons and dose are three ways to give one quantity: give only one of them")
        if self.q_pixel is not None and (self.camera_length is not None or self.detector_pitch is not None):
            raise InputError("q_pixel and camera_length are two ways to give one quantity: give only one of them, better q_pixel")

    @property
    def wavelength(self) -> float | None:
        """Return the wavelength, Å."""
        return None if self.energy is None else physics.wavelength(self.energy)

    @property
    def disk_frequency(self) -> float | None:
        """Return the radius of the disks k₀ = α / λ, 1/Å."""
        known = self.energy is not None and self.semiangle is not None
        return physics.angle_to_frequency(self.semiangle, self.energy) if known else None  # type: ignore[arg-type]

    @property
    def pixel(self) -> float | None:
        """Return the detector pixel, 1/Å: as given, or from camera length, pitch and wavelength."""
        if self.q_pixel is not None or self.camera_length is None or self.detector_pitch is None or self.wavelength is None:
            return self.q_pixel
        return self.detector_pitch * 1e-3 / self.camera_length / self.wavelength

    @property
    def disk_radius(self) -> float | None:
        """Return the radius of the disks on the detector, px."""
        return None if self.pixel is None or self.disk_frequency is None else self.disk_frequency / self.pixel

    @property
    def electrons_of_pattern(self) -> float | None:
        """Return the electrons in a pattern: as given, of current and dwell time, or of dose and step."""
        if self.current is not None and self.dwell is not None:
            return self.current * 1e-12 * self.dwell / physics.ELEMENTARY_CHARGE
        if self.dose is not None and self.step is not None:
            return self.dose * self.step**2
        return self.electrons

    @classmethod
    def of(cls, cube: DataCube, **given: Given) -> Acquisition:
        """Take what an opened scan says of itself. The mean number of counts of a few patterns counts as electrons.

        Parameters
        ----------
        cube : DataCube
            Of whole numbers, if its counts are to be used.
        **given
            Other fields, and fields that replace those of the scan.

        Examples
        --------
        >>> import gpu4d
        >>> scan = gpu4d.simulate.bragg_scan((4, 4), (64, 64), spacing=20.0, reach=1.1, seed=1)
        >>> a = Acquisition.of(scan.cube, dwell=1e-3)
        >>> a.scan_shape, a.energy, a.step, a.electrons > 10000
        ((4, 4), 200000.0, 20.0, True)
        """
        c = cube.calibration
        said: dict[str, Any] = {"scan_shape": cube.scan_shape, "detector_shape": cube.detector_shape}
        said |= {"energy": c.energy, "semiangle": c.semiangle, "step": c.r_pixel, "q_pixel": c.q_pixel}
        said["dtype"] = str(cube.dtype).rpartition(".")[2]
        if not {"current", "electrons", "dose"} & set(given) and arrays.is_integer_dtype(cube.dtype):
            counts = _mean_counts(cube)
            said["electrons"] = counts if counts > 0 else None
        if given.get("camera_length") is not None:
            said["q_pixel"] = None
        return cls(**said | given)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **given: Given) -> Acquisition:
        """Read a TOML file with these fields. Numbers may have units: energy = "300 keV".

        Parameters
        ----------
        path : path
        **given
            Fields that replace those of the file.

        Raises
        ------
        InputError
            No TOML, an unknown field, or a value that is not accepted.
        """
        return cls(**fields_of_file(path) | given)


NAMES = tuple(entry.name for entry in dataclasses.fields(Acquisition))


def fields_of_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read fields of an `Acquisition` from a TOML file.

    Raises
    ------
    InputError
        No TOML, or an unknown field.
    """
    try:
        with open(path, "rb") as file:
            said: Mapping[str, Any] = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f'{path} is no TOML file ({error}): write lines such as scan_shape = [256, 256] and energy = "300 keV"') from error
    for name in said:
        if name not in NAMES:
            raise InputError(f"{path} has an unknown {name!r}{did_you_mean(name, NAMES)}; accepted are {', '.join(NAMES)}")
    return dict(said)


def _number(value: Any, name: str, given: GivenAs) -> float:
    found = given.read(value, name) if isinstance(value, str) else float(real_number(value, name))
    if (problem := given.problem(found)) is not None:
        raise InputError(f"{name} is {found:g} {given.units}: {problem}")
    return found


def _dtype_name(given: str | int) -> str:
    """Return the name of the dtype in which values of so many bits, or of this type, are stored."""
    text = str(given)
    if text.isdecimal():
        if not 1 <= int(text) <= 64:
            raise InputError(f"dtype={given!r}: need 1 to 64 bits, or a type such as uint16")
        return f"uint{max(8, 2 ** math.ceil(math.log2(int(text))))}"
    try:
        dtype = np.dtype(text)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        raise InputError(f"dtype={given!r}: need a type such as uint8, uint16, uint32 or float32, or the bits of a counter")
    return dtype.name


def _mean_counts(cube: DataCube) -> float:
    """Return the mean sum of a few patterns, spread over the scan."""
    positions = end_to_end(np.arange(cube.scan_shape[0] * cube.scan_shape[1]), SAMPLED)
    counts = slice(None) if cube.detector_mask is None else cube.detector_mask
    patterns = (np.asarray(cube[divmod(int(i), cube.scan_shape[1])], np.float64) for i in positions)
    sums = [float(pattern[counts].sum()) for pattern in patterns]
    return float(np.mean(sums)) if sums else 0.0
