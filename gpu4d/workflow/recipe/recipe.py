"""A recipe: every setting of a run, read from TOML, checked, and written back."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError
from gpu4d.sizes import parse_memory
from gpu4d.workflow.recipe import settings as s
from gpu4d.workflow.recipe.settings import Rule


@dataclass
class Recipe:
    """All settings of a run; a section is an attribute: `recipe.bragg.power`.

    `given` says where each setting that was set came from ("recipe.toml", "--energy"); all others have their defaults.

    Examples
    --------
    >>> recipe = Recipe.from_toml('[bragg]\\nmax_peaks = 100')
    >>> recipe.bragg.max_peaks, recipe.bragg.power, recipe.advice()
    (100, 0.85, ['bragg.max_peaks = 100 lies outside the recommended 20 – 50'])
    """

    input: s.InputSettings = field(default_factory=s.InputSettings)
    calibration: s.CalibrationSettings = field(default_factory=s.CalibrationSettings)
    analysis: s.AnalysisSettings = field(default_factory=s.AnalysisSettings)
    probe: s.ProbeSettings = field(default_factory=s.ProbeSettings)
    images: s.ImageSettings = field(default_factory=s.ImageSettings)
    bragg: s.BraggSettings = field(default_factory=s.BraggSettings)
    origin: s.OriginSettings = field(default_factory=s.OriginSettings)
    strain: s.StrainSettings = field(default_factory=s.StrainSettings)
    dpc: s.DpcSettings = field(default_factory=s.DpcSettings)
    compute: s.ComputeSettings = field(default_factory=s.ComputeSettings)
    given: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file; relative paths in it start at its folder.

        Raises
        ------
        InputError
            No such file, not TOML, an unknown setting (with the nearest name), or a value that is not accepted.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"recipe {path} does not exist: write one with `gpu4d recipe new {path}`") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"recipe {path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}): give a TOML file"
            ) from None
        recipe = cls.from_toml(text, name=path.name)
        recipe.resolve(path.parent)
        return recipe

    @classmethod
    def from_toml(cls, text: str, name: str = "recipe") -> Recipe:
        """A recipe from TOML text; `name` stands in messages."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{name} is not valid TOML: {error}; `gpu4d recipe new` writes one to start from") from None
        recipe = cls()
        for section, values in table.items():
            if section not in SECTIONS:
                raise InputError(f"{name}: there is no section [{section}]{_near(section, SECTIONS)}; sections are {', '.join(SECTIONS)}")
            if not isinstance(values, Mapping):
                raise InputError(f"{name}: {section} is a section: write [{section}], and its settings below")
            for key, value in values.items():
                recipe.set(f"{section}.{key}", value, origin=name)
        recipe.check()
        return recipe

    def set(self, name: str, value: Any, origin: str = "set") -> None:
        """Set "section.key" after checking the value; `origin` is who set it, for messages and the report."""
        section, _, key = name.partition(".")
        rules = dict(self.rules(section))
        if key not in rules:
            raise InputError(f"{origin}: [{section}] has no setting {key!r}{_near(key, rules)}; it has {', '.join(rules)}")
        setattr(getattr(self, section), key, checked(name, value, rules[key], origin))
        self.given[name] = origin

    def resolve(self, folder: str | Path = ".") -> None:
        """Make the paths in the recipe absolute; relative ones start at `folder`. FILE:/dataset stays one text."""
        for name in FILES:
            section, _, key = name.partition(".")
            if given := getattr(getattr(self, section), key):
                setattr(getattr(self, section), key, os.path.abspath(os.path.join(folder, os.path.expanduser(given))))

    def rules(self, section: str) -> Iterator[tuple[str, Rule]]:
        """Names and rules of one section's settings."""
        for entry in dataclasses.fields(getattr(self, section)):
            yield entry.name, entry.metadata["rule"]

    def values(self) -> Iterator[tuple[str, Any, Rule]]:
        """("section.key", value, rule) of every setting."""
        for section in SECTIONS:
            for key, rule in self.rules(section):
                yield f"{section}.{key}", getattr(getattr(self, section), key), rule

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary of all values."""
        return {section: dataclasses.asdict(getattr(self, section)) for section in SECTIONS}

    def check(self) -> None:
        """What single values cannot say: settings that contradict each other."""
        images = self.images
        if images.adf_outer is not None and images.adf_outer <= images.adf_inner:
            raise InputError(f"images.adf_outer = {images.adf_outer:g} must be larger than images.adf_inner = {images.adf_inner:g}")
        for name, region in (("strain.reference", self.strain.reference), ("probe.vacuum_region", self.probe.vacuum_region)):
            if isinstance(region, list) and not (region[0] < region[1] and region[2] < region[3]):
                raise InputError(f"{name} = {region}: need [rx0, rx1, ry0, ry1] with rx0 < rx1 and ry0 < ry1")
        if self.probe.file and self.probe.vacuum_region:
            raise InputError("probe.file and probe.vacuum_region are both set: the probe can come from one of them only")

    def advice(self) -> list[str]:
        """One line for every setting that was set, differs from its default, and lies outside the guide's range."""
        lines = []
        for name, value, rule in self.values():
            if name in self.given and rule.guide is not None and value is not None and value != default(name):
                low, high = rule.guide
                if not low <= value <= high:
                    lines.append(f"{name} = {value:g} lies outside the recommended {low:g} – {high:g}")
        return lines


FILES = ("probe.file", "input.detector_mask", "input.scan_mask")  # paths, relative to the recipe
SECTIONS = tuple(entry.name for entry in dataclasses.fields(Recipe) if entry.name != "given")


def default(name: str) -> Any:
    """Default of "section.key"."""
    section, _, key = name.partition(".")
    return getattr(getattr(Recipe(), section), key)


def checked(name: str, value: Any, rule: Rule, origin: str = "") -> Any:
    """The value in its own type, or an error that says what is accepted."""
    said = f"{origin}: {name} = {value!r}" if origin and not origin.startswith("--") else f"{origin or name} {value}"
    if rule.kind == "switch":
        if not isinstance(value, bool):
            raise InputError(f"{said}: need true or false")
        return value
    if rule.kind == "memory":
        parse_memory(value)
        return value if isinstance(value, str) else str(value)
    if rule.kind == "text" or (rule.kind == "reference" and isinstance(value, str)):
        if not isinstance(value, str) or not value or (rule.choices and value not in rule.choices):
            accepted = f"one of {', '.join(rule.choices)}{_near(str(value), rule.choices)}" if rule.choices else "a text"
            also = " or [rx0, rx1, ry0, ry1]" if rule.kind == "reference" else ""
            raise InputError(f"{said}: need {accepted}{also}")
        return value
    if rule.kind in ("wholes", "reference"):
        if not isinstance(value, list | tuple) or len(value) != rule.length:
            raise InputError(f"{said}: need {rule.length} whole numbers")
        return [_number(said, v, rule, whole=True) for v in value]
    return _number(said, value, rule, whole=rule.kind == "whole")


def _number(said: str, value: Any, rule: Rule, whole: bool) -> Any:
    accepted = f"need {'a whole number' if whole else 'a number'}{_range(rule)}{f' in {rule.units}' if rule.units else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or (whole and value != int(value)):
        raise InputError(f"{said}: {accepted}")
    if (rule.low is not None and value < rule.low) or (rule.high is not None and value > rule.high):
        raise InputError(f"{said}: {accepted}")
    return int(value) if whole else float(value)


def _range(rule: Rule) -> str:
    if rule.low is not None and rule.high is not None:
        return f" from {rule.low:g} to {rule.high:g}"
    if rule.low is not None:
        return f" of at least {rule.low:g}"
    return ""


def _near(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
