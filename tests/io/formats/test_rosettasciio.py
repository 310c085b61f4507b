"""The adapter for rare formats: with RosettaSciIO where it is installed, and with a stand-in that has its interface."""

import sys
import types

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats import known_formats, rosettasciio
from gpu4d.testing.sources import SourceTests


class Lazy:
    """An array that is computed when it is asked for, with the part of dask's interface that is used."""

    def __init__(self, array, chunks):
        self.array, self.chunks, self.shape, self.dtype = array, chunks, array.shape, array.dtype
        self.computed = []

    def __getitem__(self, where):
        return Lazy(self.array[where], self.chunks)

    def transpose(self, order):
        return Lazy(self.array.transpose(order), tuple(self.chunks[i] for i in order))

    def reshape(self, shape):
        return Lazy(self.array.reshape(shape), ((1,), *self.chunks))

    def compute(self, scheduler):
        assert scheduler == "synchronous", "a reader's own threads would come on top of the sweep's"
        return self.array


def axis(size, scale, units, navigate):
    return {"size": size, "scale": scale, "units": units, "navigate": navigate}


def signal(array, steps, scan=2, **more):
    axes = [axis(n, *step, i < scan) for i, (n, step) in enumerate(zip(array.shape, steps))]
    return {"data": array, "axes": axes, "metadata": {"General": {"title": "a scan"}}, **more}


STEPS = [(2.0, "nm"), (2.0, "nm"), (0.05, "1/nm"), (0.05, "1/nm")]


def patterns():
    return np.random.default_rng(0).integers(0, 200, (5, 7, 6, 9)).astype("<u2")


@pytest.fixture
def library(monkeypatch):
    """Put a stand-in in the place of RosettaSciIO. What its reader returns or raises is set by the test."""
    plugin = types.ModuleType("rsciio.toy")
    plugin.file_reader = lambda filename, lazy=False: plugin.answer(filename, lazy)
    package = types.ModuleType("rsciio")
    package.__path__, package.toy = [], plugin
    package.IO_PLUGINS = [
        {"name": "Toy", "file_extensions": ["prz", "PRZ", "blo"], "api": "rsciio.toy"},
        {"name": "netCDF", "file_extensions": ["nc"], "api": "rsciio.toy"},
    ]
    monkeypatch.setitem(sys.modules, "rsciio", package)
    monkeypatch.setitem(sys.modules, "rsciio.toy", plugin)
    monkeypatch.setattr(rosettasciio.importlib.util, "find_spec", lambda name: package)
    return plugin


def file(tmp_path, name="a.prz"):
    (tmp_path / name).write_bytes(b"some bytes")
    return tmp_path / name


class TestLazy(SourceTests):
    """Blocks of another library's array, which do not divide the scan."""

    def make(self, tmp_path):
        from gpu4d.io.sources.computed import ComputedSource

        source = ComputedSource(Lazy(patterns(), ((2, 2, 1), (3, 3, 1), (6,), (9,))), "a.prz", "blocks")
        assert source.blocks == (2, 3)
        return source, patterns()


def test_a_scan_is_opened(tmp_path, library):
    library.answer = lambda name, lazy: [
        signal(Lazy(patterns(), ((5,), (7,), (6,), (9,))), STEPS, original_metadata={"a": {"b": np.float32(2), "c": object}})
    ]
    cube = gpu4d.open(file(tmp_path))
    np.testing.assert_array_equal(np.asarray(cube), patterns())
    np.testing.assert_allclose((cube.calibration.r_pixel, cube.calibration.q_pixel), (20.0, 0.005))
    assert cube.name == "a scan" and cube.metadata["original_metadata"]["a"]["b"] == 2.0
    assert gpu4d.open(file(tmp_path), scan_shape=(7, 5)).shape == (7, 5, 6, 9)


def test_axes_in_another_order_and_energy(tmp_path, library):
    """Detector axes come first in the array, angles become 1/Å with the energy in keV."""
    held = signal(patterns().transpose(2, 3, 0, 1), [(0.5, "mrad")] * 2 + [(2.0, "nm")] * 2, scan=0)
    for n in (2, 3):
        held["axes"][n]["navigate"] = True
    held["metadata"] = {"Acquisition_instrument": {"TEM": {"beam_energy": 200, "convergence_angle": 3.0}}}
    library.answer = lambda name, lazy: [held]
    cube = gpu4d.open(file(tmp_path))
    np.testing.assert_array_equal(np.asarray(cube), patterns())
    c = cube.calibration
    assert (c.energy, c.semiangle, c.r_pixel) == (200e3, 3.0, 20.0) and c.q_pixel == pytest.approx(0.5e-3 / c.wavelength)
    assert cube.name == "a"


def test_a_stack_and_a_choice(tmp_path, library):
    stack = signal(Lazy(patterns().reshape(35, 6, 9), ((35,), (6,), (9,))), STEPS[1:], scan=1)
    spectra = signal(np.zeros((5, 7, 100)), STEPS[:3], scan=2)
    library.answer = lambda name, lazy: [spectra, stack]
    with pytest.raises(InputError, match="35 patterns, and its scan shape is not stated"):
        gpu4d.open(file(tmp_path))
    np.testing.assert_array_equal(np.asarray(gpu4d.open(file(tmp_path), scan_shape=(5, 7))), patterns())
    with pytest.raises(InputError, match=r"no scan in it .*5×7×100, 2 scan and 1 other axes"):
        gpu4d.open(file(tmp_path), dataset="0")
    with pytest.raises(InputError, match="no signal '7'"):
        gpu4d.open(file(tmp_path), dataset="7")
    library.answer = lambda name, lazy: [stack, stack]
    with pytest.raises(InputError, match="several scans"):
        gpu4d.open(file(tmp_path))


def test_what_the_library_raises_is_one_line(tmp_path, library):
    def fails(name, lazy):
        raise AssertionError("a bad\nheader")

    library.answer = fails
    with pytest.raises(InputError, match=r"RosettaSciIO cannot read it \(Toy: a bad\)") as caught:
        gpu4d.open(file(tmp_path))
    assert str(caught.value).isprintable()
    library.answer = lambda name, lazy: [signal(patterns().astype("c8"), STEPS)]
    with pytest.raises(InputError, match="complex64"):
        gpu4d.open(file(tmp_path))
    library.answer = lambda name, lazy: [{"data": patterns()}]
    with pytest.raises(InputError, match="in a way that is not known here"):
        gpu4d.open(file(tmp_path))


def test_a_lazy_reader_that_does_not_work(tmp_path, library):
    """It is found when the first block is read. Then the file is read as a whole."""
    asked = []

    class Broken(Lazy):
        def transpose(self, order):
            return self

        def __getitem__(self, where):
            return self

        def compute(self, scheduler):
            raise OSError("no such block")

    def answer(name, lazy):
        asked.append(lazy)
        return [signal(Broken(patterns(), ((5,), (7,), (6,), (9,))) if lazy else patterns(), STEPS)]

    library.answer = answer
    np.testing.assert_array_equal(np.asarray(gpu4d.open(file(tmp_path))), patterns())
    assert asked == [True, False]


def test_files_that_it_is_not_asked_for(tmp_path, library):
    """Endings of gpu4d's own formats: such a file is damaged. A reader that runs text of a file as a program is never called."""
    library.answer = lambda name, lazy: pytest.fail("the library was asked")
    for name in ("a.blo", "a.nc", "a.h5", "a"):
        with pytest.raises(InputError, match="whatever its name says"):
            gpu4d.open(file(tmp_path, name))
    library.answer = lambda name, lazy: [signal(patterns(), STEPS)]
    assert gpu4d.open(file(tmp_path, "a.blo"), format="rosettasciio").shape == (5, 7, 6, 9), "its name asks for it all the same"
    (tmp_path / "empty.prz").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        gpu4d.open(tmp_path / "empty.prz")
    assert known_formats()[-1].name == "rosettasciio"


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(rosettasciio.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"read by RosettaSciIO, which is not installed: pip install 'gpu4d\[formats\]'"):
        gpu4d.open(file(tmp_path))
    with pytest.raises(InputError, match="whatever its name says"):
        gpu4d.open(file(tmp_path, "a.doc"))


def test_files_that_nothing_reads(tmp_path):
    """The message for a format that is known and not read says what to do."""
    for name, remark in (("a.gtg", "K2 in-situ camera; save the scan as .dm4"), ("a.MAT", "save it there with '-v7.3'")):
        with pytest.raises(InputError, match=remark):
            gpu4d.open(file(tmp_path, name))


@pytest.fixture
def rsciio(need):
    return need("rsciio")


def test_a_ripple_file(tmp_path, rsciio):
    """Ripple: a text of keys and values, and a raw file beside it: images of width × height, one after the other."""
    data = patterns().reshape(35, 6, 9)
    keys = {"width": 9, "height": 6, "depth": 35, "offset": 0, "data-length": 2, "data-type": "unsigned", "byte-order": "little-endian"}
    lines = ["key\tvalue", *(f"{key}\t{value}" for key, value in keys.items()), "record-by\timage"]
    (tmp_path / "a.rpl").write_text("\n".join(lines) + "\n")
    (tmp_path / "a.raw").write_bytes(data.tobytes())
    cube = gpu4d.open(tmp_path / "a.rpl", scan_shape=(5, 7))
    np.testing.assert_array_equal(np.asarray(cube), patterns())
    bright = gpu4d.sweep(cube, gpu4d.VirtualImage(np.ones((6, 9), bool)))
    np.testing.assert_array_equal(np.asarray(bright.data), patterns().sum((2, 3)))


def test_a_file_of_panta_rhei(tmp_path, rsciio, need):
    axes = [{"name": n, "size": s, "scale": 1.0, "offset": 0.0, "units": "", "index_in_array": i, "navigate": i < 2}
            for i, (n, s) in enumerate(zip(("y", "x", "ky", "kx"), patterns().shape))]  # fmt: skip
    held = {"data": patterns(), "axes": axes, "metadata": {"General": {}, "Signal": {"signal_type": ""}}, "original_metadata": {}}
    need("rsciio.pantarhei").file_writer(str(tmp_path / "a.prz"), held)
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.prz")), patterns())
    (tmp_path / "a.prz").write_bytes((tmp_path / "a.prz").read_bytes()[:3000])
    with pytest.raises(InputError, match="RosettaSciIO cannot read it"):
        gpu4d.open(tmp_path / "a.prz")
