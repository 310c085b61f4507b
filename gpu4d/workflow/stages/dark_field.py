"""Make dark-field images of the brightest reflections from the disks that were found, without the patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.slices import RealSlice
from gpu4d.workflow.picture import IMAGES, Drawn, Picture
from gpu4d.workflow.record import minus
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

MOST = 3  # reflections that are drawn
ORDERS = 3  # largest |h| and |k| of the reflections among which the brightest are looked for
OF_SPACING = 0.3  # radius of an aperture, of the shortest lattice vector: strain and rotation move disks by less
LEAST_SHARE = 0.01  # of all counts in reflections: a fainter one makes no image


class DarkField(Stage):
    """Sum the disks of one reflection and of its Friedel mate at every position, for the brightest reflections."""

    name = "dark_field"
    title = "dark-field images of reflections"
    guide: ClassVar = ("P",)
    needs: ClassVar = ("lattice", "braggvectors", "origin", "unusable")
    makes: ClassVar = ("dark_field",)
    place: ClassVar = 31

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        lattice, disks = state["lattice"], state["braggvectors"]
        h, k = (axis.ravel() for axis in np.mgrid[-ORDERS : ORDERS + 1, -ORDERS : ORDERS + 1])
        one_of_two = (h > 0) | ((h == 0) & (k > 0))  # the mate at (-h, -k) is summed into the same image
        orders = np.stack([h, k], axis=-1)[one_of_two]
        radius = OF_SPACING * min(lattice.lengths)
        names = [f"({a} {b})" for a, b in orders]
        apertures = [gpu4d.bragg.lattice_aperture(lattice.matrix, radius, [(a, b), (-a, -b)]) for a, b in orders]
        with state.record.stage(self.title):
            found = gpu4d.bragg.dark_field(disks, dict(zip(names, apertures)), origin=state["origin"])
        planes = np.where(state["unusable"], np.nan, np.asarray(found))
        total = np.nansum(planes, axis=(1, 2))
        order = [n for n in np.argsort(-total, kind="stable")[:MOST] if total[n] > LEAST_SHARE * total.sum()]
        if not order:
            state.record.note("no dark-field images: no disk lies on a reflection of the lattice")
            return
        labels = tuple(names[n] for n in order)
        kept = RealSlice.calibrated(planes[order], "dark field of reflections", found.units, state.calibration.r_pixel, labels)
        state.save("dark_field", kept)

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "dark_field" not in state:
            return
        images, size = state["dark_field"], state.calibration.r_pixel
        for plane, label in zip(np.asarray(images), images.labels):
            h, k = label.strip("()").split()
            sign = "−" if int(k) < 0 else "+"
            caption = f"Intensity of the disks at {minus(h)} g₁ {sign} {abs(int(k))} g₂ and of their mates at the opposite side, "
            caption += "from the disks that were found. It is bright where the crystal diffracts into them: bending, thickness, grains "
            caption += "and order change it."
            made = plot.image(RealSlice.calibrated(plane, f"Dark field {label}", images.units, size), f"Dark field {label}")
            yield Picture(f"dark_field_{h}_{k}", IMAGES, f"Dark field of reflection {label}", caption), made
