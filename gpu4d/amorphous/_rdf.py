"""The radial distribution function of a glass, from the mean intensity of its rings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from gpu4d.amorphous.band import LEAST_RINGS, band_of
from gpu4d.amorphous.from_rings import NORMALIZE, Choice, rdf_of_rings
from gpu4d.amorphous.mean_atom import Factor, is_function, mean_atom
from gpu4d.amorphous.rdf_result import RDF
from gpu4d.amorphous.ring_means import RingMeans, bright_field_radius, from_arrays, from_scan
from gpu4d.amorphous.sine_transform import growing
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import OriginLike, real_values
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number
from gpu4d.streaming.engine import SweepOptions

R_MAX, R_STEP = 15.0, 0.02  # Å, of the distances, unless given
SHELL = (1.0, 5.0)  # Å: where the first shell of a glass is looked for
FIT_FROM = (0.5, 0.3)  # of the largest k: where the fit of the scale begins, alone, and with a background


@on_host("curve")
def rdf(
    profile: DataCube | Array | ArrayLike,
    /,
    *,
    composition: str | Mapping[str, float] | None = None,
    factor: Factor | Mapping[str, Factor] | None = None,
    k: ArrayLike | None = None,
    q_pixel: float | None = None,
    error: ArrayLike | None = None,
    background: str | ArrayLike | None = "power",
    k_fit: tuple[float | None, float | None] | None = None,
    normalize: str = "tail",
    band: tuple[float, float | None] = (0.2, None),
    band_width: float | tuple[float, float] = 0.02,
    low_k: str = "extend",
    damping: str | float | None = None,
    density: float | None = None,
    r: ArrayLike | None = None,
    r_min: float | None = None,
    low_r_rounds: int = 0,
    disk_radius: float | None = None,
    first_shell: tuple[float, float] = SHELL,
    shell_limits: tuple[float, float] | None = None,
    origin: OriginLike | None = None,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: ArrayLike | None = None,
    **sweep_options: Unpack[SweepOptions],
) -> RDF:
    """Compute the radial distribution function of a glass from the mean intensity of its rings.

    I(k) = N⟨f²⟩ + N⟨f⟩² (S − 1) + background gives the structure factor S, and G(r) = 4πρr (g − 1) = (2/π) ∫ Q (S − 1) sin(Qr) dQ with
    Q = 2πk, k = 1/d. The integral is that of a cubic spline through the rings.

    Parameters
    ----------
    profile : DataCube, or (..., n) array
        A scan, whose mean profile is taken in one sweep. Or mean intensities per pixel by ring: one profile, or one of each group of
        positions, as `gpu4d.amorphous.group_profiles` gives them.
    composition : str or mapping of str to float
        "Cu50Zr50", or the share of each element. Tables (`gpu4d.structures.electron_scattering_factor`) give the factors.
    factor : array (n,), function of k, or mapping of element to these, optional
        Scattering factors, Å, instead of those of the tables. One alone, without `composition`, is that of the only kind of atom.
    k, q_pixel : (n,) array, or float
        1/d of each ring, 1/Å; or the size of a detector pixel, 1/Å: of a scan the calibrated one by default, of an array
        that of rings one pixel wide. For k of rings of a pattern take `gpu4d.rings.mean_radii`: pixels of a ring lie on average beside
        its middle, and a sharp first peak is shifted by that.
    error : (n,) or (..., n) array, optional
        Standard error of the profile. Of a scan it comes from the scatter of the positions.
    background : {"power", "exponential", "constant"}, None, or (n,) or (..., n) array
        Form that is fitted together with the scale: b/k^p, b exp(−k/d), b, with b ≥ 0. None: no background. An array: a measured one.
    k_fit : (low, high), optional
        Range of the fit, 1/Å. None: from 0.3 of the largest k (0.5 with no background to fit) to the largest. It must extend past
        the visible oscillations (the guide: 1.2 to 1.6 1/Å).
    normalize : {"tail", "low r"}
        How N follows: from S = 1 on average over `k_fit`, by least squares with weights that outliers lose; or from G(r) = −4πρr below the
        first shell, which is the sum rule of Krogh-Moe and Norman.
    band, band_width : (low, high), width or (low, high)
        Cut-offs of S in k and widths of their sigmoids, 1/Å. high None: 0.95 of the largest k. The guide has 0.15 to 0.25 and 0.7 to 0.9.
    low_k : {"extend", "cut"}
        Below `low`, the coherent intensity goes on as k² to zero; or Q (S − 1) is cut by a sigmoid, as the guide has it. A cut
        bends the line −4πρr, so that no density can be read from it.
    damping : "lorch" or float, optional
        Further window: sinc(k / end of the band), or exp(−B k²) with B in Å². Ripples get smaller, and peaks wider.
    density : float, optional
        ρ, atoms per Å³. None: of the slope of G(r) below the first shell.
    r : (m,) array, optional
        Distances, Å, equally spaced, above 0. None: 0.02 to 15 Å.
    r_min : float, optional
        No atoms are nearer than this, Å. None: 0.7 of the distance of the first peak.
    low_r_rounds : int
        Rounds of the correction of Kaplow that subtracts from S what G(r) has besides −4πρr below `r_min`. 5 to 10 for multiple
        scattering or an unknown background.
    disk_radius : float, optional
        Radius of the bright-field disk, 1/Å. G(r) is divided by what the disk and the rings leave of it, 2 J₁(x)/x with x = 2π r ×
        radius, and sinc(r × width of a ring), down to 0.3. None: of a scan that of the calibrated semi-angle, else 0.
    first_shell : (low, high)
        Where the highest peak of G(r) is the first shell, Å.
    shell_limits : (start, end), optional
        Between which its atoms are counted, Å. None: from where the RDF grows up to the peak, to the deepest minimum of g(r) behind it
        up to 1.65 of its distance, without ripples, both of the mean of the profiles. Give both to compare specimens.
    origin, n_r, r_max, ellipse, mask
        Of a scan, as in `gpu4d.radial_profile` (r_max in pixels). Rings narrower than a pixel keep a sharp first peak of S, wider ones
        have less noise.
    **sweep_options
        Of `gpu4d.sweep`, for a scan: device, memory, where (False at positions with Bragg disks), progress.

    Returns
    -------
    RDF
        On the host. A profile of NaN or zeros gives NaN. Rings that are NaN in any profile that has values are left out of all.

    Raises
    ------
    InputError
        Composition or k are missing, an option is out of its range, or too few rings lie in the band.

    Examples
    --------
    Atoms on one shell of 12 at 2.9 Å, with a Gaussian factor:

    >>> k = np.arange(0.02, 2.0, 0.02)
    >>> f = np.exp(-k)
    >>> s = 1 + 12 * np.sinc(2 * 2.9 * k) * np.exp(-2 * (np.pi * k * 0.15) ** 2)
    >>> found = rdf(7 * f**2 * s, k=k, factor=f, background=None, density=0.05, low_k="cut", band=(0.05, None))
    >>> round(float(found.peak), 2)
    2.9
    """
    if normalize not in NORMALIZE:
        raise InputError(f"normalize={normalize!r}: need one of {', '.join(map(repr, NORMALIZE))}")
    rings = {"origin": origin, "n_r": n_r, "r_max": r_max, "ellipse": ellipse, "mask": mask}
    means, form = _without_measured(_means(profile, k, q_pixel, error, rings, sweep_options), background)
    usable, k_last = _usable(means)
    limits = band_of(band, band_width, low_k, damping, k_last)
    fit = _fit_range(k_fit, FIT_FROM[form is not None] * k_last)
    keep = usable & (means.k >= limits.start()) & (means.k <= max(limits.end(), fit[1])) & (means.k > 0)
    inside = keep & (means.k >= limits.low) & (means.k <= limits.high)
    if inside.sum() < LEAST_RINGS:
        band_text = f"from {limits.low:g} to {limits.high:g} 1/Å, and k goes to {k_last:g}"
        raise InputError(f"{int(inside.sum())} rings lie in the band {band_text}: need at least {LEAST_RINGS}, so give a wider band=")
    atom = mean_atom(composition, _kept(factor, keep), means.k[keep])
    mean, spread = (v.reshape(-1, v.shape[-1])[:, keep] for v in (means.mean, means.error))
    flat = RingMeans(means.k[keep], mean, spread, means.width)
    rho, at, nearest, shell, counted, rounds = _numbers(density, r, r_min, (first_shell, shell_limits), low_r_rounds)
    disk = _disk_radius(disk_radius, profile)
    choice = Choice(fit, form, normalize, rho, at, nearest, shell, counted, rounds, disk, means.width)
    return rdf_of_rings(flat, atom, limits, choice, means.mean.shape[:-1])


def _means(profile: Any, k: Any, q_pixel: Any, error: Any, rings: dict[str, Any], sweep_options: Any) -> RingMeans:
    """Return the mean profile of a scan, or the one given, after a look at what belongs to which."""
    if isinstance(profile, DataCube):
        if k is not None or error is not None:
            raise InputError("k and error belong to a profile, and a DataCube has a calibration: give q_pixel=, or leave them out")
        return from_scan(profile, q_pixel, rings, dict(sweep_options))
    if named := [name for name, value in {**rings, **sweep_options}.items() if value is not None]:
        raise InputError(f"{', '.join(named)} belong to a DataCube, and profile is an array: leave them out")
    return from_arrays(profile, k, q_pixel, error)


def _disk_radius(given: Any, profile: Any) -> float:
    """Return the radius of the bright-field disk, 1/Å: the one given, that of a scan's calibration, or 0."""
    if given is None:
        return bright_field_radius(profile.calibration) if isinstance(profile, DataCube) else 0.0
    radius = float(real_number(given, "disk_radius"))
    if not 0 <= radius < 1:
        raise InputError(f"disk_radius={radius:g}: need the radius of the bright-field disk, 1/Å, below 1")
    return radius


def _fit_range(given: Any, start: float) -> tuple[float, float]:
    """Return the range of k in which the scale is fitted."""
    if given is None:
        return start, np.inf
    low, high = given if isinstance(given, tuple | list) and len(given) == 2 else floats(given, 2, "k_fit", "(low, high) in 1/Å")
    low = start if low is None else float(real_number(low, "k_fit[0]"))
    high = np.inf if high is None else float(real_number(high, "k_fit[1]"))
    if not 0 <= low < high:
        raise InputError(f"k_fit=({low:g}, {high:g}): need 0 ≤ low < high, in k = 1/d (1/Å)")
    return low, high


def _without_measured(means: RingMeans, background: Any) -> tuple[RingMeans, str | None]:
    """Subtract a measured background, and return which form is left to fit."""
    if background is None or isinstance(background, str):
        return means, background
    values = real_values(background, "background", "the name of a form, None, or a measured background (n,)").astype(np.float64)
    if values.shape not in ((means.mean.shape[-1],), means.mean.shape):
        raise InputError(f"background has shape {values.shape}, and the profile {means.mean.shape}: need one value for each ring")
    return means._replace(mean=means.mean - values), None


def _usable(means: RingMeans) -> tuple[np.ndarray, float]:
    """Return (n,) bool, which rings all profiles have that have any, and the largest k of them."""
    finite = np.isfinite(means.mean).reshape(-1, len(means.k))
    some = finite[finite.any(axis=-1)]
    usable = some.all(axis=0) if len(some) else np.ones(len(means.k), bool)
    return usable, float(means.k[usable][-1]) if usable.any() else 0.0


def _kept(factor: Any, keep: np.ndarray) -> Any:
    """Return factors at the kept rings: arrays are cut, functions are left."""
    if factor is None or is_function(factor):
        return factor
    if isinstance(factor, Mapping):
        return {element: _kept(one, keep) for element, one in factor.items()}
    values = real_values(factor, "factor")
    if values.shape != keep.shape:
        raise InputError(f"factor has shape {values.shape}, and there are {len(keep)} rings: need one factor for each, Å")
    return values[keep]


def _numbers(density: Any, r: Any, r_min: Any, shells: tuple[Any, Any], rounds: Any) -> tuple[Any, ...]:
    """Return density, distances, r_min, range and limits of the first shell, and rounds of the correction, checked."""
    distances = np.arange(1, round(R_MAX / R_STEP) + 1) * R_STEP if r is None else growing(r, "r")
    steps = np.diff(distances)
    if len(distances) < 8 or distances[0] <= 0 or np.ptp(steps) > 1e-6 * steps[0] or distances[-1] > 1e4:
        raise InputError(f"r has {len(distances)} values from {distances[0]:g} Å on: need 8 or more, above 0 and equally spaced, Å")
    for value, name in ((density, "density"), (r_min, "r_min")):
        if value is not None and not 0 < float(real_number(value, name)) < 1e3:
            raise InputError(f"{name}={value!r}: need a positive number, or None ({'atoms per Å³' if name == 'density' else 'Å'})")
    found: list[tuple[float, ...] | None] = []
    for given, name in zip(shells, ("first_shell", "shell_limits")):
        pair = None if given is None and name == "shell_limits" else floats(given, 2, name, "two distances, (low, high) in Å")
        if pair is not None and not 0 < pair[0] < pair[1]:
            raise InputError(f"{name}={pair}: need 0 < low < high, Å")
        found.append(pair)
    count = real_number(rounds, "low_r_rounds", whole=True)
    if not 0 <= count <= 1000:
        raise InputError(f"low_r_rounds={count}: need 0 to 1000")
    return None if density is None else float(density), distances, None if r_min is None else float(r_min), *found, count
