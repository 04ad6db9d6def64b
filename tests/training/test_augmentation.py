"""Augmentation moves the scene and its truth alike."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import TINY, distances_from_surface, first_example

from e2r.datasets import augmentation
from e2r.geometry import poses
from e2r.training import problems


def test_augmentation_keeps_the_truth(bank):
    example = first_example(bank)
    turned = augmentation.augment_example(jax.random.key(5), example)
    placed = poses.apply(turned.pose, example.targets.points)
    valid = example.targets.valid
    np.testing.assert_allclose(placed[valid], turned.targets.goals[valid], atol=2e-2)
    before, after = distances_from_surface(example), distances_from_surface(turned)
    close = np.asarray(before < 5.0)
    np.testing.assert_allclose(np.asarray(after)[close], np.asarray(before)[close], atol=0.1)


def test_the_initial_pose_is_near_the_true_pose(bank):
    example, options = first_example(bank), TINY.optimisation
    draw = jax.jit(lambda key: problems.draw_problem(key, example, options))
    angles, keys = [], []
    for seed in range(8):
        loss_keys, (moved, initial_pose) = draw(jax.random.key(seed))
        relative = jnp.matmul(initial_pose.rotation, moved.pose.rotation.T, precision="highest")
        angles.append(float(jnp.rad2deg(poses.rotation_angle(relative))))
        keys += [tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in loss_keys]
    assert 0.5 < np.mean(angles) < 4 * options.start_noise_deg
    assert len(set(keys)) == 16  # every key is used once
