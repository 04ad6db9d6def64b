"""The teacher: what reaches the mask, what never does, and that a run can be resumed."""

import dataclasses
import json
import os
import shutil
import signal
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY, first_state

from e2r.analysis import nan_tracing
from e2r.config import (
    NAMED_CONFIGS,
    OptimisationConfig,
    ScenesConfig,
    config_from_json,
    config_to_json,
)
from e2r.datasets import case_folder
from e2r.evaluation.calibration import load_calibration
from e2r.geometry import correspondences, poses
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig, build_mask_network, draw_tokens
from e2r.registration import coarse, iterate, kernels, steps
from e2r.registration.schedule import Schedule, apply_mask, register_cloud
from e2r.runtime import sharding
from e2r.training import batches, checkpoints, examples, loop, losses
from e2r.training.metrics_log import read_log
from e2r.training.step import batch_gradient, init_state, make_update, train_step
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Cloud, Example


def first_example(bank) -> Example:
    return jax.tree.map(lambda leaf: leaf[0], examples.draw_examples(bank, np.array([0])))


def test_no_label_enters_the_loss():
    """An example holds what a camera, a CT and a tracked pose give, and nothing else."""
    assert Example._fields == ("cloud", "pyramid", "surface", "targets", "pose")
    assert Cloud._fields == ("points", "colors", "normals", "valid")


def test_the_bank_forgets_which_points_are_bone(simulated_cases):
    """Lying about the bone changes no number of the training data."""
    lies = [dataclasses.replace(case, bone=~case.bone) for case in simulated_cases]
    honest, told = (examples.make_bank([group], TINY) for group in (simulated_cases, lies))
    for a, b in zip(jax.tree.leaves(honest), jax.tree.leaves(told), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_gradient_reaches_kept_and_dropped_points(bank):
    """Of the whole loss, with the sampled binary mask, with respect to the logits."""
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
    # Points beyond the robust kernel's reach have no say; of the others, all have a gradient.
    near = np.asarray(bone_distance(example) < 8.0)
    for chosen in (weights > 0.5, weights < 0.5):
        here = np.asarray(chosen) & near & np.asarray(example.cloud.valid)
        assert here.sum() > 5
        assert (np.abs(np.asarray(gradient)[here]) > 0).all()


def bone_distance(example):
    queries = poses.apply_inverse(example.pose, example.cloud.points)
    return jnp.linalg.norm(
        queries - correspondences.project(example.surface, queries).points, axis=1
    )


def test_the_loss_gradient_equals_finite_differences_through_the_soft_path(bank):
    """d loss / d logits in float64 along random directions; the robust weight is the plain one,
    since the derivative of the others is cut by design."""
    example = first_example(bank)
    step = partial(steps.point_to_plane, kernel=kernels.constant)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, example
        )
        near = jnp.asarray(np.asarray(bone_distance(example) < 10.0) & example.cloud.valid)
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
            way = jnp.asarray(rng.normal(size=len(near)))
            numeric = (loss(logits + 1e-5 * way) - loss(logits - 1e-5 * way)) / 2e-5
            np.testing.assert_allclose(gradient @ way, numeric, rtol=1e-4, atol=1e-9)


def test_augmentation_keeps_the_truth(bank):
    example = first_example(bank)
    turned = examples.augment_example(jax.random.key(5), example)
    placed = poses.apply(turned.pose, example.targets.points)
    valid = example.targets.valid
    np.testing.assert_allclose(placed[valid], turned.targets.goals[valid], atol=2e-2)
    before, after = bone_distance(example), bone_distance(turned)
    close = np.asarray(before < 5.0)
    np.testing.assert_allclose(np.asarray(after)[close], np.asarray(before)[close], atol=0.1)


def run(bank, output, **options):
    return loop.train(TINY, batches.from_bank(TINY, bank), output, **options)


def test_interrupted_equals_uninterrupted_bit_for_bit(bank, tmp_path, monkeypatch):
    whole = run(bank, tmp_path / "whole")
    run(bank, tmp_path / "parts", stop_after=2)  # not on a checkpoint's step
    run(bank, tmp_path / "parts", stop_after=5)
    parts = run(bank, tmp_path / "parts")
    assert int(parts.step) == int(whole.step) == TINY.optimisation.steps
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    config, params = load_trained(tmp_path / "parts")
    assert config == TINY
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    steps_logged = [
        json.loads(line)["step"]
        for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps_logged == sorted(set(steps_logged))
    assert steps_logged[-1] == TINY.optimisation.steps
    # Killed at step 8, after the checkpoint of step 6: the same again.
    update, calls = make_update, []

    def dying(*how):
        step = update(*how)

        def one(state, *inputs):
            calls.append(int(state.step))
            if len(calls) == 8:
                raise KeyboardInterrupt
            return step(state, *inputs)

        return one

    monkeypatch.setattr(loop, "make_update", dying)
    with pytest.raises(KeyboardInterrupt):
        run(bank, tmp_path / "killed")
    killed = run(bank, tmp_path / "killed")
    assert calls == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(killed), strict=True):
        np.testing.assert_array_equal(a, b)
    logged = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [3, 6, 8]

    # Asked to stop in the fifth step: it is done and saved before the run leaves.
    def asking(*how):
        step = update(*how)

        def one(state, *inputs):
            if int(state.step) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, *inputs)

        return one

    monkeypatch.setattr(loop, "make_update", asking)
    with pytest.raises(KeyboardInterrupt):
        run(bank, tmp_path / "asked")
    assert checkpoints.latest_step(tmp_path / "asked") == 5
    monkeypatch.setattr(loop, "make_update", update)
    asked = run(bank, tmp_path / "asked")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(asked), strict=True):
        np.testing.assert_array_equal(a, b)
    # New, resumed or killed, all of them ran one program.
    assert update(TINY, None, sharding.make_mesh(2))._cache_size() == 1
    # Other settings, or other scenes, do not overwrite a run.
    with pytest.raises(ValueError, match="other settings"):
        run(bank, tmp_path / "parts", source="elsewhere")
    other = dataclasses.replace(TINY, seed=1)
    with pytest.raises(ValueError, match="other settings"):
        loop.train(other, batches.from_bank(other, bank), tmp_path / "parts")


def test_the_step_is_traced_once(bank):
    over = sharding.make_mesh(2)
    update = make_update(TINY, None, over)
    state, key = sharding.replicate((first_state(), jax.random.key(3)), over)
    before = jax.tree.map(np.asarray, state.params)
    for step, batch in enumerate(batches.from_bank(TINY, bank).batches(1, 3)):
        state, metrics = update(state, sharding.shard(batch, over), key, np.int32(step + 1))
    assert update._cache_size() == 1
    assert all(np.isfinite(leaf) for leaf in metrics)
    moved = [
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)
    ]
    assert max(moved) > 0


def test_parts_of_a_batch_give_its_gradient(bank):
    """Accumulated over two parts, as one."""
    batch, state = examples.draw_examples(bank, np.array([0, 1, 2, 3])), first_state()
    keys = jax.random.split(jax.random.key(4), 4)

    def gradient(parts):
        how = dataclasses.replace(TINY.optimisation, accumulate=parts)
        config = dataclasses.replace(TINY, optimisation=how)
        return jax.jit(partial(batch_gradient, config=config))(state.params, keys, batch)

    (whole, figures), (parts, same) = gradient(1), gradient(2)
    np.testing.assert_allclose(same.loss, figures.loss, rtol=1e-5)
    norm = float(optax.global_norm(whole))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * norm)


def test_networks_in_bfloat16_read_nearly_the_same(bank):
    """Their parameters are float32, and so is what they say."""
    example = first_example(bank)
    params = first_state().params
    half = dataclasses.replace(TINY.network, precision="bfloat16")

    cloud, full = example.cloud, TINY.network

    @jax.jit
    def read():
        several = [
            build_mask_network(settings).apply(params["mask"], cloud, example.pyramid)
            for settings in (full, half)
        ]
        tokens = draw_tokens(jax.random.key(0), cloud, several[0], full)
        where = [
            coarse.predict_pose(settings, params, tokens, example.surface, jnp.float32(0.3))
            for settings in (full, half)
        ]
        return tuple(zip(several, where, strict=True))

    found, rough = read()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(rough), strict=True):
        assert a.dtype == b.dtype
        if a.dtype == jnp.float32:
            assert 0 < float(jnp.linalg.norm(a - b)) < 0.1 * float(jnp.linalg.norm(a))
    config = dataclasses.replace(TINY, network=half)
    fresh = jax.eval_shape(partial(init_state, config))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh.params)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def broken(bank):
    """A bank with one bad example, and the first step whose batch holds it; none before does."""
    colors = np.array(bank.examples.cloud.colors)
    colors[2] = np.nan
    cloud = bank.examples.cloud._replace(colors=colors)
    stream = batches.from_bank(TINY, bank._replace(examples=bank.examples._replace(cloud=cloud)))
    bad = [bank.names[2] in stream.names(step) for step in range(1, 9)]
    assert 1 < bad.index(True) + 1 < 9
    return stream, bank.names[2], bad


def test_a_loss_that_is_not_finite_stops_the_run(broken, bank, tmp_path):
    """Before the step that makes it; step, case and function are named."""
    stream, name, bad = broken
    first = bad.index(True) + 1
    with pytest.raises(loop.NotFiniteError, match=f"not finite in step {first}, of") as caught:
        loop.train(TINY, stream, tmp_path / "bad")
    assert checkpoints.latest_step(tmp_path / "bad") == first - 1
    good = run(bank, tmp_path / "good", stop_after=first - 1)
    for a, b in zip(jax.tree.leaves(caught.value.state), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a, b)
    sentence = nan_tracing.explain(TINY, caught.value)
    assert sentence.endswith(f"is colors of cloud, in {name}"), sentence


@pytest.mark.slow
def test_where_all_is_well_no_fault_is_found(bank):
    """Neither on the way there nor on the way back."""
    batch = examples.draw_examples(bank, np.array([0, 1]))
    error = loop.NotFiniteError(1, first_state(), batch, ["a", "b"])
    assert nan_tracing.explain(TINY, error).startswith("no case")


def test_steps_that_are_not_finite_are_skipped_and_counted_on_request(broken, tmp_path):
    stream, _, bad = broken
    how = dataclasses.replace(TINY.optimisation, skip_not_finite=True)
    config = dataclasses.replace(TINY, optimisation=how)
    state = loop.train(config, stream, tmp_path)
    assert int(state.step) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    lines = read_log(tmp_path)
    assert sum(line["skipped"] for line in lines) == sum(bad)


def test_the_training_step_exports_for_tpu_cuda_and_cpu(bank):
    """As it stands, from this machine; no LAPACK, no host callback, no custom call at all."""
    state = first_state()
    batch = examples.draw_examples(bank, np.array([0, 1]))

    def step(state, batch, seed):
        return train_step(state, batch, jax.random.key(seed), config=TINY)

    exported = jax.export.export(jax.jit(step), platforms=["tpu", "cuda", "cpu"])(
        state, batch, jnp.int32(0)
    )
    assert set(exported.platforms) == {"tpu", "cuda", "cpu"}
    text = exported.mlir_module().lower()
    assert "stablehlo.gather" in text  # it is the program, not an empty shell
    for word in ("lapack", "callback", "custom_call"):
        assert word not in text, word
    # What was exported runs here.
    _, metrics = exported.call(state, batch, jnp.int32(0))
    assert all(np.isfinite(leaf) for leaf in metrics)


def test_settings_survive_the_checkpoint():
    for _, config in NAMED_CONFIGS.values():
        assert config_from_json(config_to_json(config)) == config
    for kind, options in (
        (OptimisationConfig, {"steps": 0}),
        (OptimisationConfig, {"mm": float("nan")}),
        (OptimisationConfig, {"checkpoint_every": 0}),
        (ScenesConfig, {"frames": 0}),
        (NetworkConfig, {"widths": ()}),
        (NetworkConfig, {"points": 1000}),
        (Schedule, {"step": "sideways"}),
        (Schedule, {"first_scale_mm": 0.5}),
    ):
        with pytest.raises(ValueError, match="use"):
            kind(**options)
    with pytest.raises(ValueError, match="another version"):
        config_from_json({"seed": 1})


def test_the_packaged_model_is_whole_and_small():
    """`register` without a checkpoint uses it."""
    config, params = load_trained(PACKAGED)
    assert config.scenes == NAMED_CONFIGS["base"][1].scenes
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert load_calibration(PACKAGED) is not None
    assert read_log(PACKAGED)[-1]["step"] == config.optimisation.steps
    files = [path for path in PACKAGED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6


def test_case_folders_are_read_as_training_goes_on(data_set, tmp_path):
    """Of the same numbers from any step on, by threads and by processes; and a run on them."""
    stream = batches.from_folder(TINY, data_set)
    two = [*stream.batches(1, 4)]
    assert len(two) == 4 and two[0].cloud.points.shape[0] == 2
    ids = {path.name for path in case_folder.find_cases(data_set)}
    assert {name for step in range(1, 7) for name in stream.names(step)} == ids
    assert len(set(stream.names(1) + stream.names(2)[:1])) == 3  # a pass sees each case once
    by_processes = batches.from_folder(TINY, data_set, workers=1)
    for expected, one in zip(two[2:], by_processes.batches(3, 4), strict=True):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(one), strict=True):
            np.testing.assert_array_equal(a, b)
    state = loop.train(TINY, stream, tmp_path / "run", stop_after=2, source="folder")
    assert int(state.step) == 2
    assert 0 < read_log(tmp_path / "run")[-1]["waited"] < 1
    broken = shutil.copytree(data_set, tmp_path / "broken")
    (case_folder.find_cases(broken)[1] / "truth.json").unlink()
    with pytest.raises(ValueError, match=r"has no truth\.json"):
        batches.from_folder(TINY, broken)
