"""The coarse stage: upright frames, poses from correspondences, and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, farthest, in_x64

from e2r.geometry import poses
from e2r.networks import coarse_network
from e2r.networks.build import init_params
from e2r.registration import coarse
from e2r.training import examples, losses
from e2r.types import Pose, Targets


def turned(pose, roll, centre):
    """The same scene after a roll of the camera."""
    spin = Pose(poses.exp_rotation(jnp.array([0.0, 0.0, roll])), jnp.zeros(3))
    return poses.compose(poses.about(spin, centre), pose)


def predict(params, tokens, surface, roll):
    return coarse.predict_pose(params, tokens, surface, roll=jnp.float32(roll), config=TINY.network)


@pytest.fixture(scope="module")
def tokens(surface, truth):
    rng = np.random.default_rng(0)
    pick = rng.choice(len(surface.points), TINY.network.tokens, replace=False)
    points = np.asarray(poses.apply(truth, surface.points[pick]))
    normals = np.asarray(poses.rotate(truth, surface.normals[pick]))
    features = rng.normal(size=(len(pick), TINY.network.widths[0])).astype(np.float32)
    return coarse_network.SceneTokens(points, normals, features, np.ones(len(pick), bool)), pick


@pytest.fixture(scope="module")
def params():
    example = examples.shape_example(TINY.network)
    return init_params(jax.random.key(0), TINY.network, example.cloud, example.pyramid)


@pytest.mark.parametrize("roll", [0.0, 1.0, 2.5, -2.0])
def test_the_true_roll_turns_the_scene_upright(surface, truth, tokens, roll):
    pose = turned(truth, roll, tokens[0].points.mean(0))
    frame = coarse.upright_frame(tokens[0], coarse.upright_roll(pose, surface))
    seen = poses.compose(frame, poses.compose(pose, poses.inverse(surface.canonical_from_model)))
    assert abs(float(seen.rotation[0, 2])) < 1e-5  # the head leans to no side
    assert float(seen.rotation[2, 2]) > 0.5
    assert float(seen.rotation[1, 1]) > 0.5  # and the back faces the camera


def test_true_correspondences_give_the_true_pose(surface, truth, tokens):
    given, pick = tokens
    places = poses.apply(surface.canonical_from_model, surface.points[pick])
    sure = np.ones(len(pick), np.float32)
    pose = coarse.solve_pose(given, coarse_network.CoarseCorrespondences(places, sure), surface)
    assert farthest(surface, pose, truth) < 1e-2


def test_a_coarse_pose_moves_with_the_scene(surface, tokens, params):
    given, _ = tokens
    centre, roll = given.points.mean(0), 0.7
    pose, found = predict(params, given, surface, 0.4)
    spin = turned(poses.identity(), roll, centre)
    spin = spin._replace(translation=spin.translation + jnp.array([20.0, -30.0, 40.0]))
    moved = given._replace(
        points=poses.apply(spin, given.points), normals=poses.rotate(spin, given.normals)
    )
    other, again = predict(params, moved, surface, 0.4 - roll)
    np.testing.assert_allclose(found.places, again.places, atol=1e-2)
    assert farthest(surface, other, poses.compose(spin, pose)) < 0.05


def test_unused_tokens_have_no_effect(surface, tokens, params):
    given, _ = tokens
    use = np.arange(len(given.use)) < 20
    rubbish = np.where(use[:, None], given.points, 1e4).astype(np.float32)
    a = predict(params, given._replace(use=use), surface, 0.0)
    b = predict(params, given._replace(points=rubbish, use=use), surface, 0.0)
    np.testing.assert_allclose(a[0].translation, b[0].translation, atol=1e-2)
    np.testing.assert_array_equal(a[1].confidence[20:], 0.0)


def test_coarse_loss_gradients_forward_reverse_numeric(surface, truth, tokens, params):
    """With respect to all parameters of the coarse network, along a random direction, in x64."""
    given, _ = tokens
    targets = Targets(surface.points[::500], poses.apply(truth, surface.points[::500]), None)
    targets = targets._replace(valid=np.ones(len(targets.points), bool))
    # Flax's LayerNorm takes its statistics in float32 and mixes them with double inputs.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, read, aims, pose = (in_x64(t) for t in (surface, given, targets, truth))
        goals = poses.apply(model.canonical_from_model, poses.apply_inverse(pose, read.points))

        def loss(coarse_params):
            whole = {"mask": None, "coarse": coarse_params}
            guess, found = coarse.predict_pose(
                whole, read, model, roll=jnp.float64(0.3), config=TINY.network
            )
            return losses.coarse_loss(
                found.places,
                goals,
                confidence=found.confidence,
                pose=guess,
                targets=aims,
                error_scale_mm=5.0,
            )

        at = in_x64(params["coarse"])
        leaves, tree = jax.tree.flatten(at)
        rng = np.random.default_rng(0)
        way = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=x.shape)) for x in leaves])
        _, forward = jax.jit(lambda a, b: jax.jvp(loss, (a,), (b,)))(at, way)
        reverse = jax.jit(jax.grad(loss))(at)
        dot = sum(
            jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (reverse, way)), strict=True)
        )
        np.testing.assert_allclose(forward, dot, rtol=1e-6)
        run, eps = jax.jit(loss), 1e-6
        ahead, behind = (
            run(jax.tree.map(lambda a, b, s=s: a + s * eps * b, at, way)) for s in (1, -1)
        )
        np.testing.assert_allclose(forward, (ahead - behind) / (2 * eps), rtol=1e-4)
