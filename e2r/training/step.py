"""The training step: pure, ``(state, batch, key) -> (state, metrics)``.

The gradient of a batch is built from the loss of one example by three combinators:
:func:`mean_gradient`, :func:`accumulated` and :func:`data_parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from e2r.config import OptimisationConfig, TrainingConfig
from e2r.networks.build import init_params
from e2r.runtime import sharding
from e2r.runtime.compile_cache import HonestJit
from e2r.training.examples import shape_example
from e2r.training.objective import (
    ExampleMetrics,
    MaskLoss,
    StepMetrics,
    example_loss,
    reduce_metrics,
)
from e2r.training.problems import LossKeys, RegistrationProblem, draw_problem
from e2r.types import Array, Bool, Example, Float, Int, Params, PRNGKey

LossFn: TypeAlias = Callable[
    [Params, LossKeys, RegistrationProblem], tuple[Float[Array, ""], ExampleMetrics]
]
"""(params, keys, problem) -> loss and figures of one example."""

GradientFn: TypeAlias = Callable[
    [Params, LossKeys, RegistrationProblem], tuple[Params, ExampleMetrics]
]
"""(params, keys, problems), leading axis B -> gradient of the mean loss, figures of each."""


class TrainState(NamedTuple):
    """All that a step changes. Random keys derive from the seed and the step."""

    step: Int[Array, ""]  # steps done
    params: Params
    optimiser: optax.OptState


def learning_rate(options: OptimisationConfig) -> optax.Schedule:
    """The learning rate by the number of updates done: a warm-up, then a cosine."""
    warm_up = min(30, max(1, options.steps // 10))
    rate: optax.Schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        options.learning_rate,
        warm_up,
        max(options.steps, warm_up + 1),
        0.02 * options.learning_rate,
    )
    return rate


def make_optimiser(options: OptimisationConfig) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine; on one vector, since that compiles faster."""
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(options.clip),
            optax.adamw(learning_rate(options), weight_decay=options.weight_decay),
        )
    )


def init_state(config: TrainingConfig) -> TrainState:
    """The state before the first step; call it under ``jit``, as one program instead of 300."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    example = shape_example(config.network)
    params = init_params(key, config.network, example.cloud, example.pyramid)
    optimiser = make_optimiser(config.optimisation).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser)


def train_step(
    state: TrainState,
    batch: Example,
    key: PRNGKey,
    *,
    config: TrainingConfig,
    step: Int[Array, ""] | None = None,
    mask_loss: MaskLoss | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One step of gradient descent on a batch; pure.

    A step whose loss or gradient is not finite leaves the state as it was. With
    ``skip_not_finite`` it still counts as a step.

    Args:
      state: before the step.
      batch: leading axis B.
      key: the run's; the number of the step is folded in, so a resumed run repeats the whole one.
      config: of the run.
      step: number of this step, from 1. A state that has not done all steps before it stays as it
        is, unless the run skips steps. None: the state's next step.
      mask_loss: teaches the mask instead of the pose error.
      mesh: devices among which the batch is divided; None for one device.
    """
    _, k_step = jax.random.split(jax.random.fold_in(key, state.step))
    keys, problems = jax.vmap(partial(draw_problem, options=config.optimisation))(
        jax.random.split(k_step, batch.pose.translation.shape[0]), batch
    )
    gradient_fn = batch_gradient(config, mask_loss, mesh)
    gradient, metrics = gradient_fn(state.params, keys, problems)
    figures, norm = reduce_metrics(metrics), optax.global_norm(gradient)
    finite = jnp.isfinite(figures.loss) & jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer count with floats
        updates, optimiser = make_optimiser(config.optimisation).update(
            gradient, state.optimiser, state.params
        )
    after = TrainState(state.step + 1, optax.apply_updates(state.params, updates), optimiser)
    taken, otherwise = finite, state
    if config.optimisation.skip_not_finite:
        otherwise = state._replace(step=state.step + 1)
    elif step is not None:
        taken = finite & (state.step == step - 1)
    skipped = jnp.where(finite, 0.0, 1.0)
    return tree_where(taken, after, otherwise), StepMetrics(figures, norm, skipped)


def last_learning_rate(state: TrainState, options: OptimisationConfig) -> float:
    """The learning rate of the last update; that of the first one before any.

    Args:
      state: after the step.
      options: of the run.
    """
    counts = optax.tree_utils.tree_get_all_with_path(state.optimiser, "count")
    updates = int(np.asarray(counts[0][1]))
    with jax.numpy_dtype_promotion("standard"):
        return float(learning_rate(options)(np.asarray(max(updates - 1, 0), np.int32)))


@lru_cache(maxsize=4)
def compiled_train_step(
    config: TrainingConfig, mask_loss: MaskLoss | None = None, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """The compiled :func:`train_step`, ``(state, batch, key, step=...)``; it consumes the state.

    The programs of the last few configurations are kept, so that their runs share them.
    """
    step = partial(train_step, config=config, mask_loss=mask_loss, mesh=mesh)
    return HonestJit(step, donate_argnums=0)


def batch_gradient(
    config: TrainingConfig, mask_loss: MaskLoss | None = None, mesh: Mesh | None = None
) -> GradientFn:
    """The gradient of a run's loss: accumulated, and over many devices where there is a mesh."""
    loss_fn = partial(example_loss, config=config, mask_loss=mask_loss)
    gradient_fn = accumulated(mean_gradient(loss_fn), config.optimisation.accumulate)
    return gradient_fn if mesh is None else data_parallel(gradient_fn, mesh)


def mean_gradient(loss_fn: LossFn) -> GradientFn:
    """The gradient of the mean of a loss over a batch."""

    def gradient_fn(
        params: Params, keys: LossKeys, problems: RegistrationProblem
    ) -> tuple[Params, ExampleMetrics]:
        def mean_loss(params: Params) -> tuple[Float[Array, ""], ExampleMetrics]:
            loss, metrics = jax.vmap(partial(loss_fn, params))(keys, problems)
            return jnp.mean(loss), metrics

        return jax.grad(mean_loss, has_aux=True)(params)

    return gradient_fn


def accumulated(gradient_fn: GradientFn, parts: int) -> GradientFn:
    """The same gradient, taken over parts of the batch one after the other: less memory."""
    if parts == 1:
        return gradient_fn

    def accumulated_fn(
        params: Params, keys: LossKeys, problems: RegistrationProblem
    ) -> tuple[Params, ExampleMetrics]:
        def add(
            total: Params, part: tuple[LossKeys, RegistrationProblem]
        ) -> tuple[Params, ExampleMetrics]:
            gradient, metrics = gradient_fn(params, *part)
            return jax.tree.map(lambda a, b: a + b / parts, total, gradient), metrics

        batch = jax.tree.map(
            lambda leaf: leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:]),
            (keys, problems),
        )
        zero = jax.tree.map(jnp.zeros_like, params)
        gradient, metrics = jax.lax.scan(add, zero, batch)
        return gradient, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), metrics)

    return accumulated_fn


def data_parallel(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """The same gradient, of a batch that is divided among the devices of a mesh."""

    def device_fn(
        params: Params, keys: LossKeys, problems: RegistrationProblem
    ) -> tuple[Params, ExampleMetrics]:
        gradient, metrics = gradient_fn(params, keys, problems)
        return jax.lax.pmean(gradient, sharding.AXIS), metrics

    return jax.shard_map(
        device_fn,
        mesh=mesh,
        check_vma=False,
        in_specs=(sharding.REPLICATED, sharding.SHARDED, sharding.SHARDED),
        out_specs=(sharding.REPLICATED, sharding.SHARDED),
    )


def tree_where(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    """The pytree ``a`` where the condition holds, else ``b``."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
