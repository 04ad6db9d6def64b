"""A run whose step is made in a moment: the optimiser alone, on a gradient of ones."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import TINY
from small_cases import small_case

from e2r.training import batches, loop, sources
from e2r.training.objective import ExampleMetrics, LossTerms, StepMetrics
from e2r.training.step import TrainState, make_optimiser

TERMS = LossTerms(*np.float32([1.0, 0.25, 0.5, 2.0, 0.0]))
LOSS = 3.75


def first_state(config=TINY):
    params = {"w": jnp.zeros(3)}
    return TrainState(
        jnp.zeros((), jnp.int32), params, make_optimiser(config.optimisation).init(params)
    )


def made_up_step(config, mask_loss=None, mesh=None):
    """A step function like that of :func:`compiled_train_step`."""

    @jax.jit
    def update(state):
        with jax.numpy_dtype_promotion("standard"):
            updates, optimiser = make_optimiser(config.optimisation).update(
                {"w": jnp.ones(3)}, state.optimiser, state.params
            )
        params = jax.tree.map(lambda a, b: a + b, state.params, updates)
        return TrainState(state.step + 1, params, optimiser)

    def step_fn(state, batch, key, *, step):
        figures = ExampleMetrics(np.float32(LOSS), *[np.float32(step)] * 7, terms=TERMS)
        return update(state), StepMetrics(figures, np.float32(1.0), np.float32(0.0))

    return step_fn


def install(monkeypatch):
    """Lets :func:`loop.train` take the made-up step; gives a function that trains."""
    bank = sources.from_cases([small_case(seed=1)], TINY)
    monkeypatch.setattr(loop, "init_state", first_state)
    monkeypatch.setattr(loop, "compiled_train_step", made_up_step)

    def run(output, config=TINY, *, source="simulated", stop_after=None, **options):
        inputs = loop.RunInputs(config, batches.uniform_batches(config, bank), source=source)
        log_options = loop.LogOptions(**{"log_every": 1, **options})
        return loop.train(inputs, output, stop_after=stop_after, log_options=log_options)

    return run
