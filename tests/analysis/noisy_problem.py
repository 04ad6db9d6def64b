"""One noisy registration, whose gradients the tests examine."""

import numpy as np
from conftest import scene_on, start_near

from e2r.geometry import poses
from e2r.registration.schedule import Schedule
from e2r.types import Targets

SCHEDULE = Schedule(step="point_to_plane", steps=4, first_scale_mm=6.0, last_scale_mm=3.0)


def make_problem(surface, truth, rng):
    """Cloud, surface, initial pose and targets; a third of the points lie off the bone."""
    cloud = scene_on(surface, truth, rng, 150, noise=0.5)
    points = np.where(np.arange(150)[:, None] % 3 > 0, cloud.points, cloud.points + 3.0)
    cloud = cloud._replace(points=points.astype(np.float32))
    start = start_near(truth, points, 1.0, 1.0)
    places = np.asarray(surface.points[:: len(surface.points) // 9])
    targets = Targets(places, poses.apply(truth, places), np.ones(len(places), bool))
    return cloud, surface, start, targets
