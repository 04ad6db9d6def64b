import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import numeric_gradient
from scipy.spatial.transform import Rotation

from e2r.geometry import poses, procrustes


def svd_rotation(h: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(np.asarray(h, np.float64))
    ends = np.ones((*u.shape[:-2], 3))
    ends[..., 2] = np.sign(np.linalg.det(u @ vt))
    return u @ (ends[..., None] * vt)


def relative_gap(h: np.ndarray) -> np.ndarray:
    """(s2 + sign(det) s3) / (s1 + s2), in double precision."""
    h = np.asarray(h, np.float64)
    s = np.linalg.svd(h, compute_uv=False)
    third = s[..., 2] * np.where(np.linalg.det(h) < 0, -1.0, 1.0)
    return (s[..., 1] + third) / (s[..., 0] + s[..., 1])


def families(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Covariances (count, 3, 3) of every kind that is hard for single precision."""
    rng = np.random.default_rng(seed)
    u, v = (Rotation.random(count, rng=rng).as_matrix() for _ in range(2))
    uniform = rng.uniform(size=(3, count))
    sign = rng.choice([-1.0, 1.0], count)

    def made(*values) -> np.ndarray:
        return u @ (np.stack(np.broadcast_arrays(*values), 1)[:, :, None] * v)

    def decades(low, high):
        return 10.0 ** rng.uniform(low, high, count)

    return {
        "random": rng.normal(size=(count, 3, 3)),
        "near-planar": made(1 + uniform[0], 0.2 + 0.8 * uniform[1], decades(-9, -3) * sign),
        "near-collinear": made(1 + uniform[0], decades(-4, -2), decades(-5, -2)),
        "reflection-ambiguous": made(2 + uniform[0], 1.0, decades(-5, -0.3) - 1.0),
        "anisotropic": made(np.ones(count), decades(-4, 0), decades(-4, 0) * sign),
    }


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


@pytest.mark.parametrize(
    "kind", ["random", "near-planar", "near-collinear", "reflection-ambiguous", "anisotropic"]
)
def test_single_precision_is_exact_to_the_condition(kind):
    """100,000 covariances over the five kinds, at scales from 1e-12 to 1e12."""
    as_users_do = {
        "xla_backend_optimization_level": 3
    }  # which fuses multiply and add; see conftest
    solve = jax.jit(jax.vmap(procrustes.rotation_from_covariance), compiler_options=as_users_do)
    h = families(20_000)[kind]
    h = h * 10.0 ** np.random.default_rng(2).uniform(-12, 12, (len(h), 1, 1))
    h = h.astype(np.float32)
    found = np.asarray(solve(h), np.float64)
    error = np.abs(found - svd_rotation(h)).max((1, 2))
    gap = relative_gap(h)
    assert (error < 2e-6 / np.maximum(gap, 1e-30)).all(), np.max(error * gap) / 2e-6
    assert np.abs(np.linalg.det(found) - 1).max() < 1e-5
    reported = np.asarray(jax.jit(jax.vmap(procrustes.gap))(h, found.astype(np.float32)))
    np.testing.assert_allclose(reported, gap, atol=1e-3)


@pytest.mark.parametrize(
    "kind", ["random", "near-planar", "near-collinear", "reflection-ambiguous", "anisotropic"]
)
def test_single_precision_gradients_are_finite_and_right(kind):
    """The Jacobian, against central differences of the SVD in double precision."""
    h = families(20_000, seed=4)[kind].astype(np.float32)
    cotangent = np.random.default_rng(3).normal(size=h.shape).astype(np.float32)

    def value(m, c):
        return jnp.sum(procrustes.rotation_from_covariance(m) * c)

    assert np.isfinite(jax.jit(jax.vmap(jax.grad(value)))(h, cotangent)).all()
    pick = np.flatnonzero(relative_gap(h) > 1e-3)[:2000]
    jacobian = jax.jit(jax.vmap(jax.jacrev(procrustes.rotation_from_covariance)))(h[pick])
    base = h[pick].astype(np.float64)
    step = 1e-4 * relative_gap(base) * np.abs(base).max((1, 2))
    numeric = np.zeros((len(pick), 3, 3, 3, 3))
    for i, j in np.ndindex(3, 3):
        shift = np.zeros((3, 3))
        shift[i, j] = 1.0
        up, down = (svd_rotation(base + s * step[:, None, None] * shift) for s in (1, -1))
        numeric[..., i, j] = (up - down) / (2 * step[:, None, None])
    axes = (1, 2, 3, 4)
    error = np.sqrt(np.sum((np.asarray(jacobian) - numeric) ** 2, axes))
    size = np.sqrt(np.sum(numeric**2, axes))
    assert (error < 1e-3 * size).all(), np.max(error / size)


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


SYMMETRIC = {
    "zero": np.zeros((3, 3)),
    "identity": np.eye(3),
    "two alike": np.diag([2.0, 2.0, 1.0]),
    "reflection": np.diag([1.0, 1.0, -1.0]),
    "one point": np.diag([1.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_gap_has_a_finite_gradient_where_singular_values_are_alike(name):
    h = jnp.asarray(SYMMETRIC[name], jnp.float32)

    def gap(h):
        return procrustes.gap(h, procrustes.rotation_from_covariance(h))

    assert np.isfinite(jax.jit(jax.grad(gap))(h)).all()
    assert np.isfinite(jax.jit(jax.jacfwd(gap))(h)).all()


def test_the_gap_of_a_cube_has_a_finite_gradient():
    cube = jnp.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], jnp.float32)
    found = jax.grad(lambda w: procrustes.procrustes(cube, cube, w).gap)(jnp.ones(8))
    assert np.isfinite(found).all()


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
        pose = procrustes.procrustes(source, target, weights).pose
        np.testing.assert_allclose(pose.rotation, rotation, atol=1e-9)
        np.testing.assert_allclose(pose.translation, [5.0, -6.0, 400.0], atol=1e-7)


def test_a_dropped_point_has_a_gradient_and_weights_are_linear(rng):
    source = rng.normal(size=(30, 3)) * 30
    target = source + rng.normal(size=(30, 3))
    mask = (np.arange(30) % 2).astype(float)
    with jax.enable_x64(True):

        def error(w):
            pose = procrustes.procrustes(source, target, w).pose
            return jnp.sum(jnp.square(poses.apply(pose, source) - target))

        gradient = jax.grad(error)(mask)
        np.testing.assert_allclose(gradient, numeric_gradient(jax.jit(error), mask), rtol=1e-5)
        assert (np.abs(gradient[mask == 0]) > 1e-6).all()
        # Twice the weight is the point twice: covariance is linear in the weights.
        twice = procrustes.procrustes(
            np.concatenate([source, source[:1]]), np.concatenate([target, target[:1]]), np.ones(31)
        )
        weighted = procrustes.procrustes(source, target, np.append(2.0, np.ones(29)))
        assert float(twice.gap) > 0.1
        np.testing.assert_allclose(twice.pose.rotation, weighted.pose.rotation, atol=1e-12)


def test_no_weight_at_all_gives_a_finite_motion(rng):
    points = rng.normal(size=(6, 3)).astype(np.float32)
    fit = procrustes.procrustes(points, points + 1, np.zeros(6, np.float32))
    assert float(fit.gap) == 0
    pose = fit.pose
    np.testing.assert_allclose(pose.rotation, np.eye(3), atol=1e-6)
    gradient = jax.grad(
        lambda w: jnp.sum(procrustes.procrustes(points, points + 1, w).pose.translation)
    )(jnp.zeros(6))
    assert np.isfinite(gradient).all()
