"""Where does the first value that is not finite appear: in which stage, of which case?"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.stages import StageConfig, Stages, run_stages, stage_gradients
from e2r.config import TrainingConfig
from e2r.runtime import sharding
from e2r.training import batches, loop
from e2r.training.objective import LossTerms, loss_terms
from e2r.training.problems import draw_problem
from e2r.types import Example, Params, PRNGKey


class Fault(NamedTuple):
    """The first place where a value is not finite."""

    stage: str  # for instance "step 3"
    case: int  # of the batch; the first of those that fail there
    array: str  # of the stage
    num_nonfinite: int  # of that array's numbers, in that case


def first_fault(stages: Stages | dict[str, Any]) -> Fault | None:
    """Where a batch first goes wrong, or None; on the host.

    Args:
      stages: the values of a batch in the order of their computation, leading axis B everywhere:
        of :func:`e2r.analysis.stages.run_stages` or
        :func:`e2r.analysis.stages.stage_gradients` under ``vmap``.
    """
    for name, tree in _by_name(stages).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            values = np.asarray(leaf)
            wrong = ~np.isfinite(values.reshape(len(values), -1))
            if wrong.any():
                case = int(np.argmax(wrong.any(axis=1)))
                array = jax.tree_util.keystr(path).lstrip(".") or name
                return Fault(name, case, array, int(wrong[case].sum()))
    return None


def _by_name(stages: Stages | dict[str, Any]) -> dict[str, Any]:
    """Stages by name; each step of the trajectory is a stage of its own."""
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
    """Why a training step is not finite, in one sentence: stage and case. On the host.

    Args:
      config: of the run.
      broken: the error that stopped the run.
    """
    state = broken.state
    own = sharding.process_rows(config.optimisation.batch)
    _, k_step = jax.random.split(jax.random.fold_in(batches.run_key(config), int(state.step)))
    keys = jax.random.split(k_step, config.optimisation.batch)[own]
    arguments = (jax.tree.map(np.asarray, state.params), keys, broken.batch)
    fault = None
    for compute in (_forward_stages, _backward_stages):
        if fault is None:  # the second is compiled only if it is needed
            by_case = jax.vmap(partial(compute, config=config), in_axes=(None, 0, 0))
            fault = first_fault(jax.jit(by_case)(*arguments))
    if fault is None:
        return "no case of this process has a value that is not finite by itself"
    return (
        f"the first value that is not finite is {fault.array} of {fault.stage}, in "
        f"{broken.names[own][fault.case]}"
    )


def _stage_config(config: TrainingConfig) -> StageConfig:
    options = config.optimisation
    estimator = options.mask_estimator()
    return StageConfig(config.network, config.schedule, estimator)


def _forward_stages(
    params: Params, key: PRNGKey, example: Example, *, config: TrainingConfig
) -> Stages:
    """The values of a training example, from the cloud to the error."""
    keys, (example, initial_pose) = draw_problem(key, example, config.optimisation)
    return run_stages(
        params,
        keys.mask,
        example,
        config=_stage_config(config),
        centres=jnp.zeros((1, 3)),
        start=initial_pose,
    )


def _backward_stages(
    params: Params, key: PRNGKey, example: Example, *, config: TrainingConfig
) -> dict[str, Any]:
    """The gradients of a training example, then each loss and its gradient."""
    keys, problem = draw_problem(key, example, config.optimisation)

    def terms(params: Params) -> tuple[LossTerms, LossTerms]:
        found, _ = loss_terms(params, keys, problem, config=config)
        return found, found

    gradients, values = jax.jacrev(terms, has_aux=True)(params)
    stages = stage_gradients(
        params, keys.mask, problem.example, config=_stage_config(config), start=problem.initial_pose
    )
    stages |= {f"loss of {name}": value for name, value in values._asdict().items()}
    return stages | {f"gradient of the {n} loss": g for n, g in gradients._asdict().items()}
