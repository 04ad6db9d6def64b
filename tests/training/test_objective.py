"""The loss of one example: what it sees, and which points its gradient reaches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from conftest import TINY, distances_from_surface, first_example

from e2r.geometry import poses
from e2r.networks import mask_estimators
from e2r.registration import iterate, kernels, steps
from e2r.registration.schedule import apply_mask, register_cloud
from e2r.training import losses, objective
from e2r.types import Cloud, Example


def test_no_label_enters_the_loss():
    """An example holds only what a camera, a CT and a tracked pose give."""
    assert Example._fields == ("cloud", "pyramid", "surface", "targets", "pose")
    assert Cloud._fields == ("points", "colors", "normals", "valid")


def test_the_gradient_reaches_kept_and_dropped_points(bank):
    """The gradient of the pose loss with respect to the logits, with a sampled binary mask."""
    example = first_example(bank)
    centre = jnp.mean(example.cloud.points, axis=0)
    start = poses.perturb(jax.random.key(1), example.pose, centre, degrees=2.0, mm=2.0)
    logits = jnp.zeros(example.cloud.points.shape[0])

    def loss(logits):
        weights = mask_estimators.gumbel_straight_through(jax.random.key(2), logits)
        result = register_cloud(example.cloud, weights, example.surface, start, TINY.schedule)
        return losses.trajectory_loss(
            result.trajectory, example.targets, error_scale_mm=1.0
        ), weights

    gradient, weights = jax.grad(loss, has_aux=True)(logits)
    # Points beyond the robust kernel's reach have no gradient; all others have one.
    near = np.asarray(distances_from_surface(example) < 8.0)
    for chosen in (weights > 0.5, weights < 0.5):
        here = np.asarray(chosen) & near & np.asarray(example.cloud.valid)
        assert here.sum() > 5
        assert (np.abs(np.asarray(gradient)[here]) > 0).all()


def test_the_loss_gradient_equals_finite_differences_through_the_soft_path(bank):
    """d loss / d logits in float64, along random directions. The robust kernel is constant: the
    derivative of the others is cut by design."""
    example = first_example(bank)
    step = partial(steps.point_to_plane, kernel=kernels.constant)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, example
        )
        near = jnp.asarray(np.asarray(distances_from_surface(example) < 10.0) & example.cloud.valid)
        centre = jnp.mean(wide.targets.goals, axis=0)
        start = poses.perturb(jax.random.key(1), wide.pose, centre, degrees=2.0, mm=2.0)

        def loss(logits):
            weights = jnp.where(near, mask_estimators.soft(jax.random.key(0), logits), 0.0)
            scene = apply_mask(wide.cloud, weights)
            result = iterate.run_unrolled(scene, wide.surface, start, np.full(3, 5.0), step=step)
            return losses.trajectory_loss(result.trajectory, wide.targets, error_scale_mm=1.0)

        loss = jax.jit(loss)
        rng = np.random.default_rng(0)
        logits = jnp.asarray(rng.normal(size=len(near)))
        gradient = jax.grad(loss)(logits)
        assert float(jnp.linalg.norm(gradient)) > 1e-4
        for _ in range(5):
            direction = jnp.asarray(rng.normal(size=len(near)))
            numeric = (loss(logits + 1e-5 * direction) - loss(logits - 1e-5 * direction)) / 2e-5
            np.testing.assert_allclose(gradient @ direction, numeric, rtol=1e-4, atol=1e-9)


def test_a_batchs_figures_are_means_and_medians():
    values = np.array([1.0, 2.0, 9.0], np.float32)
    figures = objective.ExampleMetrics(*[values] * 8, terms=objective.LossTerms(*[values] * 5))
    reduced = objective.reduce_metrics(figures)
    assert set(objective.MEDIANS) <= set(figures._fields)
    assert [float(term) for term in reduced.terms] == [4.0] * 5  # as the loss, their sum
    for name, value in reduced._replace(terms=reduced.loss)._asdict().items():
        assert float(value) == (2.0 if name.endswith("_mm") and name != "spread_mm" else 4.0)
