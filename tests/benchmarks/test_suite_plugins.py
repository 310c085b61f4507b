"""The open division: a twin from a plug-in is checked by the same oracle, is said to be open, and has no score if it is wrong."""

import sys

import pytest
from gpu4d.benchmarks.suite import attainable, run, score, unit, workloads

from gpu4d.errors import InputError
from gpu4d.operation import all_operations

PLUGIN = """
from dataclasses import replace

import numpy as np

from gpu4d.operation import all_operations

twins = all_operations()["masked_sums"].twins
twins["cpu"] = replace(twins["cpu"], module=__name__)


def masked_sums(patterns, masks, /):
    flat = patterns.reshape(len(patterns), -1).astype(np.float64)
    found = flat @ masks.reshape(len(masks), -1).T.astype(np.float64)
    found[3:4, 1:2] *= {factor}
    return found
"""


@pytest.fixture
def masks_alone(monkeypatch):
    """A suite of one real workload with its smallest inputs, a reference, and samples that are all the same."""
    known = {"masks-64": workloads.all_workloads()["masks-64"]}
    monkeypatch.setattr(workloads, "all_workloads", lambda: known)
    for module in (run, run.assemble):
        monkeypatch.setattr(module, "all_workloads", lambda: known)
    monkeypatch.setattr(attainable, "floors", lambda _place: {})
    tiers = {"quick": {"masks-64": {"seconds": 1e-3, "amount": known["masks-64"].sizes["quick"]["patterns"], "scatter": None}}}
    monkeypatch.setattr(score, "reference", lambda: {"tiers": tiers})
    monkeypatch.setattr(score.conditions, "between", lambda _a, _b: {})  # other programs that run beside the tests do not count here
    timed = unit.timed
    monkeypatch.setattr(unit, "timed", lambda *given: ([1e-3] * 5, timed(*given)[1]))


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Write a module with a twin for sums under masks; the own one is back afterwards."""
    twins = all_operations()["masked_sums"].twins
    monkeypatch.setitem(twins, "cpu", twins["cpu"])
    monkeypatch.syspath_prepend(tmp_path)

    def written(name, factor):
        (tmp_path / f"{name}.py").write_text(PLUGIN.replace("{factor}", factor))
        return name

    yield written
    for name in ("right_masks", "wrong_masks"):
        sys.modules.pop(name, None)


def ran(tmp_path, **given):
    return run.run(run.Options(tmp_path / "r.json", tier="quick", device="cpu", only=("masks-64",), **given))


def test_a_right_twin_has_a_score_of_the_open_division(masks_alone, plugin, tmp_path):
    own = ran(tmp_path)
    (tmp_path / "r.json.parts").unlink()
    found = ran(tmp_path, plugins=(plugin("right_masks", "1.0"),))
    assert found["score"]["why_not"] == [] and found["score"]["total"] == pytest.approx(1000)
    assert found["suite"]["division"] == "open" and found["suite"]["plugins"] == ["right_masks"]
    assert "not gpu4d's own: masked_sums: cpu of right_masks" in found["suite"]["why_open"]
    one, other = (result["workloads"]["masks-64"] for result in (own, found))
    assert other["check"]["oracle"] == one["check"]["oracle"] and other["data"] == one["data"]
    assert not any("masked_sums" in why for why in own["suite"]["why_open"])


def test_a_wrong_twin_has_none(masks_alone, plugin, tmp_path):
    """One of 8192 sums is wrong by a ten thousandth."""
    found = ran(tmp_path, plugins=(plugin("wrong_masks", "1.0001"),))
    assert found["suite"]["division"] == "open"
    assert found["score"]["total"] is None and found["score"]["parts"] == {}
    assert found["score"]["why_not"][0].startswith("masks-64: wrong answer: images: ")


@pytest.mark.parametrize(("content", "why"), [(None, "ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError")])
def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch, tmp_path, content, why):
    if content is not None:
        (tmp_path / "broken_masks.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"--plugin broken_masks cannot be imported .{why}.*PYTHONPATH"):
        ran(tmp_path, plugins=("broken_masks",))
    assert not list(tmp_path.glob("r.json*"))
