"""Plots of the precision studies."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

Row = dict[str, Any]
# Okabe and Ito's colours, and a marker each: told apart without colour too.
LOOKS = {
    "likelihood": ("#0072B2", "o"),
    "likelihood, 4": ("#56B4E9", "v"),
    "likelihood, 6": ("#0072B2", "o"),
    "likelihood, 8": ("#CC79A7", "D"),
    "likelihood, auto": ("#000000", "x"),
    "correlation": ("#D55E00", "s"),
    "correlation, trench 1–2.5 R": ("#E69F00", "P"),
    "correlation, measured disk": ("#E69F00", "P"),
    "x16 grid, n = 0.85": ("#009E73", "^"),
}
NAMES = {
    "likelihood": "Poisson likelihood",
    "correlation": "correlation, n = 1",
    "correlation, trench 1–2.5 R": "the same, trench 1–2.5 R",
    "correlation, measured disk": "the same, measured disk",
    "x16 grid, n = 0.85": "×16 grid on n = 0.85 (the usual way)",
    **{f"likelihood, {p}": f"likelihood, {p} parameters" for p in (4, 6, 8)},
    "likelihood, auto": "likelihood, chosen by the scan",
}
METHODS = ("x16 grid, n = 0.85", "correlation", "likelihood")
AUTO = ("likelihood, auto",)
RMS, RATIO = "rms error per axis (px)", "rms error / bound"


def panels(count: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.grid(True, which="major", color="0.9", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    return figure, list(axes[0])


def picked(rows: list[Row], **labels: Any) -> list[Row]:
    return [r for r in rows if all(r.get(k) == v for k, v in labels.items())]


def lines(axis: Axes, rows: list[Row], x: str, y: str, methods: Iterable[str], style: str = "-", label: bool = True) -> None:
    for method in methods:
        some = [r for r in picked(rows, method=method) if y in r]
        color, marker = LOOKS[method]
        axis.plot(
            [r[x] for r in some], [r[y] for r in some], style, color=color, marker=marker, ms=4.5, label=NAMES[method] if label else None
        )


def bound(axis: Axes, rows: list[Row], x: str, column: str = "bound 2", style: str = "--", label: str | None = "Cramér–Rao bound") -> None:
    points = sorted({r[x]: r[column] for r in rows if column in r}.items())
    axis.plot([p[0] for p in points], [p[1] for p in points], linestyle=style, color="black", linewidth=1.4, label=label)


def one(axis: Axes) -> None:
    axis.axhline(1.0, color="black", linestyle="--", linewidth=1.2)


def ratio_axis(axis: Axes, ticks: tuple[float, ...] = (1, 1.5, 2, 3, 5, 10)) -> None:
    axis.set_yscale("log")
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_ylabel(RATIO)
    one(axis)


def counts(electrons: float) -> str:
    return f"{electrons:.0e} electrons in a disk".replace("e+0", "e")


def save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(96).save(path, optimize=True)  # few colours: a third of the bytes


def dose(rows: list[Row], path: Path) -> None:
    figure, (left, right) = panels(2)
    lines(left, rows, "electrons", "rms", METHODS)
    bound(left, rows, "electrons")
    left.set(xscale="log", yscale="log", xlabel="electrons in a disk", ylabel=RMS)
    left.legend(frameon=False, fontsize=8)
    lines(right, rows, "electrons", "ratio", METHODS)
    right.set(xscale="log", xlabel="electrons in a disk")
    ratio_axis(right)
    save(figure, path)


def targets(rows: list[Row], path: Path) -> None:
    figure, (left, right) = panels(2)
    methods = ("x16 grid, n = 0.85", "correlation", "correlation, trench 1–2.5 R", "likelihood")
    lines(left, rows, "dose", "ratio", methods)
    left.set(xscale="log", xlabel="electrons per pixel of the direct disk")
    ratio_axis(left)
    left.legend(frameon=False, fontsize=8)
    share = [{**r, "share": 100 * r["inside 1 sigma"]} for r in rows if "inside 1 sigma" in r]
    lines(right, share, "dose", "share", methods[1:])
    right.axhspan(63, 73, color="0.92")
    right.axhline(68.27, color="black", linestyle="--", linewidth=1.2)
    right.set(xscale="log", xlabel="electrons per pixel of the direct disk", ylabel="errors inside ±1 reported σ (%)", ylim=(0, 100))
    save(figure, path)


def edge(rows: list[Row], path: Path) -> None:
    figure, axes = panels(2)
    for axis, electrons in zip(axes, (1e4, 3e5)):
        some = picked(rows, electrons=electrons)
        lines(axis, some, "edge", "rms", METHODS)
        bound(axis, some, "edge")
        bound(axis, some, "edge", "closed form", ":", "closed form, w ≪ R")
        axis.set(xlabel="edge width w (px)", ylabel=RMS, title=counts(electrons), ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def background(rows: list[Row], path: Path) -> None:
    figure, (left, middle, right) = panels(3)
    methods = ("likelihood, 4", "likelihood, 6", "correlation")
    even = picked(rows, kind="even")
    lines(left, even, "level", "rms", methods)
    lines(left, even, "level", "rms", AUTO, ":")
    bound(left, even, "level")
    bound(left, even, "level", "closed form", ":", "closed form")
    left.set_xscale("symlog", linthresh=0.01, linscale=0.5)
    left.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    left.minorticks_off()
    left.set(xlim=(-0.001, 4), ylim=(0, None), xlabel="even background / height of the disk", ylabel=RMS, title=counts(1e4))
    left.legend(frameon=False, fontsize=8)
    for axis, electrons in zip((middle, right), (1e4, 3e5)):
        some = [{**r, "percent": 100 * r["ramp"]} for r in picked(rows, kind="slope", electrons=electrons)]
        lines(axis, some, "percent", "ratio", methods)
        lines(axis, some, "percent", "ratio", AUTO, ":")
        axis.set(xlabel="slope of the background (% of the disk's height a px)", title=counts(electrons))
        ratio_axis(axis, (1, 1.5, 2, 3, 4))
        axis.set_xticks([0, 0.05, 0.1, 0.15, 0.2], ["0", "0.05", "0.1", "0.15", "0.2"])
        axis.set_ylim(0.9, 4.2)
    save(figure, path)


def patterned(rows: list[Row], path: Path) -> None:
    figure, (left, right) = panels(2)
    for probe, style in (("plain", ":"), ("bullseye", "-")):
        some = picked(rows, probe=probe)
        for method in METHODS:
            color, marker = LOOKS[method]
            points = [r for r in picked(some, method=method) if "rms" in r]
            label = f"{probe}: {NAMES[method]}" if method == "likelihood" else None
            left.plot([r["electrons"] for r in points], [r["rms"] for r in points], style, color=color, marker=marker, ms=4.5, label=label)
            right.plot([r["electrons"] for r in points], [r["ratio"] for r in points], style, color=color, marker=marker, ms=4.5)
        bound(left, some, "electrons", label=f"{probe}: bound", style="--" if probe == "bullseye" else "-.")
    left.set(xscale="log", yscale="log", xlabel="electrons in a disk of radius 9 px", ylabel=RMS)
    left.legend(frameon=False, fontsize=8)
    right.set(xscale="log", xlabel="electrons in a disk of radius 9 px")
    ratio_axis(right, (1, 1.5, 2, 3, 4))
    for method in METHODS:
        right.plot([], [], color=LOOKS[method][0], marker=LOOKS[method][1], ms=4.5, label=NAMES[method])
    right.plot([], [], "-", color="0.4", label="bullseye")
    right.plot([], [], ":", color="0.4", label="plain")
    right.legend(frameon=False, fontsize=8)
    save(figure, path)


def tilt(rows: list[Row], path: Path) -> None:
    figure, axes = panels(2)
    methods = ("correlation", "likelihood, 6", "likelihood, 8")
    for axis, electrons in zip(axes, (1e4, 3e5)):
        some = [{**r, "percent": 100 * r["tilt"]} for r in picked(rows, electrons=electrons)]
        lines(axis, some, "percent", "rms", methods)
        lines(axis, some, "percent", "rms", AUTO, ":")
        bound(axis, some, "percent", "bound 2", label="bound, slope known")
        bound(axis, some, "percent", "bound 8", ":", label="bound, slope unknown")
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)
        axis.set_xticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
        axis.set(yscale="log", xlabel="slope of the intensity over one radius, rms (%)", ylabel=RMS, title=counts(electrons))
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def vacuum(rows: list[Row], path: Path) -> None:
    figure, axes = panels(2)
    for axis, electrons in zip(axes, (1e4, 1e6)):
        some = picked(rows, electrons=electrons)
        for y, style in (("rms", "-"), ("rms without offset", ":")):
            methods = ("correlation", "correlation, measured disk", "likelihood")
            lines(axis, some, "vacuum counts per pixel", y, methods, style, label=style == "-")
        bound(axis, some, "vacuum counts per pixel")
        axis.set(xscale="log", yscale="log", xlabel="counts per pixel of the vacuum image", ylabel=RMS, title=counts(electrons))
        axis.plot([], [], ":", color="0.4", label="common offset taken off")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    save(figure, path)


def power(rows: list[Row], path: Path) -> None:
    figure, (left, middle, right) = panels(3)
    shades = ("#56B4E9", "#0072B2", "#000000")
    marks = ("o", "s", "^", "D", "v")
    for color, mark, electrons in zip(shades, marks, (1e3, 1e4, 1e6)):
        some = [r for r in picked(rows, use="locate", electrons=electrons) if "ratio" in r]
        left.plot([r["n"] for r in some], [r["ratio"] for r in some], color=color, marker=mark, ms=4.5, label=counts(electrons))
    left.set(xlabel="n of the map that locates (refine_power)")
    ratio_axis(left, (1, 2, 5, 10, 20, 50))
    left.legend(frameon=False, fontsize=8)
    finding = [r for r in rows if r["use"] == "find"]
    for color, mark, electrons in zip(
        ("#E69F00", "#D55E00", "#CC79A7", "#0072B2", "#000000"), marks, sorted({r["electrons"] for r in finding})
    ):
        some = picked(finding, electrons=electrons)
        for axis, values in ((middle, [100 * r["recall"] for r in some]), (right, [r["false"] for r in some])):
            axis.plot([r["n"] for r in some], values, color=color, marker=mark, ms=4.5, label=f"{electrons:.0f}")
        middle.set(xlabel="n of the map that finds (power)", ylabel="disks found (%)", ylim=(0, 103))
    right.set(xlabel="n of the map that finds (power)", ylabel="false disks a pattern")
    right.legend(frameon=False, fontsize=8, title="electrons in the direct disk", title_fontsize=8)
    save(figure, path)


def strain(rows: list[Row], path: Path) -> None:
    figure, (left, right) = panels(2)
    methods = ("correlation", "likelihood")
    lines(left, rows, "dose", "rms", methods)
    bound(left, rows, "dose")
    left.set(xscale="log", yscale="log", xlabel="electrons per pixel of the direct disk", ylabel="rms error of the strain")
    left.legend(frameon=False, fontsize=8)
    lines(right, rows, "dose", "ratio", methods)
    right.set(xscale="log", xlabel="electrons per pixel of the direct disk")
    ratio_axis(right, (1, 1.5, 2, 3))
    save(figure, path)


PLOTS: dict[str, Callable[[list[Row], Path], None]] = {
    "targets": targets,
    "dose": dose,
    "edge": edge,
    "background": background,
    "bullseye": patterned,
    "tilt": tilt,
    "vacuum": vacuum,
    "power": power,
    "strain": strain,
}
