"""Timing of a prepared workload: how often it is called, whether its answers stay the same, what memory it takes."""

import sys

import numpy as np
import pytest
from gpu4d.benchmarks.suite.measuring import Rounds, peak_memory, timed
from gpu4d.benchmarks.suite.workload import Check, Place, Prepared, WrongAnswer, answer_digest


@pytest.fixture
def place(tmp_path):
    return Place(np, False, "cpu", tmp_path)


def prepared(call, **given):
    return Prepared(call, lambda found: {"x": found}, lambda _found: Check(0.0, 0.0, 1, "nothing"), 1, "", bytes=1.0, **given)


@pytest.mark.parametrize(("how", "calls"), [(Rounds(3, warm=1, least=0.0), 4), (Rounds(2, warm=0), 2)])
def test_a_workload_is_called_to_warm_up_and_once_for_each_round(place, how, calls):
    done = []
    samples, digest = timed(prepared(lambda: done.append(1) or np.ones(3)), place, how)
    assert len(done) == calls and len(samples) == how.rounds and min(samples) > 0
    assert digest == answer_digest({"x": np.ones(3)})


def test_short_calls_are_repeated_within_a_round(place):
    done = []
    timed(prepared(lambda: done.append(1) or np.ones(3)), place, Rounds(1, warm=1, least=0.01))
    assert len(done) > 10


def test_what_comes_before_a_call_comes_before_each_and_is_not_repeated(place):
    order = []
    timed(prepared(lambda: order.append("call") or np.ones(1), before=lambda: order.append("before")), place, Rounds(2))
    assert order == ["before", "call"] * 3


@pytest.mark.parametrize("answer", [None, answer_digest({"x": np.zeros(1)})])
def test_other_bits_are_a_wrong_answer(place, answer):
    values = iter(np.arange(10.0)[:, None])
    with pytest.raises(WrongAnswer, match="different bits"):
        timed(prepared(lambda: next(values)), place, Rounds(3, warm=1, least=0.0), answer)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
def test_the_memory_of_a_call_is_that_of_its_arrays(place):
    """Three arrays of 40 MB at a time: the first one, the numbers that are added, the sum."""

    def call():
        first = np.ones(5_000_000)
        first = first + np.arange(5_000_000)
        return float(first.sum())

    call()
    _, peak = peak_memory(call, place)
    assert 118e6 < peak < 140e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
def test_memory_that_the_allocator_kept_is_seen(place):
    """Arrays of 100 kB come from memory that is kept for the next ones."""

    def call():
        return sum(float(one.sum()) for one in [np.ones(12_500) for _ in range(400)])

    call()
    _, peak = peak_memory(call, place)
    assert 30e6 < peak < 60e6
