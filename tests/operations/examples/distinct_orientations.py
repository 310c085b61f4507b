"""Example inputs of `distinct_orientations`: turns about all axes, many of them equivalent, of two crystals."""

import numpy as np
from operations.comparing import Example
from scipy.spatial.transform import Rotation

CUBIC = Rotation.create_group("O").as_matrix()
SIX = Rotation.create_group("D6").as_matrix()


def examples() -> list[Example]:
    rng = np.random.default_rng(12)
    rotations, owner = np.concatenate([CUBIC, SIX]), np.repeat([0, 1], [len(CUBIC), len(SIX)])
    n, c = 9, 14
    phase = rng.integers(0, 2, (n, c))
    few = Rotation.random(n * 3, random_state=4).as_matrix().reshape(n, 3, 3, 3)
    turns = np.take_along_axis(few, rng.integers(0, 3, (n, c))[..., None, None], axis=1)
    equivalent = np.where((phase == 0)[..., None, None], CUBIC[rng.integers(0, 24, (n, c))], SIX[rng.integers(0, 12, (n, c))])
    near = Rotation.from_rotvec(0.01 * rng.normal(size=(n * c, 3))).as_matrix().reshape(n, c, 3, 3)
    turns, cost = near @ turns @ equivalent, rng.uniform(5.0, 500.0, (n, c))
    turns[2, 3:], cost[2, 3:], phase[2, 3:] = np.nan, np.nan, -1
    turns[5], cost[5], phase[5] = np.nan, np.nan, -1  # a pattern without any
    options = {"angle": 0.05, "count": 4}
    arrays = turns, cost, phase, rotations, owner
    return [
        Example("two crystals", arrays, options),
        Example("wide", arrays, {"angle": 0.5, "count": 3}),
        Example("more asked for than there are", (turns[:, :2], cost[:, :2], phase[:, :2], rotations, owner), options),
        Example("no patterns", (turns[:0], cost[:0], phase[:0], rotations, owner), options),
        Example("no candidates", (turns[:, :0], cost[:, :0], phase[:, :0], rotations, owner), options),
    ]
