"""Parts of a run on the disk: a run that was cut goes on, and only that run."""

import pytest
from gpu4d.benchmarks.suite.parts import Parts, merged

from gpu4d.errors import InputError

HEADER = {
    "kind": "header", "tier": "S", "device": "cpu", "label": "2 × a processor", "threads": 2, "code": "abc", "passes": 3, "only": [],
    "plugins": [], "seed_is": "announced", "seed": 1,
}  # fmt: skip


def test_parts_are_there_after_a_cut(tmp_path):
    first = Parts(tmp_path / "p", HEADER, resume=False)
    first.add("workload", "a", 0, samples=[1.0], between={})
    with (tmp_path / "p").open("ab") as file:
        file.write(b'{"kind": "workload", "key": "b", "pa')  # the power went off here
    again = Parts(tmp_path / "p", HEADER, resume=True)
    assert again.resumed == 1 and again.has("workload", "a", 0) and not again.has("workload", "b", 0)
    again.add("workload", "b", 0, samples=[2.0], between={})
    assert [part["key"] for part in Parts(tmp_path / "p", HEADER, resume=True).of("workload")] == ["a", "b"]


def test_the_seed_that_was_drawn_is_kept(tmp_path):
    Parts(tmp_path / "p", HEADER | {"seed_is": "drawn", "seed": 17}, resume=False)
    assert Parts(tmp_path / "p", HEADER | {"seed_is": "drawn", "seed": 99}, resume=True).header["seed"] == 17


@pytest.mark.parametrize("name", ["tier", "device", "label", "threads", "seed", "code", "passes", "only", "plugins", "seed_is"])
def test_another_run_is_refused(tmp_path, name):
    Parts(tmp_path / "p", HEADER, resume=False)
    with pytest.raises(InputError, match="another run"):
        Parts(tmp_path / "p", HEADER | {name: "other"}, resume=True)


@pytest.mark.parametrize("text", ["no JSON\n", "17\n", '{"a": 1}\n'])
def test_a_file_that_holds_no_parts_is_refused(tmp_path, text):
    (tmp_path / "p").write_text(text)
    with pytest.raises(InputError, match="holds no parts of a run"):
        Parts(tmp_path / "p", HEADER, resume=True)


def test_a_new_run_begins_from_nothing(tmp_path):
    Parts(tmp_path / "p", HEADER, resume=False).add("workload", "a", 0)
    assert not Parts(tmp_path / "p", HEADER, resume=False).found


def test_samples_of_all_passes_come_together():
    parts = [{"kind": "workload", "key": "a", "pass": n, "samples": [n], "between": {"n": n}, "title": "A"} for n in (1, 0)]
    assert merged(parts) == {"samples": [[0], [1]], "between": [{"n": 0}, {"n": 1}], "title": "A"}


def test_a_wrong_answer_in_any_pass_is_the_whole_entry():
    good = {"kind": "workload", "key": "a", "pass": 0, "samples": [1], "between": {}, "title": "A", "part": "Compute"}
    assert merged([good, {**good, "pass": 1, "failed": "wrong answer"}]) == {"title": "A", "part": "Compute", "failed": "wrong answer"}
