"""A new field of the calibration is one row of a table: files, recipes, the command line and the report follow."""

import subprocess
import sys

from gpu4d.data import calibration_fields as table

WITH_A_ROW = """
import sys
import numpy as np
from gpu4d.data import calibration_fields as table
# The one line: a row. A package adds it so; in the tree it stands in CalibrationFields.
row = table.Field("camera_length", "mm", "camera length", table.positive, ("camera_length",),
                  table.GivenAs("camera_length", "mm", 1, 1e5, explain="Camera length.", flag="MM"), binned=lambda v, by: v * by[0])
table.FIELDS[row.name] = row

import gpu4d
from gpu4d.cli import run_command
from gpu4d.workflow import Recipe
from gpu4d.workflow.recipe import to_toml

c = gpu4d.Calibration(camera_length=200)
cube = gpu4d.DataCube(np.ones((8, 8, 32, 32), "u2"), c)
assert cube.bin(detector=2).calibration.camera_length == 400 and cube.crop(qx=(0, 4)).calibration.camera_length == 200
gpu4d.save("saved.h5", {"cube": cube})
assert gpu4d.open("saved.h5").calibration.camera_length == 200
recipe = Recipe.from_toml("[calibration]\\ncamera_length = 150")
assert recipe.calibration.camera_length == 150 and "camera_length" in to_toml(Recipe())
np.save("scan.npy", np.random.default_rng(1).poisson(3.0, (8, 8, 32, 32)).astype("u2"))
assert run_command(["run", "scan.npy", "--camera-length", "170", "-o", "out"]) == 0
page = open("out/report.html", encoding="utf-8").read()
assert "camera length" in page and "given (--camera-length)" in page
print("all follow")
"""


def test_everything_follows_one_row(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITH_A_ROW], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all follow\n")


def test_a_row_has_the_name_of_its_attribute():
    """The attribute is what type checkers see, and the name in the row is what runs. A row without a type would not be a keyword."""
    typed = list(table.CalibrationFields.__annotations__)
    assert list(table.FIELDS) == typed and all(vars(table.CalibrationFields)[name].name == name for name in typed)
