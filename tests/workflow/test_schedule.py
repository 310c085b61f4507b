"""The order of stages: from what they need and make, not from where they stand in a table."""

import itertools

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.workflow import Recipe, RunState, Stage
from gpu4d.workflow.schedule import carry_out, check
from gpu4d.workflow.stage import no, yes
from gpu4d.workflow.stages import known_stages


def stage(name, needs=(), makes=(), uses=(), reads=None, reason=None, leaves=None):
    """A stage of the given name and ties. It writes its name into state.record.log, and makes `leaves` (all of `makes` by default)."""

    class Made(Stage):
        def wanted(self, state):
            return reason or yes("always")

        def reductions(self, state):
            return {} if reads is None else {reads: gpu4d.MeanPattern()}

        def finish(self, state, results):
            state.record.log.append(f"did {name}")
            assert list(results) == ([] if reads is None else [reads])
            for result in makes if leaves is None else leaves:
                state.keep(result, name)

    Made.name = Made.title = name
    Made.needs, Made.makes, Made.uses = needs, makes, uses
    return Made()


@pytest.fixture
def state():
    cube = gpu4d.DataCube(np.ones((2, 3, 8, 8), np.uint8))
    state = RunState(cube, Recipe())
    state.passes = []
    sweep = state.sweep
    state.sweep = lambda reductions, progress: (state.passes.append(list(reductions)), sweep(reductions, False))[1]
    return state


def done(state):
    return [line.removeprefix("did ") for line in state.record.log if line.startswith("did ")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_table_does_not_matter_where_results_decide(order, state):
    chain = [stage("one", makes=("a",)), stage("two", needs=("a",), makes=("b",)), stage("three", needs=("b",))]
    carry_out([chain[i] for i in order], state)
    assert done(state) == ["one", "two", "three"]


def test_stages_that_are_ready_share_a_pass(state):
    carry_out(
        [stage("one", makes=("a",), reads="m"), stage("two", makes=("b",), reads="mean"), stage("three", ("a", "b"), reads="m")], state
    )
    assert state.passes == [["m", "mean"], ["m"]]
    assert done(state) == ["one", "two", "three"]


def test_two_stages_may_ask_for_the_same_name(state):
    carry_out([stage("one", reads="m"), stage("two", reads="m")], state)
    assert state.passes == [["m", "two/m"]] and done(state) == ["one", "two"]


def test_a_stage_waits_for_what_it_uses_and_does_without_it(state):
    carry_out([stage("late", uses=("a", "never")), stage("one", makes=("a",), reads="m")], state)
    assert done(state) == ["one", "late"]


def test_a_stage_whose_needs_cannot_be_had_says_which(state):
    skipped = stage("one", makes=("a",), reason=no("not today"))
    carry_out([stage("last", needs=("b",)), stage("two", needs=("a", "x"), makes=("b",)), skipped], state)
    assert not state.reasons["one"].wanted and state.reasons["one"].why == "not today"
    assert state.reasons["two"].why == "needs a and x, which this run could not make"
    assert state.reasons["last"].why.startswith("needs b") and done(state) == [] and state.passes == []


def test_a_stage_that_leaves_a_result_out_stops_only_those_that_need_it(state):
    carry_out([stage("one", makes=("a", "b"), leaves=("a",)), stage("two", ("a",)), stage("three", ("b",))], state)
    assert done(state) == ["one", "two"] and not state.reasons["three"].wanted


def test_two_makers_of_one_result_are_refused():
    with pytest.raises(ValueError, match="one and two both make 'a'"):
        check([stage("one", makes=("a",)), stage("two", makes=("a",))])


def test_stages_that_wait_for_each_other_are_refused():
    with pytest.raises(ValueError, match="one, two wait for results of each other"):
        check([stage("one", ("b",), ("a",)), stage("two", ("a",), ("b",))])


def test_the_stages_of_a_run_fit_together():
    stages = known_stages()
    check(stages)
    assert len({s.name for s in stages}) == len(stages)
    made = {name for s in stages for name in s.makes}
    for s in stages:
        assert set(s.needs) | set(s.uses) <= made, f"{s.name} needs or uses what no stage makes: {set((*s.needs, *s.uses)) - made}"
        assert s.title and (s.settings is None) == (s.section == "")


def test_a_limit_that_cannot_be_raised_ends_the_run():
    """Also if the work says every time that it needs what it was given, such as a worker whose threads share it."""
    state, given = RunState(gpu4d.DataCube(np.ones((2, 2, 4, 4))), Recipe()), []

    def work(options):
        given.append(options["memory"])
        raise MemoryBudgetError("the work", 1 << 30, 1 << 40, 2 << 30)

    with pytest.raises(InputError, match="the work needs"):
        state.with_memory(work)
    assert len(given) == 1
