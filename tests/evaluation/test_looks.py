"""Where the first look is unsure, the surest of several counts."""

from functools import partial

import numpy as np
import pytest
from scipy.spatial import cKDTree

from e2r.config import EvaluationConfig
from e2r.datasets.sampling import SampledScene
from e2r.evaluation.looks import UNSURE_INTEREST, Look, rows_to_sample, split_looks, surest_look
from e2r.evaluation.preparation import initial_pose
from e2r.geometry import poses
from e2r.networks.build import NetworkConfig
from e2r.networks.region_of_interest import START_REACH_MM
from e2r.pipeline import FirstLook
from e2r.types import Cloud, Pyramid

POINTS = 16
LOOKS = 8
NETWORK = NetworkConfig(points=256)


def sample(number, valid=POINTS):
    plain = np.full((1, POINTS, 3), float(number), np.float32)
    cloud = Cloud(plain, plain, plain, np.arange(POINTS)[None] < valid)
    return SampledScene(cloud, Pyramid((), (), ()), np.zeros((1, POINTS), int))


def found(*largest):
    interest = np.full((len(largest), POINTS), -9.0)
    interest[:, 3] = largest
    return FirstLook(interest, np.repeat(np.array(largest)[:, None], 3, axis=1))


def test_a_padded_point_makes_no_look_sure():
    (look,) = split_looks([sample(0, valid=3)], found(5.0))
    assert look.interest == -9.0
    (look,) = split_looks([sample(0, valid=4)], found(5.0))
    assert look.interest == 5.0


def test_padding_of_the_batch_is_no_look():
    assert len(split_looks([sample(0), sample(1)], found(1.0, 2.0, 2.0, 2.0))) == 2


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_surest_of_all_looks_counts_whatever_the_batch(batch, simulated_cases):
    interest = iter([-5.0, 0.2, -3.0, 2.5, 1.0, 2.4, -2.0])
    case, sizes, drawn = simulated_cases[0], [], []

    def look(samples):
        sizes.append(len(samples))
        drawn.extend(samples)
        best = np.array([next(interest) for _ in samples])
        logits = np.full((len(samples), NETWORK.points), -9.0)
        logits[:, 0] = best
        return FirstLook(logits, np.zeros((len(samples), 3)))

    (first,) = split_looks([sample(0)], found(-1.0))
    again = partial(surest_look, case, first, look=look, network=NETWORK, looks=LOOKS, batch=batch)
    surest = again(attempt=0)
    assert surest.interest == 2.5
    np.testing.assert_array_equal(surest.sample.rows, drawn[3].rows)
    assert sum(sizes) == LOOKS - 1 and max(sizes) <= batch
    rows = [tuple(one.rows.ravel()) for one in drawn]
    assert len(set(rows)) == LOOKS - 1
    interest = iter([0.0] * LOOKS)
    again(attempt=1)
    assert not set(rows) & {tuple(one.rows.ravel()) for one in drawn[LOOKS - 1 :]}


def test_a_sure_look_is_the_only_one(simulated_cases):
    (first,) = split_looks([sample(0)], found(UNSURE_INTEREST))
    assert isinstance(first, Look)

    def never(_):
        raise AssertionError

    case = simulated_cases[0]
    rest = {"look": never, "network": NETWORK, "attempt": 0, "batch": 8}
    assert surest_look(case, first, looks=8, **rest) is first
    (unsure,) = split_looks([sample(0)], found(UNSURE_INTEREST - 1.0))
    assert surest_look(case, unsure, looks=1, **rest) is unsure  # no other look is asked for


def test_from_a_start_the_network_takes_no_point_away(simulated_cases, surface):
    """It finds nothing of interest, and its region is 1 m away."""
    case = simulated_cases[0]
    look = Look(sample(0), FirstLook(np.full(POINTS, -9.0), np.array([0.0, 0.0, 1500.0])))
    pose = initial_pose(case, EvaluationConfig(start="truth", start_noise_deg=0.0), None)
    choose = partial(rows_to_sample, case, look, surface=surface, min_points=50)
    rows = choose(initial_pose=pose)
    placed = np.asarray(poses.apply(pose, surface.points))
    distance = cKDTree(placed).query(case.points)[0]
    np.testing.assert_array_equal(rows, np.flatnonzero(distance < START_REACH_MM))
    assert 50 < len(rows) < len(case.points)
    assert choose(initial_pose=None) is None
    away = pose._replace(translation=pose.translation + 900.0)
    assert choose(initial_pose=away) is None
