"""EMPAD scans: real XML files beside patterns that are made from the description, and XML files that are no good."""

import shutil

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats.empad import Empad
from gpu4d.testing.formats import FormatTests

XML = """<root name="acquisition_1"><timestamp timestamp="1774471672.586728" isoformat="2026-03-25T16:47:52"/><software_version>1.2.2
</software_version>{more}<raw_file filename="{raw}"/><exposure_time>1</exposure_time><scan_parameters mode="search"><scan_resolution_y>{y}
</scan_resolution_y><scan_resolution_x>{x}</scan_resolution_x></scan_parameters><scan_parameters mode="acquire"><scan_resolution_y>64
</scan_resolution_y><scan_resolution_x>64</scan_resolution_x></scan_parameters><iom_measurements><high_voltage>200000.0</high_voltage>
</iom_measurements></root>"""


def write_raw(path, scan):
    """Write patterns: 128 rows of pixels, then two of numbers that are none. Return the pixels."""
    values = np.random.default_rng(1).normal(0, 100, (*scan, 130, 128)).astype("<f4")
    path.write_bytes(values.tobytes())
    return values[:, :, :128]


class TestXml(FormatTests):
    """The XML file is given. It states the shape of the scan under "search", as some versions of the detector's program do."""

    format, ending = Empad(), ".xml"

    def write(self, path):
        path.write_text(XML.format(more="", raw="patterns.raw", x=3, y=2))
        return write_raw(path.with_name("patterns.raw"), (2, 3))


class TestRaw(FormatTests):
    """The file with the patterns is given. An XML file names it, with a folder of the detector's computer."""

    format, ending = Empad(), ".raw"

    def write(self, path):
        path.with_name("a.xml").write_text(XML.format(more="<pix_x>2</pix_x><pix_y>3</pix_y>", raw=f"/home/empad/{path.name}", x=9, y=9))
        path.with_name("b.xml").write_text(XML.format(more="", raw="other.raw", x=6, y=1))
        return write_raw(path, (3, 2))


def test_names_of_patterns_state_the_shape(tmp_path):
    write_raw(tmp_path / "scan_x3_y2.raw", (2, 3))
    write_raw(tmp_path / "series_x5.raw", (1, 5))
    assert gpu4d.open(tmp_path / "scan_x3_y2.raw").scan_shape == (2, 3)
    assert gpu4d.open(tmp_path / "series_x5.raw").scan_shape == (1, 5)


def test_energy_and_the_rest_are_kept(tmp_path):
    TestXml().write(tmp_path / "a.xml")
    cube = gpu4d.open(tmp_path / "a.xml")
    assert cube.calibration.energy == 200e3 and cube.calibration.q_pixel is None
    said = cube.metadata["xml"]
    assert said["exposure_time"] == "1" and said["scan_parameters@mode"] == ["search", "acquire"] and said["@name"] == "acquisition_1"


def test_a_scan_of_other_patterns_than_stated(tmp_path):
    """It was aborted: a shape can be given, and all of them are one row with "frames"."""
    TestXml().write(tmp_path / "a.xml")
    (tmp_path / "patterns.raw").write_bytes((tmp_path / "patterns.raw").read_bytes()[: 66560 * 4 + 100])
    with pytest.raises(InputError, match=r"patterns.raw has 4 patterns, and it states a scan of 64×64 positions.* 2,2, 1,4"):
        gpu4d.open(tmp_path / "a.xml")
    assert gpu4d.open(tmp_path / "a.xml", scan_shape=(2, 2)).scan_shape == (2, 2)
    assert gpu4d.open(tmp_path / "a.xml", scan_shape="frames").scan_shape == (1, 4)


@pytest.mark.parametrize(
    "text, message",
    [
        (XML.replace('<raw_file filename="{raw}"/>', ""), "names no file with patterns"),
        (XML.replace("{raw}", "gone.raw"), "its patterns are in gone.raw, which is not beside it"),
        ("<!DOCTYPE root [<!ENTITY a 'b'>]>" + XML, "has a document type of its own, or entities"),
        (XML.replace("{more}", "<a>" * 200 + "</a>" * 200), "more than 100 deep"),
        (XML.replace("</root>", "<root>"), "no readable XML"),
        (XML.replace("{more}", f"<a>{'x' * (2 << 20)}</a>"), "larger than 1 MiB"),
    ],
)
def test_xml_that_is_no_good_is_refused(tmp_path, text, message):
    write_raw(tmp_path / "patterns.raw", (2, 3))
    (tmp_path / "a.xml").write_text(text.replace("{raw}", "patterns.raw").replace("{more}", "").replace("{x}", "3").replace("{y}", "2"))
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.xml")


def test_a_name_leads_nowhere_else(tmp_path):
    (tmp_path / "inside").mkdir()
    TestXml().write(tmp_path / "a.xml")
    shutil.copy(tmp_path / "a.xml", tmp_path / "inside" / "a.xml")
    text = (tmp_path / "inside" / "a.xml").read_text().replace("patterns.raw", "../patterns.raw")
    (tmp_path / "inside" / "a.xml").write_text(text)
    with pytest.raises(InputError, match=r"its patterns are in patterns.raw, which is not beside it"):
        gpu4d.open(tmp_path / "inside" / "a.xml")


@pytest.mark.shared
@pytest.mark.parametrize(
    "name, raw, scan, energy",
    [
        ("EMPAD_v1.2.2_x32_y64_size0.8.xml", "scan_x32_y64.raw", (64, 32), 300e3),
        ("map4x4.xml", "scan_x4_y4.raw", (4, 4), 300e3),
        ("stack_images.xml", "series_x10.raw", (1, 10), None),
    ],
)
def test_real_xml_files(shared_data, tmp_path, name, raw, scan, energy, need):
    shutil.copy(shared_data / "vendor" / "empad" / name, tmp_path)
    with open(tmp_path / raw, "wb") as file:  # zeros, but one pixel of each pattern and the rows behind them
        for number in range(scan[0] * scan[1]):
            file.seek(66560 * number + 4 * (5 * 128 + 7))
            file.write(np.float32(number + 1).tobytes())
            file.seek(66560 * number + 4 * 128 * 128)
            file.write(np.full((2, 128), np.nan, "<f4").tobytes())
    cube = gpu4d.open(tmp_path / name)
    assert cube.shape == (*scan, 128, 128) and cube.calibration.energy == energy
    read = cube.source.read(slice(0, scan[0]), slice(0, scan[1]))
    np.testing.assert_array_equal(read[:, :, 5, 7].ravel(), np.arange(scan[0] * scan[1]) + 1)
    assert not np.isnan(read[-1]).any() and (read[0] != 0).sum() == scan[1]
    reader = need("rsciio.empad")
    theirs = reader.file_reader(str(tmp_path / name))[0]["data"].reshape(read.shape)
    np.testing.assert_array_equal(read[-1], theirs[-1])
