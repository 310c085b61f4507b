"""What reads the tables of pages for users of other tools finds every row, and says which are not checked."""

import pytest
from migration_rows import assert_same_rows, rows_in

PAGE = """# Title

| theirs | ours |
| --- | --- |
| `a` | 1 |
| `b \\| c` | `d` |

Text, then code, which is no table:

```sh
| not | a row |
```

| theirs | ours | why |
| --- | --- | --- |
| `e` | 2 | 3 |
"""


def test_all_tables_of_a_page_are_read():
    assert rows_in(PAGE) == {"`a`": ["1"], "`b | c`": ["`d`"], "`e`": ["2", "3"]}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("| a | b |\n| --- | --- |\n| x | 1 |\n| x | 2 |\n", "two rows"),
        ("| a | b |\n| --- | --- |\n| x | 1 | 2 |\n", "has not 2 cells"),
        ("| a | b |\n| x | 1 |\n", "no line under"),
    ],
)
def test_a_table_that_is_not_one_is_refused(text, wrong):
    with pytest.raises(AssertionError, match=wrong):
        rows_in(text)


@pytest.mark.parametrize(
    ("checks", "wrong"), [(["`a`"], r"without a check: \['`b \| c`', '`e`'\]"), (["`a`", "`b | c`", "`e`", "z"], "'z'")]
)
def test_rows_and_checks_must_be_the_same(checks, wrong):
    with pytest.raises(AssertionError, match=wrong):
        assert_same_rows(rows_in(PAGE), checks)


def test_a_page_without_rows_fails():
    with pytest.raises(AssertionError):
        assert_same_rows({}, [])
