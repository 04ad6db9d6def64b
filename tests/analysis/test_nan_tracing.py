"""The first value that is not finite is found, in a batch of two."""

import jax
import numpy as np
import pytest
from conftest import TINY

from e2r.analysis import nan_tracing
from e2r.analysis.stages import StageConfig, run_stages, stage_gradients
from e2r.evaluation.preparation import level_centres
from e2r.training import sources
from e2r.training.trained_model import load_trained


@pytest.fixture(scope="module")
def example(bank):
    return jax.tree.map(lambda leaf: leaf[0], sources.read_batch(bank, [0]))


def test_the_stages_draw_the_mask_by_the_key_of_the_training_step(example, checkpoint):
    """Nothing is computed: the estimator ends the tracing."""
    _, params = load_trained(checkpoint)
    key, seen = jax.random.key(7), []

    def spy(key, logits):
        seen.append(key)
        raise StopIteration

    config = StageConfig(TINY.network, TINY.schedule, spy)
    for compute, more in ((run_stages, {"centres": np.zeros((1, 3))}), (stage_gradients, {})):
        with pytest.raises(StopIteration):
            jax.eval_shape(
                lambda params, compute=compute, more=more: compute(
                    params, key, example, config=config, start=example.pose, **more
                ),
                params,
            )
    assert len(seen) == 2 and all(one is key for one in seen)


def test_the_first_fault_is_named(example, checkpoint, simulated_cases):
    """Of a batch of two, in which one is broken on purpose."""
    _, params = load_trained(checkpoint)
    centres = level_centres(simulated_cases[0].model)

    @jax.jit
    @jax.vmap
    def stages(params, example):
        return run_stages(
            params,
            jax.random.key(1),
            example,
            config=StageConfig(TINY.network, TINY.schedule),
            centres=centres,
            start=example.pose,
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
        params["mask"]["params"]["Dense_0"]["kernel"][index] = 1e30  # finite, unlike its output
        return params, example

    assert fault(whole, 0) is None
    found = fault(broken_model, 1)
    assert (found.stage, found.case, found.array) == ("surface", 1, "planes")
    found = fault(broken_layer, 0)
    assert (found.stage, found.case) == ("network", 0)
    assert found.num_nonfinite > 0
    assert nan_tracing.first_fault(
        {"a": np.zeros((2, 3)), "b": {"c": np.array([[0.0], [np.inf]])}}
    ) == ("b", 1, "['c']", 1)
