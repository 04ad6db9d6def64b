"""The comparison from given starts, where Open3D is and where it is not installed."""

import importlib.util

import numpy as np
import pytest

from e2r.datasets.case import true_pose
from e2r.evaluation.preparation import initial_pose
from experiments.benchmarks import given_starts


def test_no_start_is_refused(tmp_path, capsys):
    assert given_starts.main(["--cases", str(tmp_path), "--starts", "0"]) == 2
    assert "--starts is 0" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("open3d") is not None, reason="Open3D is installed here"
)
def test_without_open3d_it_says_what_to_install(data_set, capsys):
    assert given_starts.main(["--cases", str(data_set)]) == 2
    assert "[peers]" in capsys.readouterr().err


def test_each_start_is_another_perturbation_of_the_truth(simulated_cases, tmp_path):
    options = given_starts.GivenStarts(cases=tmp_path, starts=3, degrees=2.0, mm=4.0)
    case = simulated_cases[0]
    starts = [initial_pose(case, job, None) for job in given_starts.starts_of(options)]
    places = np.array([pose.translation for pose in starts])
    assert len(np.unique(places, axis=0)) == 3
    exact = given_starts.starts_of(given_starts.GivenStarts(tmp_path, degrees=0.0, mm=0.0))
    truth = initial_pose(case, exact[0], None)
    np.testing.assert_allclose(truth.rotation, true_pose(case).rotation, atol=1e-6)
