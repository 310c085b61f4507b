"""Compute deformation gradients, strain components and their errors for stacks of 2 × 2 matrices."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays

COMPONENTS = ("e_xx", "e_yy", "e_xy", "theta")
DEFINITIONS = ("finite", "infinitesimal", "first_order")


def deformation_gradient(g: Any, reference: Any) -> Any:
    """Return F of the real lattice from reciprocal vectors as rows: g = F⁻ᵀ g_ref, so G = G_ref F⁻¹ and F = G⁻¹ G_ref.

    Parameters
    ----------
    g : (..., 2, 2) float64
    reference : (2, 2) float64

    Returns
    -------
    (..., 2, 2) float64
        NaN where g is singular or NaN.
    """
    xp = arrays.namespace(g, reference)
    return xp.matmul(_inverse(g), reference)


def _inverse(m: Any) -> Any:
    """Invert 2 × 2 matrices. A singular matrix gives NaN."""
    xp = arrays.namespace(m)
    a, b, c, d = (m[..., i, j] for i in (0, 1) for j in (0, 1))
    det = a * d - b * c
    det = xp.where(xp.abs(det) > 0, det, xp.full_like(det, float("nan")))
    return _matrix(d, -b, -c, a) / det[..., None, None]


def _matrix(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return matrices (..., 2, 2) from their elements, row by row."""
    xp = arrays.namespace(a)
    return xp.stack([xp.stack([a, b], axis=-1), xp.stack([c, d], axis=-1)], axis=-2)


def rotation_angle(f: Any) -> Any:
    """Return the angle of R in the polar decomposition F = R U, positive from x to y: atan2(F₁₀ − F₀₁, F₀₀ + F₁₁).

    This is exact in two dimensions. RᵀF is symmetric for this angle only (and for angle + π, for which U is not positive definite).
    """
    xp = arrays.namespace(f)
    return xp.atan2(f[..., 1, 0] - f[..., 0, 1], f[..., 0, 0] + f[..., 1, 1])


def components(f: Any, definition: str) -> tuple[Any, Any, Any, Any]:
    """Return e_xx, e_yy, e_xy, theta of deformation gradients (..., 2, 2). `strain_map` has the definitions."""
    xp = arrays.namespace(f)
    if definition == "finite":
        angle = rotation_angle(f)
        c, s = xp.cos(angle), xp.sin(angle)
        u = xp.matmul(_matrix(c, s, -s, c), f)
        return u[..., 0, 0] - 1, u[..., 1, 1] - 1, (u[..., 0, 1] + u[..., 1, 0]) / 2, -angle
    if definition == "infinitesimal":
        return f[..., 0, 0] - 1, f[..., 1, 1] - 1, (f[..., 0, 1] + f[..., 1, 0]) / 2, (f[..., 0, 1] - f[..., 1, 0]) / 2
    beta = xp.matrix_transpose(_inverse(f))
    return 1 - beta[..., 0, 0], 1 - beta[..., 1, 1], -(beta[..., 0, 1] + beta[..., 1, 0]) / 2, (beta[..., 0, 1] - beta[..., 1, 0]) / 2


def standard_errors(f: Any, g: Any, covariance: Any, axes: Any, definition: str) -> tuple[Any, Any, Any, Any]:
    """Propagate the covariance of the lattice vectors to errors of the components, to first order.

    A change dG of the lattice vectors gives dF = −G⁻¹ dG F. For F = R U the rotation changes by dα = (M₁₀ − M₀₁) / tr U, with
    M = Rᵀ dF. The stretch changes by dU = M − dα J U, with J = [[0, −1], [1, 0]]. The reference is taken as exact.

    Parameters
    ----------
    f, g : (..., 2, 2) float64
        On detector axes.
    covariance : (..., 2, 2, 2) float64
        Of `LatticeFit`: ``[..., c, i, j]``.
    axes : (2, 2) float64
        Orthogonal matrix. Its rows are the tensor's axes on the detector.
    definition : str
    """
    xp = arrays.namespace(f, g, covariance, axes)
    back = xp.matrix_transpose(axes)
    inverse = _inverse(g)
    turned = xp.matmul(xp.matmul(axes, f), back)
    change: dict[tuple[int, int], tuple[Any, ...]] = {}
    for i in (0, 1):
        for c in (0, 1):
            df = -inverse[..., :, i, None] * f[..., None, c, :]
            change[c, i] = _changes(turned, xp.matmul(xp.matmul(axes, df), back), definition)
    variances = [
        sum(change[c, i][n] * covariance[..., c, i, j] * change[c, j][n] for c in (0, 1) for i in (0, 1) for j in (0, 1)) for n in range(4)
    ]
    sxx, syy, sxy, st = (xp.sqrt(v) for v in variances)
    return sxx, syy, sxy, st


def _changes(f: Any, df: Any, definition: str) -> tuple[Any, Any, Any, Any]:
    """Return first-order changes of e_xx, e_yy, e_xy, theta if F changes by dF."""
    xp = arrays.namespace(f, df)
    if definition == "first_order":  # β = F⁻ᵀ, dβ = −F⁻ᵀ dFᵀ F⁻ᵀ
        beta = xp.matrix_transpose(_inverse(f))
        d = xp.matmul(xp.matmul(beta, xp.matrix_transpose(df)), beta)
        return d[..., 0, 0], d[..., 1, 1], (d[..., 0, 1] + d[..., 1, 0]) / 2, (d[..., 1, 0] - d[..., 0, 1]) / 2
    if definition == "infinitesimal":
        return df[..., 0, 0], df[..., 1, 1], (df[..., 0, 1] + df[..., 1, 0]) / 2, (df[..., 0, 1] - df[..., 1, 0]) / 2
    angle = rotation_angle(f)
    c, s = xp.cos(angle), xp.sin(angle)
    unrotate = _matrix(c, s, -s, c)
    u, m = xp.matmul(unrotate, f), xp.matmul(unrotate, df)
    turn = (m[..., 1, 0] - m[..., 0, 1]) / (u[..., 0, 0] + u[..., 1, 1])
    return m[..., 0, 0] + turn * u[..., 1, 0], m[..., 1, 1] - turn * u[..., 0, 1], m[..., 0, 1] + turn * u[..., 1, 1], -turn
