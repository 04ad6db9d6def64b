"""The training step: pure, ``(state, batch, key) -> (state, metrics)``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from e2r.config import OptimisationConfig, TrainingConfig
from e2r.networks.build import build_mask_network, init_params
from e2r.runtime import sharding
from e2r.training.examples import shape_example
from e2r.training.objective import MaskLoss, StepMetrics, example_loss
from e2r.types import Array, Example, Params


class TrainState(NamedTuple):
    """All that a step changes; keys derive from the seed and the step."""

    step: Array  # () int32, steps done
    params: Params
    optimiser: optax.OptState


def make_optimiser(options: OptimisationConfig) -> optax.GradientTransformation:
    """AdamW with clipping, warm-up and a cosine; on one vector, for its step compiles sooner."""
    warm = min(30, max(1, options.steps // 10))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, warm, max(options.steps, warm + 1), 0.02 * options.learning_rate
    )
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(options.clip),
            optax.adamw(rate, weight_decay=options.weight_decay),
        )
    )


def init_state(config: TrainingConfig) -> TrainState:
    """The state before the first step; under ``jit`` one program, else three hundred small ones."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    example = shape_example(config.network)
    params = init_params(key, config.network, example.cloud, example.pyramid)
    optimiser = make_optimiser(config.optimisation).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser)


def batch_gradient(
    params: Params,
    keys: Array,
    batch: Example,
    *,
    config: TrainingConfig,
    teacher: MaskLoss | None = None,
    axis: str | None = None,
) -> tuple[Params, StepMetrics]:
    """Gradient of the mean loss, and the metrics of each example (leading axis B).

    Args:
      params: of both networks.
      keys: (B,), consumed.
      batch: leading axis B; taken in ``optimisation.accumulate`` parts, one after the other.
      config, teacher: of the run.
      axis: of the mesh, where these are one device's rows: the gradient is that of all devices'.
    """
    module = build_mask_network(config.network)
    parts = config.optimisation.accumulate
    one = partial(example_loss, module=module, config=config, teacher=teacher)

    def part(rows: tuple[Array, Example]) -> tuple[Params, StepMetrics]:
        def mean_loss(params: Params) -> tuple[jax.Array, StepMetrics]:
            loss, metrics = jax.vmap(partial(one, params))(*rows)
            return jnp.mean(loss), metrics

        return jax.grad(mean_loss, has_aux=True)(params)

    if parts == 1:
        gradient, metrics = part((keys, batch))
    else:
        split = jax.tree.map(
            lambda leaf: leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:]), (keys, batch)
        )
        zero = jax.tree.map(jnp.zeros_like, params)

        def add(total: Params, rows: tuple[Array, Example]) -> tuple[Params, StepMetrics]:
            gradient, metrics = part(rows)
            return jax.tree.map(lambda a, b: a + b / parts, total, gradient), metrics

        gradient, metrics = jax.lax.scan(add, zero, split)
        metrics = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), metrics)
    return (gradient if axis is None else jax.lax.pmean(gradient, axis)), metrics


def train_step(
    state: TrainState,
    batch: Example,
    key: Array,
    *,
    config: TrainingConfig,
    teacher: MaskLoss | None = None,
    over: Mesh | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One step of gradient descent on a batch (leading axis B); pure.

    A step whose loss or gradient is not finite changes nothing but the number of steps.

    Args:
      state: before it.
      batch: leading axis B.
      key: consumed.
      config, teacher: of the run.
      over: the mesh among whose devices the batch is divided; without it, one device has it all.
    """
    keys = jax.random.split(key, batch.pose.translation.shape[0])
    how = partial(batch_gradient, config=config, teacher=teacher)
    if over is not None:
        how = jax.shard_map(
            partial(how, axis=sharding.AXIS),
            mesh=over,
            check_vma=False,
            in_specs=(sharding.REPLICATED, sharding.SHARDED, sharding.SHARDED),
            out_specs=(sharding.REPLICATED, sharding.SHARDED),
        )
    gradient, metrics = how(state.params, keys, batch)
    loss, norm = jnp.mean(metrics.loss), optax.global_norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, optimiser = make_optimiser(config.optimisation).update(
        gradient, state.optimiser, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params, optimiser = tree_where(finite, (params, optimiser), (state.params, state.optimiser))
    return TrainState(state.step + 1, params, optimiser), StepMetrics(
        loss=loss,
        tre_mm=jnp.median(metrics.tre_mm),
        start_mm=jnp.median(metrics.start_mm),
        coarse_mm=jnp.median(metrics.coarse_mm),
        keep=jnp.mean(metrics.keep),
        effective=jnp.mean(metrics.effective),
        spread_mm=jnp.mean(metrics.spread_mm),
        entropy=jnp.mean(metrics.entropy),
        gradient=norm,
        skipped=jnp.where(finite, 0.0, 1.0),
    )


def tree_where(which: Array, a: Any, b: Any) -> Any:
    """The one pytree or the other, by a flag ()."""
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


@lru_cache(maxsize=4)
def make_update(
    config: TrainingConfig, teacher: MaskLoss | None = None, over: Mesh | None = None
) -> Callable[[TrainState, Example, Array, Array], tuple[TrainState, StepMetrics]]:
    """The compiled update: (state, batch, the run's key, step to take) -> the state after it.

    Kept for the last few configurations, so that their runs share it. Its keys come from the run's
    key and ``state.step``, so a resumed run repeats the whole one. The state stays before the first
    step that is not finite, unless the run skips such steps.
    """
    skips = config.optimisation.skip_not_finite

    def update(
        state: TrainState, batch: Example, key: Array, step: Array
    ) -> tuple[TrainState, StepMetrics]:
        _, k_step = jax.random.split(jax.random.fold_in(key, state.step))
        after, metrics = train_step(state, batch, k_step, config=config, teacher=teacher, over=over)
        if not skips:
            taken = (state.step == step - 1) & (metrics.skipped == 0.0)
            after = tree_where(taken, after, state)
        return after, metrics

    return jax.jit(update, donate_argnums=0)
