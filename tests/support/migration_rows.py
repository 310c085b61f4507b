"""Tables of a page for users of another tool: every row has a check in a test, and every check has a row.

A test file `tests/interop/test_migration_<library>.py` has a dictionary from the first cell of a row, as it stands in the page, to a
function that checks what the row says:

    CHECKS = {"`CoMParams(flip_y=True)`": flip_y_is_a_transpose, …}
    ROWS = rows_of("from-libertem")

    def test_every_row_has_a_check():
        assert_same_rows(ROWS, CHECKS)

    @pytest.mark.parametrize("row", CHECKS)
    def test_row(row, need):
        need("libertem")
        CHECKS[row](ROWS[row])

The check is given the other cells of its row, so that it can read a number or a name from the page.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"


def rows_of(page: str) -> dict[str, list[str]]:
    r"""Return first cell -> other cells of every row of all tables of a page, docs/how-to/<page>.md. Heads of tables are left out.

    A bar inside a cell is written ``\|``. Two rows with the same first cell are an error.
    """
    return rows_in((HOW_TO / f"{page}.md").read_text(encoding="utf-8"))


def python_of(page: str) -> str:
    """Return all Python of a page, docs/how-to/<page>.md."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (HOW_TO / f"{page}.md").read_text(encoding="utf-8"), re.S))


def rows_in(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables of a text in Markdown."""
    rows: dict[str, list[str]] = {}
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)  # code is no table
    text = re.sub(r"^## Ten tasks\n.*?(?=^## )", "", text, flags=re.M | re.S)  # links to pages, which tests/project/test_site.py follows
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        head, line, *body = table.splitlines()
        assert re.fullmatch(r"[|\s:-]+", line), f"the table {head!r} has no line under its head"
        width = len(_cells(head))
        for row in body:
            first, *others = _cells(row)
            assert len(others) + 1 == width, f"the row {first!r} has not {width} cells"
            assert first not in rows, f"two rows begin with {first!r}"
            rows[first] = others
    return rows


def _cells(row: str) -> list[str]:
    assert row.rstrip().endswith("|"), f"a row has no bar at its end: {row!r}"
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


def assert_same_rows(rows: Mapping[str, object], checks: Iterable[str]) -> None:
    """Fail with the rows of a page that have no check, and with the checks that have no row."""
    without, left = sorted(set(rows) - set(checks)), sorted(set(checks) - set(rows))
    assert rows and not without and not left, f"rows without a check: {without}; checks without a row: {left}"
