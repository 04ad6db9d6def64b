"""A posed model is compared with what the camera saw before it and on it."""

import numpy as np
import pytest
import trimesh

from e2r.evaluation.free_space import sticking_out
from e2r.geometry import surfaces
from e2r.types import Cloud, Pose

DEPTH_MM = 400.0


@pytest.fixture(scope="module")
def ball():
    mesh = trimesh.creation.icosphere(4, 20.0)
    return surfaces.build_surface({"L1": mesh}, seed=0, nodes=2**12, samples=4096, exact=False)


@pytest.fixture(scope="module")
def cloud():
    """What the camera sees of a ball before a drape."""
    y, x = np.meshgrid(np.arange(-60.0, 60.0), np.arange(-60.0, 60.0), indexing="ij")
    rays = np.stack([x, y, np.full_like(x, DEPTH_MM)], -1).reshape(-1, 3) / DEPTH_MM
    centre = np.array([0.0, 0.0, DEPTH_MM])
    a, b, c = (rays**2).sum(1), rays @ centre, centre @ centre - 20.0**2
    root = b**2 - a * c
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0.0))) / a, DEPTH_MM + 20.0)
    points = (rays * depth[:, None]).astype(np.float32)
    return Cloud(points, np.zeros_like(points), np.zeros_like(points), np.ones(len(points), bool))


def at(*places):
    several = np.array(places, np.float32)
    return Pose(np.stack([np.eye(3, dtype=np.float32)] * len(places)), several)


def test_a_model_before_the_scene_sticks_out(ball, cloud):
    places = at(*([0.0, 0.0, DEPTH_MM + shift] for shift in (0.0, -15.0, 15.0)))
    right, before, behind = sticking_out(cloud, ball, places)
    assert right < 0.03
    assert before > 0.8
    assert behind < 0.03


def test_a_model_aside_sticks_out_before_the_drape(ball, cloud):
    assert sticking_out(cloud, ball, at([18.0, 0.0, DEPTH_MM]))[0] > 0.2


def test_what_the_camera_does_not_see_says_nothing(ball, cloud):
    places = at([300.0, 0.0, DEPTH_MM], [0.0, 0.0, -DEPTH_MM])
    assert sticking_out(cloud, ball, places).tolist() == [0.0, 0.0]
    empty = cloud._replace(valid=np.zeros_like(cloud.valid))
    assert sticking_out(empty, ball, places).tolist() == [0.0, 0.0]
    alone = Cloud(*(leaf[:1] for leaf in cloud))
    assert np.isfinite(sticking_out(alone, ball, places)).all()
