"""Probes against closed forms and brute force, in double precision where gradients are compared."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import TINY, in_x64, numeric_gradient, scene_on, start_near

from e2r.analysis import (
    conditioning,
    estimator_bias,
    gradient_paths,
    influence,
    loss_landscape,
    nan_tracing,
    training_probe,
)
from e2r.analysis.stages import run_stages
from e2r.datasets import case_folder
from e2r.evaluation.preparation import level_centres
from e2r.geometry import poses, procrustes
from e2r.networks import mask_estimators
from e2r.registration import iterate, kernels, steps
from e2r.registration.schedule import Schedule, run_schedule
from e2r.training import batches, examples, loop, losses
from e2r.training.trained_model import load_trained
from e2r.types import MaskedCloud, Pose, Targets
from experiments.studies import probe

SCHEDULE = Schedule(step="point_to_plane", steps=4, first_scale_mm=6.0, last_scale_mm=3.0)


def targets_of(surface, truth):
    points = np.asarray(surface.points[:: len(surface.points) // 9])
    return Targets(points, poses.apply(truth, points), np.ones(len(points), bool))


@pytest.fixture
def problem(surface, truth, rng):
    """Noisy points, a third of them off the bone, and a start: single precision."""
    scene = scene_on(surface, truth, rng, 150, noise=0.5)
    points = np.where(np.arange(150)[:, None] % 3 > 0, scene.points, scene.points + 3.0)
    scene = scene._replace(points=points.astype(np.float32))
    return scene, surface, start_near(truth, points, 1.0, 1.0), targets_of(surface, truth)


def test_rank_correlation_is_scipys(rng):
    a, b = rng.integers(0, 6, (2, 40)).astype(np.float32)
    use = rng.uniform(size=40) < 0.7
    expected = scipy.stats.spearmanr(a[use], b[use]).statistic
    np.testing.assert_allclose(influence.spearman(a, b, use), expected, atol=1e-6)
    assert float(influence.spearman(a, np.zeros(40, np.float32), use)) == 0.0


def test_influence_agrees_with_leaving_points_out(problem):
    """In the soft path (soft masks and matches); the exact effect is that of a scene which
    never had the point."""
    schedule = replace(SCHEDULE, correspondence="soft")
    with jax.enable_x64(True):
        scene, model, start, targets = in_x64(problem)

        def error(weights, scene=scene):
            masked = scene._replace(weights=weights)
            result = run_schedule(masked, model, start, schedule)
            return losses.mean_target_error(result.pose, targets)

        logits, rows = jnp.linspace(-1.5, 2.5, 150), jnp.arange(0, 150, 6)
        found = jax.jit(partial(influence.influence, error, chunk=8))(logits, rows)
        assert float(found.rank_correlation) >= 0.9
        keep = jax.nn.sigmoid(logits)
        np.testing.assert_allclose(found.by_logit, found.by_weight * keep * (1 - keep), rtol=1e-9)
        without = jax.jit(error)
        as_it_is = float(jax.jit(error)(keep))
        for place in (0, 7):
            row = rows[place]
            gone = MaskedCloud(*(jnp.delete(leaf, row, axis=0) for leaf in scene))
            exact = float(without(jnp.delete(keep, row), gone)) - as_it_is
            np.testing.assert_allclose(found.num_degenerate[place], exact, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
def test_the_shares_of_the_steps_are_the_truncated_gradients(problem):
    """Their sum is the whole gradient, their tails those of `last`; all robust weights are one, so
    that finite differences are the derivative."""
    with jax.enable_x64(True):
        scene, model, start, targets = in_x64(jax.tree.map(np.asarray, problem))
        error, scales = gradient_paths.final_error(targets), SCHEDULE.scales()
        step = partial(steps.point_to_plane, kernel=kernels.constant)
        centre = jnp.mean(model.points, axis=0)

        @jax.jit
        def probe():
            found = gradient_paths.gradient_by_step(error, scene, model, start, scales, step=step)
            where = (scene, model, start, scales, found)
            return found, gradient_paths.gradient_by_mode(error, *where, step=step, last=2)

        def final(weights, nudge, mode):
            masked, begin = scene._replace(weights=weights), steps.apply_twist(start, nudge, centre)
            how = {"step": step, "mode": mode, "last": 2}
            return error(iterate.run_unrolled(masked, model, begin, scales, **how).trajectory)

        found, modes = probe()
        by_name = dict(zip(iterate.GRADIENT_MODES, modes.gradients, strict=True))
        still = jnp.zeros(6)
        for mode in ("unrolled", "last"):
            slope = jax.jit(jax.grad(partial(final, mode=mode)))(scene.weights, still)
            np.testing.assert_allclose(by_name[mode], slope, rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(found.shares.sum(0), by_name["unrolled"], rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(by_name["one_step"], found.shares[3], rtol=1e-12)
        whole = found.truncated[0]
        np.testing.assert_allclose(found.truncated_cosines[0], 1.0)
        cosines = found.shares @ whole / found.share_norms / jnp.linalg.norm(whole)
        np.testing.assert_allclose(found.share_cosines, cosines, rtol=1e-9)
        np.testing.assert_allclose(np.diag(modes.comparison.cosines), 1.0)
        of_start = jax.jit(lambda nudge: final(scene.weights, nudge, "unrolled"))
        slope = numeric_gradient(of_start, np.zeros(6), eps=1e-7)
        np.testing.assert_allclose(found.poses[0], slope, rtol=1e-3, atol=1e-6)


def test_paths_sum_to_the_whole():
    def function(copies):
        a, b = copies
        return jnp.sum(a["x"] ** 2) * jnp.sum(jnp.sin(b["x"]))

    x = {"x": jnp.array([0.3, -1.2, 2.0])}
    shares = gradient_paths.by_copy(function, x, 2)
    whole = jax.grad(lambda x: function((x, x)))(x)
    np.testing.assert_allclose(shares[0]["x"] + shares[1]["x"], whole["x"], rtol=1e-6)
    matrix = gradient_paths.stack_gradients(shares)
    compared = gradient_paths.compare(jnp.concatenate([matrix, jnp.zeros((1, 3))]))
    np.testing.assert_allclose(compared.norms[:2], np.linalg.norm(matrix, axis=1), rtol=1e-6)
    assert float(compared.norms[2]) == 0.0 and not np.asarray(compared.cosines[2]).any()


@pytest.fixture
def fit(rng):
    """The error of a weighted Procrustes fit of seven points, two of them wrong; and logits."""
    source = rng.normal(size=(7, 3)) * 20.0
    truth = Pose(np.asarray(poses.exp_rotation(np.array([0.1, -0.2, 0.3]))), np.ones(3))
    target = np.asarray(poses.apply(truth, source)) + rng.normal(size=(7, 3))
    target[:2] += 6.0

    def loss(weights):
        pose = procrustes.procrustes(source, target, weights + 0.01).pose
        return jnp.mean(jnp.linalg.norm(poses.apply(pose, source) - target, axis=1)[2:])

    return loss, np.linspace(-2.0, 2.0, 7)


def test_enumeration_is_exact(fit):
    """Against sums over masks in plain Python, and finite differences of them."""
    loss, logits = fit
    rows = jnp.arange(7)
    with jax.enable_x64(True):
        found = jax.jit(partial(estimator_bias.enumerate_masks, loss, chunk=32))(
            jnp.asarray(logits)
        )
        one = jax.jit(loss)
        values = {mask: float(one(jnp.array(mask))) for mask in product((0.0, 1.0), repeat=7)}

        def expected(x):
            keep = 1.0 / (1.0 + np.exp(-x))
            return sum(
                value * np.prod(np.where(np.array(mask) > 0, keep, 1.0 - keep))
                for mask, value in values.items()
            )

        np.testing.assert_allclose(found.loss, expected(logits), rtol=1e-9)
        slope = numeric_gradient(expected, logits)
        assert np.abs(slope).max() > 1e-2
        np.testing.assert_allclose(found.gradient, slope, atol=1e-5 * np.abs(slope).max())
        # And what many draws say, within their own error.
        many = jax.jit(partial(estimator_bias.many_masks, loss=loss, draws=400))(
            jax.random.key(0), logits=jnp.asarray(logits), rows=rows
        )
        assert (np.abs(many.gradient - found.gradient) < 4.0 * many.error + 1e-9).all()
        assert 0 < float(many.error.max()) < 0.2 * float(jnp.linalg.norm(found.gradient))

        # Each estimator has a bias and a noise; only those that draw have noise.
        @jax.jit
        def judged(index):
            key, estimator = jax.random.key(1), estimator_bias.estimator_by_index(index)
            drawn = estimator_bias.draw_gradients(
                key, loss, jnp.asarray(logits), rows, estimator, draws=400
            )
            return estimator_bias.estimator_quality(drawn, found)

        for index, name in enumerate(mask_estimators.ESTIMATORS):
            quality = judged(jnp.int32(index))
            assert all(np.isfinite(figure) for figure in quality)
            assert (float(quality.deviation) > 1e-6) == (name in mask_estimators.WITH_TEMPERATURE)
    with pytest.raises(ValueError, match="use 1 to 14 points"):
        estimator_bias.all_masks(15)


def test_bias_and_noise_of_known_estimators():
    """A loss that is linear in each weight is expected where the weights are: no bias of the soft
    mask. Straight-through has none where the loss is linear in all."""
    logits, rows = jnp.array([-1.0, 0.3, 1.2]), jnp.arange(3)

    def bilinear(w):
        return 3.0 * w[0] * w[1] - 2.0 * w[1] * w[2] + w[2]

    def linear(w):
        return jnp.dot(w, jnp.array([1.0, -2.0, 0.5]))

    def quality(loss, name, draws):
        exact = estimator_bias.enumerate_masks(loss, logits)
        drawn = estimator_bias.draw_gradients(
            jax.random.key(3), loss, logits, rows, mask_estimators.by_name(name), draws=draws
        )
        return estimator_bias.estimator_quality(drawn, exact), exact

    soft, exact = quality(bilinear, "soft", 2)
    p = np.asarray(jax.nn.sigmoid(logits))
    slope = p * (1 - p) * np.array([3 * p[1], 3 * p[0] - 2 * p[2], 1 - 2 * p[1]])
    np.testing.assert_allclose(exact.gradient, slope, atol=1e-6)
    np.testing.assert_allclose([soft.bias, soft.deviation, soft.loss_bias], 0.0, atol=1e-5)
    np.testing.assert_allclose([soft.cosine, soft.single, soft.scale], 1.0, atol=1e-5)
    reinmax, exact = quality(linear, "reinmax", 4000)
    assert float(reinmax.bias) < 0.05 and abs(float(reinmax.scale) - 1.0) < 0.05
    # Of a sampled relaxation the mean slope is known: E[s (1 - s)] over logistic noise.
    gumbel, exact = quality(linear, "gumbel_straight_through", 4000)
    noise = scipy.stats.logistic.ppf((np.arange(20000) + 0.5) / 20000)
    s = scipy.stats.logistic.cdf(np.asarray(logits)[:, None] + noise)
    mean = (s * (1 - s)).mean(1) * np.array([1.0, -2.0, 0.5])
    bias = np.linalg.norm(mean - exact.gradient) / np.linalg.norm(exact.gradient)
    np.testing.assert_allclose(gumbel.bias, bias, atol=0.03)


def test_a_landscape_of_a_known_loss():
    origin = {"x": jnp.array([1.0, 2.0]), "y": jnp.array(3.0)}
    first = {"x": jnp.array([1.0, 0.0]), "y": jnp.array(0.0)}
    second = {"x": jnp.array([0.0, 0.0]), "y": jnp.array(-1.0)}
    found = loss_landscape.plane(
        lambda p: p["x"][0] ** 2 + p["x"][1] + 10.0 * p["y"],
        origin,
        first,
        second,
        np.array([-1.0, 0.0, 2.0]),
        np.array([0.0, 1.0]),
        chunk=4,
    )
    np.testing.assert_allclose(found, [[32, 22], [33, 23], [41, 31]])
    gradient = jnp.array([3.0, 0.0, 4.0])
    down, across = loss_landscape.directions(jax.random.key(0), gradient)
    np.testing.assert_allclose(down, [-0.6, 0.0, -0.8], atol=1e-6)
    np.testing.assert_allclose([down @ across, across @ across], [0.0, 1.0], atol=1e-6)
    pose = Pose(poses.exp_rotation(jnp.array([0.2, -0.1, 0.4])), jnp.array([5.0, 6.0, 7.0]))
    loss = loss_landscape.of_poses(lambda p: jnp.sum(p.translation), pose, jnp.zeros(3))
    np.testing.assert_allclose(loss(jnp.zeros(6)), 18.0, rtol=1e-6)
    moved = loss(jnp.array([0.0, 0, 0, 1.0, 0, 0]))
    np.testing.assert_allclose(moved, 18.0 + jnp.sum(pose.rotation[:, 0]), rtol=1e-6)


def test_conditioning_knows_what_a_plane_and_a_line_leave_open(surface, truth, rng):
    scene = scene_on(surface, truth, rng, 200)
    whole = conditioning.along_trajectory(scene, surface, truth, SCHEDULE)
    result = run_schedule(scene, surface, truth, SCHEDULE)
    np.testing.assert_allclose(whole.residual[-1], result.residual, rtol=1e-5)
    np.testing.assert_allclose(whole.effective_dof[-1], result.effective_dof, rtol=1e-5)
    assert (whole.effective > 195).all() and (whole.effective <= 200.01).all()
    assert (whole.gap > 0.1).all() and (whole.condition < 100).all()
    # Of a single triangle: two shifts and the turn about its normal are open.
    plane = surface.planes[0]
    side = np.cross(plane[3:6], [0.3, 0.5, 0.8])
    side /= np.linalg.norm(side)
    sides = np.stack([side, np.cross(plane[3:6], side)])
    flat = plane[:3] + (plane[6] * rng.uniform(-0.4, 0.4, (50, 2))).astype(np.float32) @ sides
    one = surface._replace(nodes=np.zeros_like(surface.nodes))
    patch = MaskedCloud(
        poses.apply(truth, flat), np.zeros((50, 3), np.float32), np.ones(50, np.float32)
    )
    open_ = conditioning.along_trajectory(patch, one, truth, SCHEDULE)
    np.testing.assert_allclose(open_.stiffness[0, :3], 0.0, atol=1e-6)
    assert float(open_.condition[0]) > 1e5
    line = patch._replace(
        points=poses.apply(
            truth, plane[:3] + np.linspace(-1, 1, 50)[:, None] * plane[6] * side
        ).astype(np.float32)
    )
    assert float(conditioning.along_trajectory(line, one, truth, SCHEDULE).gap[0]) < 1e-3
    nothing = patch._replace(weights=np.zeros(50, np.float32))
    found = conditioning.along_trajectory(nothing, one, truth, SCHEDULE)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert not np.asarray(found.effective).any()


@pytest.fixture(scope="module")
def example(bank):
    return jax.tree.map(lambda leaf: leaf[0], examples.draw_examples(bank, np.array([0])))


def test_the_first_fault_is_named(example, checkpoint, simulated_cases):
    """Of a batch of two, in which one is broken on purpose."""
    _, params = load_trained(checkpoint)
    centres = level_centres(simulated_cases[0].model)

    @jax.jit
    @jax.vmap
    def stages(params, example):
        key, how = jax.random.key(1), (TINY.network, TINY.schedule)
        begin = example.pose
        return run_stages(
            *how, (params["mask"],) * 3, params["coarse"], key, example, centres, start=begin
        )

    def fault(change, index):
        batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (params, example))
        return nan_tracing.first_fault(stages(*change(*jax.tree.map(np.copy, batch), index)))

    def whole(params, example, _):
        return params, example

    def broken_model(params, example, index):
        example.surface.planes[index, :, :3] = np.nan
        return params, example

    def broken_layer(params, example, index):
        params["mask"]["params"]["Dense_0"]["kernel"][index] = 1e30  # finite, what it makes is not
        return params, example

    assert fault(whole, 0) is None
    found = fault(broken_model, 1)
    assert (found.stage, found.case, found.leaf) == ("surface", 1, "planes")
    found = fault(broken_layer, 0)
    assert (found.stage, found.case) == ("network", 0)
    assert found.numbers > 0
    assert nan_tracing.first_fault(
        {"a": np.zeros((2, 3)), "b": {"c": np.array([[0.0], [np.inf]])}}
    ) == ("b", 1, "['c']", 1)


@pytest.mark.slow
def test_probes_change_nothing_in_training(bank, checkpoint, tmp_path):
    """Bit for bit; their figures stand in metrics.jsonl, at their own steps."""
    probe = training_probe.make_probe(TINY)
    state = loop.train(TINY, batches.from_bank(TINY, bank), tmp_path, probe=probe, probe_every=4)
    _, params = load_trained(checkpoint)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    for line in lines:
        names = {f"probe_{name}" for name in training_probe.TrainingFigures._fields}
        assert (names <= set(line)) == (line["step"] in (4, 8))
    assert lines[-1]["probe_not_finite"] == 0
    assert lines[-1]["probe_mask_norm"] > 0 and lines[-1]["probe_last_share"] > 0
    assert lines[-1]["probe_mask_norm"] != lines[1]["probe_mask_norm"]


@pytest.mark.slow
def test_the_command_writes_its_figures(checkpoint, data_set, tmp_path, capsys):
    path = tmp_path / "probe.json"
    folder = shutil.copytree(case_folder.find_cases(data_set)[0], tmp_path / "case")
    arguments = [
        "--case",
        str(folder),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(path),
        "--parts",
        "paths",
        "landscape",
        "--grid",
        "3",
    ]
    assert probe.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "refinement" in shown and "end below 2 mm" in shown
    figures = json.loads(path.read_text())["figures"]
    by = figures["paths"]
    seen = np.array(by["errors"]) > 0
    assert seen.sum() >= 2
    assert (np.array(by["norms"])[seen] > 0).all()
    # Each share's length along the whole, of all paths, is the whole.
    parts = np.sum(np.array(by["norms"]) * np.array(by["cosines"]), axis=1)
    np.testing.assert_allclose(parts[seen], np.array(by["whole"])[seen], rtol=1e-6)
    assert np.shape(figures["landscape"]) == (3, 3)
    (folder / "truth.json").unlink()
    assert probe.main(arguments) == 2
    assert "has no truth.json" in capsys.readouterr().err
    for bad in (["--grid", "1"], ["--parts", "gradients"]):
        with pytest.raises(SystemExit) as stopped:
            probe.main([*arguments, *bad])
        assert stopped.value.code == 2
