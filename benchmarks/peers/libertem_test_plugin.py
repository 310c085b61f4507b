"""Plugin for LiberTEM's own tests, in LiberTEM's environment: its CoM and its masks are computed by our UDFs.

``pytest -p libertem_test_plugin`` with this folder and gpu4d on PYTHONPATH; `conformance_libertem.py` does it. CoMUDF is replaced by ours.
With GPU4D_ROUNDED=1 only its sums are ours, and LiberTEM makes its results of them in its own float32.
ApplyMasksUDF hands its tiles to our VirtualImageUDF, which adds to the same result buffer. It keeps what we do not do: complex masks,
sparse frames, masks that are shifted by whole pixels, sums in narrow integers that wrap. At the end it says how many tiles went either way.
"""

import atexit
import json
import os
import sys
from collections import Counter

import numpy as np
import sparse
from libertem import masks
from libertem.udf.com import CoMUDF as TheirCoM
from libertem.udf.masks import ApplyMasksUDF as TheirMasks
from scipy.sparse import issparse

from gpu4d.imaging.first_moments import first_moments
from gpu4d.interop.libertem import CenterOfMassUDF, VirtualImageUDF

tiles: Counter = Counter()
ROUNDED = os.environ.get("GPU4D_ROUNDED") == "1"


class CoMUDF(CenterOfMassUDF):
    """Ours, counted."""

    def process_tile(self, tile):
        tiles["CoM, gpu4d"] += 1
        super().process_tile(tile)


class RoundedCoMUDF(TheirCoM):
    """LiberTEM's UDF in its own precision, with our sums."""

    def get_backends(self):
        return self.BACKEND_NUMPY, self.BACKEND_CUPY

    def process_tile(self, tile):
        tiles["CoM, gpu4d in float32"] += 1
        asked, sig, nav = self.get_params(), self.meta.dataset_shape.sig, self.meta.dataset_shape.nav
        if len(sig) != 2 or len(nav) != 2:
            return super().process_tile(tile)
        about = {"centerY": asked.cy, "centerX": asked.cx, "radius": asked.r, "imageSizeY": sig[0], "imageSizeX": sig[1]}
        whole = asked.ri is None or np.isclose(asked.ri, 0.0)
        mask = masks.circular(**about) if whole else masks.ring(**about, radius_inner=asked.ri)
        (y, x), (ny, nx) = self.meta.sig_slice.origin, self.meta.sig_slice.shape
        sums = first_moments(tile, np.ascontiguousarray(mask[y : y + ny, x : x + nx]))
        self.results.raw_mask_result[:] += np.stack([sums[:, 0], sums[:, 1] + y * sums[:, 0], sums[:, 2] + x * sums[:, 0]], axis=-1)


class ApplyMasksUDF(TheirMasks):
    """LiberTEM's UDF, whose sums are ours."""

    def get_task_data(self):
        task = super().get_task_data()
        stack = self._dense_masks()
        if stack is None:
            return task | {"inner": None}
        inner = VirtualImageUDF(stack)
        inner.set_meta(self.meta)
        inner.init_task_data()
        inner.results = self.results
        return task | {"inner": inner}

    def _dense_masks(self):
        """The masks (m, Qx, Qy), or None where LiberTEM's own must do it."""
        nd, sig = self.meta.array_backend in (self.BACKEND_NUMPY, self.BACKEND_CUPY), tuple(self.meta.dataset_shape.sig)
        if not nd or len(sig) != 2 or np.dtype(self.meta.input_dtype).kind not in "buif":
            return None
        stack = _dense(self.masks.computed_masks)
        if stack.dtype.kind not in "buif" or self.results.get_buffer("intensity").dtype.kind != "f":
            return None
        return stack.reshape(-1, *sig)

    def process_tile(self, tile):
        inner = self.task_data.inner
        tiles["masks, gpu4d" if inner is not None else "masks, LiberTEM"] += 1
        if inner is None:
            super().process_tile(tile)
        else:
            inner.process_tile(tile.reshape(-1, *self.meta.sig_slice.shape))

    def process_frame(self, frame):
        tiles["shifted masks, LiberTEM"] += 1
        super().process_frame(frame)


def _dense(found):
    """The masks of a container as an array."""
    if issparse(found):
        return found.toarray()
    return found.todense() if isinstance(found, sparse.SparseArray) else np.asarray(found)


def inject():
    """Put ours in the place of theirs, in every module that has them already."""
    replaced = (("CoMUDF", TheirCoM, RoundedCoMUDF if ROUNDED else CoMUDF), ("ApplyMasksUDF", TheirMasks, ApplyMasksUDF))
    for kind, theirs, ours in replaced:
        for name, module in list(sys.modules.items()):
            if name.startswith("libertem.") and vars(module).get(kind) is theirs:
                setattr(module, kind, ours)


@atexit.register
def say():
    """Write the counts beside the report; processes that the tests start have none of their own."""
    if os.environ.get("GPU4D_TILES") and tiles:
        with open(os.environ["GPU4D_TILES"], "a", encoding="utf-8") as file:
            file.write(json.dumps(tiles) + "\n")


inject()
