"""Run `gpu4d demo`: simulate scans, analyse them like measured ones, and compare with the truth."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu4d import plot
from gpu4d.data.datacube import DataCube
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.pipeline import About, Result, needed, save_results, write_report, writing
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record, SilentWatcher, Watcher
from gpu4d.workflow.report import output
from gpu4d.workflow.report.pictures import draw, keep
from gpu4d.workflow.report.report import Picture, Table
from gpu4d.workflow.run_state import RunState

SEED = 4
ROTATION = 25.0  # degrees, of the detector against the scan
VACUUM = 4  # rows beside the specimen
REFERENCE = [6, 14, 2, 12]  # scan rows and columns in the matrix, far from the inclusion
COMPONENTS = {"exx": "ε_xx", "eyy": "ε_yy", "exy": "ε_xy", "theta": "θ, 10⁻² rad"}
INTRODUCTION = (
    "Two simulated scans, analysed from their files like measured ones: a crystal with a coherent inclusion of larger lattice spacing "
    "in a bent matrix, and a thin phase object. The analysis knows only what an operator knows. The last tables compare with the truth."
)


def demo(out: str | Path, *, overwrite: bool = False, watcher: Watcher | None = None, scan: int = 48) -> Result:
    """Simulate two scans, analyse them, compare with the truth, and write a report.

    Parameters
    ----------
    out : path
        Folder for the results.
    overwrite : bool
        Replace an earlier result.
    watcher : Watcher, optional
    scan : int
        Positions along each axis of the crystal's scan, at least 32.

    Returns
    -------
    Result
        Result of the crystal. Its record holds the figures of both scans.
    """
    out = Path(out)
    recipe = crystal_recipe()
    needed(recipe)
    record = Record(watcher or SilentWatcher())
    with output.folder(out, overwrite) as new, writing(new, out):
        truth = simulate_crystal(new / "scan.h5", record, scan)
        crystal = analyse(open_scan(new / "scan.h5", recipe, record), recipe, record, cleaned=True)
        tables = [compare_strain(crystal, truth)]
        phase, phase_truth = phase_object(new / "phase_object_scan.h5", record.watcher)
        tables.append(compare_phase(phase, phase_truth))
        with record.stage("pictures"):
            pictures = [*draw(crystal, new), *true_strain(crystal, truth, new), *draw(phase, new, "phase_object_")]
        with record.stage("result files"):
            save_results(crystal, new / output.RESULT)
            save_results(phase, new / "phase_object.h5")
        phase.record.figures = [f for f in phase.record.figures if f[0] in ("Range of the phase", "Phase against the truth")]
        record.absorb(phase.record, "Phase object")
        about = About("gpu4d demo", "gpu4d demo", new / "scan.h5")
        parts = [("Crystal", crystal), ("Phase object", phase)]
        write_report(crystal, new, _ordered(pictures), about, tables=tables, introduction=INTRODUCTION, parts=parts)
        _name_the_place(new / output.REPORT, new, out)
    return Result(out, crystal)


def _name_the_place(report: Path, made_in: Path, out: Path) -> None:
    """Let the report name the folder in which the scans lie in the end, and not the one in which they were made."""
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace(str(made_in.absolute()), str(out.absolute())), encoding="utf-8")


def crystal_recipe() -> Recipe:
    """Return the settings that an operator would give for the crystal's scan."""
    recipe = Recipe()
    known = {
        "calibration.energy": 200e3,
        "calibration.semiangle": 3.0,
        "calibration.r_pixel": 20.0,
        "calibration.rotation_degrees": ROTATION,
    }
    for name, value in {**known, "probe.vacuum_region": [0, VACUUM, 0, 32], "strain.reference": REFERENCE}.items():
        recipe.set(name, value, origin="demo")
    return recipe


def simulate_crystal(path: Path, record: Record, scan: int) -> dict[str, np.ndarray]:
    """Write the crystal's scan to a compressed file, and return the truth."""
    import gpu4d

    with record.stage("simulate: crystal with an inclusion", scan * scan):
        made = gpu4d.simulate.bragg_scan(
            (scan, scan), (128, 128), strain="inclusion", strain_size=0.02, dose=60.0, thickness=0.4, vacuum_rows=VACUUM,
            rotation=float(np.radians(ROTATION)), seed=SEED,
        )  # fmt: skip
        _write_scan(path, made.cube)
    return made.truth


def phase_object(path: Path, watcher: Watcher) -> tuple[RunState, dict[str, np.ndarray]]:
    """Simulate and analyse a thin object. The analysis must find the rotation of the detector."""
    import gpu4d

    record = Record(watcher)
    with record.stage("simulate: phase object", 48 * 48):
        made = gpu4d.simulate.phase_object_scan((48, 48), (64, 64), r_pixel=0.25, dose=2e5, rotation=float(np.radians(ROTATION)), seed=SEED)
        _write_scan(path, made.cube)
    recipe = Recipe()
    for name, value in {"calibration.energy": 80e3, "calibration.semiangle": 25.0, "calibration.r_pixel": 0.25}.items():
        recipe.set(name, value, origin="demo")
    return analyse(open_scan(path, recipe, record), recipe, record, cleaned=True), made.truth


def _write_scan(path: Path, cube: DataCube) -> None:
    """Write a plain HDF5 file with one dataset, compressed in chunks of a few patterns.

    It is made in memory first, because the HDF5 library can end the process if a disk is full.
    """
    import h5py
    import hdf5plugin

    data = np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        file.create_dataset("data", data=data, chunks=(1, min(16, data.shape[1]), *data.shape[2:]), **hdf5plugin.Bitshuffle(cname="lz4"))
    path.write_bytes(whole.getvalue())  # a view would stay in the traceback of an error, and crash some versions of Python


def compare_strain(state: RunState, truth: dict[str, np.ndarray]) -> Table:
    """Compare measured strain with the truth, relative to the same reference region."""
    rows: list[tuple[str, ...]] = []
    expected = relative_truth(truth)
    good = np.isfinite(expected["exx"]) & np.isfinite(np.asarray(state["strain"].exx)) if "strain" in state else np.zeros(1, bool)
    if not good.any():
        state.record.warn("nothing to compare: no strain was measured")
        return Table("Comparison with the truth: strain", ("", ""), rows)
    errors, largest = [], []
    for name, label in COMPONENTS.items():
        difference = (np.asarray(getattr(state["strain"], name)) - expected[name])[good]
        errors.append(float(np.sqrt(np.mean(difference**2))))
        largest.append(float(np.abs(expected[name][good]).max()))
        rows.append((label, f"{100 * errors[-1]:.4f}", f"{100 * difference.mean():+.4f}", f"{100 * largest[-1]:.2f}"))
    sigma = 100 * float(np.nanmedian(np.asarray(state["strain"].uncertainty)[:3]))
    worst, most = 100 * max(errors[:3]), 100 * max(largest[:3])  # without the rotation
    state.record.figure("Strain against the truth", f"{worst:.3f} % rms", f"worst component; the largest true strain is {most:.2f} %")
    remark = f"At {int(good.sum())} positions on the specimen, relative to the same region; estimated standard error {sigma:.3f} %."
    return Table(
        "Comparison with the truth: strain", ("component", "rms error, %", "bias, %", "largest true value, %"), rows, (1, 2, 3), remark
    )


def relative_truth(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the true strain relative to the reference region: that of F F_ref⁻¹."""
    from gpu4d.simulate.deformation import finite_strain

    rx0, rx1, ry0, ry1 = REFERENCE
    reference = np.median(truth["F"][rx0:rx1, ry0:ry1], axis=(0, 1))
    return finite_strain(truth["F"] @ np.linalg.inv(reference))


def compare_phase(state: RunState, truth: dict[str, np.ndarray]) -> Table:
    """Compare the measured phase with the truth convolved with the probe, both without their means."""
    if "dpc" not in state:
        state.record.warn("nothing to compare: no phase was measured")
        return Table("Comparison with the truth: phase", ("", ""), [])
    inside = (slice(4, -4), slice(4, -4))
    measured, expected = np.asarray(state["dpc"].phase)[inside].ravel(), truth["phase_conv"][inside].ravel()
    measured, expected = measured - measured.mean(), expected - expected.mean()
    likeness = float(np.corrcoef(measured, expected)[0, 1])
    slope = float((measured @ expected) / (expected @ expected))
    rms = float(np.sqrt(np.mean((measured - expected) ** 2)))
    turn = np.degrees(state["dpc"].rotation)
    state.record.figure(
        "Phase against the truth", f"correlation {likeness:.4f}", f"slope {slope:.3f}; rotation {turn:.2f}°, true {ROTATION:g}°"
    )
    rows = [
        ("correlation", f"{likeness:.4f}", "1"),
        ("slope", f"{slope:.4f}", "1"),
        ("rms error, rad", f"{rms:.4f}", "0"),
        ("range, rad", f"{np.ptp(measured):.4f}", f"{np.ptp(expected):.4f}"),
        ("detector rotation, °", f"{turn:.2f}", f"{ROTATION:.2f}"),
    ]
    return Table("Comparison with the truth: phase", ("quantity", "measured", "true"), rows, (1, 2), "A border of 4 positions is left out.")


def true_strain(state: RunState, truth: dict[str, np.ndarray], folder: Path) -> list[Picture]:
    """Draw the true strain like the measured strain."""
    if "strain" not in state:
        return []
    expected = relative_truth(truth)
    maps: dict[str, Any] = {name: state["strain"].exx.of_same_grid(expected[name], name, "1") for name in COMPONENTS}
    made = plot.strain(SimpleNamespace(**maps, axes=state["strain"].axes), "True strain of the simulation")
    caption = "True strain of the simulation relative to the same region, for comparison."
    return [keep(Picture("strain_truth", "Strain", "True strain", caption, wide=True), made, folder)]


def _ordered(pictures: list[Picture]) -> list[Picture]:
    """Put the true strain directly after the measured strain."""
    return sorted(
        pictures, key=lambda p: (p.section.startswith("Phase object"), p.section != "Strain", p.name not in ("strain", "strain_truth"))
    )
