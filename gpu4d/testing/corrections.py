"""What every correction of patterns must keep to, as tests that a package with a correction of its own can inherit."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

import gpu4d
from gpu4d import arrays
from gpu4d.data.corrections import Correction, Corrections


class CorrectionTests:
    """Tests of a `Correction`, for pytest. A subclass says how to make one, and may choose the patterns.

    Attributes
    ----------
    dtypes : tuple of str
        Native dtypes to try.
    libraries : tuple of str
        Array libraries to try; those that are not installed are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data import BadPixelCorrection
    >>> class TestBadPixel(CorrectionTests):
    ...     def make(self):
    ...         return BadPixelCorrection(np.eye(12, 10) > 0)
    >>> TestBadPixel().test_its_input_stays_as_it_is()
    """

    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "uint16", "int32", "float32", "float64")
    libraries: ClassVar[tuple[str, ...]] = ("array_api_strict", "torch", "jax.numpy")

    def make(self) -> Any:
        """Return a new correction; the same each time."""
        raise NotImplementedError

    def frames(self, dtype: str = "uint16") -> np.ndarray:
        """Return patterns (n, Qx, Qy) to try it on: by default 24 with Poisson counts, on its detector or on one of 12 × 10 pixels."""
        shape = self.make().detector_shape or (12, 10)
        return np.random.default_rng(11).poisson(20.0, (24, *shape)).astype(dtype)

    # ---------------------------------------------------------------- what it says

    def test_is_a_correction(self):
        """It has every method that sources and sweeps call, and says what it changes."""
        correction = self.make()
        assert isinstance(correction, Correction), f"{type(correction).__name__} lacks a method of gpu4d.data.Correction"
        assert correction.description and isinstance(correction.description, str)

    def test_says_which_dtype_comes_out(self):
        """`dtype` is asked before anything is read."""
        for name in self.dtypes:
            frames = self.frames(name)
            assert self.make().apply(frames).dtype == self.make().dtype(frames.dtype), name

    def test_says_what_it_needs(self):
        """Bytes are whole numbers that grow with the patterns of a chunk."""
        none, some = (self.make().bytes_needed(n) for n in (0, 64))
        assert int(none) == none >= 0 and int(some) == some >= none

    def test_can_be_pickled(self):
        """Cubes go to other processes with their corrections."""
        copy = pickle.loads(pickle.dumps(self.make()))
        assert copy.apply(self.frames()).tobytes() == self._corrected().tobytes()

    # ---------------------------------------------------------------- what it does

    def test_its_input_stays_as_it_is(self):
        """Patterns may be mapped pages of a file, which cannot be written to."""
        frames = self.frames()
        frames.flags.writeable = False
        self.make().apply(frames)
        assert frames.tobytes() == self.frames().tobytes()

    def test_a_pattern_is_corrected_by_itself(self):
        """The same bits alone, in a stack, and in a stack with more axes; no patterns give none."""
        frames, whole = self.frames(), self._corrected()
        for i, frame in enumerate(frames):
            assert self.make().apply(frame).tobytes() == whole[i].tobytes(), f"pattern {i}"
        grid = self.make().apply(frames.reshape(4, 6, *frames.shape[1:]))
        assert grid.shape == (4, 6, *frames.shape[1:]) and grid.tobytes() == whole.tobytes()
        assert self.make().apply(frames[:0]).shape == frames[:0].shape

    def test_a_bad_pattern_harms_only_itself(self):
        """A pattern of NaN changes no other."""
        frames = self.frames("float32")
        bad = frames.copy()
        bad[5] = np.nan
        kept = np.arange(len(frames)) != 5
        assert self.make().apply(bad)[kept].tobytes() == self.make().apply(frames)[kept].tobytes()

    def test_is_the_same_in_every_library(self):
        """Whole numbers exactly, floats to single precision; patterns stay in their library."""
        for xp in self._installed():
            for name in self.dtypes:
                given = xp.asarray(self.frames(name))
                found, expected = self.make().apply(given), self.make().apply(self.frames(name))
                assert type(found) is type(given) and found.dtype == self.make().dtype(given.dtype), f"{xp.__name__} {name}"
                rtol = 0 if arrays.is_integer(expected) else 1e-6
                np.testing.assert_allclose(arrays.to_numpy(found), expected, rtol=rtol, atol=0, err_msg=f"{xp.__name__} {name}")

    # ---------------------------------------------------------------- what a cube makes of it

    def test_views_show_corrected_patterns(self):
        """Cropped, binned and with exchanged axes: the pixels of correcting first and viewing then."""
        raw = gpu4d.DataCube(self.frames().reshape(4, 6, *self.frames().shape[1:]))
        corrected = gpu4d.DataCube(self._corrected().reshape(raw.shape))
        for name, view in self._views().items():
            found, expected = (view(cube).load().source.array for cube in (raw.corrected(self.make()), corrected))
            np.testing.assert_array_equal(found, expected, err_msg=name)

    def test_a_sweep_sees_corrected_patterns(self):
        """Whatever the memory; and before every reduction."""
        raw = gpu4d.DataCube(self.frames().reshape(4, 6, *self.frames().shape[1:]))
        expected = gpu4d.sweep(gpu4d.DataCube(self._corrected().reshape(raw.shape)), gpu4d.MaxPattern(), device="cpu")
        for memory in (None, "8 MB"):
            found = gpu4d.sweep(raw.corrected(self.make()), {"a": gpu4d.MaxPattern(), "b": gpu4d.MaxPattern()}, memory=memory, device="cpu")
            for one in found.values():
                np.testing.assert_array_equal(np.asarray(one), np.asarray(expected))

    def _corrected(self) -> np.ndarray:
        return Corrections((self.make(),)).apply(self.frames())

    def _views(self) -> dict[str, Any]:
        qx, qy = self.frames().shape[1:]
        return {
            "one position": lambda cube: cube.crop(rx=(1, 2), ry=(3, 4)),
            "part of the scan": lambda cube: cube.crop(rx=(1, 3), ry=(2, 6)),
            "part of the detector": lambda cube: cube.crop(qx=(qx // 4, qx - 1), qy=(1, qy - qy // 4)),
            "detector axes exchanged": lambda cube: cube.swap_axes(detector=True),
            "scan axes exchanged": lambda cube: cube.swap_axes(scan=True),
            "binned": lambda cube: cube.bin(detector=2, scan=2),
            "binned part": lambda cube: cube.crop(qx=(1, qx)).bin(detector=2).swap_axes(detector=True, scan=True),
        }

    def _installed(self) -> Iterator[Any]:
        for name in self.libraries:
            try:
                xp = importlib.import_module(name)
            except ImportError:
                continue
            if name == "jax.numpy":
                importlib.import_module("jax").config.update("jax_enable_x64", True)
            yield xp
