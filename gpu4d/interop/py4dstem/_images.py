"""Virtual images: `DataCube.get_virtual_image`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpu4d.device.threads import in_threads
from gpu4d.imaging.masked_sums import masked_sums
from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Given, Place, Replacement, no_array, set_options

PIECE = 64  # patterns that are copied together, to be summed under one mask
UNTOUCHED = {"dask": False, "return_mask": False, "test_config": False, "subpixel": False}


def replacements() -> Iterable[Replacement]:
    """Return what replaces py4DSTEM's loop over patterns. It makes the mask itself."""
    module = library("py4DSTEM.datacube.virtualimage")
    yield Replacement(Place(module.DataCubeVirtualImager, "get_virtual_image"), _refuses, _image)


def _refuses(given: Given) -> str | None:
    reason = set_options(given, UNTOUCHED) or no_array(given["self"].data)
    if reason is None and given["mode"] == "mask" and np.asarray(given["geometry"]).dtype.kind not in "biuf":
        reason = "the mask is not real"
    if reason is None and given["shift_center"] and any(v is None for v in _origin_shift(given["self"])):
        reason = "the origin is not known"
    return reason


def _origin_shift(cube: Any) -> tuple[Any, Any]:
    """Return the shifts of the origin along both axes, or None for both."""
    found = cube.calibration.get_origin_shift()
    return (None, None) if found is None else found


def _image(own: Callable[..., Any], given: Given) -> Any:
    cube = given["self"]
    where = {name: given[name] for name in ("mode", "geometry", "centered", "calibrated")}
    mask = np.asarray(own(cube, **where, return_mask=True, verbose=False))
    sums = _sums(cube.data, mask, _shifts(cube) if given["shift_center"] else None)
    made = library("py4DSTEM.datacube.virtualimage").VirtualImage(data=sums, name=given["name"])
    told = {name: value for name, value in given.items() if name != "self"}
    called = {"_calling_method": own.__name__, "_calling_class": own.__qualname__.partition(".")[0]}
    made.metadata = library("emdfile").Metadata(name="gen_params", data=called | told)
    cube.attach(made)
    return made if given["returncalc"] else None


def _shifts(cube: Any) -> np.ndarray:
    """Return by how many whole pixels the mask of each position moves, (Rx, Ry, 2)."""
    return np.stack([np.broadcast_to(np.round(v).astype(int), cube.data.shape[:2]) for v in _origin_shift(cube)], -1)


def _sums(data: np.ndarray, mask: np.ndarray, shifts: np.ndarray | None) -> np.ndarray:
    """Return the sum of each pattern under the mask, or under the mask moved to its position, (Rx, Ry) float64."""
    if shifts is None:
        return np.stack(list(in_threads(lambda row: masked_sums(row, mask[None])[:, 0].astype(np.float64), list(data))))
    out = np.empty(data.shape[:2])

    def piece(shift: tuple[int, int], rx: np.ndarray, ry: np.ndarray) -> None:
        out[rx, ry] = masked_sums(data[rx, ry], np.roll(mask, shift, axis=(0, 1))[None])[:, 0]

    list(in_threads(piece, *zip(*_alike(shifts))))
    return out


def _alike(shifts: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """Return positions that share a shift, some at a time: the shift, and their places along both axes of the scan."""
    different, which = np.unique(shifts.reshape(-1, 2), axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    for number, shift in zip(np.unique(which), different):
        first, last = np.searchsorted(which.reshape(-1)[order], [number, number + 1])
        for at in range(first, last, PIECE):
            rx, ry = np.unravel_index(order[at : min(at + PIECE, last)], shifts.shape[:2])
            yield (int(shift[0]), int(shift[1])), rx, ry
