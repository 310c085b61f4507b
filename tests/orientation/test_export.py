"""Euler angles, .ang files and orix: what is written is read back by rules of our own, and by orix where it is installed."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpu4d.errors import InputError
from gpu4d.orientation import Grain, Orientations, euler_angles, ipf_colors, matrices_of, save_ang, to_orix
from gpu4d.structures import Structure


def made(shape=(3, 4)):
    """Orientations at random: a second phase in the last row, nothing at the first position."""
    n = int(np.prod(shape))
    turns = Rotation.random(n, random_state=3).as_matrix().reshape(*shape, 3, 3)
    phase = np.zeros(shape, int)
    phase[-1], phase[0, 0] = 1, -1
    turns[0, 0] = np.nan
    some = np.where(phase >= 0, np.linspace(0.3, 0.9, n).reshape(shape), np.nan)
    cube = np.broadcast_to(1e-5 * np.eye(3), (*shape, 3, 3))
    grain = Grain(turns, phase, some, some, 3 * some, turns, phase, cube)
    return Orientations(grain, grain, (Structure.standard("Au"), Structure.standard("graphite")), (50.0, 50.0), 20.0)


def read_ang(path):
    """Header lines and rows of numbers."""
    lines = path.read_text().splitlines()
    return [line[2:] for line in lines if line.startswith("#")], np.array(
        [[float(v) for v in line.split()] for line in lines if line[0] != "#"]
    )


def test_euler_angles_are_bunges():
    """φ₁ about z, Φ about the new x, φ₂ about the new z turn the axes of the sample into those of the crystal."""
    angles = np.random.default_rng(0).uniform([0, 0.05, 0], [2 * np.pi, np.pi - 0.05, 2 * np.pi], (50, 3))
    turns = Rotation.from_euler("ZXZ", angles).as_matrix()  # about moving axes: its columns are the crystal's axes in the lab
    np.testing.assert_allclose(euler_angles(turns), angles, atol=1e-9)
    np.testing.assert_allclose(matrices_of(angles), turns, atol=1e-12)


def test_euler_angles_where_they_are_not_unique():
    for turn in (np.eye(3), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, -1.0, 1.0])):
        found = euler_angles(turn)
        assert found[2] == 0
        np.testing.assert_allclose(matrices_of(found), turn, atol=1e-12)
    assert np.isnan(euler_angles(np.full((3, 3), np.nan))).all()


def test_an_ang_file_is_read_back(tmp_path):
    given = made()
    header, rows = read_ang(save_ang(given, tmp_path / "a.ang"))
    assert "GRID: SqrGrid" in header and "NCOLS_ODD: 3" in header and "NROWS: 4" in header
    assert [line.split()[1] for line in header if line.startswith("Symmetry")] == ["62", "43"]
    at = np.rint(rows[:, 3:5] / 0.002).astype(int)  # 20 Å are 0.002 µm
    assert (np.diff(at[:, 1]) >= 0).all() and at[1].tolist() == [1, 0]  # x runs fastest
    phase = given.phase[at[:, 0], at[:, 1]]
    np.testing.assert_array_equal(rows[:, 7], phase + 1)
    found = phase >= 0
    np.testing.assert_allclose(matrices_of(rows[found, :3]), given.matrices[at[found, 0], at[found, 1]], atol=2e-5)
    assert rows[~found][0, 0] == pytest.approx(4 * np.pi, abs=1e-4) and rows[~found][0, 6] == -1
    np.testing.assert_allclose(rows[found, 5], given.share[at[found, 0], at[found, 1]], atol=1e-4)


def test_a_file_that_exists_is_kept(tmp_path):
    save_ang(made(), tmp_path / "a.ang")
    with pytest.raises(InputError, match="overwrite=True"):
        save_ang(made(), tmp_path / "a.ang")
    save_ang(made(), tmp_path / "a.ang", overwrite=True)


def test_orix_reads_the_file_and_gets_the_same_from_memory(tmp_path, need):
    orix, vector = need("orix.io"), need("orix.vector")
    given = made()
    path = save_ang(given, tmp_path / "a.ang")
    for crystal_map, unit in ((orix.load(path), 0.002), (to_orix(given), 20.0)):
        x, y = (np.rint(np.asarray(a) / unit).astype(int) for a in (crystal_map.x, crystal_map.y))
        turns = given.matrices[x, y]
        good = np.asarray(crystal_map.is_indexed) & (given.phase[x, y] >= 0)
        assert good.sum() == (given.phase >= 0).sum()
        for axis in np.eye(3):
            crystal = (crystal_map.rotations * vector.Vector3d(axis)).data  # sample axis in crystal axes
            np.testing.assert_allclose(crystal[good], (np.swapaxes(turns, -1, -2) @ axis)[good], atol=5e-5)


def test_without_orix_the_message_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "orix.crystal_map", None)
    with pytest.raises(InputError, match="pip install orix"):
        to_orix(made())


def test_colours_follow_the_direction_and_the_phase():
    given = made()
    colors = ipf_colors(given, (0, 0, 1))
    assert colors.shape == (3, 4, 3) and np.isnan(colors[0, 0]).all() and np.isfinite(colors[1:]).all()
    assert np.abs(colors[1:] - ipf_colors(given, (1, 0, 0))[1:]).max() > 0.1
    with pytest.raises(InputError, match="three numbers"):
        ipf_colors(given, (0, 0, 0))
