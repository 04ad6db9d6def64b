"""The training step: traced once, accumulated, and exported for other devices."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from conftest import TINY, first_state

from e2r.runtime import sharding
from e2r.training import batches, sources
from e2r.training.problems import draw_problem
from e2r.training.step import batch_gradient, compiled_train_step, train_step


def test_the_step_is_traced_once(bank):
    mesh = sharding.make_mesh(2)
    step_fn = compiled_train_step(TINY, None, mesh)
    state, key = sharding.replicate((first_state(), jax.random.key(3)), mesh)
    before = jax.tree.map(np.asarray, state.params)
    for step, batch in enumerate(batches.uniform_batches(TINY, bank).iterate(1, 3)):
        state, metrics = step_fn(state, sharding.shard(batch, mesh), key, step=np.int32(step + 1))
    assert step_fn.compilations() == 1
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(metrics))
    moved = [
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)
    ]
    assert max(moved) > 0


def test_parts_of_a_batch_give_its_gradient(bank):
    """Accumulated over two parts, the gradient is that of the whole batch."""
    batch, state = sources.read_batch(bank, range(4)), first_state()
    keys, problems = jax.vmap(lambda k, e: draw_problem(k, e, TINY.optimisation))(
        jax.random.split(jax.random.key(4), 4), batch
    )

    def gradient(parts):
        options = dataclasses.replace(TINY.optimisation, accumulate=parts)
        config = dataclasses.replace(TINY, optimisation=options)
        return jax.jit(batch_gradient(config))(state.params, keys, problems)

    (whole, figures), (parts, same) = gradient(1), gradient(2)
    np.testing.assert_allclose(same.loss, figures.loss, rtol=1e-5)
    norm = float(optax.global_norm(whole))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * norm)


def test_a_state_behind_or_not_finite_stays_as_it_is(bank):
    """With ``skip_not_finite`` the step counts; without it nothing changes, not even the step."""
    state, batch = first_state(), sources.read_batch(bank, [0, 1])
    colors = np.full_like(batch.cloud.colors, np.nan)
    broken = batch._replace(cloud=batch.cloud._replace(colors=colors))
    options = dataclasses.replace(TINY.optimisation, skip_not_finite=True)
    skipping = dataclasses.replace(TINY, optimisation=options)
    key = jax.random.key(0)
    step_fn = jax.jit(
        lambda state, batch, step, config: train_step(state, batch, key, config=config, step=step),
        static_argnums=3,
    )
    for config, data, step, expected in (
        (TINY, batch, 2, 0),
        (TINY, broken, 1, 0),
        (skipping, broken, 1, 1),
    ):
        after, metrics = step_fn(state, data, np.int32(step), config)
        assert int(after.step) == expected
        assert bool(metrics.skipped) == (data is broken)
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_training_step_exports_for_tpu_cuda_and_cpu(bank):
    """Unchanged, from this machine; it has no LAPACK, no host callback and no custom call."""
    state = first_state()
    batch = sources.read_batch(bank, [0, 1])

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
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(metrics))
