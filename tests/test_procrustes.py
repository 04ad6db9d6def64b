import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import numeric_gradient
from scipy.spatial.transform import Rotation

from e2r.geometry import procrustes


def svd_rotation(h: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(h.astype(np.float64))
    d = np.sign(np.linalg.det(u @ vt))
    return u @ np.diag([1, 1, d]) @ vt


COVARIANCES = {
    "random": np.random.default_rng(0).normal(size=(3, 3)),
    "identity": np.eye(3),
    "half turn": np.diag([1.0, -1.0, -1.0]),
    "spine": Rotation.from_rotvec([1.0, 2.0, 0.5]).as_matrix() @ np.diag([11.0, 1.6, 1.3]),
    "plane": Rotation.from_rotvec([0.3, -2.0, 0.5]).as_matrix() @ np.diag([2.0, 1.0, 0.0]),
    "reflection": np.diag([3.0, 2.0, -1.0]),
}
DEGENERATE = {
    "zero": np.zeros((3, 3)),
    "line": np.diag([1.0, 0.0, 0.0]),
    "ambiguous reflection": np.diag([3.0, 1.0, -1.0]),
    "ones": np.ones((3, 3)),
}


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("name", COVARIANCES)
def test_equals_svd(name, scale):
    h = COVARIANCES[name] * scale
    found = np.asarray(procrustes.rotation_from_covariance(jnp.asarray(h, jnp.float32)))
    np.testing.assert_allclose(found, svd_rotation(h), atol=2e-5)
    assert abs(np.linalg.det(found) - 1) < 1e-5


def test_many_random_covariances_under_vmap_and_jit():
    h = np.random.default_rng(1).normal(size=(2000, 3, 3)).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(procrustes.rotation_from_covariance))(h))
    expected = np.stack([svd_rotation(m) for m in h])
    gaps = np.asarray(jax.vmap(procrustes.gap)(h, found))
    error = np.abs(found - expected).max((1, 2))
    assert (error < 2e-6 / np.maximum(gaps, 1e-6) + 1e-6).all()


@pytest.mark.parametrize("name", COVARIANCES)
def test_forward_equals_reverse_equals_numeric(name):
    cotangent = np.random.default_rng(3).normal(size=(3, 3))
    with jax.enable_x64(True):
        h = jnp.asarray(COVARIANCES[name])

        def value(m):
            return jnp.sum(procrustes.rotation_from_covariance(m) * cotangent)

        reverse = jax.grad(value)(h)
        forward = jax.jacfwd(value)(h)
        numeric = numeric_gradient(jax.jit(value), np.asarray(h))
        np.testing.assert_allclose(forward, reverse, atol=1e-9)
        np.testing.assert_allclose(reverse, numeric, atol=2e-5 * max(1, np.abs(numeric).max()))


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_covariances_have_finite_gradients_and_no_gap(name):
    h = jnp.asarray(DEGENERATE[name], jnp.float32)
    rotation = procrustes.rotation_from_covariance(h)
    assert abs(np.linalg.det(np.asarray(rotation)) - 1) < 1e-5
    gradient = jax.grad(lambda m: jnp.sum(procrustes.rotation_from_covariance(m)[0]))(h)
    assert np.isfinite(gradient).all()
    assert float(procrustes.gap(h, rotation)) < 1e-3


def test_gap_is_the_ratio_of_singular_values():
    for values in ([11.0, 1.6, 1.3], [3.0, 2.0, -1.0], [1.0, 1.0, 1.0]):
        h = jnp.diag(jnp.array(values))
        a, b, c = values
        found = procrustes.gap(h, procrustes.rotation_from_covariance(h))
        np.testing.assert_allclose(found, (b + c) / (a + b), atol=1e-3)


def test_recovers_a_motion_exactly(rng):
    rotation = Rotation.from_rotvec([0.3, -0.2, 1.9]).as_matrix()
    source = rng.normal(size=(40, 3)) * 30
    target = source @ rotation.T + [5.0, -6.0, 400.0]
    weights = rng.uniform(size=40)
    with jax.enable_x64(True):
        pose = procrustes.procrustes(source, target, weights)
        np.testing.assert_allclose(pose.rotation, rotation, atol=1e-9)
        np.testing.assert_allclose(pose.translation, [5.0, -6.0, 400.0], atol=1e-7)


def test_a_dropped_point_has_a_gradient_and_weights_are_linear(rng):
    source = rng.normal(size=(30, 3)) * 30
    target = source + rng.normal(size=(30, 3))
    mask = (np.arange(30) % 2).astype(float)
    with jax.enable_x64(True):

        def error(w):
            pose = procrustes.procrustes(source, target, w)
            return jnp.sum(jnp.square(source @ pose.rotation.T + pose.translation - target))

        gradient = jax.grad(error)(mask)
        np.testing.assert_allclose(gradient, numeric_gradient(jax.jit(error), mask), rtol=1e-5)
        assert (np.abs(gradient[mask == 0]) > 1e-6).all()
        # Twice the weight is the point twice: covariance is linear in the weights.
        twice = procrustes.procrustes(
            np.concatenate([source, source[:1]]), np.concatenate([target, target[:1]]), np.ones(31)
        )
        weighted = procrustes.procrustes(source, target, np.append(2.0, np.ones(29)))
        np.testing.assert_allclose(twice.rotation, weighted.rotation, atol=1e-12)


def test_no_weight_at_all_gives_a_finite_motion(rng):
    points = rng.normal(size=(6, 3)).astype(np.float32)
    pose = procrustes.procrustes(points, points + 1, np.zeros(6, np.float32))
    np.testing.assert_allclose(pose.rotation, np.eye(3), atol=1e-6)
    gradient = jax.grad(
        lambda w: jnp.sum(procrustes.procrustes(points, points + 1, w).translation)
    )(jnp.zeros(6))
    assert np.isfinite(gradient).all()
