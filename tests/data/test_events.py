"""Scans kept as events: patterns are made exactly, and what does not fit is refused."""

import tracemalloc

import numpy as np
import pytest

from gpu4d.data import Events, EventSource
from gpu4d.data import events as module
from gpu4d.errors import InputError

SHAPE = (4, 5, 6, 7)


def electrons(seed=0, mean=0.4):
    """Every electron an event, in any order; and the counts they make."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean, SHAPE)
    struck = [rng.permutation(np.repeat(np.arange(42), n)) for n in counts.reshape(20, 42)]
    return np.concatenate([[0], np.cumsum([len(one) for one in struck])]), np.concatenate(struck), counts


def source(dtype="uint16", **options):
    offsets, pixels, counts = electrons(**options)
    return EventSource(offsets, pixels, SHAPE[:2], SHAPE[2:], dtype=dtype), counts


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("pixels", ["uint8", "uint16", "int64", "uint64"])
def test_patterns_are_exact_in_any_dtype(dtype, pixels):
    offsets, struck, counts = electrons()
    found = EventSource(offsets.astype("uint64"), struck.astype(pixels), SHAPE[:2], SHAPE[2:], dtype=dtype).read(slice(0, 4), slice(0, 5))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_patterns_do_not_depend_on_the_pieces_they_are_made_in(piece, monkeypatch):
    monkeypatch.setattr(module, "PIECE_EVENTS", piece)
    made, counts = source()
    np.testing.assert_array_equal(made.read(slice(1, 4), slice(2, 5)), counts[1:4, 2:5])
    buffer = np.full((2, 2, 4, 9, 7), 3, "uint16")[:, :, 1, :6]  # not in order
    assert made.read(slice(0, 2), slice(1, 3), buffer) is buffer
    np.testing.assert_array_equal(buffer, counts[:2, 1:3])


def test_a_pixel_may_come_more_than_once_with_counts():
    events = Events(np.array([0, 3, 3, 5]), np.array([2, 0, 2, 1, 1]), np.array([5, 1, 200, 7, 8], "uint8"), (2, 2))
    assert events.dense("uint16").tolist() == [[[1, 0], [205, 0]], [[0, 0], [0, 0]], [[0, 15], [0, 0]]]
    assert events.take(np.array([2, 0])).dense("uint16").tolist() == [[[0, 15], [0, 0]], [[1, 0], [205, 0]]]
    assert events.part(1, 3).dense("uint8").tolist() == [[[0, 0], [0, 0]], [[0, 15], [0, 0]]]
    assert (
        len(events.part(1, 3)) == 2
        and events.part(1, 3).pixel_of_event().tolist() == [1, 1]
        and events.pattern_of_event().tolist() == [0, 0, 0, 2, 2]
    )


def test_a_count_that_does_not_fit_is_an_error():
    events = Events(np.array([0, 2]), np.array([1, 1]), np.array([200, 56]), (1, 2))
    with pytest.raises(InputError, match="a pixel has 256 counts, uint8 holds 255 at most: read with a larger dtype"):
        events.dense("uint8")
    assert events.dense("uint16").tolist() == [[[0, 256]]]
    many = Events(np.array([0, 1]), np.array([0]), np.array([2**24 + 1]), (1, 1))
    with pytest.raises(InputError, match="float32 holds 16777216"):
        many.dense("float32")
    assert many.dense("float64").tolist() == [[[2**24 + 1]]]
    assert Events(np.array([0, 1]), np.array([0]), np.array([2**62]), (1, 1)).dense("int64").tolist() == [[[2**62]]]


def test_sums_are_exact_beyond_what_float64_holds():
    index, counts = np.array([1, 1, 0]), np.array([2**53, 1, 5], np.int64)
    assert module.exact_sums(index, counts, 2).tolist() == [5, 2**53 + 1]
    assert module.exact_sums(np.zeros(0, np.int64), None, 2).tolist() == [0, 0]


def test_no_events_at_all():
    nothing = EventSource(np.zeros(21, int), [], SHAPE[:2], SHAPE[2:])
    assert not nothing.read(slice(0, 4), slice(1, 5)).any()
    events = nothing.read_events(slice(1, 3), slice(1, 3))
    assert len(events) == 4 and not events.dense("uint8").any()


def test_events_of_whole_rows_are_not_copied():
    made, _ = source()
    assert made.read_events(slice(1, 3), slice(0, 5)).pixels is made.pixels
    assert made.read_events(slice(2, 3), slice(1, 4)).pixels is made.pixels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": [0, 1, 2]}, "3 offsets for a scan of 20 positions: need 21, one more than positions"),
        ({"offsets": np.arange(21)[::-1]}, "offsets fall from 20 to 19 at position 0"),
        ({"pixels": lambda p: np.where(p == p.max(), 42, p)}, r"need numbers qx · Qy \+ qy from 0 to 41"),
        ({"pixels": lambda p: p * 0.5}, "pixels is .* float64: need whole numbers, one-dimensional"),
        ({"counts": [1, 2]}, "2 counts for .* events: need one for each"),
        ({"counts": lambda p: p - 50}, "counts run from .*: need numbers from 0 on"),
        ({"dtype": "complex64"}, "counts need bool, integers or floats"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    offsets, pixels, _ = electrons()
    given = {"offsets": offsets, "pixels": pixels, "scan_shape": SHAPE[:2], "detector_shape": SHAPE[2:]}
    for name, value in change.items():
        given[name] = value(pixels) if callable(value) else value
    with pytest.raises(InputError, match=message):
        EventSource(**given)


def test_reading_many_events_takes_no_more_memory_than_reading_a_few():
    """800 000 electrons, of which patterns are made in pieces: measured beside the buffer that is filled."""
    rng, positions, each = np.random.default_rng(1), 1600, 500
    made = EventSource(np.arange(positions + 1) * each, rng.integers(0, 4096, positions * each), (40, 40), (64, 64))
    half = EventSource(np.arange(801) * each, made.pixels[: 800 * each], (20, 40), (64, 64))
    assert made.scratch_bytes == half.scratch_bytes < 2_000_000
    buffer = np.zeros(made.shape, made.dtype)
    tracemalloc.start()
    made.read(slice(0, 40), slice(0, 40), buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert buffer.sum(dtype=np.int64) == positions * each
    assert peak < 2_000_000, f"{peak / 1e6:.2f} MB held"
