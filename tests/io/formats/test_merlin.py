"""Merlin files, made from their description, and real ones whose test pictures have a digit for each chip and a label in each corner."""

import datetime
import logging
import zipfile

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.merlin import Merlin
from gpu4d.io.sources.triggers import place_by_time, shape_by_time
from gpu4d.testing.formats import FormatTests

SCAN, DETECTOR = (3, 4), (6, 10)
BITS = {1: 1, 6: 8, 12: 16}  # of a pixel in a RAW file


def header(number, kind, shape, seconds, chips=1, layout="1x1", depth=12):
    """Return the header of a pattern: text with a comma behind each field, and zeros up to its length."""
    begin = datetime.datetime(2021, 4, 15, 23, 59, 59, 990000)  # a scan over midnight
    stamp = (begin + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S.%f")
    length = 384 if chips == 1 else 768
    chip = "3RX," + ",".join(["011"] * 27)
    text = (
        f"MQ1,{number:06d},{length:05d},{chips:02d},{shape[1]:04d},{shape[0]:04d},{kind},{layout:>6},{(1 << chips) - 1:02X},{stamp},"
        f"0.001000,0,0,0,{','.join(['2.000000E+0'] * 8)},{','.join([chip] * chips)},MQ1A,2021-04-15T13:44:15.862206301Z,1000000ns,{depth},"
    )
    return text.encode().ljust(length, b"\0")


def sidecar(path, **fields):
    lines = ["HDR,\t", "Chip ID:\tW559_G11, - , - , - ", *(f"{key.replace('_', ' ')}:\t{value}" for key, value in fields.items()), "End\t"]
    path.with_suffix(".hdr").write_bytes("\r\n".join(lines).encode().ljust(2048))


def counted(path, pictures, kind=">u2", times=None, first=1, numbers=None):
    """Write counted pictures (n, Qx, Qy), the last row of each first."""
    with open(path, "wb") as file:
        for i, picture in enumerate(pictures):
            seconds = i * 1e-3 if times is None else float(times[i])
            number = first + i if numbers is None else numbers[i]
            file.write(header(number, f"U{8 * np.dtype(kind).itemsize:02d}", picture.shape, seconds))
            file.write(picture[::-1].astype(kind).tobytes())


def raw_bytes(picture, depth, quad):
    """Return a picture as chips send it: groups of eight bytes, the first pixel of a group in the lowest bits of its last byte."""
    if depth == 24:
        return raw_bytes(picture >> 12, 12, quad) + raw_bytes(picture & 0xFFF, 12, quad)
    each, lines = 64 // BITS[depth], []
    for row in range(picture.shape[0] // (2 if quad else 1)):
        low, high = picture[-1 - row], picture[row, ::-1]
        lines += [high[:256], high[256:], low[256:], low[:256]] if quad else [low]
    groups = np.concatenate(lines).astype(np.uint64).reshape(-1, each) << (np.arange(each, dtype=np.uint64) * np.uint64(BITS[depth]))
    return np.bitwise_or.reduce(groups, axis=1).astype(">u8").tobytes()


def raw(path, pictures, depth, quad):
    shape = (pictures.shape[1] // 2, 1024) if quad else (pictures.shape[1], 512 if depth == 24 else 256)
    with open(path, "wb") as file:
        for i, picture in enumerate(pictures):
            chips = (4, "2x2") if quad else (1, "1x1")
            file.write(header(i + 1, "R64", shape, i * 1e-3, *chips, depth=depth) + raw_bytes(picture, depth, quad))


def pictures(top, detector=DETECTOR, scan=SCAN):
    return np.random.default_rng(0).integers(0, top, (*scan, *detector))


class TestCounted(FormatTests):
    format, ending = Merlin(), ".mib"

    def write(self, path):
        values = pictures(4096).astype("uint16")
        counted(path, values.reshape(-1, *DETECTOR))
        sidecar(path, **{"Frames in Acquisition (Number)": 12, "Frames per Trigger (Number)": 4})
        return values


class TestSeveralFiles(FormatTests):
    format, ending = Merlin(), "_0009.mib"

    def options(self):
        return OpenOptions(scan_shape=SCAN)

    def write(self, path):
        values = pictures(64).astype("uint8")
        frames = values.reshape(-1, *DETECTOR)
        parts = [(0, 5), (5, 7), (7, 12)] if path.stem.endswith("_0009") else [(0, 12)]
        for i, (a, b) in enumerate(parts):
            counted(path if i == 0 else path.with_name(f"scan_{9 + i:04d}.mib"), frames[a:b], "u1", np.arange(a, b) * 1e-3, a + 1)
        return values


class TestMissingPatterns(FormatTests):
    """Two triggers were missed and one came too often; the beam flies back for three periods."""

    format, ending = Merlin(), ".mib"
    scan = (6, 9)

    def write(self, path):
        values = pictures(1 << 24, (3, 4), self.scan).astype("uint32")
        times = (np.arange(6)[:, None] * 12e-3 + np.arange(9) * 1e-3).ravel()
        kept = np.setdiff1d(np.arange(54), [4, 27])
        frames, times = values.reshape(-1, 3, 4)[kept], times[kept]
        frames, times = np.insert(frames, 40, 77, axis=0), np.insert(times, 40, times[39] + 0.4e-3)
        counted(path, frames, ">u4", times)
        sidecar(path, ScanX=9, ScanY=6)
        values.reshape(-1, 3, 4)[[4, 27]] = 0
        return values


class TestRawQuad(FormatTests):
    format, ending = Merlin(), ".mib"

    def options(self):
        return OpenOptions(scan_shape=(1, 3))

    def write(self, path):
        values = pictures(4096, (4, 512), (1, 3)).astype("uint16")
        raw(path, values[0], 12, True)
        return values

    def make(self, tmp_path):  # tests of sources need two rows
        path, values = self._file(tmp_path)
        return self.format.open(str(path), OpenOptions(scan_shape=(3, 1))).source, values.swapaxes(0, 1)


@pytest.mark.parametrize("depth, quad", [(1, False), (1, True), (6, False), (6, True), (12, False), (24, False)])
def test_raw_patterns_are_put_together(tmp_path, depth, quad):
    values = pictures(1 << depth, (6, 512) if quad else (5, 256), (1, 3))
    raw(tmp_path / "a.mib", values[0], depth, quad)
    cube = gpu4d.open(tmp_path / "a.mib", scan_shape="frames")
    assert cube.dtype == {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[depth]
    np.testing.assert_array_equal(cube.source.read(slice(0, 1), slice(0, 3)), values)


def test_a_header_may_have_any_length(tmp_path):
    values = pictures(1 << 12, (5, 256), (1, 2))
    for name, length in (("a", 385), ("b", 1000)):
        text = header(1, "R64", (5, 256), 0).rstrip(b"\0").replace(b",00384,", b",%05d," % length).ljust(length, b"\0")
        (tmp_path / f"{name}.mib").write_bytes(b"".join(text + raw_bytes(v, 12, False) for v in values[0]))
        read = gpu4d.open(tmp_path / f"{name}.mib", scan_shape="frames").source.read(slice(0, 1), slice(0, 2))
        np.testing.assert_array_equal(read, values)


def test_missing_and_extra_patterns_are_said(tmp_path, caplog):
    path = tmp_path / "scan.mib"
    TestMissingPatterns().write(path)
    with caplog.at_level(logging.WARNING, "gpu4d"):
        cube = gpu4d.open(tmp_path / "scan.hdr")
    assert cube.scan_shape == (6, 9)
    assert cube.metadata["missing_patterns"].tolist() == [[0, 4], [3, 0]] and cube.metadata["extra_patterns"].tolist() == [40]
    assert len(caplog.records) == 1 and "2 of 6×9 positions have no pattern" in caplog.text


def test_patterns_that_the_readout_lost_are_seen_by_their_numbers(tmp_path):
    """Without time stamps that tell, too: all are the same."""
    values = pictures(200, scan=(1, 12)).astype("uint8")
    kept = np.setdiff1d(np.arange(12), [5, 6])
    counted(tmp_path / "a.mib", values[0, kept], "u1", np.zeros(12), numbers=kept + 1)
    cube = gpu4d.open(tmp_path / "a.mib", scan_shape=(3, 4))
    values[0, 5:7] = 0
    np.testing.assert_array_equal(cube.source.read(slice(0, 3), slice(0, 4)), values.reshape(3, 4, *DETECTOR))
    assert cube.metadata["missing_patterns"].tolist() == [[1, 1], [1, 2]]


def test_the_fly_back_gives_the_scan_shape(tmp_path):
    times = (np.arange(5)[:, None] * 20e-3 + np.arange(7) * 1e-3).ravel()
    counted(tmp_path / "a.mib", pictures(9, (2, 2), (1, 35))[0], "u1", times)
    cube = gpu4d.open(tmp_path / "a.mib")
    assert cube.scan_shape == (5, 7) and "fly-back" in cube.metadata["scan_shape_found_by"]


def test_a_scan_without_a_known_shape_is_refused(tmp_path):
    counted(tmp_path / "a.mib", pictures(9, (2, 2), (1, 12))[0], "u1")
    with pytest.raises(InputError, match=r"a.mib has 12 patterns, and its scan shape is not stated.* 3,4, 4,3"):
        gpu4d.open(tmp_path / "a.mib")
    sidecar(tmp_path / "a.mib", ScanX=5, ScanY=4)  # it was aborted: time stamps show no gap
    with pytest.raises(InputError, match=r"a.mib has 12 patterns, and it states a scan of 4×5 positions"):
        gpu4d.open(tmp_path / "a.mib")
    assert gpu4d.open(tmp_path / "a.mib", scan_shape=(3, 4)).shape == (3, 4, 2, 2)


def test_files_of_other_acquisitions_are_left_alone(tmp_path):
    for i in (1, 2):  # both begin to count at 1
        counted(tmp_path / f"a{i}.mib", pictures(9)[0], "u1")
    assert gpu4d.open(tmp_path / "a2.mib", scan_shape="frames").scan_shape == (1, 4)


def test_metadata_is_kept_as_it_is_written(tmp_path):
    TestCounted().write(tmp_path / "a.mib")
    metadata = gpu4d.open(tmp_path / "a.mib").metadata
    assert metadata["hdr"]["Chip ID"] == "W559_G11, - , - , -" and metadata["hdr"]["Frames per Trigger (Number)"] == "4"
    assert metadata["header"]["exposure_s"] == "0.001000" and "MQ1A" in metadata["header_text"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"R64", b"R32", "patterns are stored as R32: accepted are U08, U16, U32 and R64"),
        (b",00384,", b",00000,", "no header of a Merlin pattern at byte 0"),
        (b",0256,", b",0512,", "accepted are one chip, and 2×2 of 1, 6 or 12 bit"),
        (b"000ns,12,", b"000ns,77,", "does not say the depth of RAW patterns"),
        (b",0005,", b",9999,", "it is truncated"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, old, new, message):
    raw(tmp_path / "a.mib", pictures(9, (5, 256), (1, 2))[0], 12, False)
    whole = (tmp_path / "a.mib").read_bytes()
    assert whole.count(old) == 2
    (tmp_path / "a.mib").write_bytes(whole.replace(old, new))
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.mib", scan_shape="frames")


def test_numbers_may_be_written_with_blanks(tmp_path):
    values = pictures(99)[0].astype("uint16")
    counted(tmp_path / "a.mib", values)
    whole = (tmp_path / "a.mib").read_bytes()
    for n in range(1, 5):
        whole = whole.replace(b"MQ1,%06d," % n, b"MQ1,%6d," % n)
    (tmp_path / "a.mib").write_bytes(whole)
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.mib", scan_shape=(2, 2))), values.reshape(2, 2, *DETECTOR))


def test_a_sidecar_needs_its_patterns(tmp_path):
    sidecar(tmp_path / "a.mib")
    with pytest.raises(InputError, match=r"there is no a.mib beside it"):
        gpu4d.open(tmp_path / "a.hdr")


# ---------------------------------------------------------------- time stamps


@pytest.mark.parametrize("flight", [0.0, 0.5, 2.5, 10.0])
def test_gaps_and_extra_triggers_are_placed_or_nothing_is(flight):
    """Jitter, a clock that drifts, up to three missing and two extra triggers: where they cannot be told, the answer is None."""
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows, columns = (int(n) for n in rng.integers(8, 30, 2))
        times = (np.arange(rows)[:, None] * (columns + flight) + np.arange(columns)).ravel()
        times = times * (1 + 1e-4 * np.sin(np.linspace(0, 6, times.size))) + rng.normal(0, 0.02, times.size)
        kept = np.setdiff1d(np.arange(times.size), rng.choice(np.arange(1, times.size - 1), rng.integers(1, 4), replace=False))
        extra = times[kept[rng.choice(kept.size - 1, rng.integers(0, 3), replace=False)]] + rng.uniform(0.3, 0.7)
        position = np.append(kept, np.full(extra.size, -1))
        order = np.argsort(np.append(times[kept], extra))
        position, stamps = position[order], np.append(times[kept], extra)[order]
        expected = np.full(times.size, -1)
        expected[position[position >= 0]] = np.nonzero(position >= 0)[0]
        found = place_by_time(stamps, (rows, columns))
        if found is not None:
            told += 1
            np.testing.assert_array_equal(found.numbers, expected)
        assert shape_by_time(stamps) in (None, (rows, columns))
        assert place_by_time(stamps[: stamps.size // 2], (rows, columns)) is None, "half a scan is no scan with gaps"
    assert told > 50


# ---------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merlin")
    for name in ("Merlin_Single_Quad", "Merlin_navigation4x2_ROI"):
        with zipfile.ZipFile(shared_data / "vendor" / "quantumdetector" / f"{name}.zip") as archive:
            archive.extractall(folder)
    return folder


def picture(path, number=0):
    return np.array(gpu4d.open(path, scan_shape="frames").source.read(slice(0, 1), slice(number, number + 1)))[0, 0] > 0


@pytest.mark.shared
@pytest.mark.parametrize("ending", ["1_Rows_256", "1_Rows_256RAW", "6_Rows_256", "12_Rows_256", "24_Rows_256"])
def test_digits_stand_upright(real, ending):
    """A one has its foot below, a two its straight stroke, a four its bar; a three is open to the left; R0,C0 is beside bright edges."""
    one, four = (picture(real / f"{kind}_1_Frame_CounterDepth_{ending}.mib") for kind in ("Single", "Quad"))
    assert min(one[-1].mean(), one[:, 0].mean()) > 0.99 and max(one[0, 4:].mean(), one[:, -1].mean()) < 0.05, "edges: below and left"
    foot, stem = np.nonzero(one[150:165, 60:120].any(0))[0], np.nonzero(one[115:145, 60:120].sum(0) > 20)[0]
    assert 35 < np.ptp(foot) + 1 < 40 and np.ptp(stem) + 1 == 9 and foot[0] < stem[0] and stem[-1] < foot[-1]
    three, bar, two, lower = four[90:170, 110:160], four[90:170, 360:420], four[340:412, 310:360], four[365:412, 60:120]
    assert (lower.sum(0) > 40).sum() == 9, "the stem of the one of the lower left chip"
    assert two.sum(1).argmax() > 55 and two.sum(1).max() == 38, "the lower stroke of the two of the lower right chip"
    assert three[:, 25:].sum() > 2.5 * three[:, :25].sum(), "the three of the upper left chip"
    assert bar.sum(0).argmax() > 20 and bar.sum(1).argmax() > 40, "the four of the upper right chip: its stem is right, its bar below"


@pytest.mark.shared
@pytest.mark.parametrize("kind, most", [("Single", 25), ("Quad", 200)])
def test_raw_pictures_are_the_counted_ones(real, kind, most):
    """They are two recordings of one test picture: few of 65536 or 262144 pixels, noisy ones, differ."""
    for number in (0, 8):
        ours = [picture(real / f"{kind}_9_Frame_CounterDepth_1_Rows_256{ending}.mib", number) for ending in ("", "RAW")]
        assert ours[0].shape == ours[1].shape and (ours[0] != ours[1]).sum() < most < ours[0].sum() / 10


@pytest.mark.shared
def test_a_scan_with_half_of_the_rows(real):
    """The rows of the part are the middle ones: the disk is some 64 rows higher, and as high."""
    whole, part = (gpu4d.open(real / f"{name}.hdr", scan_shape=(2, 4)) for name in ("001_4x2_6bit", "002_4x2_6bit_roi128"))
    assert whole.shape == (2, 4, 256, 256) and part.shape == (2, 4, 128, 256)
    disks = [np.nonzero(np.array(c.source.read(slice(0, 2), slice(0, 4))).mean((0, 1))[:, 28] > 60)[0] for c in (whole, part)]
    assert 60 < disks[0][0] - disks[1][0] < 72 and len(disks[0]) == len(disks[1]) == 46


@pytest.mark.shared
def test_a_peer_reads_the_same(real, need):
    reader = need("rsciio.quantumdetector")
    for path in sorted(real.glob("*.mib")):
        if "RAW" not in path.name:
            theirs = np.asarray(reader.file_reader(str(path))[0]["data"])
            cube = gpu4d.open(path, scan_shape="frames")
            ours = cube.source.read(slice(0, 1), slice(0, cube.scan_shape[1]))
            np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs, err_msg=path.name)
