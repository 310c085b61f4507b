"""NumPy scalars as options, labelled arrays as arrays: what users have at hand, with every array library."""

import inspect

import numpy as np
import pytest
from operations.comparing import convert, leaves
from operations.examples import EXAMPLES
from operations.libraries import LIBRARIES

import gpu4d
from gpu4d import arrays, operation
from gpu4d.bragg import explain_disks
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.errors import InputError
from gpu4d.probe import measure_disk, template, wavefunction

OPERATIONS = operation.all_operations()
SCALARS = {bool: np.bool_, int: np.int64, float: np.float64}
KINDS = [library for library in LIBRARIES if library.name in ("numpy", "strict", "torch", "jax", "cupy", "torch-cuda")]


def as_numpy_scalars(value):
    """Python numbers as the NumPy scalars that indexing and `np.median` give; tuples number by number."""
    if isinstance(value, tuple):
        return tuple(map(as_numpy_scalars, value))
    return SCALARS[type(value)](value) if type(value) in SCALARS else value


def every_option(op, example):
    """The options of an example, those it leaves out with their defaults."""
    given = {
        p.name: p.default for p in operation.signature(op, "definition").parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return {**given, **example.options}


@pytest.mark.parametrize("library", [pytest.param(k, id=k.name, marks=k.marks) for k in KINDS])
@pytest.mark.parametrize("name", sorted(OPERATIONS, reverse=True))  # another order than the table's: two workers compile different twins
def test_numpy_scalars_are_options_like_pythons(name, library, need):
    xp = need(library.module)
    op, example = OPERATIONS[name], EXAMPLES[name]()[0]
    args, options = convert(type(example)("", example.args, every_option(op, example)), lambda a: library.make(xp, a))
    scalars = [as_numpy_scalars(a) for a in args], {k: as_numpy_scalars(v) for k, v in options.items()}
    for one, other in zip(leaves(op(*args, **options)), leaves(op(*scalars[0], **scalars[1])), strict=True):
        assert type(one) is type(other) and getattr(one, "dtype", None) == getattr(other, "dtype", None)
        np.testing.assert_array_equal(arrays.to_numpy(one), arrays.to_numpy(other))


def test_a_numpy_scalar_does_not_widen_single_precision(monkeypatch):
    monkeypatch.setattr(operation, "OPERATIONS", {})

    @operation.operation()
    def scaled(x, /, *, factor=1.0):
        return x * factor

    assert scaled(np.ones(2, np.float32), factor=np.float64(2.0)).dtype == np.float32


def test_a_scalar_is_no_array_to_compute_on(need):
    with pytest.raises(InputError, match=r"shape \(\)"):
        gpu4d.center_of_mass(np.float64(3.0))
    strict = need("array_api_strict")
    frames = strict.ones((2, 5, 5))
    with pytest.raises(InputError, match="different libraries"):
        gpu4d.preprocess.count_electrons(frames, np.zeros((5, 5)), 0.5, 9.0)
    assert arrays.is_array(gpu4d.center_of_mass(frames, mask=np.ones((5, 5), bool)))  # masks may be of any library


FRAMES = np.ones((2, 9, 8))
WRONG_NUMBERS = {
    "text": lambda wrong: gpu4d.preprocess.hot_pixels(FRAMES, wrong),
    "angles": lambda wrong: gpu4d.polar_transform(FRAMES, (4, 4), n_theta=wrong),
    "angles of a cube": lambda wrong: gpu4d.polar_transform(gpu4d.DataCube(FRAMES[None]), (4, 4), n_theta=wrong),
    "rings": lambda wrong: gpu4d.radial_profile(FRAMES, (4, 4), n_r=wrong),
    "radius": lambda wrong: gpu4d.radial_profile(gpu4d.DataCube(FRAMES[None]), (4, 4), r_max=wrong),
    "step": lambda wrong: gpu4d.deflection.integrate_gradient(np.ones((4, 5, 2)), wrong),
    "iterations": lambda wrong: gpu4d.deflection.integrate_gradient(np.ones((4, 5, 2)), boundary="padded", max_iterations=wrong),
    "power": lambda wrong: gpu4d.hybrid_correlation(FRAMES, gpu4d.probe.synthetic((9, 8), 2.0), wrong),
    "spacing": lambda wrong: gpu4d.find_bragg_disks(FRAMES, gpu4d.probe.synthetic((9, 8), 2.0), min_spacing=wrong),
    "disk": gpu4d.detectors.disk,
    "annulus": lambda wrong: gpu4d.detectors.annulus(wrong, 3),
    "segments": lambda wrong: gpu4d.detectors.segmented(1, 3, wrong),
    "probe": lambda wrong: gpu4d.probe.synthetic((9, 8), wrong),
    "size of a probe": lambda wrong: gpu4d.probe.synthetic((9, wrong), 2.0),
    "energy": lambda wrong: gpu4d.Calibration(energy=wrong),
}
WHOLE = ("angles", "angles of a cube", "rings", "iterations", "segments")


@pytest.mark.parametrize("wrong", ["three", [1.0, 2.0], {}, 1j, np.ones(3), object()], ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize("call", WRONG_NUMBERS)
def test_what_is_no_number_is_refused_in_one_line(call, wrong):
    with pytest.raises(InputError) as caught:
        WRONG_NUMBERS[call](wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", WHOLE)
def test_numbers_of_something_are_whole(call):
    with pytest.raises(InputError, match="whole number"):
        WRONG_NUMBERS[call](2.5)
    WRONG_NUMBERS[call](np.float32(2.0))


# ---------------------------------------------------------------- labelled arrays


class Labelled:
    """An array with a name, as other packages make them: NumPy finds no way into it."""

    def __init__(self, data):
        self.data, self.shape = data, data.shape


@pytest.mark.parametrize("module", ["numpy", "array_api_strict", "torch", "jax.numpy"])
def test_unwrapped(module, need):
    array = need(module).ones((2, 3))
    assert arrays.unwrapped(array) is array
    assert arrays.unwrapped(Labelled(array)) is array
    assert arrays.unwrapped(gpu4d.RealSlice(array)) is array
    for other in ([1, 2], 3.0, None, np.float64(2.0), Labelled(np.float64(2.0))):
        assert arrays.unwrapped(other) is other


PROBE = gpu4d.probe.synthetic((32, 32), 4.0)
PATTERN = np.round(900 * gpu4d.probe.synthetic((32, 32), 4.0, center=(15.2, 16.7)))
MASK = np.ones((32, 32), dtype=bool)
MASK[3:5] = False
CUBE = gpu4d.DataCube(np.random.default_rng(3).poisson(4.0, (4, 5, 32, 32)).astype(np.uint16))
SCAN = np.stack(
    [np.rint(500 * gpu4d.probe.synthetic((32, 32), 4.0, center=c) + 5) for c in np.random.default_rng(0).uniform(14, 17, (30, 2))]
)
WHERE = np.arange(20).reshape(4, 5) % 3 > 0

TAKES_AN_IMAGE = {  # a function of what brings NumPy arrays into the form under test; its answer as NumPy arrays
    "measure_disk": lambda form: measure_disk(form(PROBE), form(MASK)),
    "template": lambda form: template(form(PROBE)).kernel,
    "from_kernel": lambda form: gpu4d.Template.from_kernel(form(PATTERN)).kernel,
    "disk_profile": lambda form: disk_profile(form(PROBE)).table,
    "explain_disks": lambda form: explain_disks(form(PATTERN), form(PROBE), detector_mask=form(MASK)).qx,
    "hybrid_correlation": lambda form: gpu4d.hybrid_correlation(PATTERN, form(PROBE)),
    "find_bragg_disks": lambda form: gpu4d.find_bragg_disks(CUBE, form(PROBE), min_significance=2.0, where=form(WHERE)).flat("qx"),
    "where": lambda form: np.asarray(gpu4d.sweep(CUBE, gpu4d.MeanPattern(), where=form(WHERE))),
    "virtual_image": lambda form: np.asarray(gpu4d.virtual_image(CUBE, form(MASK))),
    "detector stack": lambda form: np.asarray(gpu4d.virtual_image(CUBE, form(np.stack([MASK, ~MASK])))),
    "bragg_spots": lambda form: gpu4d.detectors.bragg_spots(form(np.array([[3.0, 4.0], [-5.0, 1.0]])), 2.0).mask((32, 32)),
    "center": lambda form: gpu4d.detectors.disk(5.0, center=form(np.array([3.0, 4.0]))).mask((32, 32)),
    "point": lambda form: gpu4d.detectors.point(form(np.array([3.0, 4.0]))).mask((32, 32)),
    "origin of a detector": lambda form: gpu4d.detectors.annulus(3.0, 8.0).mask((32, 32), form(np.array([14.0, 15.0]))),
    "origins of an image": lambda form: np.asarray(
        gpu4d.virtual_image(CUBE, gpu4d.detectors.disk(5.0), origin=form(np.full((4, 5, 2), 14.5)))
    ),
    "center of a template": lambda form: (
        template(form(PROBE), center=form(np.array([16.0, 16.0])), trench=form(np.array([4.0, 12.0]))).kernel
    ),
    "wavefunction": lambda form: wavefunction(form(MASK * 1.0), energy=2e5, q_pixel=0.02, center=form(np.array([15.0, 16.0]))),
    "ellipse_matrix": lambda form: gpu4d.calibrate.ellipse_matrix(form(np.array([1.2, 1.0, 0.3]))),
    "calibration": lambda form: gpu4d.Calibration(origin=form(np.full((4, 5, 2), 14.5)), ellipse=form(np.array([1.2, 1.0, 0.3]))).origin,
    "dark field": lambda form: gpu4d.dpc(CUBE, dark_field=form(WHERE * 1.0), q_pixel=0.01, r_pixel=2.0, rotation=0.0).phase.data,
    "detector_mask": lambda form: gpu4d.DataCube(CUBE.source, detector_mask=form(MASK)).detector_mask,
    "refine_template": lambda form: gpu4d.refine_template(form(SCAN), None, form(PROBE), where=form(SCAN[:, 0, 0] >= 0)).kernel,
}


def form_of(name, need, monkeypatch):
    """Function that brings a NumPy array into one form users have."""
    if name == "labelled numpy":
        return Labelled
    if name == "slice":
        return gpu4d.RealSlice
    if name in ("torch", "cupy"):
        module = need(name)
        return module.from_numpy if name == "torch" else module.asarray
    strict = need("array_api_strict")
    monkeypatch.setattr(type(strict.ones(1)), "data", property(lambda self: object()), raising=False)  # as CuPy's arrays
    return {
        "pointer": strict.asarray,
        "labelled": lambda a: Labelled(strict.asarray(a)),
        "strict slice": lambda a: gpu4d.RealSlice(strict.asarray(a)),
    }[name]


FORMS = ["labelled numpy", "slice", "pointer", "labelled", "strict slice", "torch", pytest.param("cupy", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TAKES_AN_IMAGE)
def test_images_and_masks_come_in_any_form(name, form, need, monkeypatch):
    expected = TAKES_AN_IMAGE[name](lambda a: a.copy())
    np.testing.assert_array_equal(TAKES_AN_IMAGE[name](form_of(form, need, monkeypatch)), expected)


TAKES_PATTERNS = {
    "center_of_mass": gpu4d.center_of_mass,
    "polar_transform": lambda pattern: gpu4d.polar_transform(pattern, np.array([15.5, 15.5])),
    "hot_pixel_median": lambda pattern: gpu4d.preprocess.hot_pixel_median(pattern)[0],
    "hot_pixels": gpu4d.preprocess.hot_pixels,
    "count_electrons": lambda pattern: gpu4d.preprocess.count_electrons(pattern, np.zeros((32, 32)), 2.0, 9.0),
    "hybrid_correlation": lambda pattern: gpu4d.hybrid_correlation(pattern, PROBE),
    "find_bragg_disks": lambda pattern: gpu4d.find_bragg_disks(pattern, PROBE).flat("qx"),
}


@pytest.mark.parametrize("name", TAKES_PATTERNS)
def test_a_pattern_of_a_cube_is_an_array(name):
    call, pattern = TAKES_PATTERNS[name], CUBE[1, 2]
    assert isinstance(pattern, gpu4d.DiffractionSlice)
    for found, expected in zip(leaves(call(pattern)), leaves(call(np.asarray(pattern))), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_disks_of_a_few_positions_stay_in_the_library_of_the_cube(need):
    strict = need("array_api_strict")
    cube = gpu4d.DataCube(strict.asarray(CUBE.source.array))
    positions, options = [(0, 1), (3, 4)], {"min_significance": 2.0, "refine": "correlation"}
    found = gpu4d.find_bragg_disks(cube, PROBE, positions=positions, **options)
    assert type(found.flat("qx")) is type(strict.ones(1))
    expected = gpu4d.find_bragg_disks(CUBE, PROBE, positions=positions, **options)
    assert len(expected.flat("qx")) > 0
    np.testing.assert_allclose(arrays.to_numpy(found.flat("qx")), expected.flat("qx"), atol=1e-3)
