"""The file of a result: what is written is read back, and what is no result is refused with a sentence."""

import copy
import json

import bench_results
import pytest
from bench_results import known_reference  # noqa: F401  a fixture
from gpu4d.benchmarks.suite import result, schema

from gpu4d.errors import InputError

pytestmark = pytest.mark.usefixtures("known_reference")


@pytest.fixture(scope="module")
def whole():
    return bench_results.result(skipped=["wdd"])


def test_what_is_written_is_read_back_with_its_hash(whole, tmp_path):
    path = tmp_path / "folder" / "r.json"
    written = result.write(whole | {"hash": "of before"}, path)
    assert result.read(path) == written and written["hash"] == result.own_hash(whole)
    assert [p.name for p in path.parent.iterdir()] == ["r.json"], "nothing is left beside it"


def test_canonical_json_by_hand():
    """SHA-256 of this text, by `printf '%s' '…' | sha256sum`."""
    given = {"b": [0.1, 1e-07, 2, None, True], "hash": "x", "a": {"µ": "é"}}
    assert result.canonical(given) == '{"a":{"µ":"é"},"b":[0.1,1e-07,2,null,true],"hash":"x"}'.encode()
    assert result.own_hash({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_another_result_is_not_written_over(whole, tmp_path):
    path = tmp_path / "r.json"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        result.write(whole, path)
    assert path.read_text() == "mine"
    result.write(whole, path, overwrite=True)
    assert result.read(path)["format"] == "gpu4d-bench"


def test_a_value_that_is_not_finite_is_not_written(whole, tmp_path):
    made = copy.deepcopy(whole)
    made["workloads"]["ssb"]["median"] = float("nan")
    with pytest.raises(InputError, match="a value that JSON does not know"):
        result.write(made, tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("hello", "no JSON: line 1, column 1"),
        ('{"format": "gpu4d-bench", "version": 1, "suite": {"tier"', "ends in the middle"),
        ('{"format": "gpu4d-bench", "version": 1,\n "x": [1, 2', "ends in the middle"),
        ("[1, 2]", "no result of gpu4d bench run: its format is none"),
        ('{"format": "emd"}', "its format is 'emd', needed is 'gpu4d-bench'"),
        ('{"format": "gpu4d-bench"}', "its version is None"),
        ('{"format": "gpu4d-bench", "version": 2}', "has version 2; this gpu4d reads up to 1: install a newer one"),
        ('{"format": "gpu4d-bench", "version": 1, "seconds": NaN}', "it holds NaN"),
        ('{"format": "gpu4d-bench", "version": 1, "seconds": 1e999}', "it holds the number 1e999"),
        ('{"format": "gpu4d-bench", "version": 1, "version": 1}', "the key 'version' twice"),
        ("[" * 100_000, "nested too deeply|ends in the middle"),
    ],
)
def test_what_is_no_result_is_refused(text, said, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        result.read(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        result.read(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="cannot be read"):
        result.read(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        result.read(tmp_path / "binary.json")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused(share, whole, tmp_path):
    path = tmp_path / "r.json"
    result.write(whole, path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match="ends in the middle"):
        result.read(path)


# ---------------------------------------------------------------- the published form


def changed(given, *way):
    """A copy without one value, or with another one: way ends with a function or None."""
    made = copy.deepcopy(given)
    *way, name, change = way
    holder = made
    for step in way:
        holder = holder[step]
    if change is None:
        del holder[name]
    else:
        holder[name] = change
    return made


WRONG = [
    (("suite", "tier", "XL"), "suite.tier: 'XL' is none of"),
    (("suite", "seed", 1.5), "suite.seed: 1.5 is no integer"),
    (("suite", "seed", True), "suite.seed: True is no integer"),
    (("suite", "passes", 0), "suite.passes: 0 is below 1"),
    (("seconds", 0), "seconds: 0 is not above 0"),
    (("made", "yesterday"), "made: 'yesterday' is not of the form"),
    (("hash", None), "the file: hash missing"),
    (("version", "1"), "version: '1' is not 1"),
    (("workloads", "ssb", "median", None), "workloads.ssb: median missing"),
    (("workloads", "ssb", "samples", [[]]), r"workloads.ssb.samples\[0\]: has 0 items"),
    (("workloads", "ssb", "samples", 1, ["fast"]), r"workloads.ssb.samples\[1\]\[0\]: 'fast' is no number"),
    (("workloads", "ssb", "part", "Speed"), "workloads.ssb.part: 'Speed' is none of"),
    (("workloads", "ssb", "check", "error", None), "workloads.ssb.check: error missing"),
    (("workloads", "wdd", "skipped", 3), "workloads.wdd.skipped: 3 is no string"),
    (("workloads", "ssb", []), r"workloads.ssb: \[\] is no object"),
    (("code", "origin", "disk"), "code.origin: 'disk' is none of"),
    (("score", "total", -1.0), "score.total: -1.0 is not above 0"),
]


def test_a_whole_result_has_the_published_form(whole):
    assert schema.problems(whole) == []
    for given in (bench_results.result(tier="quick"), bench_results.result(failed=["ssb"])):
        assert schema.problems(given) == []


@pytest.mark.parametrize(("way", "said"), WRONG)
def test_another_form_is_named(way, said, whole):
    import re

    found = schema.problems(changed(whole, *way))
    assert any(re.match(said, finding) for finding in found), found


def test_the_keywords_of_the_schema_are_those_that_are_checked():
    def keywords(rule):
        yield from rule
        for name in ("properties", "$defs"):
            for inner in rule.get(name, {}).values():
                yield from keywords(inner)
        for name in ("items", "additionalProperties", "if", "then", "else"):
            if name in rule:
                yield from keywords(rule[name])

    assert set(keywords(schema.schema())) <= schema.KNOWN


@pytest.mark.parametrize(("way", "said"), [((), ""), *WRONG])
def test_the_package_jsonschema_says_the_same(way, said, whole):
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema.schema())
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    assert checker.is_valid(changed(whole, *way) if way else whole) == (not said)
    json.dumps(schema.schema())
