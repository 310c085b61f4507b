"""Reads every file of a folder with one reader, and compares what it gives with the numbers in the file. Runs in the reader's environment.

``python results_readers.py READER FOLDER`` prints one line of JSON: for each file what was right, wrong, or refused, and why.
"""

import contextlib
import io
import json
import pathlib
import sys
import warnings

import h5py
import numpy as np

with contextlib.suppress(ImportError):  # the filters of compressed scans
    import hdf5plugin  # noqa: F401

STACK = "_labels_"  # name of the last dimension vector of a stack, whose planes are the first axis


def stored(path):
    """What is in a file, by the path of each group: arrays with names and units of the axes, lists of points, points, metadata of parts."""
    arrays, lists, points, texts = {}, {}, {}, []

    def visit(name, item):
        kind = item.attrs.get("emd_group_type")
        if kind in ("array", "custom_array") and "data" in item:
            dims = [item[f"dim{i}"] for i in range(item["data"].ndim) if f"dim{i}" in item]
            arrays[name] = (item["data"][()], [(str(d.attrs.get("name", "")), str(d.attrs.get("units", ""))) for d in dims])
        elif kind in ("pointlistarray", "custom_pointlistarray"):
            lists[name] = item["data"][()]
        elif kind == "pointlist":
            points[name] = {field: column[()] for field, column in item.items()}
        elif kind == "metadata" and name.endswith("metadatabundle/parts"):
            texts.append(name)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return arrays, lists, points, texts


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def report(expected, given, axes, classes, metadata, texts):
    """What a reader gave of a file, held against what is in it."""
    right = [name for name in expected if name in given and given[name] is not None]
    wrong = [f"{name} has other values" for name, held in given.items() if held is False]
    right = [name for name in right if given[name]]
    return {
        "problem": "",
        "arrays": len(expected),
        "right": len(right),
        "wrong": wrong,
        "axes": sorted(set(axes)),
        "metadata": bool(metadata),
        "has_metadata": bool(texts),
        "classes": sorted(classes),
    }


def same_lists(given, expected):
    """Whether two arrays of lists of points hold the same numbers."""
    names = expected.dtype.metadata["vlen"].names if expected.dtype.metadata else expected.ravel()[0].dtype.names
    return all(
        all(np.array_equal(np.asarray(given(index)[name]), np.asarray(expected[index])[name]) for name in names)
        for index in np.ndindex(expected.shape)
    )


def with_emdfile(read, module):
    """A function that reads a file as emdfile and py4DSTEM do: a tree of nodes."""

    def by_path(path, name):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return read(str(path), name)

    def one(path):
        arrays, lists, points, texts = stored(path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            tree = read(str(path))
        root = tree if isinstance(tree, module.Root) else getattr(tree, "root", None) or tree
        given, axes, classes, metadata = {}, [], set(), []

        def node_at(name):
            return root.tree("/".join(name.split("/")[1:]))

        for name, (values, dims) in arrays.items():
            try:
                node = node_at(name)
            except Exception:  # a linked or bundled scan does not come with the tree: it is read by its path
                node = by_path(path, name)
            given[name] = same(node.data, values)
            classes.add(type(node).__name__)
            stack = bool(node.is_stack)
            shown = [(n, u) for n, u in zip(node.dim_names, node.dim_units)]
            if shown != dims[: len(shown)] or (stack and [len(d) for d in node.dims] != list(values.shape[1:])):
                axes.append(name)
        for name, values in lists.items():
            owner = name[: -len("/_v_uncal")] if name.endswith("/_v_uncal") else name
            node = node_at(owner)
            classes.add(type(node).__name__)
            if hasattr(node, "raw"):  # py4DSTEM's BraggVectors
                given[name] = same_lists(lambda index, node=node: node.raw[index].data, values)
            else:
                held = node if owner == name else node_at(name)
                given[name] = same_lists(lambda index, held=held: held[index[0], index[1]].data, values)
        for name, columns in points.items():
            node = node_at(name)
            classes.add(type(node).__name__)
            given[name] = all(np.array_equal(node.data[field], column) for field, column in columns.items())
        for name in texts:
            owner = name[: -len("/metadatabundle/parts")]
            metadata.append(bool(node_at(owner).metadata["parts"]._params))
        return report({**arrays, **lists, **points}, given, axes, classes, metadata and all(metadata), texts)

    return one


def emdfile_reader():
    import emdfile

    return f"emdfile {emdfile.__version__}", with_emdfile(emdfile.read, emdfile)


def py4dstem_reader():
    import emdfile
    import py4DSTEM

    return f"py4DSTEM {py4DSTEM.__version__}", with_emdfile(py4DSTEM.read, emdfile)


def rosettasciio_reader():
    import hyperspy
    import hyperspy.api as hs
    import rsciio
    from rsciio.emd import file_reader

    units = {"A": "Å", "A^-1": "1 / Å", "pixels": "pixel"}

    def one(path):
        arrays, lists, points, texts = stored(path)
        found = file_reader(str(path), stack_group=False) if arrays or lists else []
        signals = hs.load(str(path), reader="emd", stack_group=False) if arrays or lists else []  # HyperSpy's own way in
        assert len(signals if isinstance(signals, list) else [signals]) == len(found)
        given, axes, left = {}, [], list(found)
        for name, (values, dims) in arrays.items():
            title = name.rpartition("/")[2]
            match = [d for d in left if d["metadata"]["General"]["title"] == title and same(d["data"], values)]
            given[name] = bool(match) or None
            if match:
                left = [d for d in left if d is not match[0]]
                shown = [(a["name"], a["units"]) for a in match[0]["axes"]]
                wanted = [(n, units.get(u, u)) for n, u in dims]
                if [n for n, _ in shown] != [n for n, _ in wanted] or any(n == STACK for n, _ in wanted):
                    axes.append(name)
        for name, values in lists.items():
            title = name.rpartition("/")[2]
            match = [d for d in left if d["metadata"]["General"]["title"] == title and d["data"].dtype == object]
            match = [d for d in match if d["data"].shape == values.shape and same_lists(lambda index, d=d: d["data"][index], values)]
            given[name] = bool(match) or None
        return report({**arrays, **lists, **points}, given, axes, {"dictionaries", "Signal2D"}, False, texts)

    return f"RosettaSciIO {rsciio.__version__} (HyperSpy {hyperspy.__version__})", one


READERS = {"emdfile": emdfile_reader, "py4DSTEM": py4dstem_reader, "RosettaSciIO": rosettasciio_reader}


def main():
    warnings.simplefilter("ignore")
    about, read = READERS[sys.argv[1]]()
    answers = {}
    for path in sorted(pathlib.Path(sys.argv[2]).glob("*.h5")):
        try:
            answers[path.stem] = read(path)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            answers[path.stem] = {"problem": problem, "arrays": 0, "right": 0, "wrong": [], "axes": [], "metadata": False}
            answers[path.stem] |= {"has_metadata": False, "classes": []}
    print(json.dumps({"about": about, "files": answers}))


if __name__ == "__main__":
    main()
