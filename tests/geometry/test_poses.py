"""Rigid motions: group laws, the exponential map, and matrices from files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_rotation
from scipy.spatial.transform import Rotation

from e2r.geometry import poses
from e2r.types import Pose


def random_pose(rng) -> Pose:
    rotation = Rotation.random(random_state=rng).as_matrix()
    return Pose(rotation.astype(np.float32), rng.normal(size=3).astype(np.float32) * 100)


def test_group_laws(rng):
    a, b = random_pose(rng), random_pose(rng)
    points = rng.normal(size=(5, 3)).astype(np.float32) * 50
    np.testing.assert_allclose(
        poses.apply(poses.compose(a, b), points), poses.apply(a, poses.apply(b, points)), atol=1e-3
    )
    np.testing.assert_allclose(poses.apply_inverse(a, poses.apply(a, points)), points, atol=1e-3)
    np.testing.assert_allclose(
        poses.apply(poses.inverse(a), points), poses.apply_inverse(a, points), atol=1e-3
    )
    turned = poses.rotate(a, points)
    np.testing.assert_allclose(turned, poses.apply(a, points) - a.translation[None], atol=1e-3)


def test_apply_host_equals_apply_in_double_precision(rng):
    pose = random_pose(rng)
    points = rng.normal(size=(5, 3)).astype(np.float32) * 50
    moved = poses.apply_host(pose, points)
    assert moved.dtype == np.float64
    np.testing.assert_allclose(moved, poses.apply(pose, points), atol=1e-4)


def test_about_leaves_the_centre_in_place(rng):
    pose = random_pose(rng)._replace(translation=np.zeros(3, np.float32))
    centre = np.array([10.0, -20.0, 500.0], np.float32)
    np.testing.assert_allclose(poses.apply(poses.about(pose, centre), centre), centre, atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 1e-3, 0.5, np.pi - 1e-4, np.pi, 6.0])
def test_exp_equals_scipy_and_the_angle_inverts_it(rng, angle):
    axis = rng.normal(size=3)
    omega = angle * axis / np.linalg.norm(axis)
    with jax.enable_x64(True):
        rotation = poses.exp_rotation(jnp.asarray(omega))
        np.testing.assert_allclose(rotation, Rotation.from_rotvec(omega).as_matrix(), atol=1e-12)
        expected = min(angle, 2 * np.pi - angle)
        np.testing.assert_allclose(poses.rotation_angle(rotation), expected, atol=1e-9)


def test_exp_has_finite_equal_derivatives_at_zero():
    with jax.enable_x64(True):
        for omega in (np.zeros(3), np.array([1e-9, 0, 0]), np.array([1e-3, 1e-3, 0])):
            forward = jax.jacfwd(poses.exp_rotation)(jnp.asarray(omega))
            reverse = jax.jacrev(poses.exp_rotation)(jnp.asarray(omega))
            np.testing.assert_allclose(forward, reverse, atol=1e-12)
            assert np.isfinite(forward).all()
        zero = jax.jacfwd(poses.exp_rotation)(jnp.zeros(3))
        np.testing.assert_allclose(zero[2, 1], [1, 0, 0], atol=1e-12)


def test_random_rotations_are_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    rotations = np.asarray(jax.vmap(random_rotation)(keys))
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-4)
    assert np.abs(rotations.mean(0)).max() < 0.05  # the mean of all rotations is zero


def test_perturb_turns_about_the_centre():
    centre = jnp.array([5.0, 6.0, 400.0])
    start = poses.perturb(jax.random.key(1), poses.identity(), centre, degrees=10.0, mm=0.0)
    np.testing.assert_allclose(poses.apply(start, centre), centre, atol=1e-3)
    angles = [
        poses.rotation_angle(
            poses.perturb(jax.random.key(i), poses.identity(), centre, degrees=4.0, mm=4.0).rotation
        )
        for i in range(200)
    ]
    # A rotation vector of 4 degrees a component is 4 * sqrt(3) = 6.9 degrees long (rms).
    rms = np.rad2deg(np.sqrt(np.mean(np.square(angles))))
    assert 6.2 < rms < 7.6


def matrix(pose: Pose) -> np.ndarray:
    return poses.to_matrix(pose)


def test_a_matrix_survives_the_round_trip(rng):
    pose = random_pose(rng)
    again = poses.from_matrix(matrix(pose).tolist(), "x")
    np.testing.assert_allclose(again.rotation, pose.rotation, atol=1e-6)
    np.testing.assert_allclose(again.translation, pose.translation, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m @ np.diag([1, 1, -1, 1]), "mirrored"),
        (lambda m: m @ np.diag([1.01, 1.01, 1.01, 1]), "scale about 1.01"),
        (lambda m: m + np.eye(4, k=1) * 0.1, "not rigid|last row"),
        (lambda m: m.T, "transposed"),
        (lambda m: m[:3], "4x4"),
        (lambda m: m * np.nan, "finite"),
        (lambda m: "pose", "numbers"),
        (lambda m: None, "4x4"),
    ],
)
def test_a_matrix_that_is_not_rigid_is_refused(rng, change, words):
    with pytest.raises(ValueError, match=words):
        poses.from_matrix(change(matrix(random_pose(rng))), "truth.json: T_camera_model.L3")


def test_the_nearest_rotation_is_the_polar_factor():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        for degrees in (0.0, 5.0, 45.0, 80.0):
            axis = rng.normal(size=3)
            a = poses.exp_rotation(jnp.asarray(rng.normal(size=3)))
            b = poses.exp_rotation(jnp.asarray(np.deg2rad(degrees) * axis / np.linalg.norm(axis)))
            share = 0.3
            mean = share * a + (1.0 - share) * jnp.matmul(a, b)
            u, _, vt = np.linalg.svd(mean)
            tolerance = 1e-12 if degrees <= 45.0 else 1e-4
            np.testing.assert_allclose(poses.nearest_rotation(mean), u @ vt, atol=tolerance)
            way = jnp.asarray(rng.normal(size=(3, 3)))

            def along(t, mean=mean, way=way):
                return jnp.sum(jnp.sin(poses.nearest_rotation(mean + t * way)))

            _, forward = jax.jvp(along, (0.0,), (1.0,))
            numeric = (along(1e-6) - along(-1e-6)) / 2e-6
            np.testing.assert_allclose(forward, numeric, rtol=1e-6)
            np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), forward, rtol=1e-10)
