"""Whether a model or its mirror image fits a frame, by what is not symmetric."""

import numpy as np
import pytest
import trimesh

from e2r.evaluation.mirror_fit import MAX_GAIN, mirror_gain
from e2r.geometry import poses, surfaces
from e2r.types import Pose

POSE = Pose(
    np.array(poses.exp_rotation(np.array([0.3, -0.2, 0.5], np.float32))),
    np.array([5.0, -8.0, 420.0], np.float32),
)
CANONICAL = Pose(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))


def surface_of(lean, mirrored=False):
    """A body and a process that leans to one side by some mm."""
    ball = trimesh.creation.icosphere(4, 1.0)
    body, process = ball.copy(), ball.copy()
    body.apply_scale([24.0, 17.0, 13.0])
    process.apply_scale([6.0, 14.0, 8.0])
    process.apply_translation([lean, 22.0, -4.0])
    meshes = {"L1": body, "L2": process}
    if mirrored:
        for mesh in meshes.values():
            mesh.vertices = np.asarray(mesh.vertices) * [-1.0, 1.0, 1.0]
            mesh.faces = np.asarray(mesh.faces)[:, ::-1]
    return surfaces.build_surface(meshes, seed=0, nodes=2**12, samples=2048, exact=False)


def gain_of(model, lean, rng):
    points = poses.apply_host(POSE, np.asarray(surface_of(lean).points, np.float64))
    points += 0.3 * rng.normal(size=points.shape)
    return mirror_gain(points, model, pose=POSE, canonical=CANONICAL)


@pytest.mark.parametrize("lean", [5.0, 9.0])
def test_a_mirrored_model_is_told_from_a_right_one(rng, lean):
    assert gain_of(surface_of(lean), lean, rng) < -MAX_GAIN
    assert gain_of(surface_of(lean, mirrored=True), lean, rng) > MAX_GAIN


def test_a_symmetric_model_is_not_refused(rng):
    assert abs(gain_of(surface_of(0.0), 0.0, rng)) < MAX_GAIN / 2


def test_too_few_points_say_nothing(rng):
    surface = surface_of(5.0)
    assert mirror_gain(rng.normal(size=(9, 3)), surface, pose=POSE, canonical=CANONICAL) == 0.0
