"""The benchmark of SSB and WDD writes its scan and checks phases before it gives times."""

import numpy as np
import pytest

from benchmarks import direct_ptychography as bench


def test_it_writes_a_scan_and_checks_the_phase(tmp_path, monkeypatch):
    path = tmp_path / "scan.h5"
    monkeypatch.setattr(bench, "DETECTOR", 32)
    bench.write_scan(path, scan=28, radius=5)
    cube, truth = bench.cube_of(path)
    assert cube.shape == (28, 28, 32, 32)
    np.testing.assert_array_equal(truth[:8, :8], truth[20:, 20:])  # places repeat
    for case in ("floor", "ssb", "wdd"):
        row = bench.timed(path, case, "100 MB")
        assert row["pixels"] > 75
    assert row["correlation"] > bench.LEAST_CORRELATION
    monkeypatch.setattr(bench, "LEAST_CORRELATION", 1.0)
    with pytest.raises(RuntimeError, match="correlates with the truth"):
        bench.timed(path, "ssb", "100 MB")
