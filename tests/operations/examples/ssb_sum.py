"""Example inputs of `ssb_sum`."""

from typing import Any

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """Both modes; a disk and a measured pupil; without aberrations, with defocus, with all; odd scans; more pixels than a chunk."""
    rng = np.random.default_rng(21)

    def one(label: str, scan: tuple[int, int], n: int, dtype: Any = "complex64", radius: float = 4.37, **options: Any) -> Example:
        nx, nk = scan[0], scan[1] // 2 + 1
        spectra = (rng.normal(size=(n, nx, nk)) + 1j * rng.normal(size=(n, nx, nk))).astype(dtype)
        at = rng.uniform(-radius, radius, (n, 2))
        turn = np.array([[0.96, 0.28], [-0.28, 0.96]]) * 3.7 * radius
        rows, columns = np.fft.fftfreq(nx)[:, None] * turn[0], np.fft.rfftfreq(scan[1])[:, None] * turn[1]
        precise = {"twin": (1e-9, 1e-9), "cuda": (2e-6, 2e-6)}
        return Example(label, (spectra, at, rows, columns), {"radius": radius, **options}, **precise)

    pupil = np.zeros((13, 15), complex)
    pupil[3:10, 4:11] = (rng.normal(size=(7, 7)) + 1j * rng.normal(size=(7, 7))) / 4
    defocus = ((2, 0, 0.03), (0, 2, 0.035), (1, 1, -0.004))
    every = tuple((i, j, 0.3**k * (i + 2 * j - 3) / 20) for k in range(2, 7) for i in range(k + 1) for j in [k - i])
    found = []
    for mode in ("weighted", "exact"):
        found += [
            one(f"{mode}-disk", (9, 14), 40, mode=mode),
            one(f"{mode}-defocus", (10, 9), 33, mode=mode, chi=defocus),
            one(f"{mode}-every-aberration", (8, 8), 9, mode=mode, chi=every),
            one(f"{mode}-pupil", (7, 12), 12, mode=mode, pupil=pupil, center=(6.2, 6.9)),
            one(f"{mode}-pupil-defocus", (6, 6), 8, mode=mode, pupil=pupil, center=(6.2, 6.9), chi=defocus),
            one(f"{mode}-double", (6, 5), 11, "complex128", mode=mode),
        ]
    return [*found, one("one-frequency", (1, 1), 5), one("none", (4, 6), 0), one("beyond-a-chunk", (3, 6), 261)]
