"""Tests of what every reduction must do. A package with its own reduction can inherit them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

import gpu4d
from gpu4d.data.events import EventSource
from gpu4d.data.pointlist import PointListArray
from gpu4d.streaming.merge import to_host
from gpu4d.streaming.plan import plan
from gpu4d.streaming.reduction import Reduction, SparsePixels, in_tiles, takes_events

NAME = "reduction"  # name of the reduction under test, in plans


class ReductionTests:
    """Tests of a `Reduction`, for pytest. A subclass says how to make one, and may choose the scan.

    Results are compared bit by bit. They must not depend on memory, threads, devices or interruptions.

    Examples
    --------
    >>> import gpu4d
    >>> class TestMaximum(ReductionTests):
    ...     def make(self):
    ...         return gpu4d.MaxPattern()
    >>> TestMaximum().test_the_order_of_row_blocks_does_not_matter()
    """

    def make(self) -> Any:
        """Return a new reduction that has seen no pattern. It must be the same in every call."""
        raise NotImplementedError

    def cube(self) -> gpu4d.DataCube:
        """Return the scan for the tests. By default 13 × 9 patterns of 16 × 20 pixels with Poisson counts, from a fixed seed."""
        return gpu4d.DataCube(np.random.default_rng(7).poisson(3.0, (13, 9, 16, 20)).astype(np.uint16))

    def bits(self, result: Any) -> Any:
        """Return a result as bytes, so that two results can be compared bit by bit. Override it for your own kinds of results."""
        result = to_host(result)
        if isinstance(result, PointListArray):
            return (result.offsets.tobytes(), *(result.flat(field).tobytes() for field in result.fields))
        if isinstance(result, tuple | list):
            return tuple(self.bits(one) for one in result)
        if isinstance(result, dict):
            return {name: self.bits(one) for name, one in result.items()}
        return np.asarray(result).tobytes()

    # ---------------------------------------------------------------- before the first pattern

    def test_is_a_reduction(self):
        """Test that it has every method that a sweep calls."""
        assert isinstance(self.make(), Reduction), f"{type(self.make()).__name__} lacks a method of gpu4d.streaming.Reduction"

    def test_can_be_pickled_before_it_starts(self):
        """Test that a pickled copy finds the same. A sweep on several devices gives each a copy."""
        copy = pickle.loads(pickle.dumps(self.make()))
        assert self.bits(gpu4d.sweep(self.cube(), copy)) == self._alone()

    def test_says_what_it_will_hold(self):
        """Test that `bytes_needed` works before `start`, and gives whole numbers that grow with the patterns of an update."""
        scan = self._plan().scan
        none, some = (self.make().bytes_needed(scan, n) for n in (0, 64))
        assert int(none) == none >= 0 and int(some) == some >= none
        passes = self.make().passes(scan, 1 << 30)
        assert int(passes) == passes >= 1

    def test_has_a_result_before_it_has_seen_anything(self):
        """Test that `finish` may be called before the first pattern."""
        reduction, scan = self.make(), self._plan().scan
        reduction.start(scan, "cpu")
        reduction.finish()

    # ---------------------------------------------------------------- the same bits for every order and size of updates

    def test_the_order_of_row_blocks_does_not_matter(self):
        """Test row blocks in other orders, because threads and devices finish them in any order."""
        blocks = range(self._plan().scan.blocks)
        assert self.bits(self._fed(reversed(blocks)).finish()) == self._alone()

    def test_the_size_of_updates_does_not_matter(self):
        """Test updates of one segment and of whole row blocks, if `in_tiles` allows that."""
        reduction = self.make()
        reduction.start(self._plan().scan, "cpu")
        if not in_tiles(reduction):
            assert self.bits(self._fed(range(self._plan().scan.blocks), together=True).finish()) == self._alone()

    def test_two_workers_merge_to_the_same(self):
        """Test two workers with their own row blocks, whose states are pickled and merged."""
        if self._passes() > 1:
            return  # several passes run on one device, because each builds on the one before
        blocks = range(self._plan().scan.blocks)
        for shares in ((blocks[::2], blocks[1::2]), (blocks[len(blocks) // 2 :], blocks[: len(blocks) // 2])):
            first, second = map(self._fed, shares)
            first.merge(pickle.loads(pickle.dumps(second.state())))
            assert self.bits(first.finish()) == self._alone()

    def test_machines_that_share_the_rows_merge_to_the_same(self):
        """Test states of some scan rows alone, as workers of a cluster make them, of which neighbours are merged first."""
        if self._passes() > 1:
            return
        rows = self.cube().shape[0]
        states = [self._state_of_rows(pair) for pair in ((0, rows // 3), (rows // 3, rows // 2), (rows // 2, rows))]
        upper, whole = self.make(), self.make()
        upper.start(self._plan((0, rows // 2)).scan, "cpu")
        whole.start(self._plan().scan, "cpu")
        upper.merge(states[1])
        upper.merge(states[0])
        whole.merge(states[2])
        whole.merge(pickle.loads(pickle.dumps(upper.state())))
        assert self.bits(whole.finish()) == self._alone()

    def test_goes_on_from_its_state(self):
        """Test that an interrupted pass continues from a stored state to the same result."""
        if self._passes() > 1:
            return
        blocks = range(self._plan().scan.blocks)
        half = self._fed(blocks[: len(blocks) // 2])
        resumed = self.make()
        resumed.start(self._plan().scan, "cpu")
        resumed.restore(pickle.loads(pickle.dumps(half.state())))
        assert self.bits(resumed.finish()) == self.bits(half.finish())
        self._feed(resumed, blocks[len(blocks) // 2 :])
        assert self.bits(resumed.finish()) == self._alone()

    def test_a_result_on_the_way_consumes_nothing(self):
        """Test that asking for the result twice gives the same, and does not change the final result."""
        blocks = range(self._plan().scan.blocks)
        reduction = self.make()
        for pass_ in range(self._passes()):
            reduction.start(self._plan().scan, "cpu", pass_)
            self._feed(reduction, blocks[:1])
            if pass_ == self._passes() - 1:
                assert self.bits(reduction.finish()) == self.bits(reduction.finish())
            self._feed(reduction, blocks[1:])
        assert self.bits(reduction.finish()) == self._alone()

    def test_company_does_not_matter(self):
        """Test that the result is the same if other reductions share the sweep and its work."""
        company = {NAME: self.make(), "mean": gpu4d.MeanPattern(), "maximum": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass()}
        assert self.bits(gpu4d.sweep(self.cube(), company)[NAME]) == self._alone()

    def test_pixels_gathered_before_give_the_same(self):
        """Test that it gives the same from the values of its wanted pixels, if it needs only some pixels."""
        reduction = self.make()
        reduction.start(self._plan().scan, "cpu")
        wanted = reduction.wanted_pixels() if isinstance(reduction, SparsePixels) else None
        if wanted is None:
            return
        for frames, positions in self._updates(range(self._plan().scan.blocks), together=False):
            reduction.update_pixels(np.ascontiguousarray(frames.reshape(len(frames), -1)[:, wanted]), positions)
        assert self.bits(reduction.finish()) == self._alone()

    def test_events_give_the_bits_of_patterns(self):
        """Test that a counted scan kept as events gives the same result, with events if the reduction takes them, else with patterns."""
        cube = self.cube()
        patterns = np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
        if patterns.dtype.kind not in "iu" or patterns.min(initial=0) < 0:
            return  # events are counts
        known = cube.calibration, cube.metadata, cube.detector_mask
        counted, expected = gpu4d.DataCube(_as_events(patterns), *known), gpu4d.DataCube(patterns, *known)
        alone = self.bits(gpu4d.sweep(expected, self.make(), device="cpu"))
        todo = plan(counted, {NAME: self.make()}, device="cpu")
        assert bool(todo.given_events) == takes_events(self.make(), todo.scan)
        assert self.bits(gpu4d.sweep(counted, self.make(), device="cpu")) == alone
        mixed = {NAME: self.make(), "patterns": gpu4d.MaxPattern()}  # of which one needs patterns
        assert self.bits(gpu4d.sweep(counted, mixed, device="cpu")[NAME]) == alone

    # ---------------------------------------------------------------- feeding it by hand

    def _plan(self, rows: tuple[int, int] | None = None) -> Any:
        return plan(self.cube(), {NAME: self.make()}, device="cpu", rows=rows)

    def _passes(self) -> int:
        return self._plan().passes

    def _alone(self) -> Any:
        """Return the bits of the result of a sweep without other reductions."""
        return self.bits(gpu4d.sweep(self.cube(), self.make()))

    def _state_of_rows(self, rows: tuple[int, int]) -> Any:
        """Return the pickled and restored state of a reduction that has seen some scan rows."""
        todo, reduction = self._plan(rows), self.make()
        reduction.start(todo.scan, "cpu")
        for frames, positions in self._updates(range(todo.scan.blocks), together=False, todo=todo):
            reduction.update(frames, positions)
        return pickle.loads(pickle.dumps(reduction.state()))

    def _fed(self, blocks: Iterable[int], together: bool = False) -> Any:
        """Return a new reduction that has seen some row blocks in all its passes."""
        blocks, reduction = list(blocks), self.make()
        for pass_ in range(self._passes()):
            reduction.start(self._plan().scan, "cpu", pass_)
            self._feed(reduction, blocks, together)
        return reduction

    def _feed(self, reduction: Any, blocks: Iterable[int], together: bool = False) -> None:
        for frames, positions in self._updates(blocks, together):
            reduction.update(frames, positions)

    def _updates(self, blocks: Iterable[int], together: bool, todo: Any = None) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Yield patterns (n, Qx, Qy) and positions (n, 2) of row blocks, for each segment or each block. Patterns are read-only."""
        cube, todo = self.cube(), todo or self._plan()
        for block in blocks:
            tiles = [part for tile in todo.tiles(block) for part in tile.segments(todo.cut.segment)]
            read = [np.asarray(cube.source.read(t.rows, t.columns)).reshape(-1, *cube.detector_shape) for t in tiles]
            positions = [tile.positions() for tile in tiles]
            for frames, where in [(np.concatenate(read), np.concatenate(positions))] if together else zip(read, positions):
                frames = frames.copy()
                frames.flags.writeable = False
                yield frames, where


def _as_events(patterns: np.ndarray) -> EventSource:
    """A scan (Rx, Ry, Qx, Qy) as events, each pixel with its count."""
    flat = patterns.reshape(patterns.shape[0] * patterns.shape[1], -1)
    position, pixels = np.nonzero(flat)
    offsets = np.searchsorted(position, np.arange(len(flat) + 1))
    return EventSource(offsets, pixels, patterns.shape[:2], patterns.shape[2:], flat[position, pixels], patterns.dtype)
