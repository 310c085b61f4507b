"""Tests of what every source of patterns must do. A package with its own source can inherit them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d import arrays
from gpu4d.data.events import events_of
from gpu4d.data.source import Source, scratch_bytes, will_read

Cut = tuple[slice, slice]


class SourceTests:
    """Tests of a `Source`, for pytest. A subclass says how to make one.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data.source import ArraySource
    >>> class TestArray(SourceTests):
    ...     def make(self, tmp_path):
    ...         data = np.arange(3 * 4 * 5 * 6, dtype="uint16").reshape(3, 4, 5, 6)
    ...         return ArraySource(data), data
    >>> TestArray().test_reads_what_is_there(None)
    """

    def make(self, tmp_path: Path) -> tuple[Any, np.ndarray]:
        """Return a new source, and the patterns (Rx, Ry, Qx, Qy) that it must give. Use at least 2 × 2 positions.

        Parameters
        ----------
        tmp_path : Path
            An empty folder, for sources in files.
        """
        raise NotImplementedError

    def test_says_what_it_is(self, tmp_path):
        """Test that shape, dtype, natural blocks and a description are known before anything is read."""
        source, expected = self.make(tmp_path)
        assert isinstance(source, Source), f"{type(source).__name__} lacks something of gpu4d.data.source.Source"
        assert tuple(source.shape) == expected.shape and all(type(n) is int for n in source.shape)
        assert len(source.blocks) == 2 and all(type(n) is int and n >= 1 for n in source.blocks)
        assert isinstance(source.resident, bool) and isinstance(source.description, str) and source.description
        assert arrays.to_numpy(source.read(slice(0, 1), slice(0, 1))).dtype == np.dtype(str(source.dtype).rpartition(".")[2])

    def test_patterns_are_numbers_of_this_machine(self, tmp_path):
        """Test that patterns are real numbers in native byte order, because compiled code takes their bytes as they are."""
        source, _ = self.make(tmp_path)
        found = arrays.to_numpy(source.read(slice(0, 1), slice(0, 1)))
        assert found.dtype.isnative and found.dtype.kind in "biuf", f"{found.dtype}: need native bool, integers or floats"

    def test_reads_what_is_there(self, tmp_path):
        """Test that any rectangle of the scan gives its patterns, along the natural blocks or across them."""
        source, expected = self.make(tmp_path)
        for rows, columns in self.cuts(source):
            found = arrays.to_numpy(source.read(rows, columns))
            np.testing.assert_array_equal(found, expected[rows, columns], err_msg=f"rows {rows}, columns {columns}")

    def test_fills_the_buffer_it_is_given(self, tmp_path):
        """Test that a source without patterns in memory writes them into the caller's buffer and returns it."""
        source, expected = self.make(tmp_path)
        if source.resident or not isinstance(source.read(slice(0, 1), slice(0, 1)), np.ndarray):
            return  # resident sources may return a view; arrays of other libraries are not copied to the host
        for rows, columns in self.cuts(source):
            buffer = np.full(expected[rows, columns].shape, 77, source.dtype)
            assert source.read(rows, columns, buffer) is buffer
            np.testing.assert_array_equal(buffer, expected[rows, columns])

    def test_several_threads_may_read_at_once(self, tmp_path):
        """Test that reads in several threads at the same time give the right patterns."""
        source, expected = self.make(tmp_path)
        cuts = self.cuts(source) * 8
        with ThreadPoolExecutor(4) as pool:
            for (rows, columns), found in zip(cuts, pool.map(lambda cut: np.array(arrays.to_numpy(source.read(*cut))), cuts)):
                np.testing.assert_array_equal(found, expected[rows, columns])

    def test_hints_change_nothing(self, tmp_path):
        """Test that `will_read` changes nothing, and that `scratch_bytes` is a number of bytes. A source may have neither."""
        source, expected = self.make(tmp_path)
        assert scratch_bytes(source) >= 0
        for cut in self.cuts(source):
            will_read(source, *cut)
        np.testing.assert_array_equal(arrays.to_numpy(source.read(*self.cuts(source)[0])), expected)

    def test_a_sweep_sees_every_pattern(self, tmp_path):
        """Test that a sweep gets every pattern once, at its position."""
        source, expected = self.make(tmp_path)
        every = np.ones(expected.shape[2:], bool)
        found = gpu4d.sweep(gpu4d.DataCube(source), gpu4d.VirtualImage(every))
        whole = expected.astype(np.float64) if expected.dtype.kind == "f" else expected.astype(np.int64)
        np.testing.assert_allclose(arrays.to_numpy(found.data), whole.sum((2, 3)), rtol=1e-6)

    def test_its_events_are_those_of_the_patterns(self, tmp_path):
        """A source that keeps events gives them for any cut, and knows their number at every position beforehand."""
        source, expected = self.make(tmp_path)
        keeper = events_of(source)
        if keeper is None:
            return
        assert keeper.offsets.shape == (expected.shape[0] * expected.shape[1] + 1,)
        for rows, columns in self.cuts(source):
            events, patterns = keeper.read_events(rows, columns), expected[rows, columns]
            np.testing.assert_array_equal(events.dense(source.dtype), patterns.reshape(-1, *expected.shape[2:]))
            numbers = np.diff(keeper.offsets).reshape(expected.shape[:2])[rows, columns]
            assert np.diff(events.offsets).tolist() == numbers.ravel().tolist(), f"rows {rows}, columns {columns}"

    def cuts(self, source: Any) -> list[Cut]:
        """Return rectangles to try: the whole scan first, then its last position, and some that cross natural blocks."""
        rx, ry = source.shape[:2]
        inner = slice(min(1, rx - 1), max(rx - 1, 1)), slice(min(1, ry - 1), max(ry - 1, 1))
        block = slice(0, min(source.blocks[0], rx)), slice(0, min(source.blocks[1], ry))
        return [(slice(0, rx), slice(0, ry)), (slice(rx - 1, rx), slice(ry - 1, ry)), inner, block, (slice(rx // 2, rx), slice(0, ry))]
