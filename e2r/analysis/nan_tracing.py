"""The first value that is not finite: in which function, of which case."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.stages import GRADIENT_PATHS, Stages, run_stages, stage_gradients
from e2r.config import TrainingConfig
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network
from e2r.runtime import sharding
from e2r.training import batches, loop
from e2r.training.objective import LossTerms, example_terms, perturbed_start
from e2r.types import Array, Example, Params


class Fault(NamedTuple):
    """The first place where something is not finite."""

    stage: str  # "step 3", say
    case: int  # of the batch; the first of those that fail there
    leaf: str  # which array of the stage
    numbers: int  # how many of that array's numbers, in that case


def first_fault(stages: Stages | dict[str, Any]) -> Fault | None:
    """Where a batch first goes wrong, or None; on the host.

    Args:
      stages: of :func:`walk` or :func:`backward` under ``vmap``: leading axis B everywhere.
    """
    for name, tree in _named(stages).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            values = np.asarray(leaf)
            wrong = ~np.isfinite(values.reshape(len(values), -1))
            if wrong.any():
                case = int(np.argmax(wrong.any(axis=1)))
                where = jax.tree_util.keystr(path).lstrip(".") or name
                return Fault(name, case, where, int(wrong[case].sum()))
    return None


def _named(stages: Stages | dict[str, Any]) -> dict[str, Any]:
    """Stages by name, each step of the trajectory one of its own."""
    if isinstance(stages, dict):
        return stages
    named: dict[str, Any] = {}
    for name, tree in stages._asdict().items():
        if name == "trajectory":
            for step in range(tree.translation.shape[1]):
                named[f"step {step + 1}"] = jax.tree.map(lambda x, step=step: x[:, step], tree)
        else:
            named[name] = tree
    return named


def explain(config: TrainingConfig, broken: loop.NotFiniteError) -> str:
    """Why a training step is not finite, in one sentence: function and case. On the host.

    Args:
      config: of the run.
      broken: what the run stopped with.
    """
    state = broken.state
    own = sharding.process_rows(config.optimisation.batch)
    _, k_step = jax.random.split(jax.random.fold_in(batches.run_key(config), int(state.step)))
    keys = jax.random.split(k_step, config.optimisation.batch)[own]
    estimator = mask_estimators.by_name(
        config.optimisation.estimator, temperature=config.optimisation.temperature
    )
    module = build_mask_network(config.network)
    params = jax.tree.map(np.asarray, state.params)

    how = (config.network, config.schedule)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0))
    def there(params: Params, key: Array, example: Example) -> Stages:
        k_mask, _, example, start = perturbed_start(key, example, config)
        return run_stages(
            *how,
            (params["mask"],) * len(GRADIENT_PATHS),
            params["coarse"],
            k_mask,
            example,
            jnp.zeros((1, 3)),
            estimator=estimator,
            start=start,
        )

    @jax.jit  # and compiled only where all is well on the way there
    @partial(jax.vmap, in_axes=(None, 0, 0))
    def back(params: Params, key: Array, example: Example) -> dict[str, Any]:
        k_mask, k_coarse, example, start = perturbed_start(key, example, config)

        def terms(params: Params) -> jax.Array:
            found, _ = example_terms(
                params, (k_mask, k_coarse), example, start, module=module, config=config
            )
            return jnp.stack(found)

        named = stage_gradients(*how, params, k_mask, example, start, estimator=estimator)
        each = LossTerms(*jnp.moveaxis(terms(params), -1, 0))
        sides = LossTerms(
            *(
                jax.tree.map(lambda g, i=i: g[i], jax.jacrev(terms)(params))
                for i in range(len(each))
            )
        )
        named |= {f"loss of {name}": value for name, value in each._asdict().items()}
        return named | {f"gradient of the {n} loss": g for n, g in sides._asdict().items()}

    given = (params, keys, broken.batch)
    fault = first_fault(there(*given)) or first_fault(back(*given))
    if fault is None:
        return "no case of this process's is not finite by itself"
    return (
        f"the first value that is not finite is {fault.leaf} of {fault.stage}, in "
        f"{broken.names[own][fault.case]}"
    )
