"""The rotation from shadow images in `gpu4d run`: measured, asked for, compared with points, and never guessed."""

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.errors import InputError
from gpu4d.workflow import analyse, run
from gpu4d.workflow.stages.shadow import ASK

STEP, RADIUS = 5.0, 86.127  # Å; px, of the file's own bright-field disk


@pytest.fixture(scope="module")
def scene(shared_data, tmp_path_factory):
    """A scan whose annular dark field is the STEM image of the shared file, that file, and the truth."""
    name = shared_data / "shadow_image.h5"
    with h5py.File(name) as file:
        stem, places = file["stem_image"][:], file["shadow_positions_A"][:] / STEP
        truth = {kind: (float(file[f"truth/{kind}_rotation_rad"][()]), bool(file[f"truth/{kind}_transpose"][()])) for kind in KINDS}
        points = {}
        for kind in KINDS:
            seen = np.concatenate([file["truth/particles_A"][:, :2] / STEP, file[f"truth/{kind}_overfocus_particles_px"][1, 1]], axis=1)
            points[kind] = seen[(np.hypot(*(seen[:, 2:] - 96).T) < 70)][:6]
    x, y = np.indices((20, 20)) - 9.5
    r = np.hypot(x, y)
    pattern = np.where(r < 4, 60, 0) + (r > 5.5) * (r < 9) * stem[..., None, None]
    cube = gpu4d.DataCube(pattern.astype("uint16"), gpu4d.Calibration(r_pixel=STEP, energy=200e3))
    return cube, str(name), places[1, 1].tolist(), truth, points, places.reshape(-1, 2).tolist()


KINDS = ("plain", "transposed")


def settings(scene, kind="plain_overfocus", **more):
    name = scene[1]
    named = {"shadow__images": f"{name}:/{kind}", "shadow__center": [96.0, 96.0], "shadow__radius": RADIUS}
    return recipe(analysis__technique="images", **named, **more)


@pytest.fixture(scope="module")
def one(scene, tmp_path_factory):
    """One shadow image in a file of its own, at the middle position."""
    folder = tmp_path_factory.mktemp("shadow")
    with h5py.File(scene[1]) as file:
        for kind in ("plain_overfocus", "plain_underfocus", "transposed_underfocus"):
            np.save(folder / f"{kind}.npy", file[kind][1, 1])
    return folder


def measured(scene, one, kind, **more):
    cube, position = scene[0], scene[2]
    given = {"shadow__images": str(one / f"{kind}.npy"), "shadow__center": [96.0, 96.0], "shadow__radius": RADIUS}
    cube = gpu4d.DataCube(cube.source, cube.calibration.copy())
    return analyse(cube, recipe(analysis__technique="images", shadow__positions=[position], **given, **more))


@pytest.mark.parametrize(
    ("kind", "side"), [("plain_overfocus", "over"), pytest.param("transposed_underfocus", "under", marks=pytest.mark.slow)]
)
def test_nine_images_give_the_rotation_to_a_third_of_a_degree(scene, kind, side):
    cube = gpu4d.DataCube(scene[0].source, scene[0].calibration.copy())
    state = analyse(cube, settings(scene, kind, shadow__positions=scene[5], shadow__side=side))
    angle, transpose = scene[3][kind.split("_")[0]]
    assert off(state, angle) < 0.3 and state.calibration.transpose == transpose


def off(state, truth):
    return abs(math.degrees(math.remainder(state.calibration.rotation - truth, 2 * math.pi)))


@pytest.mark.parametrize(
    ("kind", "side"), [pytest.param("plain_overfocus", "over", marks=pytest.mark.slow), ("transposed_underfocus", "under")]
)
def test_the_rotation_is_measured_and_applied(scene, one, kind, side):
    state = measured(scene, one, kind, shadow__side=side)
    angle, transpose = scene[3][kind.split("_")[0]]
    error = math.degrees(state.calibration.rotation_error)
    assert off(state, angle) < min(3 * error, 0.5) and state.calibration.transpose == transpose, (
        "one image, whose magnification is not known"
    )
    assert 0 < state.calibration.rotation_error < math.radians(1)
    (gate,) = [g for g in state.record.gates if g.name == "Shadow image and STEM image"]
    assert gate.passed and "180° by defocus" in gate.measured
    assert float(state.products["shadow_rotation"].rotation[0]) == state.calibration.rotation
    pictures = {p.name: made for p, made in known(state).pictures(state)}
    assert agreement(pictures["shadow"]) < -0.4, "the same place in both, dark where the other is bright"
    found, (stem, shadows, positions, center, radius) = state["shadow_rotation"], state["shadow_images"]
    turned = replace(found, angle=found.angle + 0.5)
    wrong = gpu4d.plot.shadow(stem, turned, shadows[0], position=positions[0], center=center, radius=radius)
    assert agreement(wrong) > -0.2


def agreement(picture):
    """Correlation of the two panels, where both have values."""
    stem, turned = (np.asarray(ax.images[0].get_array().filled(np.nan)) for ax in picture)
    both = np.isfinite(turned)
    return np.corrcoef(stem[both], turned[both])[0, 1]


def known(state):
    from gpu4d.workflow.stages import known_stages

    return next(stage for stage in known_stages() if stage.name == "shadow")


def test_an_undecided_half_turn_is_asked_for_and_not_applied(scene, one):
    state = measured(scene, one, "plain_underfocus")
    said = {g.key: g for g in state.record.gates if g.key.startswith("shadow")}
    assert said["shadow_margin"].passed and said["shadow_correlation"].passed and said["shadow_error"].passed
    assert not said["shadow_side"].passed and "180° not decided" in said["shadow_side"].measured
    assert "shadow.side" in said["shadow_side"].advice
    assert state.calibration.rotation is None and [w for w in state.record.warnings if "or 180° more" in w and ASK in w]


def test_points_are_taken_alone_and_compared_with_images(scene, one):
    points = scene[4]["plain"].tolist()
    cube = gpu4d.DataCube(scene[0].source, scene[0].calibration.copy())
    alone = analyse(cube, recipe(analysis__technique="images", shadow__points=points, shadow__side="over"))
    assert off(alone, scene[3]["plain"][0]) < 0.1 and not alone.calibration.transpose
    ((_, ax),) = [(p, made) for p, made in known(alone).pictures(alone)]
    circles, crosses = (line.get_xydata() for line in ax.lines[:2])
    assert np.abs(circles - crosses).max() < 0.5, "the fit puts the points where they are"
    wrong = [[*row[:2], 192 - row[2], 192 - row[3]] for row in points]  # as of the other sign
    both = measured(scene, one, "plain_overfocus", shadow__points=wrong, shadow__side="over")
    (gate,) = [g for g in both.record.gates if g.name == "Images and points of the shadow"]
    assert not gate.passed and off(both, scene[3]["plain"][0]) < 0.3


def test_a_given_rotation_counts_before_it(scene, one):
    cube = gpu4d.DataCube(scene[0].source, gpu4d.Calibration(rotation=0.3))
    named = {"shadow__images": str(one / "plain_overfocus.npy"), "shadow__positions": [scene[2]], "shadow__side": "over"}
    state = analyse(cube, recipe(analysis__technique="images", **named))
    assert state.calibration.rotation == 0.3 and "the rotation is known (given)" in state.reasons["shadow"].why


def test_without_one_the_stage_says_what_it_needs(thin):
    state = analyse(thin.cube)
    assert "shadow_rotation" not in state and "needs a shadow image" in state.reasons["shadow"].why


def test_what_cannot_be_used_is_refused_before_the_work(scene, one, tmp_path):
    for given, words in (
        ({"shadow__images": str(one / "plain_overfocus.npy")}, "needs shadow.positions"),
        ({"shadow__points": [[1, 2, 3, 4]] * 3}, "the sign of the defocus"),
        ({"shadow__radius": 20.0}, "belong together"),
    ):
        with pytest.raises(InputError, match=words):
            recipe(**given)
    with pytest.raises(InputError, match=r"9 shadow images, and shadow\.positions has 1"):
        analyse(scene[0], settings(scene, shadow__positions=[1.0, 2.0]))
    with pytest.raises(InputError, match="need three or more"):
        analyse(scene[0], recipe(shadow__points=[[1, 2, 3, 4], [5, 6, 7, 8]], shadow__side="over"))
    np.save(tmp_path / "scan.npy", np.asarray(scene[0])[:2, :2])
    with pytest.raises(InputError, match=r"does not exist|no such file"):
        run(tmp_path / "scan.npy", tmp_path / "out", recipe=recipe(shadow__images=str(tmp_path / "no.npy"), shadow__positions=[1, 2]))
    assert not (tmp_path / "out").exists()
