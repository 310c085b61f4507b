"""Write the report: one self-contained HTML page with everything that a run found."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.errors import InputError
from gpu4d.io.toml import literal
from gpu4d.view.front_end import script_source
from gpu4d.workflow.picture import DIFFRACTION, Picture
from gpu4d.workflow.recipe import Recipe, default
from gpu4d.workflow.record import Gate, Record
from gpu4d.workflow.report.methods import Methods
from gpu4d.workflow.report.panels import Panel, packed, plain
from gpu4d.workflow.report.provenance import Provenance
from gpu4d.workflow.report.verdict import Verdict

MOST_BYTES = 25_000_000  # of the data of maps in a page: more takes seconds to open, and mail does not carry it
SIGNS = {"pass": "✓ pass", "warn": "! look", "fail": "✗ fail"}  # a sign beside the word, for readers who cannot tell the colours apart


@dataclass
class Page:
    """Content of the report. Texts are plain, because the template escapes them."""

    title: str
    subtitle: str
    headline: str
    record: Record
    calibration: Calibration
    recipe: Recipe
    pictures: list[Picture] = field(default_factory=list)
    command: str = ""
    versions: str = ""
    tables: list[Table] = field(default_factory=list)
    stages: list[tuple[str, str, bool, str]] = field(default_factory=list)  # (letters of the guide, what, whether it ran, why)
    verdict: Verdict | None = None
    methods: Methods | None = None
    provenance: Provenance | None = None
    recipe_text: str = ""
    introduction: str = ""
    scan_shape: tuple[int, int] = (0, 0)
    viewer: str = ""  # of a binned scan, as `gpu4d.view.page_part` makes it


@dataclass(frozen=True)
class Table:
    """A table of texts. `numbers` are the columns that are aligned to the right."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numbers: tuple[int, ...] = ()
    remark: str = ""


def write(page: Page, folder: Path, name: str = "report.html") -> Path:
    """Write the page into the folder with its PNGs. Pictures are embedded, and the page fetches no other file.

    Its script is inside, and the page's policy allows that script alone, by its hash.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise InputError("the report needs jinja2: pip install 'gpu4d[app]'") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    record, script = page.record, _part("maps.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    text = environment.from_string(_part("report.html")).render(
        title=page.title,
        subtitle=page.subtitle,
        introduction=page.introduction,
        headline=page.headline,
        verdict=page.verdict,
        figures=record.figures,
        decisions=record.decisions,
        sections=_sections(page, folder),
        gates=[_gate_row(gate) for gate in record.gates],
        tables=[*page.tables, *_tables(page)],
        methods=page.methods,
        provenance=page.provenance,
        command=page.command,
        settings=settings_rows(page.recipe),
        settings_remark=_settings_remark(page.recipe),
        recipe_text=page.recipe_text,
        log="\n".join(record.log),
        versions=page.versions,
        viewer=Markup(page.viewer),
        viewer_source=Markup(script_source(page.viewer)) if page.viewer else "",
        script=Markup(script),
        script_hash=digest,
    )
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text
    return path


def _part(name: str) -> str:
    return importlib.resources.files("gpu4d.workflow.report").joinpath(name).read_text(encoding="utf-8")


def _sections(page: Page, folder: Path) -> list[dict[str, Any]]:
    """Return the pictures by section, in the order in which sections first occur. Maps have their values beside, as long as they fit."""
    from markupsafe import Markup

    sections: dict[str, list[dict[str, Any]]] = {}
    left = MOST_BYTES
    for picture in page.pictures:
        png = base64.b64encode((folder / f"{picture.name}.png").read_bytes()).decode("ascii")
        data = maps_of(picture, page.scan_shape) if picture.panels else ""
        fits = len(data) <= left
        left -= len(data) if fits else 0
        shown = {"name": picture.name, "title": picture.title, "caption": picture.caption, "wide": picture.wide, "base64": png}
        shown |= {"data": Markup(data if fits else ""), "too_large": not fits, "svg": (folder / f"{picture.name}.svg").is_file()}
        sections.setdefault(picture.section, []).append(shown)
    return [{"title": title, "pictures": shown} for title, shown in sections.items()]


def maps_of(picture: Picture, scan_shape: tuple[int, int]) -> str:
    """Return the maps of a picture as JSON for the page's script, safe inside of HTML."""
    maps = [_map_of(panel, picture.section, scan_shape) for panel in picture.panels]
    return json.dumps(maps, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _map_of(panel: Panel, section: str, scan_shape: tuple[int, int]) -> dict[str, Any]:
    linear = panel.norm.kind == "power" and panel.norm.power == 1
    axes = "other"
    if panel.pixel_units == "1/Å" or not linear or section == DIFFRACTION:
        axes = "detector"
    elif panel.values.shape == tuple(scan_shape):
        axes = "scan"
    rows, columns = panel.values.shape
    return {
        "title": panel.title,
        "units": panel.units,
        "shape": [rows, columns],
        "place": panel.place,
        "bar": panel.bar,
        "numbers": panel.numbers,
        "scale": panel.scale,
        "text": panel.text,
        "colours": base64.b64encode(panel.colours.tobytes()).decode("ascii"),
        "norm": panel.norm,
        "pixel": [panel.pixel_size, panel.pixel_units],
        "axes": axes,
        "grid": f"{axes} {rows}×{columns} {panel.pixel_size:.6g} {panel.pixel_units}",
        "values": packed(panel.values, exact=not linear),
        "error": None if panel.error is None else packed(panel.error),
        "reading": None if panel.reading is None else _reading_of(panel),
    }


def _reading_of(panel: Panel) -> dict[str, Any]:
    """Return what the colours of a map stand for, as the page's script takes it: values, and the colours of zoomed maps."""
    assert panel.reading is not None and panel.rgb is not None
    rgb = [packed(np.asarray(panel.rgb[..., k], dtype=np.float64)) for k in range(3)]
    maps = [packed(one) for one in panel.reading.maps]
    return {"kind": panel.reading.kind, "names": [plain(name) for name in panel.reading.names], "maps": maps, "rgb": rgb}


def _gate_row(gate: Gate) -> dict[str, str]:
    """Return what the page says of a gate. What to do stands beside gates that were not passed."""
    row = {"name": gate.name, "status": gate.status, "sign": SIGNS.get(gate.status, gate.status)}
    advice = "" if gate.status == "pass" else gate.advice
    return {**row, "measured": gate.measured, "expected": gate.expected, "advice": advice}


def _tables(page: Page) -> list[Table]:
    record = page.record
    tables = []
    tables.append(Table("Calibration", ("quantity", "value", "unit", "how it was found"), calibration_rows(page.calibration), (1,)))
    if page.stages:
        done = [(letters, what, "yes" if ran else "no", why) for letters, what, ran, why in page.stages]
        remark = "Letters are those of the guide's stages: gpu4d recipe stages lists them."
        tables.append(Table("What was done, and why", ("guide", "stage", "done", "why"), done, remark=remark))
    times = [_timing(s.name, s.seconds, s.patterns, s.nbytes) for s in record.stages]
    times.append(_timing("in all", sum(s.seconds for s in record.stages), 0, 0))
    tables.append(Table("Timings", ("stage", "seconds", "patterns", "patterns/s", "GB/s"), times, (1, 2, 3, 4)))
    return tables


def _timing(name: str, seconds: float, patterns: int, nbytes: int) -> tuple[str, ...]:
    per = max(seconds, 1e-9)
    return (
        name,
        f"{seconds:.2f}",
        f"{patterns:,}" if patterns else "",
        f"{patterns / per:,.0f}" if patterns else "",
        f"{nbytes / per / 1e9:.3g}" if nbytes else "",
    )


def calibration_rows(calibration: Calibration) -> list[tuple[str, str, str, str]]:
    """Return every field with its value, unit, and how it was found. Unknown fields are marked as not known."""
    how = {m.field: m.how for m in calibration.history}
    rows = []
    for name, quantity in FIELDS.items():
        value = getattr(calibration, name)
        if quantity.error_of:
            continue
        if value is None:
            if name not in ("origin_measured", "positions", "ellipse", "transpose"):
                rows.append((_short(quantity.what), "", quantity.units, "not known"))
            continue
        shown, units = _shown(name, value, quantity.units)
        error = getattr(calibration, ERRORS[name]) if name in ERRORS else None
        rows.append((_short(quantity.what), f"{shown}{_error_shown(name, error)}", units, how.get(name, "")))
    return rows


def _error_shown(name: str, error: float | tuple[float, float] | None) -> str:
    """Write a standard error behind its value."""
    if error is None:
        return ""
    if isinstance(error, tuple):
        return f" (a/b ± {error[0]:.1g}, angle ± {math.degrees(error[1]):.2g}°)"
    return f" ± {error:.1g}" + (f" (± {math.degrees(error):.2g}°)" if name == "rotation" else "")


def _shown(name: str, value: Any, units: str) -> tuple[str, str]:
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if name == "rotation":
        return f"{value:.4f} ({math.degrees(value):.2f}°)", units
    if name == "energy":
        return f"{value:,.0f}", units
    if isinstance(value, float):
        return f"{value:.5g}", units
    if isinstance(value, tuple):
        return ", ".join(f"{v:.5g}" for v in value), units
    if np.ndim(value) == 3:
        middle, spread = np.nanmean(value, axis=(0, 1)), np.nanmax(value, axis=(0, 1)) - np.nanmin(value, axis=(0, 1))
        return f"{middle[0]:.3f}, {middle[1]:.3f} (varies by {spread[0]:.2f}, {spread[1]:.2f})", units
    return ", ".join(f"{v:.3f}" for v in np.ravel(value)), units


def _short(what: str) -> str:
    return what.split(": (")[0].split(", (Rx")[0]


def settings_rows(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return ("section.key", value, where it was set) of all settings."""
    rows = []
    for name, value, rule in recipe.values():
        shown = literal(value) if value is not None else f"automatic: {rule.automatic}"
        rows.append((name, shown, recipe.given.get(name, "default")))
    return rows


def _settings_remark(recipe: Recipe) -> str:
    changed = [
        f"{name} = {literal(getattr(recipe[name.split('.')[0]], name.split('.')[1]))}" for name in recipe.given if _differs(recipe, name)
    ]
    return f"Set for this run: {', '.join(changed)}." if changed else "All settings have their defaults."


def _differs(recipe: Recipe, name: str) -> bool:
    section, _, key = name.partition(".")
    return getattr(recipe[section], key) != default(name)
