"""Compute strain from the lattice of every pattern."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.crystal.mechanism import MECHANISMS
from gpu4d.errors import InputError
from gpu4d.workflow.inputs import region_mask
from gpu4d.workflow.picture import STRAIN, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage
from gpu4d.workflow.stages.lattice import SINGLE
from gpu4d.workflow.strain_figures import COMPONENTS, magnitude_gate, percent, range_figures, range_of
from gpu4d.workflow.strain_gates import ANY, strain_gates
from gpu4d.workflow.strain_reference import (
    LARGEST_MISFIT,
    NAME,
    WORDS,
    Detector,
    as_named_here,
    check_reference,
    in_real_space,
    kept_reference,
    not_two_vectors,
    reference_for,
    said_of,
)


@dataclass
class StrainSettings:
    """Strain from the lattice of every pattern."""

    method: str = setting(
        "disks", "text", "disks: from the lattices fitted to Bragg disks; cepstrum: from the power cepstrum of every pattern, in one more "
        "pass over the scan, for disks that overlap or are filled unevenly.", choices=("disks", "cepstrum"),
        tune="Try cepstrum where disks overlap so much that single ones are not found, and where bending fills them unevenly.",
    )  # fmt: skip
    reference: str | list[int] = setting(
        "median", "reference", "Unstrained lattice. median, mean: that over the scan; auto: that of the largest connected region in which "
        "the lattice is the same within the noise; crystal: that of the one structure in orientation.structures, with the pixel size; or "
        "that of a region of the same phase and orientation, given vectors, or that of another run.", choices=WORDS, table="17.4",
        tune="Best is a region of the same phase and orientation that is known to be unstrained. auto finds the quietest one if none is "
        "known; "
        "median is right if most of the scan is unstrained.",
    )  # fmt: skip
    definition: str = setting(
        "finite", "text", "finite: U − 1 of F = R U; infinitesimal: symmetric part of F − 1; first_order: py4DSTEM's.",
        choices=("finite", "infinitesimal", "first_order"),
        tune="finite shows no strain where the lattice only turns. The others are for comparisons, and differ by the square of the strain.",
    )  # fmt: skip
    axis: float | str = setting(
        0.0, "number or word", "Direction of the tensor's x axis: degrees from the first scan axis towards the second (from the first "
        "detector axis if the rotation is not calibrated), or along the lattice vector g1 or g2 of the reference.", units="degrees",
        low=-360, high=360, choices=("g1", "g2"), table="17.4",
        tune="Use a direction that means something: of the interface, of growth, or a lattice vector. Components are those of the scan "
        "axes only "
        "if the rotation is calibrated.",
    )  # fmt: skip
    along: str = setting(
        "none", "text", "One more map for each named lattice vector: the normal strain along it, which is the relative change of the "
        "spacing of its planes. It does not depend on the axes.", choices=("none", "g1", "g2", "both"),
        tune="Take it for layers: the strain along the direction of growth, or in the plane.",
    )  # fmt: skip
    mechanism: str = setting(
        ANY, "text", "Mechanism of the deformation, if it is known: the trace of strain is compared with it. shear: slip and twins, which "
        "keep the area; uniaxial: stress along one direction; layer: a coherent layer seen from its side; dilation: heat, composition, or "
        "a film seen from above.", choices=(ANY, *MECHANISMS),
        tune="With any, the run says which mechanism suits best, and none is asked for.",
    )  # fmt: skip
    max_strain: float = setting(
        0.10, "number", "Strain of a larger magnitude counts as an outlier in the quality gate.", low=1e-4, high=1, guide=(0.05, 0.10),
        table="17.4", tune="Set it to what the material can bear: 1 to 2 % for most crystals, 5 to 10 % for thin films.",
    )  # fmt: skip

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings: a recipe with vectors that span no lattice is refused when it is read."""
        wrong = not_two_vectors(self.reference)
        return None if wrong is None else f"strain.{wrong}"


class Strain(Stage):
    """Compare the lattice of every pattern with the unstrained one."""

    name = "strain"
    title = "strain"
    guide: ClassVar = ("R",)
    settings = StrainSettings
    section = "strain"
    needs: ClassVar = ("lattice", "lattice_fit", "braggvectors")
    uses: ClassVar = ("rotation", "shadow_rotation", "unusable")
    makes: ClassVar = ("strain", "lattice_residual", "mean_cepstrum")
    rests_on: ClassVar = ("rotation",)
    cites: ClassVar = ("ozdol2015", "padgett2020")
    place: ClassVar = 10

    def check(self, state: RunState) -> None:
        """Read the reference before the work: a file without a lattice should not cost a run."""
        check_reference(self.given(state).reference, state.recipe)

    def reductions(self, state: RunState) -> dict[str, Any]:
        from gpu4d.crystal import CepstralVectors, mean_cepstrum

        state.keep("mean_cepstrum", None)  # strain is from disks
        if self.given(state).method == "disks":
            return {}
        found = mean_cepstrum(state.cube, state["lattice"], where=state.where)
        if found.nodes is None:
            state.record.warn(
                "the mean cepstrum does not show the lattice: strain is from disks, although the recipe asks for the cepstrum"
            )
            return {}
        state.keep("mean_cepstrum", found)
        return {"cepstrum": CepstralVectors(found)}

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        given, record = self.given(state), state.record
        fit = self._fit(state, results)
        with record.stage(self.title):
            try:
                strain, remarks = self._measured(state, fit)
            except InputError as error:
                hint = in_real_space(given.reference, fit, state.calibration.q_pixel)
                self._say_why_not(state, InputError(f"{error}{hint}"))
                return
        record.decide(*said_of(given.reference, strain.reference.how))
        for what, why in remarks:
            record.decide(what, why)
        if isinstance(given.axis, str):
            record.decide(f"Axes of the strain: {strain.axes}", f"the recipe asks for x along {given.axis}")
        for line in strain.warnings:
            record.warn(line)
        state.keep("strain", strain)
        state.products.update(("strain" if key == "" else f"strain_{key}", part) for key, part in strain.to_emd().items())
        state.products[NAME] = kept_reference(strain.reference, fit, self._detector(state))
        for g in self._along(state):
            state.products[f"strain_along_{g}"] = strain.along(g)
        state.save("lattice_residual", strain.exx.of_same_grid(np.asarray(strain.residual), "lattice residual", "px"))
        known, whole = int(np.asarray(strain.mask).sum()), int(np.asarray(fit.mask).sum())
        said = f"{known:,} of {whole:,} positions with a lattice are compared with the {strain.reference.how}"
        record.measure("strain_measured", 100 * known / max(whole, 1), said)
        self._figures(state, strain)
        self._brightness_gate(state, strain)

    def _measured(self, state: RunState, fit: Any) -> tuple[Any, tuple[tuple[str, str], ...]]:
        """Return the strain, and what was done to the reference before: pairs of what and why. Raise InputError if there is none."""
        import gpu4d

        given = self.given(state)
        remarks: list[tuple[str, str]] = []
        region = isinstance(given.reference, list)
        where = region_mask(given.reference, state.cube.scan_shape, "strain.reference") if region else state.where
        reference: Any = "median"
        if not region:
            reference, said = reference_for(given.reference, state.recipe, fit, state.calibration, self._detector(state))
            remarks += said
        if isinstance(reference, np.ndarray):
            largest = max(given.max_strain, LARGEST_MISFIT)
            reference, said = as_named_here(given.reference, reference, fit, largest)
            remarks += said
        strain = gpu4d.strain_map(
            fit,
            reference=reference,
            region=where if isinstance(reference, str) else None,
            definition=given.definition,
            rotation=given.axis if isinstance(given.axis, str) else math.radians(given.axis) if given.axis else None,
            calibration=state.calibration,
            max_strain=given.max_strain,
        )
        return strain, tuple(remarks)

    def _say_why_not(self, state: RunState, error: InputError) -> None:
        """Record that there is no strain, and why. The rest of the analysis is kept."""
        state.record.warn(f"no strain: {error}")
        state.record.decide("No strain: the lattice was measured, but there is no lattice to compare it with", str(error))
        state.record.measure("strain_measured", 0.0, "none that can be used")

    def _detector(self, state: RunState) -> Detector:
        """Return the detector on whose pixels lattice vectors are given."""
        return Detector(state.cube.detector_shape, state.recipe.input.bin_detector)

    def _fit(self, state: RunState, results: dict[str, Any]) -> Any:
        """Return the local lattices that strain is computed from."""
        fit = results.get("cepstrum")
        if fit is None:
            return state["lattice_fit"]
        seen = float(np.asarray(fit.mask).sum()) / max(state.patterns, 1)
        why = f"set in the recipe; {len(fit.nodes.orders)} maxima, significant in {100 * seen:.3g} % of the patterns"
        state.record.decide("Strain from the power cepstrum of every pattern, and not from disks", why)
        return fit

    def _along(self, state: RunState) -> tuple[str, ...]:
        """Return the lattice vectors along which the recipe asks for the normal strain."""
        return {"none": (), "both": ("g1", "g2")}.get(self.given(state).along, (self.given(state).along,))

    def _figures(self, state: RunState, strain: Any) -> None:
        whose = "disks'" if state["mean_cepstrum"] is None else "maxima's"
        range_figures(state.record, "Strain", strain, f"the {whose} scatter")
        magnitude_gate(state.record, strain, self.given(state).max_strain)
        strain_gates(state.record, strain, self.given(state).mechanism)

    def _brightness_gate(self, state: RunState, strain: Any) -> None:
        """Check that strain and the brightness of the disks do not change together."""
        from gpu4d.crystal.brightness import strain_and_brightness

        found = strain_and_brightness(strain, state["braggvectors"])
        if found is None:
            return
        name = {"exx": "ε_xx", "eyy": "ε_yy", "exy": "ε_xy"}[found.component]
        said = f"rank correlation {found.correlation:+.2f} of {name} with the brightness of the disks; the brighter half differs by "
        state.record.measure("strain_brightness", found.correlation, f"{said}{percent(100 * found.difference, '+')} %")

    def methods(self, state: RunState) -> str:
        strain = state.get("strain")
        if strain is None:
            return ""
        source = "the fitted lattice" if state["mean_cepstrum"] is None else "the exit-wave power cepstrum of every pattern [@padgett2020]"
        definition = {
            "finite": "finite definition, U − 1 of F = R U", "infinitesimal": "infinitesimal definition, the symmetric part of F − 1",
        }.get(strain.definition, "first-order definition")  # fmt: skip
        error = 100 * np.asarray(strain.uncertainty)[:3]
        known = f" The median standard error of a component at one position is {percent(np.nanmedian(error))} %." * bool(
            np.isfinite(error).any()
        )
        return (
            f"Strain ({definition}; tension positive) was computed from {source} relative to the {strain.reference.how} [@ozdol2015], in "
            f"{strain.axes}, at {int(np.asarray(strain.mask).sum()):,} of {state.patterns:,} positions.{known}"
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        if state.get("strain") is not None:
            yield from self._maps(state)
        if state.get("mean_cepstrum") is not None:
            yield self._cepstrum(state)

    def _maps(self, state: RunState) -> Iterator[Drawn]:
        """Draw the maps of strain, of its error, and of what it is relative to."""
        from gpu4d import plot

        strain, cepstrum = state["strain"], state["mean_cepstrum"]
        caption = f"Strain relative to the {strain.reference.how} ({strain.definition} definition), tension positive. θ is the rotation of "
        caption += "the lattice. The axes of the tensor are drawn beside every map."
        yield Picture("strain", STRAIN, "Strain", caption, wide=True, errors=_errors_shown(strain)), plot.strain(strain)
        for g in self._along(state):
            along = strain.along(g)
            vector = ", ".join(f"{v:.2f}" for v in getattr(strain.reference, g))
            caption = (
                f"Normal strain along {g} = ({vector}) px of the reference: how much farther apart its planes are. Tension is positive."
            )
            made = plot.image(along.of_same_grid(100 * np.asarray(along)), f"Strain along {g}", units="%", symmetric=True)
            yield Picture(f"strain_along_{g}", STRAIN, f"Strain along {g}", caption), made
        if self.given(state).reference == "auto":
            inside = strain.exx.of_same_grid(strain.reference.region.astype(np.float64))
            made = plot.label_map(inside, ["elsewhere", "reference"], "Reference region")
            caption = f"Where the reference is: the {strain.reference.how}. Strain is relative to it."
            yield Picture("strain_reference", STRAIN, "Reference region", caption), made
        error = strain.exx.of_same_grid(100 * np.asarray(strain.uncertainty)[:3].mean(axis=0))
        noise, things = "from the disks' counting noise and their scatter about the lattice", "disks"
        if cepstrum is not None:
            noise, things = "from the scatter of the maxima of the cepstrum about the lattice", "maxima"
        caption = f"Standard error of a strain component (mean of the three), {noise}."
        made = plot.image(error, "Standard error of strain", units="%", cmap="viridis")
        yield Picture("strain_uncertainty", STRAIN, "Standard error of strain", caption), made
        caption = f"How far {things} lie from the local lattice (rms): high where grains overlap or {things} are misplaced."
        made = plot.image(strain.residual, f"Distance of {things} from the lattice", cmap="viridis")
        yield Picture("lattice_residual", STRAIN, f"Distance of {things} from the lattice", caption), made

    def _cepstrum(self, state: RunState) -> Drawn:
        """Draw the mean cepstrum with the maxima that lattices are fitted to."""
        from gpu4d import plot

        size = state.cube.detector_shape
        caption = "Mean power cepstrum of the scan. Lattices are fitted to the maxima in circles, which must lie on that of r₁ and r₂."
        q_pixel = state.calibration.q_pixel if size[0] == size[1] else None
        return Picture("cepstrum", STRAIN, "Mean power cepstrum", caption), plot.cepstrum(state["mean_cepstrum"], q_pixel=q_pixel)

    def headline(self, state: RunState) -> str | None:
        """Return the answer in one sentence: how much strain, how well known, against what, and where."""
        strain = state.get("strain")
        if strain is None:
            return "A crystal: its lattice was measured, but not its strain. The warning “no strain” says why."
        seen = int(np.asarray(strain.mask).sum())
        ranges = np.array([range_of(np.asarray(getattr(strain, name))) for name in COMPONENTS])
        if not np.isfinite(ranges).any():
            return f"A crystal: Bragg disks were found, but strain could be measured at none of {state.patterns:,} positions."
        error = 100 * np.asarray(strain.uncertainty)[:3]
        each = f", ± {percent(np.nanmedian(error))} % at each position" if np.isfinite(error).any() else ""
        share, what = state["lattice"].indexed_fraction, "A crystal with strain from"
        if share < SINGLE:
            what = f"Several grains or phases, the strongest lattice with {100 * share:.0f} % of the disks. On it, strain goes from"
        return (
            f"{what} {percent(np.nanmin(ranges), '+')} to {percent(np.nanmax(ranges), '+')} %{each}, relative to the "
            f"{strain.reference.how}. It was measured at {seen:,} of {state.patterns:,} positions."
        )


def _errors_shown(strain: Any) -> tuple[np.ndarray, ...]:
    """Return the standard errors of the maps of strain in the units that they are drawn in: percent, and degrees for the rotation."""
    errors = np.asarray(strain.uncertainty, dtype=np.float64)
    return (*(100 * errors[:3]), *(np.degrees(part) for part in errors[3:4]))
