"""Results of images are kept, the images are not."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.cache import kept_by_content
from gpu4d.probe import synthetic, template
from gpu4d.probe.shape.disk_shape import disk_shape, not_radial
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.shape.radial_profile import radial_profile


class Pixels(bytes):
    """Bytes that say when nobody has them any more; they take no weak references."""

    gone = None

    def __del__(self):
        self.gone.append(True)


def pixels(content):
    given = Pixels(content)
    given.gone = []
    return given, given.gone


def test_the_same_content_is_the_same_result():
    calls = []

    @kept_by_content(maxsize=2)
    def length(pixels, more):
        calls.append((pixels, more))
        return [len(pixels) + more]

    one = length(b"abc", 1)
    assert length(bytes(bytearray(b"abc")), 1) is one and one == [4]
    assert length(b"abd", 1) is not one and length(b"abc", 1) is one
    assert length(b"abc", 2) == [5] and length(b"abd", 1) == [4], "two are kept"
    assert calls == [(b"abc", 1), (b"abd", 1), (b"abc", 2), (b"abd", 1)]


def test_what_raises_is_asked_again_and_not_kept():
    calls = []

    @kept_by_content(maxsize=2)
    def fails(pixels):
        calls.append(len(pixels))
        raise ValueError("no")

    given, gone = pixels(b"abc")
    for _ in range(2):
        with pytest.raises(ValueError):
            fails(given)
    del given
    assert calls == [3, 3] and gone


def test_threads_get_results_of_their_own_arguments():
    @kept_by_content(maxsize=3)
    def total(pixels):
        return int(np.frombuffer(pixels, np.int64).sum())

    images = [np.full(1000, i) for i in range(8)] * 50
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda image: total(image.tobytes()), images)) == [1000 * int(image[0]) for image in images]


@pytest.mark.parametrize("function", [radial_profile, not_radial, disk_shape])
def test_no_image_is_held(function):
    image = 1000 * synthetic((40, 42), 5.3, (19.8, 20.4))
    given, gone = pixels(image.tobytes())
    first = function(given, image.shape)
    assert function(image.tobytes(), image.shape) is first
    del given
    assert gone, "by no key, and by no closure"


def test_a_disk_that_a_scan_has_shown_is_tabulated_once():
    at = np.arange(-48, 49) / 4
    values = 1 / (1 + np.exp(4 * (np.hypot(at[:, None], at) - 5)))
    plain = template(synthetic((48, 48), 5.0))
    refined, same = (replace(plain, fine=FineImage(values.copy(), 0.25)) for _ in range(2))
    first = disk_profile(refined)
    assert disk_profile(refined) is first and disk_profile(same) is first
    assert disk_profile(refined, reach=9.0).reach == 9.0
    assert disk_profile(replace(plain, fine=FineImage(values, 0.26))).table.tolist() != first.table.tolist()
    values[48, 48] = 0.5  # in place, as nobody should
    changed = disk_profile(replace(plain, fine=FineImage(values, 0.25)))
    assert changed is not first and not np.array_equal(changed.table, first.table)
