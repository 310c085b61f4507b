"""A technique as another package would bring it: a reduction, a result, a gate, a picture and a section of the recipe, in one file."""

from dataclasses import dataclass

import numpy as np

import gpu4d
from gpu4d import plot
from gpu4d.workflow import Stage
from gpu4d.workflow.gates import GateRule
from gpu4d.workflow.picture import Picture
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import no, yes


@dataclass
class CornerSettings:
    """Counts in a corner of the detector."""

    width: int = setting(4, "whole", "Side of the square.", units="px", low=1, high=64, guide=(2, 8))


CORNER = GateRule(
    key="corner_counts",
    name="Counts in the corner",
    place="acquisition",
    quantity="counts in the corner, of all counts",
    unit="%",
    warn=(None, 50.0),
    fail=(None, 90.0),
    action="centre the pattern",
    reason="a beam that is centred leaves less than half of its counts in a corner",
)


class Corner(Stage):
    """Sum a corner of the detector at every position."""

    name = "corner"
    title = "counts in the corner"
    settings = CornerSettings
    section = "corner"
    needs = ("total",)
    makes = ("corner",)
    gates = (CORNER,)

    def wanted(self, state):
        width, shape = self.given(state).width, state.cube.detector_shape
        return yes("the corner fits the detector") if width <= min(shape) else no(f"the detector of {shape} has no corner of {width} px")

    def reductions(self, state):
        mask = np.zeros(state.cube.detector_shape, bool)
        mask[: self.given(state).width, : self.given(state).width] = True
        return {"corner": gpu4d.VirtualImage(mask)}

    def finish(self, state, results):
        state.save("corner", results["corner"])
        share = float(np.asarray(results["corner"]).sum() / np.asarray(state["total"]).sum())
        state.record.measure(CORNER, 100 * share, f"{100 * share:.2g} % of all counts")
        state.record.figure("Counts in the corner", f"{100 * share:.2g} %")

    def pictures(self, state):
        yield Picture("corner", "Corner", "Corner", "Counts in the corner of the detector."), plot.image(state["corner"], "Corner")
