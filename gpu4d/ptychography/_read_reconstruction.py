"""Read the results of other ptychography engines: `gpu4d.ptychography.read_reconstruction`."""

from __future__ import annotations

import os
from collections.abc import Callable

import h5py
import numpy as np

from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError

METRE = 1e10  # Å


def read_reconstruction(path: str | os.PathLike[str], /) -> RealSlice:
    """Read the object's phase from a file of PtyRAD, phaser or Pty-Chi.

    Parameters
    ----------
    path : path
        HDF5: PtyRAD's `model_iter….hdf5`, phaser's `iter….h5`, or a product of Ptychodus with Pty-Chi's `object`.

    Returns
    -------
    RealSlice (X, Y)
        Radians, with mean zero, summed over slices, of the first of several states of the object. In the axes of the patterns that
        were handed over: their first axis is the first one here.

    Raises
    ------
    InputError
        The file cannot be read, or holds no object of these engines.

    Examples
    --------
    >>> import h5py, numpy as np, os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "model_iter0010.hdf5")
    >>> with h5py.File(name, "w") as file:
    ...     file["optimizable_tensors/objp"] = np.zeros((1, 2, 5, 6))
    ...     file["model_attributes/dx"] = 0.2
    >>> read_reconstruction(name)
    RealSlice('phase of PtyRAD', 5×6 float64, units 'rad', 0.2 Å/px)
    """
    name = os.fspath(path)
    try:
        with h5py.File(name, "r") as file:
            for there, read in READERS.items():
                if there in file:
                    phase, pixel, engine = read(file)
                    return RealSlice(phase - phase.mean(), f"phase of {engine}", "rad", pixel, "Å")
            held = ", ".join(sorted(file)) or "nothing"
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{name} cannot be read as a reconstruction ({error}): give the HDF5 file of PtyRAD, phaser or Pty-Chi") from error
    raise InputError(f"{name} holds {held}, and no object of PtyRAD ({', '.join(READERS)} are looked for), phaser or Pty-Chi")


def _ptyrad(file: h5py.File) -> tuple[np.ndarray, float, str]:
    """Read optimizable_tensors/objp, (states, slices, y, x) in rad, and model_attributes/dx in Å."""
    return np.asarray(file["optimizable_tensors/objp"])[0].sum(axis=0).astype(float), float(file["model_attributes/dx"][()]), "PtyRAD"


def _phaser(file: h5py.File) -> tuple[np.ndarray, float, str]:
    """Read object/data, (z, y, x) complex, and object/sampling (y, x) in Å."""
    return np.angle(file["object/data"][()]).sum(axis=0).astype(float), float(file["object/sampling"][0]), "phaser"


def _pty_chi(file: h5py.File) -> tuple[np.ndarray, float, str]:
    """Read object, (slices, y, x) complex, and the size of its pixels in m."""
    values = file["object"][()]
    values = values[None] if values.ndim == 2 else values
    return np.angle(values).sum(axis=0).astype(float), float(file["object"].attrs["pixel_height_m"]) * METRE, "Pty-Chi"


READERS: dict[str, Callable[[h5py.File], tuple[np.ndarray, float, str]]] = {
    "optimizable_tensors/objp": _ptyrad,
    "object/data": _phaser,
    "object": _pty_chi,
}
