"""Arrays of other libraries: each is taken as it is, viewed without a copy, or refused with one line that says what to give."""

import numpy as np
import pytest
import scipy.sparse
from only_dlpack import OnlyDLPack

import gpu4d
from gpu4d import arrays
from gpu4d.errors import InputError

RNG = np.random.default_rng(3)
PROBE = gpu4d.probe.synthetic((24, 20), 3.0)
PATTERNS = RNG.poisson(300 * PROBE, (3, 4, 24, 20)).astype("uint16")
TEMPLATE = gpu4d.probe.template(PROBE)
# One call for each way in which functions take arrays: an operation, functions around operations, a cube and what sweeps it, an image,
# a map, and a table that is kept on the host.
TAKES = {
    "an operation": (lambda x: gpu4d.center_of_mass(x), PATTERNS),
    "a function around one": (lambda x: gpu4d.radial_profile(x, (12, 10)), PATTERNS),
    "a correlation": (lambda x: gpu4d.hybrid_correlation(x, TEMPLATE), PATTERNS[0].astype("float32")),
    "a search of disks": (lambda x: gpu4d.find_bragg_disks(x, TEMPLATE, refine="correlation").flat("qx"), PATTERNS),
    "a cube": (lambda x: gpu4d.sweep(gpu4d.DataCube(x), gpu4d.MeanPattern()), PATTERNS),
    "an image": (lambda x: np.array(gpu4d.probe.measure_disk(x)), PATTERNS.sum((0, 1)).astype("float64")),
    "a map": (lambda x: gpu4d.deflection.curl_free(x), RNG.normal(size=(5, 6, 2))),
    "a mask": (lambda x: gpu4d.sweep(gpu4d.DataCube(PATTERNS), gpu4d.VirtualImage(x)), PROBE > 0.5),
    "origins": (lambda x: gpu4d.radial_profile(PATTERNS, x), np.full((3, 4, 2), (12.0, 10.0))),
}
EVERY = pytest.mark.parametrize("way", TAKES)


def refusal(call, given):
    """The one line of an error."""
    with pytest.raises(InputError) as caught:
        call(given)
    said = str(caught.value)
    assert "\n" not in said
    return said


@EVERY
def test_memory_that_is_shown_by_dlpack_is_viewed(way, monkeypatch):
    call, valid = TAKES[way]
    seen = []
    monkeypatch.setattr(
        arrays.foreign_arrays, "viewed", lambda x, name, view=arrays.foreign_arrays.viewed: seen.append(view(x, name)) or seen[-1]
    )
    found, right = call(OnlyDLPack(valid)), call(valid)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(right))
    assert type(found) is type(right)
    assert seen and all(np.shares_memory(view, valid) for view in seen), "viewed, not copied"


def test_what_dlpack_cannot_show_is_said():
    class Elsewhere(OnlyDLPack):
        def __dlpack_device__(self):
            return (8, 0)  # Metal

    class Broken(OnlyDLPack):
        def __dlpack__(self, **options):
            raise BufferError("it needs a gradient")

    assert "kind 8" in refusal(gpu4d.center_of_mass, Elsewhere(PATTERNS))
    assert "needs a gradient" in refusal(gpu4d.center_of_mass, Broken(PATTERNS))


@EVERY
def test_an_array_of_dask_is_not_computed(way, need):
    dask, (call, valid) = need("dask.array"), TAKES[way]
    refused = dask.from_array(valid).map_blocks(lambda block: pytest.fail("computed"), dtype=valid.dtype, meta=valid[:0])
    said = refusal(call, refused)
    assert ".compute()" in said and "gpu4d.interop.from_dask" in said and callable(gpu4d.interop.from_dask)


@EVERY
def test_a_dataset_of_h5py_is_not_read(way, tmp_path):
    import h5py

    call, valid = TAKES[way]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = valid
        said = refusal(call, file["data"])
        assert "[...]" in said and "gpu4d.open" in said
        assert "one dataset of it" in refusal(call, file) and "'…'][...]" in refusal(call, file["/"])
        np.testing.assert_array_equal(np.asarray(call(file["data"][...])), np.asarray(call(valid)))


@pytest.mark.parametrize("way", ["an operation", "a cube", "a mask"])
def test_an_array_of_zarr_is_not_read(way, need):
    zarr, (call, valid) = need("zarr"), TAKES[way]
    stored = zarr.create_array(store={}, shape=valid.shape, dtype=valid.dtype)
    said = refusal(call, stored)
    assert "[...]" in said and "gpu4d.open" in said


def test_sparse_arrays_say_how_to_fill_them():
    assert "mask.toarray()" in refusal(lambda m: gpu4d.center_of_mass(PATTERNS, m), scipy.sparse.csr_array(PROBE > 0.5))
    assert ".toarray()" in refusal(gpu4d.probe.measure_disk, scipy.sparse.coo_matrix(PROBE))


@EVERY
def test_a_masked_array_is_taken_without_a_mask_and_refused_with_one(way):
    call, valid = TAKES[way]
    np.testing.assert_array_equal(np.asarray(call(np.ma.masked_array(valid))), np.asarray(call(valid)))
    hidden = np.ma.masked_array(valid, mask=np.arange(valid.size).reshape(valid.shape) == 1)
    assert ".filled(0)" in refusal(call, hidden)


@EVERY
def test_an_xarray_gives_its_values_in_the_order_of_a_scan(way, need):
    xarray, (call, valid) = need("xarray"), TAKES[way]
    names = {4: ("Rx", "Ry", "Qx", "Qy"), 3: ("Rx", "Ry", "Qx"), 2: ("Qx", "Qy")}[valid.ndim]
    right = np.asarray(call(valid))
    np.testing.assert_array_equal(np.asarray(call(xarray.DataArray(valid, dims=names))), right)
    np.testing.assert_array_equal(np.asarray(call(xarray.DataArray(valid))), right)  # names of its own, dim_0, …
    assert "['…']" in refusal(call, xarray.Dataset({"a": (names, valid)}))
    turned = xarray.DataArray(valid, dims=names).transpose(*names[::-1])
    said = refusal(call, turned)
    assert f".transpose({', '.join(map(repr, names))})" in said
    np.testing.assert_array_equal(np.asarray(call(turned.transpose(*names))), right)


def test_an_xarray_of_dask_is_not_computed(need):
    xarray, dask = need("xarray"), need("dask.array")
    assert ".compute()" in refusal(gpu4d.center_of_mass, xarray.DataArray(dask.zeros((2, 8, 8))))


def test_tables_of_pandas_and_memoryviews_are_taken(need):
    right = gpu4d.center_of_mass(PATTERNS[0, 0])
    np.testing.assert_array_equal(gpu4d.center_of_mass(memoryview(PATTERNS[0, 0])), right)
    np.testing.assert_array_equal(gpu4d.center_of_mass(PATTERNS[0, 0].tolist()), right)
    pandas = need("pandas")
    np.testing.assert_array_equal(gpu4d.center_of_mass(pandas.DataFrame(PATTERNS[0, 0])), right)


# ---------------------------------------------------------------- torch and JAX on the CPU


def made(library, xp, valid):
    return xp.from_numpy(valid.copy()) if library == "torch" else xp.asarray(valid)


def address(x):
    return x.data_ptr() if hasattr(x, "data_ptr") else x.unsafe_buffer_pointer()


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_twins_see_the_memory_of_the_caller(library, need, monkeypatch):
    """What the CPU twin gets is at the address of what the caller has, and what the caller gets at that of what the twin made."""
    xp = need("jax.numpy" if library == "jax" else "torch")
    given, got, back = made(library, xp, PATTERNS[0]), [], []
    twin = gpu4d.center_of_mass.implementation("cpu")

    def watched(patterns, /, mask=None):
        got.append(patterns.ctypes.data)
        back.append(twin(patterns, mask))
        return back[0]

    monkeypatch.setattr("gpu4d.cpu_fallback.center_of_mass.center_of_mass", watched)
    found = gpu4d.center_of_mass(given)
    assert got == [address(given)] == [arrays.host_view(given).ctypes.data]
    assert type(found) is type(given)
    if library == "torch":  # JAX may copy what NumPy has: its own memory is aligned to 64 bytes
        assert address(found) == back[0].ctypes.data
    np.testing.assert_array_equal(np.asarray(found), twin(PATTERNS[0]))


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("way", ["an operation", "a function around one", "a correlation", "a search of disks", "a map"])
def test_what_comes_in_goes_out(way, library, need):
    xp, (call, valid) = need("jax.numpy" if library == "jax" else "torch"), TAKES[way]
    given = made(library, xp, valid)
    found = call(given)
    assert type(found) is type(given)
    np.testing.assert_allclose(np.asarray(found), np.asarray(call(valid)), rtol=1e-6, atol=1e-6)


def test_floats_that_numpy_does_not_have_run_in_their_own_library(need):
    torch = need("torch")
    given = torch.from_numpy(PATTERNS[0].astype("float32")).to(torch.bfloat16)
    assert arrays.host_view(given) is None
    found = gpu4d.center_of_mass(given)
    np.testing.assert_allclose(found.numpy(), gpu4d.center_of_mass(given.to(torch.float32)).numpy(), rtol=1e-12)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_masked_pixels_are_filled_where_they_are(library, need):
    xp = need("jax.numpy" if library == "jax" else "torch")
    mask = PROBE < 0.9
    found = gpu4d.preprocess.fill_from_neighbours(made(library, xp, PATTERNS), mask)
    assert type(found) is type(made(library, xp, PATTERNS))
    np.testing.assert_array_equal(np.asarray(found), gpu4d.preprocess.fill_from_neighbours(PATTERNS, mask))
