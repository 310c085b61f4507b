"""Slices as picture files: the scale is what independent readers find in them."""

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

import gpu4d
from gpu4d import DiffractionSlice, RealSlice
from gpu4d.errors import InputError
from gpu4d.plot.imagej import imagej_tiff

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("unit", "size", "shown", "expected"), [("Å", 5.0, "nm", 0.5), ("1/Å", 0.0213, "1/nm", 0.213), ("px", 1.0, "pixel", 1.0)]
)
def test_tiff_has_values_and_the_scale_for_imagej(tmp_path, need, unit, size, shown, expected):
    tifffile = need("tifffile")
    kind = DiffractionSlice if unit == "1/Å" else RealSlice
    values = RNG.normal(size=(40, 60))
    values[0, 0] = np.nan
    kind(values, "pattern µ", "counts", size, unit).save(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        across, of = page.tags["XResolution"].value
        assert file.is_imagej and file.imagej_metadata["unit"] == shown and of / across == pytest.approx(expected, rel=1e-7)
        assert page.tags["YResolution"].value == (across, of) and page.tags["ResolutionUnit"].value == 1
        assert file.imagej_metadata["values"] == "counts" and file.imagej_metadata["min"] == pytest.approx(np.nanmin(values), rel=1e-6)
        np.testing.assert_array_equal(file.asarray(), values.astype("f4"))


def test_tiff_of_a_stack_is_one_of_imagej_with_labels(tmp_path, need):
    tifffile, image = need("tifffile"), need("PIL.Image")
    strain = RealSlice(RNG.normal(size=(3, 21, 17)), "strain", "1", 5.0, "Å", ("e_xx", "ε_yy"))
    strain.save(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["slices"] == 3 and file.imagej_metadata["Labels"] == ["e_xx", "ε_yy", "plane 2"]
        np.testing.assert_array_equal(file.series[0].asarray(), strain.data.astype("f4"))
        first, *rest = [page.dataoffsets[0] for page in file.pages]
        assert rest == [first + 21 * 17 * 4, first + 2 * 21 * 17 * 4], "ImageJ reads all planes from the first on"
    with image.open(tmp_path / "a.tif") as opened:
        opened.seek(2)
        np.testing.assert_array_equal(np.asarray(opened), strain.data[2].astype("f4"))


def test_complex_values_are_amplitude_and_phase(tmp_path, need):
    tifffile = need("tifffile")
    wave = np.exp(1j * RNG.normal(size=(12, 10))) * 2
    RealSlice(wave, "wave", pixel_size=0.2, pixel_units="Å").save(tmp_path / "a.tif")
    np.testing.assert_allclose(tifffile.imread(tmp_path / "a.tif"), [np.abs(wave), np.angle(wave)], rtol=1e-6)
    RealSlice(wave, "wave").save(tmp_path / "a.png")


@pytest.mark.parametrize("size", [3e-6, 0.0123456789, 1.0, 7 / 3, 12345.678, 3e9])
def test_resolutions_are_exact_to_six_digits(size, need):
    import io

    tifffile = need("tifffile")
    with tifffile.TiffFile(io.BytesIO(imagej_tiff(np.ones((1, 2, 2)), ("",), size, "nm"))) as file:
        across, of = file.pages[0].tags["XResolution"].value
    assert of / across == pytest.approx(size, rel=1e-6)


def test_png_has_the_size_of_its_pixels_and_the_bar_is_as_long_as_it_says(tmp_path, need):
    """The bar is measured in the picture, by the size of a pixel that the file says."""
    image = need("PIL.Image")
    RealSlice(RNG.random((60, 80)), "bf", "counts", 5.0, "Å").save(tmp_path / "a.png")
    with image.open(tmp_path / "a.png") as opened:
        opened.load()
        said, pixels = opened.text, np.asarray(opened.convert("RGB")).astype(int)
    assert float(said["Pixel size"]) == 5.0 and said["Pixel unit"] == "Å"
    step = float(re.match(r"(\S+) Å per pixel", said["Scale"])[1])
    raw = (tmp_path / "a.png").read_bytes()
    at = raw.index(b"sCAL")
    unit, (width, height) = raw[at + 4], raw[at + 5 : at + int.from_bytes(raw[at - 4 : at]) + 4].split(b"\0")
    assert unit == 1 and float(width) == float(height) == pytest.approx(step * 1e-10)
    ink = np.abs(pixels - [0x1C, 0x25, 0x30]).sum(-1) < 12
    longest = max(len(run) for row in ink for run in re.findall("1+", "".join(map(str, row.astype(int)))))
    assert longest * step == pytest.approx(100.0, rel=0.02), "the bar of 10 nm"


def test_svg_has_a_scale_bar_and_says_the_pixel(tmp_path):
    RealSlice(RNG.random((60, 80)), "bf", "counts", 5.0, "Å").save(tmp_path / "a.svg")
    tree = xml.parse(tmp_path / "a.svg")
    text = " ".join(tree.getroot().itertext())
    assert "pixel size of the data: 5 Å" in text
    assert [g for g in tree.iter("{http://www.w3.org/2000/svg}g") if g.get("id") == "scale bar"]


def test_figures_say_their_scale_too_and_panels_of_two_scales_have_none_in_common(tmp_path, need):
    image = need("PIL.Image")
    gpu4d.plot.save(gpu4d.plot.image(np.eye(8), pixel_size=2.0, pixel_units="Å"), tmp_path / "a.png")
    gpu4d.plot.save(gpu4d.plot.image(np.eye(8)), tmp_path / "b.png")
    texts = []
    for name in ("a", "b"):
        with image.open(tmp_path / f"{name}.png") as opened:
            opened.load()
            texts.append(opened.text)
    assert texts[0]["Pixel size"] == "2" and "Pixel size" not in texts[1] and texts[1]["Software"] == "gpu4d"


def test_what_is_no_picture_is_refused_and_nothing_is_replaced(tmp_path):
    bf = RealSlice(np.ones((4, 5)), "bf")
    bf.save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for save, words in (
        (lambda: bf.save(tmp_path / "a.png"), "a.png exists; choose another name"),
        (lambda: bf.save(tmp_path / "a.jpg"), r"a picture is written as \.png, \.svg"),
        (lambda: bf.save(tmp_path / "no" / "a.tif"), "cannot be written"),
        (lambda: RealSlice(np.ones((2, 2, 2, 2))).save(tmp_path / "b.tif"), "a picture shows"),
        (lambda: RealSlice(np.ones((30, 4, 5)), "many").save(tmp_path / "b.png"), "30 planes: a picture shows 25"),
        (lambda: gpu4d.probe.Disk(1, 2, 3, 4, 5).save(tmp_path / "b.png"), "a Disk is no picture"),
    ):
        with pytest.raises(InputError, match=words):
            save()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == before
    bf.save(tmp_path / "a.png", overwrite=True, name="again")
    assert (tmp_path / "a.png").read_bytes() != before


def test_patterns_and_stacks_are_drawn(tmp_path):
    DiffractionSlice(RNG.poisson(5, (30, 20)), "mean", "counts", 0.02, "1/Å").save(tmp_path / "a.png")
    RealSlice(RNG.normal(size=(5, 12, 10)), "parts", labels=("a", "b")).save(tmp_path / "b.svg")
    assert "parts b" in (tmp_path / "b.svg").read_text(encoding="utf-8") or (tmp_path / "b.svg").stat().st_size > 20_000
