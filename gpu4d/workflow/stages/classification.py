"""Classify the patterns of a scan whose disks belong to several sets of reflections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.pointlist import PointList
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.sizes import format_bytes
from gpu4d.workflow.picture import CLASSES, Drawn, Picture
from gpu4d.workflow.run_state import MEMORY_MARGIN, RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

READ_AGAIN = 16 << 30  # bytes of a pass: in a larger scan only found disks are counted, because counting in patterns takes some six passes
PURE = 0.8  # share of the largest class: a position with less lies on a border, or is a mixture
NEEDED = "pip install 'gpu4d[classify]'"  # for scikit-learn


@dataclass
class ClassificationSettings:
    """Classes of patterns that show the same reflections."""

    on: str | bool = setting(
        "auto", "decision", "Whether patterns are classified. auto: if a sample of the scan shows more than one set of reflections.",
        tune="Classify first if phases, or crystals and glass, are mixed: other results are then those of each.",
    )  # fmt: skip
    classes: int | None = setting(
        None, "whole", "Number of classes.", low=1, high=64, automatic="as many as the counts tell apart beyond noise, thickness, bending",
        tune="Look at the mean pattern of each class before you call it a phase: bending and thickness make classes, too.",
    )  # fmt: skip
    method: str = setting(
        "clusters", "text", "How the scan is split before parts are joined. clusters: k-means; nmf: the guide's factorisation; domains: "
        "closed regions of similar neighbours.", choices=("clusters", "nmf", "domains"),
        tune="Take domains for grains with clear borders, and nmf to compare with the guide. clusters suits most scans.",
    )  # fmt: skip
    parts: int = setting(
        12,
        "whole",
        "Parts that the scan is split into first. More find rarer classes.",
        low=2,
        high=100,
        tune="Raise it if a rare phase is missed. More take longer, and are joined again if they are alike.",
    )
    smooth: float | None = setting(
        None, "number", "Smoothing of the counts before shares are measured, standard deviation.", units="positions", low=0, high=20,
        automatic="as far as it predicts one half of the counts better from the other",
        tune="Set 0 to keep particles of single positions. A larger one suits few counts and large grains.",
    )  # fmt: skip
    counts: str = setting(
        "auto", "text", "What is counted. patterns: all reflections in the patterns, also those too faint to be found, in about six passes "
        "over the scan; disks: found disks alone, and one pass for the mean patterns; auto: patterns of scans up to 16 GB.",
        choices=("auto", "patterns", "disks"),
        tune="Take disks for a quick look, and patterns for weak reflections.",
    )  # fmt: skip


class Classification(Stage):
    """Find classes of patterns, where they are, and what they look like."""

    name = "classification"
    title = "classes of patterns"
    guide: ClassVar = ("Q",)
    settings = ClassificationSettings
    section = "classification"
    needs: ClassVar = ("braggvectors", "origin", "template")
    uses: ClassVar = ("unusable",)
    makes: ClassVar = ("classes", "class_label")
    compiles: ClassVar = ("classes",)
    cites: ClassVar = ("savitzky2021",)
    place: ClassVar = 15

    def wanted(self, state: RunState) -> Reason:
        """Run if the recipe asks for it, or if a sample of the scan shows more than one set of reflections."""
        on = self.given(state).on
        if on is False:
            return no("switched off in the recipe")
        if on is True or self.given(state).classes is not None:
            why = "the recipe asks for it"
        else:
            from gpu4d.classification import outlook

            with state.record.stage("one set of reflections, or several?"):
                seen = outlook(
                    state["braggvectors"], state.cube, template=state["template"], origin=state["origin"].fitted, where=_visited(state)
                )
            if not seen.several:
                return no(f"one class: {seen.why}; classification.on = true looks closer")
            why = seen.why
        if find_spec("sklearn") is None:
            state.record.warn(f"patterns were not classified, though {why}: this needs scikit-learn: {NEEDED}")
            return no(f"{why}, but scikit-learn is not installed: {NEEDED}")
        return yes(why)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        from gpu4d.classification.look_alikes import look_alikes

        record = state.record
        with record.stage(self.title):
            try:
                found = self._classified(state)
            except InputError as error:
                record.warn(f"no classes: {error}")
                return
        specimen = [kind for kind in found.kinds if kind != "no disks"]
        if len(specimen) < 2 and self.given(state).classes is None:
            record.decide(
                "One class of patterns", "; ".join(("no part of the scan differs beyond noise, thickness and bending", *found.story))
            )
            return
        record.decide(f"Classes of patterns: {len(found)}", "; ".join((state.reasons[self.name].why, *found.story)))
        record.decide("Classes are no phases before you have looked at them", found.caveat)
        for line in found.warnings:
            record.warn(f"classes: {line}")
        for pair in look_alikes(found):
            record.warn(f"classes: {pair}")
        self._save(state, found)
        self._figures(state, found)

    def _classified(self, state: RunState) -> Any:
        """Return the classes of the scan.

        If the counts alone need more memory than the default, and the user set no limit, the limit is raised.
        """
        import gpu4d

        given, cube = self.given(state), state.cube
        disks_only = given.counts == "disks" or (given.counts == "auto" and state.pass_bytes > READ_AGAIN)
        if disks_only and given.counts == "auto":
            size = format_bytes(state.pass_bytes)
            state.record.decide("Classes from found disks alone", f"a pass reads {size}; classification.counts = 'patterns' reads the scan")
        options: Any = {"where": _visited(state), **state.sweep_options}
        asked: Any = {"classes": given.classes, "method": given.method, "parts": given.parts}
        asked["smooth"] = "auto" if given.smooth is None else given.smooth
        place: Any = {"template": state["template"], "origin": state["origin"].fitted}

        def classified() -> Any:
            if not disks_only:
                return gpu4d.classify(state["braggvectors"], cube, **place, **asked, **options)
            found = gpu4d.classify(state["braggvectors"], **place, **asked, where=options["where"])
            return found.with_patterns(cube, **options)

        try:
            return classified()
        except MemoryBudgetError as error:
            if "compute.memory" in state.recipe.given or MEMORY_MARGIN * error.asked > error.free:
                raise InputError(f"{error}; or classification.counts = 'disks'") from error
            options["memory"] = str(int(MEMORY_MARGIN * error.asked))
            state.record.note(
                f"the counts of classes need {format_bytes(error.asked)}: the memory limit is raised to {MEMORY_MARGIN:g} times"
            )
            return classified()

    def _save(self, state: RunState, found: Any) -> None:
        """Store the map of classes, shares with their errors, mean patterns, and the counts of each reflection in each class."""
        state.keep("classes", found)
        like = found.fractions
        label = np.where(found.label < 0, np.nan, found.label.astype(np.float64))
        state.save("class_label", RealSlice(label, "class", "1", like.pixel_size, like.pixel_units))
        state.products["class_fractions"], state.products["class_fraction_errors"] = found.fractions, found.errors
        if found.patterns is not None:
            state.products["class_patterns"] = found.patterns
        fields = {"qx": found.spots[:, 0], "qy": found.spots[:, 1]}
        fields |= {f"class_{j}": found.profiles[j] for j in range(len(found))}
        units = {name: "px" if name.startswith("q") else "counts" for name in fields}
        state.products["class_reflections"] = PointList(fields, units)

    def _figures(self, state: RunState, found: Any) -> None:
        """Record how many classes there are, how large each is, and how many positions belong to one class alone."""
        seen = max(int((found.label >= 0).sum()), 1)
        each = ", ".join(f"{name} {100 * (found.label == j).sum() / seen:.3g} %" for j, name in enumerate(names_of(found)))
        state.record.figure("Classes of patterns", str(len(found)), f"{each} of the positions; groups by similarity, not by physics")
        purity = purity_of(found)
        pure = float(np.mean(purity[np.isfinite(purity)] > PURE))
        error = float(np.nanmedian(np.where(found.label >= 0, _own(np.asarray(found.errors), found.label), np.nan)))
        remark = f"of the positions have more than {100 * PURE:g} % of one class; standard error of a share {100 * error:.2g} % (median)"
        state.record.figure("Purity of the classes", f"{100 * pure:.0f} %", remark)

    def methods(self, state: RunState) -> str:
        found = state.get("classes")
        if found is None:
            return ""
        ways = {"clusters": "k-means clustering", "nmf": "non-negative matrix factorisation [@savitzky2021]", "domains": "closed domains"}
        way = ways[self.given(state).method]
        parts = f"{way} into {self.given(state).parts} parts, which were joined where they do not differ beyond noise"
        return f"Patterns were classified by the reflections that they show ({parts}): {len(found)} classes."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found, names = state["classes"], names_of(state["classes"])
        caption = (
            "Which class of patterns has the largest share at each position, in the colours of the legend. Classes group patterns that "
        )
        caption += "show the same reflections. One phase in two orientations makes two of them."
        made = plot.label_map(state["class_label"], names, "Classes of patterns")
        yield Picture("classes", CLASSES, "Classes of patterns", caption), made
        caption = (
            "Share of the largest class. It is low on borders, where patterns are mixtures, and where classes can hardly be told apart."
        )
        shown = state["class_label"].of_same_grid(purity_of(found), "purity", "share")
        made = plot.image(shown, "Purity: share of the largest class", cmap="viridis", limits=(0.0, 1.0))
        yield Picture("class_purity", CLASSES, "Purity of the classes", caption), made
        if found.patterns is not None:
            caption = (
                "Mean pattern of each class, all on one scale and moved to one origin, framed in the colour that the class has on the "
            )
            caption += f"map. {found.caveat}"
            made = plot.class_patterns(found.patterns, names)
            yield Picture("class_patterns", CLASSES, "Mean patterns of the classes", caption, wide=True), made


def names_of(classes: Any) -> list[str]:
    """Return a short name of every class: its number and kind."""
    return [f"{j}: {kind}" for j, kind in enumerate(classes.kinds)]


def purity_of(classes: Any) -> np.ndarray:
    """Return the share of the largest class at every position, (Rx, Ry). NaN where nothing was measured."""
    return np.where(classes.label >= 0, _own(np.asarray(classes.fractions), classes.label), np.nan)


def _own(stack: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the value of each position's own class, (Rx, Ry), from a stack with one plane for each class."""
    return np.take_along_axis(stack, np.clip(label, 0, None)[None], axis=0)[0]


def _visited(state: RunState) -> np.ndarray:
    """Return the positions that are looked at, (Rx, Ry) bool."""
    seen = np.ones(state.cube.scan_shape, bool) if state.where is None else np.asarray(state.where)
    unusable = state.get("unusable")
    return seen if unusable is None else seen & ~np.asarray(unusable)
