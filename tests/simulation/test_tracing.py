"""Sphere tracing: the rays that have arrived are left alone."""

import jax
import numpy as np
import pytest

from e2r.simulation import tracing
from e2r.simulation.bone_grids import bake_specimen
from e2r.simulation.camera import rays, sample_camera
from e2r.simulation.wound import sample_scene

WIDTH, HEIGHT = 96, 72


def traced(key, bones, steps):
    """Depth image with these steps."""
    k_scene, k_camera = jax.random.split(key)
    scene = sample_scene(k_scene, bones)
    camera = sample_camera(
        k_camera,
        scene.look_at,
        scene.opening,
        width=WIDTH,
        height=HEIGHT,
        wound_fraction=(0.2, 0.6),
    )
    origin, directions = rays(camera, WIDTH, HEIGHT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "PIXEL_STEPS", steps)
        return tracing.trace_depth(scene, camera, origin, directions, width=WIDTH, height=HEIGHT)


def test_steps_of_some_rays_are_as_good_as_steps_of_all():
    bones = jax.jit(bake_specimen)(jax.random.key(4))
    total = sum(steps for steps, _ in tracing.PIXEL_STEPS)
    some, every, best = (
        np.asarray(jax.jit(lambda key, steps=steps: traced(key, bones, steps))(jax.random.key(1)))
        for steps in (tracing.PIXEL_STEPS, ((total, 1.0),), ((300, 1.0),))
    )
    apart = np.abs(some - every)
    assert np.quantile(apart, 0.95) < 0.02 and np.quantile(apart, 0.995) < 0.2
    # Where 36 steps are too few, neither has arrived: along the walls.
    assert np.abs(some - best).mean() < 1.05 * np.abs(every - best).mean() + 0.01
    worked = sum(steps * share for steps, share in tracing.PIXEL_STEPS)
    assert worked < 0.6 * total and np.isfinite(some).all()
