"""Timelines: covered and common seconds worked out by hand, and a file that a trace viewer can read."""

import json
import threading

import pytest

from gpu4d.device.timeline import Timeline


def test_busy_counts_every_second_once():
    timeline = Timeline()
    for start, end in ((4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (3.0, 3.5), (5.0, 5.5)):
        timeline.span("a", "work", start, end)
    assert timeline.busy("a") == 3.5 + 2.0
    assert timeline.busy("nobody") == 0.0


def test_overlap_is_what_both_cover():
    timeline = Timeline()
    for track, start, end in (("a", 0, 4), ("a", 6, 7), ("a", 8, 9), ("b", 1, 2), ("b", 1.5, 3), ("b", 3.5, 6.5), ("b", 9, 10)):
        timeline.span(track, "work", start, end)
    assert timeline.overlap("a", "b") == timeline.overlap("b", "a") == 2 + 0.5 + 0.5
    assert timeline.overlap("a", "nobody") == 0.0
    assert timeline.overlap("a", "a") == timeline.busy("a")


def test_written_as_a_chrome_trace(tmp_path):
    timeline = Timeline()
    timeline.span("read 0", "chunk 0", 0.5, 0.75, bytes=4096)
    timeline.span("cuda:0 copy", "chunk 0", 0.75, 1.0)
    timeline.span("read 0", "chunk 1", 1.0, 1.25)
    path = tmp_path / "trace.json"
    path.write_text("of another day")
    timeline.write(path)
    trace = json.loads(path.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert [(names[s["tid"]], s["name"], s["ts"], s["dur"]) for s in spans] == [
        ("read 0", "chunk 0", 500_000, 250_000),
        ("cuda:0 copy", "chunk 0", 750_000, 250_000),
        ("read 0", "chunk 1", 1_000_000, 250_000),
    ]
    assert spans[0]["args"] == {"bytes": 4096}
    assert len({(s["pid"]) for s in spans}) == 1 and any(event["name"] == "process_name" for event in trace["traceEvents"])
    assert trace["otherData"]["dropped_spans"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]


def test_a_file_that_cannot_be_replaced_is_left_alone(tmp_path):
    (tmp_path / "trace.json").mkdir()
    with pytest.raises(OSError):
        Timeline().write(tmp_path / "trace.json")
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]


def test_spans_beyond_the_most_are_counted_not_kept(tmp_path):
    timeline = Timeline(most=3)
    for i in range(10):
        timeline.span("a", "work", i, i + 1)
    timeline.write(tmp_path / "trace.json")
    assert len(timeline.events) == 3
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["dropped_spans"] == 7


def test_spans_of_many_threads_all_arrive():
    timeline = Timeline()
    threads = [threading.Thread(target=lambda t=t: [timeline.span(f"read {t}", "work", i, i + 0.5) for i in range(500)]) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(timeline.events) == 2000
    assert all(timeline.busy(f"read {t}") == 250 for t in range(4))
