"""One registration without jumps: an ellipsoid, whose closest points move continuously."""

import numpy as np
import trimesh
from conftest import scene_on, start_near

from e2r.geometry import poses, surfaces
from e2r.types import Cloud, Example, Pose, Targets

RADII = (34.0, 22.0, 14.0)
"""Half axes of the ellipsoid, mm."""


def make_surface(nodes=2**15):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    mesh.apply_scale(RADII)
    return surfaces.build_surface({"L1": mesh}, seed=0, nodes=nodes, samples=256)


def make_example(surface, rng, *, count=24, noise=0.4):
    """An example half a metre from the camera, and its initial pose, 3 degrees and 3 mm an axis."""
    truth = Pose(np.eye(3, dtype=np.float32), np.array([5.0, -3.0, 480.0], np.float32))
    scene = scene_on(surface, truth, rng, count, noise=noise)
    cloud = Cloud(scene.points, scene.points, scene.normals, np.ones(count, bool))
    places = np.asarray(surface.points[:9])
    targets = Targets(places, poses.apply(truth, places), np.ones(9, bool))
    example = Example(cloud, None, surface, targets, truth)
    return example, start_near(truth, scene.points, 3.0, 3.0)
