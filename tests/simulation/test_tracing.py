"""Sphere tracing: the rays that have arrived are left alone."""

import jax
import numpy as np
import pytest

from e2r.simulation import tracing
from e2r.simulation.bone_grids import bake_specimen
from e2r.simulation.camera import rays, sample_camera
from e2r.simulation.wound import sample_scene

WIDTH, HEIGHT = 96, 72


def traced(key, bones, first, later):
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
        patch.setattr(tracing, "FIRST_STEPS", first)
        patch.setattr(tracing, "LATER_STEPS", later)
        return tracing.trace_depth(scene, camera, origin, directions, width=WIDTH, height=HEIGHT)


def test_steps_of_some_rays_are_as_good_as_steps_of_all():
    bones = jax.jit(bake_specimen)(jax.random.key(4))
    first, later = tracing.FIRST_STEPS, tracing.LATER_STEPS
    total = first + sum(steps for steps, _ in later)
    some, every, best = (
        np.asarray(jax.jit(lambda key, steps=steps: traced(key, bones, *steps))(jax.random.key(1)))
        for steps in ((first, later), (total, ()), (300, ()))
    )
    apart = np.abs(some - every)
    assert np.quantile(apart, 0.95) < 0.02 and np.quantile(apart, 0.995) < 0.2
    # Where these steps are too few, neither has arrived: along the walls.
    assert np.abs(some - best).mean() < 1.05 * np.abs(every - best).mean() + 0.01
    assert first + sum(steps * share for steps, share in later) < 0.6 * total
