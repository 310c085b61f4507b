"""Data of a small scan."""

import numpy as np
import pytest
from small_scan import SHAPE


@pytest.fixture
def data():
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype("uint8")
