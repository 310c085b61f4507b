"""The commands `gpu4d recipe`: write, check and explain the settings of a run, and the schema of the file for editors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

    from gpu4d.workflow.recipe import Recipe

# As in `gpu4d.workflow.advising.PURPOSES`, which a test compares. It is not imported here, so that --help takes no time.
PURPOSES = ("strain", "dpc", "ssb", "amorphous", "magnetic", "orientation", "auto")


def recipe_commands(commands: click.Group, debug: Any, say: Any) -> None:
    """Add `gpu4d recipe` to the commands."""
    import click

    @commands.group(no_args_is_help=True)
    def recipe() -> None:
        """Write, check or explain the settings of a run (a TOML file)."""

    _new_command(recipe, debug, say)
    _explain_command(recipe, debug, say)
    path = click.Path(path_type=Path)

    @recipe.command()
    @click.argument("file", type=path)
    @debug
    def check(file: Path, debug: bool) -> None:
        """Find mistakes in a recipe, and settings outside the recommended ranges."""
        from gpu4d.workflow.guide.scenarios import warnings_of
        from gpu4d.workflow.recipe import Recipe

        loaded = Recipe.load(file)
        for line in [*loaded.advice(), *warnings_of(loaded.analysis.scenario)]:
            say(f"note: {line}")
        own = sum(not origin.startswith("scenario") for origin in loaded.given.values())
        say(f"{file} is valid: {own} settings")

    @recipe.command()
    @debug
    def stages(debug: bool) -> None:
        """List the stages A to W of the 4D-STEM guide, and what does each of them here."""
        from gpu4d.workflow.guide.stages import stages_text

        say(stages_text())

    @recipe.command()
    @click.option("-o", "--output", "out", metavar="FILE", type=path, help="File for the schema.  [default: the terminal]")
    @click.option("--overwrite", is_flag=True, help="Replace FILE.")
    @debug
    def schema(out: Path | None, overwrite: bool, debug: bool) -> None:
        """Write the JSON Schema of a recipe, with which editors complete and check the file."""
        import json

        from gpu4d.workflow.recipe import recipe_schema

        _deliver(json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n", out, overwrite, say, "")


def _new_command(group: click.Group, debug: Any, say: Any) -> None:
    import click

    from gpu4d.cli_flags import calibration_flags, scan_flags, scenario_flag

    path = click.Path(path_type=Path)

    @group.command(short_help="Write a recipe: all settings, or those that matter for one purpose and scan.")
    @click.argument("file", required=False, type=path)
    @click.option(
        "--for", "purpose", type=click.Choice(PURPOSES), help="Purpose. FILE is then the scan, of which a few patterns are looked at."
    )
    @scenario_flag
    @click.option("-o", "--output", "out", metavar="R.toml", type=path, help="File for the recipe.  [default: the terminal]")
    @click.option("--overwrite", is_flag=True, help="Replace the recipe.")
    @click.option("--schema", is_flag=True, help="Put the name of gpu4d-recipe.schema.json into the first line, for editors.")
    @scan_flags
    @calibration_flags
    @click.option("--structure", metavar="NAME", multiple=True, help="Crystal for orientations: Au, Si, … or a CIF file. May be repeated.")
    @debug
    def new(
        file: Path | None, purpose: str | None, out: Path | None, overwrite: bool, schema: bool, debug: bool, **flags: Any
    ) -> None:  # fmt: skip
        """Write a commented recipe.

        Without --for it has all settings and their defaults, and goes to FILE, or to the terminal. With --for it has the settings that
        matter for the purpose, each with what it does, how to tune it, and what the scan FILE suggests. It goes to -o, or to the terminal.
        auto takes the purpose that a run decides for the scan.
        """
        from gpu4d.cli_flags import with_flags
        from gpu4d.errors import InputError
        from gpu4d.workflow.recipe import to_toml

        given = with_flags(None, flags)
        if purpose is None:
            if file is not None and out is not None:
                raise InputError(f"{file} and -o {out}: a recipe without --for goes to one of them. Did you mean --for auto {file}?")
            text, out = to_toml(given), out or file
            text = "#:schema ./gpu4d-recipe.schema.json\n" + text if schema else text
        else:
            text = _for_purpose(purpose, file, given, out, schema)
        _deliver(text, out, overwrite, say, f"edit it, then `gpu4d run {file if purpose and file else 'FILE'} --recipe {out}`")


def _for_purpose(purpose: str, scan: Path | None, given: Recipe, out: Path | None, schema: bool) -> str:
    """Return the recipe for a purpose, after a look at the scan if there is one."""
    import os

    from gpu4d.errors import InputError
    from gpu4d.workflow.advising import look_at, purpose_recipe

    if scan is not None and out is not None and out.exists() and scan.exists() and os.path.samefile(scan, out):
        raise InputError(f"-o {out} is the scan, and is never replaced: give another name with -o")
    return purpose_recipe(purpose, None if scan is None else look_at(scan, given), given, schema)


def _explain_command(group: click.Group, debug: Any, say: Any) -> None:
    import click

    from gpu4d.cli_flags import calibration_flags, scan_flags

    path = click.Path(path_type=Path)

    @group.command(short_help="Say what each setting does, its range, how to tune it, and what a scan suggests.")
    @click.argument("file", required=False, type=path)
    @click.option("--only", metavar="SECTION[.KEY]", help="Explain one section or one setting only.")
    @click.option("--scan", metavar="SCAN", type=path, help="Look at a few patterns of a scan, and say what they suggest.")
    @scan_flags
    @calibration_flags
    @debug
    def explain(file: Path | None, only: str | None, scan: Path | None, debug: bool, **flags: Any) -> None:
        """Say what each setting does, what it accepts, what is recommended, and how to tune it. With FILE, show its values too."""
        from gpu4d.cli_flags import with_flags
        from gpu4d.errors import InputError
        from gpu4d.workflow.recipe import Recipe
        from gpu4d.workflow.recipe import explain as text_of

        settings = with_flags(file, flags)
        if not text_of(settings, only):
            raise InputError(f"--only {only}: there is no such section or setting; sections are {', '.join(Recipe().sections)}")
        say(text_of(settings, only, None if scan is None else _suggested(scan, settings, only)))


def _suggested(scan: Path, settings: Recipe, only: str | None) -> dict[str, str]:
    """Return what a scan suggests for the settings that are explained: the value, where there is one, and why."""
    from gpu4d.io.toml import literal
    from gpu4d.workflow.advising import look_at, suggestions

    names = tuple(name for name, _, _ in settings.values() if only is None or only in (name, name.partition(".")[0]))
    found = suggestions(look_at(scan, settings), names)
    return {name: one.why if one.value is None else f"{literal(one.value)}, because {one.why}" for name, one in found.items()}


def _deliver(text: str, out: Path | None, overwrite: bool, say: Any, then: str) -> None:
    """Write a text to a file, beside it first, or to the terminal. A file that is no recipe or schema is never replaced."""
    import os

    from gpu4d.errors import InputError

    if out is None:
        say(text.removesuffix("\n"))
        return
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: give another name, or replace it with --overwrite")
    if out.exists() and not _is_text(out):
        raise InputError(f"{out} is no recipe or schema, and is never replaced: give another name")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, out)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"{out} cannot be written ({error.strerror}): give another name") from error
    say(f"{out} written" + (f": {then}" if then else ""))


def _is_text(path: Path) -> bool:
    """Return True for a file that is UTF-8 TOML or JSON: nothing else is replaced, least of all a scan."""
    import json
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    for read in (tomllib.loads, json.loads):
        try:
            read(text)
            return True
        except ValueError:
            continue
    return False
