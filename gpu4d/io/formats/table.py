"""Write the table of formats of the documentation, from what the formats say of themselves and from measured rates."""

from __future__ import annotations

from collections.abc import Mapping

from gpu4d.io.formats import known_formats

HEAD = (
    "| format | files | patterns are read | converted to | what is covered, and what is not | tried on | rate, as a share of the floor |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def formats_table(rates: Mapping[str, str] | None = None) -> str:
    """Return the table, in Markdown.

    Parameters
    ----------
    rates : mapping of str to str, optional
        Measured rate of a format, by its name, in words.

    Examples
    --------
    >>> print(formats_table().splitlines()[0][:20])
    | format | files | p
    """
    lines = list(HEAD)
    for known in known_formats():
        if known.facts is None:
            continue
        facts = known.facts
        endings = ", ".join(f"`{ending}`" for ending in facts.endings) + (" (folder)" if known.folders else "")
        reading = facts.reading + (f", by {facts.library}" if facts.library else "")
        rate = (rates or {}).get(known.name, "–")
        lines.append(
            f"| {known.name} | {endings} | {reading} | {'yes' if facts.writes else '–'} | {facts.covers} | {facts.tried_on} | {rate} |"
        )
    return "\n".join(lines)
