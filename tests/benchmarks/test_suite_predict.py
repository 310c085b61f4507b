"""Predictions follow from made-up measurements by arithmetic that is written down here."""

import json
import math

import numpy as np
import pytest
from gpu4d.benchmarks.suite import scaling
from gpu4d.benchmarks.suite.costs import EXPOSED, Costs, NotMeasured, along, entry_of, longest_prime
from gpu4d.benchmarks.suite.detectors import DETECTORS, Detector, keeps_up
from gpu4d.benchmarks.suite.predict import REST, TITLES, Machine, model_error, predict
from gpu4d.benchmarks.suite.scaling_inputs import Inputs, expected, write
from gpu4d.benchmarks.suite.scan import Scan
from gpu4d.benchmarks.suite.workload import Place, Unavailable

import gpu4d
from gpu4d.errors import InputError

CALL, PIXEL, MAPPED, STORED = 1e-3, 1e-9, 0.2e-9, 2e-9  # s: a call, a pixel in a sweep, a mapped byte, a byte from the disk
SEARCHED, DISK, FITTED = 20e-9, 0.1e-9, 5e-6  # s: a pixel in a search; a disk, for each pixel; a disk's fit at radius 6


def entry(seconds, n, side=128, dtype="uint16", **more):
    return {"samples": [CALL + seconds * n] * 3, "patterns": n, "detector": [side, side], "dtype": dtype, **more}


def measurements():
    """Entries of a machine whose costs are exactly in proportion."""
    made = {"call": entry(0.0, 64, 16), "call-file": entry(0.0, 64, 16)}
    for technique, factor in (("one-pass", 1.0), ("read", 0.5), ("radial", 2.0)):
        for side in (64, 128, 256):
            made[f"{technique} {side} uint16"] = entry(factor * PIXEL * side**2, 1000, side)
        for dtype, more in (("uint8", 1.0), ("uint32", 2.0), ("float32", 4.0)):
            made[f"{technique} 128 {dtype}"] = entry(factor * more * PIXEL * 128**2, 1000, dtype=dtype)
    for side in (64, 128, 192, 256, 384):
        made[f"bragg {side}"] = entry((SEARCHED + 21 * DISK) * side**2, 100, side)
    made["bragg 130"] = entry(1.5 * (SEARCHED + 21 * DISK) * 130**2, 100, 130)
    made["bragg 128 few"] = entry((SEARCHED + 9 * DISK) * 128**2, 100)
    for side in (128, 256):
        search = (SEARCHED + 21 * DISK) * side**2
        made[f"bragg-likelihood {side}"] = entry(search + 21 * FITTED * (side / 128) ** 2, 100, side)
    made["bragg-joint 128"] = entry((SEARCHED + 21 * DISK) * 128**2 + 21 * 10 * FITTED, 16)
    made["bragg-choose 128"] = {"samples": [0.1] * 3, "patterns": 64, "detector": [128, 128], "dtype": "uint16"}
    for key, each in (("strain", 1e-4), ("match", 1e-3)):
        made[key], made[f"{key} few"] = ({"samples": [0.05 + each * n] * 3, "patterns": n} for n in (1000, 100))
    for technique, each in (("ssb", 1e-8), ("wdd", 1e-7)):
        for n in (64, 128, 256):
            made[f"{technique} {n}"] = entry(each * 50, n * n, 32, pixels=50)
    made["dpc few"] = {"samples": [0.2] * 3, "patterns": 64}
    made["dpc"] = {"samples": [0.2 + 2e-5 * (2048 - 64)] * 3, "patterns": 2048}
    made["dpc wide"] = {"samples": [CALL + 1e-8 * 65536 * 16] * 3, "patterns": 65536}
    made["measure-disk 128"] = {"samples": [0.1] * 3, "patterns": 1}
    made["counting"], made["counting-setup 128"] = entry(1e-4, 100, 256), {"samples": [0.3] * 3, "patterns": 64}
    made["events"] = {"samples": [CALL + 1e-8 * 1e6] * 3, "patterns": 5000, "events": 1_000_000}
    for layout, more in (("contiguous", 1.0), ("chunked", 2.0), ("lz4", 5.0), ("gzip", 50.0)):
        stored = 128**2 * 2 * 500 // (4 if layout == "lz4" else 1)
        made[f"file {layout} uint16"] = entry(PIXEL * 128**2 + more * MAPPED * 128**2 * 2, 500, layout=layout, stored=stored)
        if layout == "contiguous":
            made["cold uint16"] = {"samples": [CALL + STORED * stored] * 3, "patterns": 500, "stored": stored}
    return made


def result(memory=16e9, card=None, **more):
    about = {"label": "a machine of arithmetic", "device": "cuda:0" if card else "cpu", "threads": 2, "memory": memory}
    about["gpus"] = [{"name": "cuda:0", "memory": card}] if card else []
    attainable = {"read": {"value": 2e10}, "host_to_device": {"value": 1e10}}
    return {"machine": about, "attainable": attainable, "scaling": measurements(), "workloads": {}, **more}


def test_a_scan_in_the_page_cache_takes_its_pixels_its_bytes_and_a_call():
    found = predict(result(), Scan((100, 100), (128, 128)))["one-pass"]
    pixels = 100 * 100 * 128**2
    assert found.place == "page cache" and found.passes == 1
    assert found.again.value == pytest.approx(CALL + pixels * PIXEL + 2 * pixels * MAPPED)
    work = pixels * PIXEL + 2 * pixels * MAPPED
    assert found.first.value == pytest.approx(CALL + 2 * pixels * STORED + EXPOSED * work)  # the disk takes longer than the cores
    assert found.binds == "disk"
    assert found.candidates["memory"] == pytest.approx(2 * pixels / 2e10)


@pytest.mark.parametrize("technique", ["read", "one-pass", "radial"])
def test_twice_the_patterns_take_twice_the_time_without_the_call(technique):
    one, two = (predict(result(), Scan((64, n), (200, 150)))[technique].again.value - CALL for n in (50, 100))
    assert two == pytest.approx(2 * one)


def test_dtypes_take_what_was_measured_for_them():
    times = [
        predict(result(), Scan((64, 64), (128, 128), dtype))["read"].candidates["compute"]
        for dtype in ("uint16", "int16", "float32", "float64")
    ]
    assert np.array(times) / times[0] == pytest.approx([1, 1, 4, 8])


def test_a_scan_beyond_the_memory_is_streamed():
    scan = Scan((1024, 512), (256, 256))  # 68.7 GB
    assert predict(result(memory=16e9), scan)["one-pass"].again is None
    assert predict(result(memory=16e9), scan)["one-pass"].place == "disk"
    assert predict(result(memory=128e9), scan)["one-pass"].place == "page cache"


def test_several_passes_read_a_scan_that_does_not_fit_several_times():
    scan = Scan((512, 512), (256, 256), bright_field=50.0)
    small, large = (predict(result(memory=memory), scan)["ssb"] for memory in (16e9, 256e9))
    stack = 7854 * 512 * 512 * 2 * 2  # images of the pixels, twice: 8.2 GB in a budget of 4 GB
    assert small.passes == large.passes == 1 + math.ceil(stack / 4e9)
    assert small.candidates["disk"] == pytest.approx(small.passes * scan.nbytes * STORED)
    assert large.candidates["disk"] == pytest.approx(scan.nbytes * STORED)


def test_disks_are_searched_in_all_pixels_and_refined_one_by_one():
    costs = Costs(measurements())
    assert costs.search((128, 128), 13) == pytest.approx((SEARCHED + 13 * DISK) * 128**2)
    assert costs.search((160, 160), 21) == pytest.approx((SEARCHED + 21 * DISK) * 160**2)
    assert costs.search((260, 128), 21) == pytest.approx(1.5**0.5 * (SEARCHED + 21 * DISK) * 260 * 128)  # 260 = 4 · 5 · 13
    assert costs.fit((128, 128), 13, 6.0, 22.0) == pytest.approx(13 * FITTED)
    assert costs.fit((256, 256), 13, 12.0, 44.0) == pytest.approx(13 * 4 * FITTED)
    assert costs.fit((128, 128), 13, 6.0, 18.0) == pytest.approx(13 * 10 * FITTED)  # nearer than 2 R + 7: together


def test_strain_adds_fixed_work_on_lists():
    found = predict(result(), Scan((50, 50), (128, 128)))
    assert found["strain"].candidates[REST] == pytest.approx(0.05 + 2500 * 1e-4 + CALL)
    chosen = 0.1  # from 64 patterns
    assert found["strain-precise"].candidates[REST] == pytest.approx(0.05 + 2500 * 1e-4 + CALL + chosen)
    floats = predict(result(), Scan((50, 50), (128, 128), "float32"))
    assert floats["strain-precise"].first == floats["strain"].first  # no counts: nothing is fitted


def test_scans_at_the_ends_have_times_too():
    """One pattern, one pixel, and patterns that are larger than a tile."""
    for scan in (Scan((1, 1), (1, 1)), Scan((1, 1), (128, 128), "float64"), Scan((65536, 65536), (4096, 4096), "float64", "gzip")):
        found = predict(result(), scan)
        assert not found.missing and all(0 < one.first.low <= one.first.value <= one.first.high < math.inf for one in found.times)
        assert ("may not be counts" in found.text()) == (scan.dtype == "float64")
    large = predict(result(), Scan((4, 4), (4096, 4096), "float64"))["read"]
    assert large.peak_memory == 3 * 2 * 8 * 4096**2 + 8 * 4096**2  # three buffers in two threads, and the mean pattern


def test_direct_ptychography_takes_pixels_times_positions():
    found = predict(result(), Scan((200, 200), (128, 128), bright_field=20.0))["wdd"]
    assert found.candidates[REST] == pytest.approx(1257 * 40000 * 1e-7 + 0.1 + CALL, rel=1e-3)


def test_dpc_takes_patterns_and_maps():
    found = predict(result(), Scan((256, 256), (128, 128)))["dpc"]
    read = 0.5 * PIXEL * 128**2  # only the middle 128² of 256² positions are seen a second time, for the dark field
    assert found.candidates["compute"] == pytest.approx(65536 * (2e-5 - 0.75 * read))
    assert found.candidates[REST] == pytest.approx(0.2 + 1e-8 * 65536 * 16 + CALL)


def test_compressed_files_take_decoding_and_fewer_bytes_of_the_disk():
    plain, packed = (predict(result(), Scan((100, 100), (128, 128), layout=layout))["read"] for layout in ("contiguous", "lz4"))
    assert packed.candidates["disk"] == pytest.approx(plain.candidates["disk"] / 4)
    assert packed.candidates["reading and decoding"] == pytest.approx(5 * plain.candidates["reading and decoding"])
    slow = predict(result(), Scan((100, 100), (128, 128), layout="gzip"))["read"]
    assert slow.binds == "reading and decoding"


def test_in_front_of_a_card_the_longest_part_decides():
    scan = Scan((100, 100), (128, 128))
    found = predict(result(card=80e9), scan)["radial"]
    fed = scan.nbytes * MAPPED + 1e4 * 128**2 * PIXEL
    assert found.candidates["reading and decoding"] == pytest.approx(fed)
    assert found.candidates["link"] == pytest.approx(scan.nbytes / 1e10)
    assert found.first.value == pytest.approx(max(fed, scan.nbytes * STORED, 2 * PIXEL * 1e4 * 128**2) + CALL)
    assert found.place == "card" and found.again.value == pytest.approx(2 * PIXEL * 1e4 * 128**2 + CALL)


def test_patterns_stay_on_a_card_while_they_fit():
    places = [predict(result(memory=64e9, card=card), Scan((256, 256), (256, 256)))["one-pass"].place for card in (8e9, 24e9)]
    assert places == ["page cache", "card"]


def test_the_interval_holds_all_samples_and_the_error_of_the_model():
    given = result()
    given["scaling"]["cold uint16"]["samples"] = [s * f for s, f in zip(given["scaling"]["cold uint16"]["samples"], (0.8, 1.0, 1.3))]
    found = predict(given, Scan((100, 100), (128, 128)))["one-pass"]
    disk, work = found.candidates["disk"], found.candidates["reading and decoding"] + found.candidates["compute"]
    least, most = (factor * disk + EXPOSED * work + CALL for factor in (0.8, 1.3))
    assert found.first.low == pytest.approx(0.93 * least, rel=0.02) and found.first.high == pytest.approx(1.07 * most, rel=0.02)
    assert model_error(Scan((1, 1), (1024, 1024))) == pytest.approx(0.07 + 4 * 0.05)


def test_fixed_costs_of_an_entry_do_not_count_for_each_pattern():
    given = result()
    opening, each = 0.05, PIXEL * 128**2 + 5 * MAPPED * 128**2 * 2
    for key, n in (("file lz4 uint16", 500), ("file lz4 uint16 quarter", 125)):
        given["scaling"][key] = {"samples": [opening + n * each] * 3, "patterns": n, "detector": [128, 128], "dtype": "uint16"}
    found = predict(given, Scan((100, 100), (128, 128), layout="lz4"))["one-pass"]
    assert found.again.value == pytest.approx(opening + 1e4 * each)


def test_tables_of_a_fit_are_made_once():
    given = result()
    for n in (100, 25):
        took = CALL + 0.3 + n * ((SEARCHED + 21 * DISK) * 128**2 + 21 * FITTED)
        given["scaling"]["bragg-likelihood 128" + (" quarter" if n == 25 else "")] = {"samples": [took] * 3, "patterns": n}
    assert Costs(given["scaling"]).prepare_fit() == pytest.approx(0.3)
    plain, once = (predict(one, Scan((100, 100), (128, 128)))["strain-precise"].again.value for one in (result(), given))
    assert once - plain == pytest.approx(0.3)


@pytest.mark.parametrize("exposed", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("heavy", [0.5, 1.5])
def test_the_part_of_the_work_that_the_disk_does_not_hide_is_measured(exposed, heavy):
    """Two kinds of files are read from the disk: one needs a tenth of the disk's time, one a half or one and a half of it."""
    n, nbytes, stored = 500, {"uint16": 2 * 128**2, "float32": 4 * 128**2}, 1e-9
    made = measurements()
    for dtype, share in (("uint16", 0.1), ("float32", heavy)):
        disk = n * nbytes[dtype] * stored
        facts = {"patterns": n, "detector": [128, 128], "dtype": dtype, "stored": n * nbytes[dtype]}
        made[f"file contiguous {dtype}"] = facts | {"samples": [CALL + share * disk] * 3}
        made[f"cold {dtype}"] = facts | {"samples": [CALL + max(disk, share * disk) + exposed * min(disk, share * disk)] * 3}
    costs = Costs(made)
    assert costs.exposed() == pytest.approx(exposed, abs=0.006) and costs.disk() == pytest.approx(stored, rel=0.01)


def test_energy_and_price():
    found = predict(result(), Scan((100, 100), (128, 128)), price=2000.0, power=100.0)["one-pass"]
    assert found.scans_per_kwh == pytest.approx(3.6e6 / (100 * found.first.value))
    assert found.scans_per_hour_per_1000 == pytest.approx(3600 / found.first.value / 2)
    measured = {"a": {"energy_j": 30.0, "median": 1.0}, "b": {"energy_j": 10.0, "median": 1.0}, "c": {"energy_j": None, "median": 9.0}}
    assert predict(result(workloads=measured), Scan((10, 10), (64, 64))).power == pytest.approx(20.0)
    assert predict(result(), Scan((10, 10), (64, 64)))["one-pass"].scans_per_kwh is None


def test_what_was_not_measured_is_said():
    given = result()
    given["scaling"]["match"] = {"skipped": "ModuleNotFoundError: gemmi"}
    found = predict(given, Scan((10, 10), (64, 64)))
    assert "gemmi" in found.missing["orientation"] and {one.technique for one in found.times} == set(TITLES) - {"orientation"}
    assert "gemmi" in found.text()
    with pytest.raises(InputError, match="no measurements of scaling"):
        predict(result() | {"scaling": {}}, Scan((10, 10), (64, 64)))
    with pytest.raises(InputError, match="memory"):
        Machine.of({"machine": {}})
    with pytest.raises(InputError, match=r"machine\.gpus"):
        Machine.of({"machine": {"memory": 1e9, "device": "cuda:0"}})


def test_text_and_json_hold_all_techniques():
    found = predict(result(), Scan.parse("64x64x128x128:uint16:lz4"), price=1000.0, power=50.0)
    text = found.text()
    assert all(title in text for title in TITLES.values()) and "scans per kWh" in text and "EMPAD-G2" in text
    back = json.loads(json.dumps(found.as_dict()))
    assert back["times"][0]["first"]["value"] == found.times[0].first.value and back["format"] == "gpu4d-bench-prediction"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("512x512", "shape of a scan"),
        ("512x512x256x256:uint16:lz4:more", "shape of a scan"),
        ("512x512x256x256:uint7", "no type of values"),
        ("512x512x256x256:complex64", "not real"),
        ("512x512x256x256:uint16:zip", "layout"),
        ("0x512x256x256", "no patterns"),
    ],
)
def test_scans_that_cannot_be_read(text, said):
    with pytest.raises(InputError, match=said):
        Scan.parse(text)


@pytest.mark.parametrize("name", ["disks", "radius", "spacing", "bright_field"])
def test_sizes_of_disks_are_above_zero(name):
    with pytest.raises(InputError, match=f"{name} of a scan is 0"):
        Scan((2, 3), (4, 5), **{name: 0})


def test_scans_are_read():
    scan = Scan.parse("2×3×4×5:float32:gzip")
    assert (scan.scan_shape, scan.detector_shape, scan.dtype, scan.layout, scan.nbytes) == (
        (2, 3),
        (4, 5),
        "float32",
        "gzip",
        2 * 3 * 4 * 5 * 4,
    )
    assert Scan.parse("2x3x4x5:lz4") == Scan((2, 3), (4, 5), layout="lz4", name="2x3x4x5:lz4")
    assert Scan.parse("2x3x4x5").dtype == "uint16" and Scan.parse("2x3x4x5").on_disk == 240


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "lz4", "gzip"])
def test_the_layout_of_a_file_is_seen(layout, tmp_path):
    patterns = np.random.default_rng(0).poisson(1.0, (8, 16, 32, 32)).astype("uint16")
    write(tmp_path / "scan.h5", layout, patterns)
    scan = Scan.of_file(tmp_path / "scan.h5")
    assert (scan.layout, scan.scan_shape, scan.detector_shape, scan.dtype) == (layout, (8, 16), (32, 32), "uint16")
    assert scan.on_disk == (tmp_path / "scan.h5").stat().st_size
    assert np.array_equal(np.asarray(gpu4d.open(tmp_path / "scan.h5")), patterns)


def test_interpolation_is_exact_for_powers_and_bounded_beyond():
    points = [(x, 3 * x**1.1) for x in (1.0, 10.0, 100.0)]
    assert along(5.0, points) == pytest.approx(3 * 5**1.1) and along(1e4, points) == pytest.approx(3 * 1e4**1.1)
    flat = [(1.0, 1.0), (10.0, 1.0)]
    assert along(3.0, flat) == pytest.approx(1.0) and along(100.0, flat) == pytest.approx(10**0.9)
    assert along(0.1, flat) == pytest.approx(10**-0.9) and along(8.0, [(2.0, 3.0)]) == pytest.approx(12.0)
    assert longest_prime(2 * 257) == 257 and entry_of("bool") == ("uint8", 1.0)


def test_the_table_of_detectors_is_sane():
    assert len({one.name for one in DETECTORS}) == len(DETECTORS)
    for one in DETECTORS:
        assert (one.rate > 0) != (one.events > 0) and min(one.shape) >= 64 and one.source
        assert np.dtype(one.dtype).kind in "uf" and 1e6 < one.bytes_per_second < 1e12
    camera = next(one for one in DETECTORS if one.name == "4D Camera")
    assert camera.bytes_per_second * 8 == pytest.approx(480e9, rel=0.05)  # the paper says about 480 Gbit/s


def test_the_longest_work_that_keeps_pace_is_named():
    slow = Detector("a", (128, 128), 1000.0, "uint16", "made up", False)
    assert keeps_up({"read": 9e3, "strain": 2e3, "wdd": 10.0}, slow).largest == "strain"
    assert keeps_up({"read": 9e2}, slow).largest is None
    events = Detector("b", (256, 256), 0.0, "uint16", "made up", False, events=5e7)
    assert keeps_up({"one-pass": 1.0, "events": 1e8}, events).factors == {"one-pass": 2.0}
    assert keeps_up({"one-pass": 1.0}, events).largest is None


def test_rates_beside_a_detector_do_not_count_reading():
    paces = {one.detector: one for one in predict(result(), Scan((8, 8), (64, 64))).paces}
    one_pass = 1 / (PIXEL * 128**2 * 4)  # float32
    assert paces["EMPAD-G2"].factors["one-pass"] == pytest.approx(one_pass / 10e3)
    assert paces["Timepix3, one chip"].factors["one-pass"] == pytest.approx(1e8 / 80e6)
    assert "one-pass" not in paces["4D Camera"].factors and "counting" in paces["4D Camera"].factors


def test_missing_entries_name_themselves():
    with pytest.raises(NotMeasured, match="'one-pass 128 uint16' was not measured"):
        Costs({"call": entry(0.0, 64, 16)}).seconds("one-pass 128 uint16")


@pytest.fixture
def place(tmp_path):
    return Place(np, False, "cpu", tmp_path)


def test_a_few_entries_are_measured_and_files_are_removed(place):
    keys = scaling.entries(Inputs(place, 1, 1 << 20), scaling.SIZES["quick"])
    wanted = {"call", "call-file", "read 128 uint16", "file contiguous uint16", "file gzip uint16"}
    found = dict(scaling.measure(place, "quick", 1, skip=set(keys) - wanted))
    assert set(found) == wanted and not list(place.folder.iterdir())
    for one in found.values():
        assert len(one["samples"]) == 2 and one["median"] > 0 and one["patterns"] > 0
    assert found["file gzip uint16"]["stored"] < found["file contiguous uint16"]["stored"]
    assert json.loads(json.dumps(found)) == found


def test_what_fails_is_said_and_the_others_are_measured(place, monkeypatch):
    def fails(*_):
        raise ImportError("there is no gemmi")

    monkeypatch.setattr(scaling, "_match", fails)
    keys = scaling.entries(Inputs(place, 1, 1 << 20), scaling.SIZES["quick"])
    found = dict(scaling.measure(place, "quick", 1, skip=set(keys) - {"match", "call"}))
    assert found["match"] == {"skipped": "ImportError: there is no gemmi"} and found["call"]["samples"]


def test_patterns_have_the_disks_that_were_asked_for():
    far, near = (expected((128, 128), 21, tight) for tight in (1.0, 0.55))
    assert far.shape == (128, 128) and (far > 10.0).sum() == pytest.approx(21 * math.pi * 6**2, rel=0.1)
    assert near.sum() == pytest.approx(far.sum(), rel=0.01)  # nothing is cut off


def test_where_pages_stay_a_cold_file_is_not_measured(place, monkeypatch):
    def stay(path):
        raise Unavailable("the pages stay")

    monkeypatch.setattr(scaling, "drop", stay)
    keys = scaling.entries(Inputs(place, 1, 1 << 20), scaling.SIZES["quick"])
    assert dict(scaling.measure(place, "quick", 1, skip=set(keys) - {"cold uint16"})) == {
        "cold uint16": {"skipped": "Unavailable: the pages stay"}
    }


@pytest.mark.exhaustive
def test_the_check_of_predictions_runs(capsys):
    from gpu4d.benchmarks import predict_check

    rows = predict_check.main(["--quick"])
    assert len(rows) >= 6 and all(row.measured > 0 and row.low <= row.predicted <= row.high for row in rows)
    assert "predictions are within" in capsys.readouterr().out


def test_an_altered_result_predicts_nothing(tmp_path):
    from gpu4d.benchmarks.suite import predict as predicting
    from gpu4d.benchmarks.suite import result as results

    path = tmp_path / "r.json"
    results.write(result() | {"format": results.FORMAT, "version": results.VERSION}, path)
    assert predicting.predict_from(path, scan="64x64x64x64:uint16").times
    path.write_text(path.read_text().replace("a machine of arithmetic", "a machine of my own"))
    with pytest.raises(InputError, match="was altered"):
        predicting.predict_from(path, scan="64x64x64x64:uint16")


@pytest.mark.parametrize("gone", sorted(measurements()))
def test_a_result_without_an_entry_says_so_and_predicts_the_rest(gone):
    """A run that was cut has some entries only."""
    given = result()
    del given["scaling"][gone]
    found = predict(given, Scan((100, 100), (128, 128)))
    assert {one.technique for one in found.times} | set(found.missing) == set(TITLES)
