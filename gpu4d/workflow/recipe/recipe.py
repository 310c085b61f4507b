"""Read, check and write a recipe: all settings of a run."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError
from gpu4d.workflow.guide import scenarios
from gpu4d.workflow.recipe.sections import CalibrationSettings, ComputeSettings, InputSettings, gate_settings
from gpu4d.workflow.reference_text import is_path
from gpu4d.workflow.settings import Rule, Section, SettingValue, checked, nearest
from gpu4d.workflow.stages import known_gates, known_stages

SCENARIO = "analysis.scenario"


def known_sections() -> dict[str, type]:
    """Return the sections of a recipe in their order: general sections, then one for every stage that has settings."""
    found: dict[str, type] = {"input": InputSettings, "calibration": CalibrationSettings}
    found.update((stage.section, stage.settings) for stage in known_stages() if stage.settings is not None)
    return {**found, "gates": gate_settings(known_gates()), "compute": ComputeSettings}


class Recipe:
    """All settings of a run. A section is an attribute: `recipe.bragg.power`.

    Every installed stage adds its own section.

    Attributes
    ----------
    given : dict
        Settings that were set, and where ("recipe.toml", "--energy"). All others have their defaults.

    Examples
    --------
    >>> recipe = Recipe.from_toml('[bragg]\\nmax_peaks = 100')
    >>> recipe.bragg.max_peaks, recipe.bragg.power, recipe.advice()
    (100, 0.85, ['bragg.max_peaks = 100 is outside the recommended 20 – 50'])
    """

    def __init__(self) -> None:
        self._sections: dict[str, Any] = {name: kind() for name, kind in known_sections().items()}
        self.given: dict[str, str] = {}

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections, in the order of a recipe file."""
        return tuple(self._sections)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._sections:
            raise AttributeError(f"a recipe has no section {name!r}; it has {', '.join(self.__dict__.get('_sections', ()))}")
        return self._sections[name]

    def __getitem__(self, name: str) -> Section:
        """Return a section by its name."""
        return self._sections[name]

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file. Relative paths in it start at its folder.

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
        """Make a recipe from TOML text. Messages call it `name`."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{name} is not valid TOML: {error}; `gpu4d recipe new` writes one to start from") from None
        recipe = cls()
        for section, values in table.items():
            if section not in recipe.sections:
                near = nearest(section, recipe.sections)
                raise InputError(f"{name}: there is no section [{section}]{near}; sections are {', '.join(recipe.sections)}")
            if not isinstance(values, Mapping):
                raise InputError(f"{name}: {section} is a section: write [{section}], and its settings below")
            for key, value in values.items():
                recipe.set(f"{section}.{key}", value, origin=name)
        recipe.check()
        return recipe

    def set(self, name: str, value: SettingValue, origin: str = "set") -> None:
        """Check a value and set "section.key". `origin` says where the value was given, for messages and the report.

        Scenarios (`analysis.scenario`) change other settings, too, unless these were given. A value that is set later counts.
        """
        section, _, key = name.partition(".")
        rules = dict(self.rules(section))
        if key not in rules:
            raise InputError(f"{origin}: [{section}] has no setting {key!r}{nearest(key, rules)}; it has {', '.join(rules)}")
        setattr(self[section], key, checked(name, value, rules[key], origin))
        self.given[name] = origin
        if name == SCENARIO:
            self._adjust()

    def _adjust(self) -> None:
        """Make the adjustments of the scenarios to settings that were not given, and undo those of scenarios given before."""
        for name in [name for name, origin in self.given.items() if origin.startswith(scenarios.ORIGIN)]:
            section, _, key = name.partition(".")
            setattr(self[section], key, default(name))
            del self.given[name]
        for scenario, one in scenarios.adjustments_of(self["analysis"].scenario):
            if one.setting and one.setting not in self.given:
                self.set(one.setting, one.value, origin=f"{scenarios.ORIGIN} {scenario.name}")

    def resolve(self, folder: str | Path = ".") -> None:
        """Make the paths in the recipe absolute. Relative ones start at `folder`. FILE:/dataset stays one text."""

        def absolute(path: str) -> str:
            return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))

        for name, value, rule in self.values():
            named_file = rule.kind == "reference" and isinstance(value, str) and value not in rule.choices and is_path(value)
            if (rule.kind in ("file", "names") and value) or named_file:
                section, _, key = name.partition(".")
                found = absolute(value) if isinstance(value, str) else [v if v in rule.choices else absolute(v) for v in value]
                setattr(self[section], key, found)

    def rules(self, section: str) -> Iterator[tuple[str, Rule]]:
        """Return the names and rules of the settings of a section."""
        for entry in dataclasses.fields(self[section]):
            yield entry.name, entry.metadata["rule"]

    def values(self) -> Iterator[tuple[str, SettingValue, Rule]]:
        """Return ("section.key", value, rule) of every setting."""
        for section in self.sections:
            for key, rule in self.rules(section):
                yield f"{section}.{key}", getattr(self[section], key), rule

    def as_dict(self) -> dict[str, dict[str, SettingValue]]:
        """Return all values as a plain nested dictionary."""
        return {section: dataclasses.asdict(self[section]) for section in self.sections}

    def check(self) -> None:
        """Refuse settings that contradict each other. Rules of single values cannot find these."""
        for section in self.sections:
            contradiction = getattr(self[section], "contradiction", None)
            if contradiction is not None and (said := contradiction()):
                raise InputError(said)

    def advice(self) -> list[str]:
        """Return a line for every setting that was set, differs from its default, and is outside the guide's range."""
        lines = []
        asked = {one.setting: one.value for _, one in scenarios.adjustments_of(self["analysis"].scenario)}
        for name, value, rule in self.values():
            if name in asked and value == asked[name]:
                continue  # the guide recommends this value for the scenario
            if name in self.given and rule.guide is not None and value is not None and value != default(name):
                low, high = rule.guide
                if not low <= value <= high:
                    lines.append(f"{name} = {value:g} is outside the recommended {low:g} – {high:g}")
        return lines


def default(name: str) -> Any:
    """Return the default of "section.key"."""
    section, _, key = name.partition(".")
    return getattr(Recipe()[section], key)
