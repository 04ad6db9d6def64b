"""Gradients by step and by mode, against differentiation and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import in_x64, numeric_gradient
from noisy_problem import SCHEDULE, make_problem

from e2r.analysis import gradient_paths
from e2r.registration import iterate, kernels, steps


@pytest.mark.slow
def test_the_shares_of_the_steps_are_the_truncated_gradients(surface, truth, rng):
    """Their sum is the whole gradient, and their last sums are those of `last`. All robust weights
    are one, so finite differences are the derivative."""
    with jax.enable_x64(True):
        scene, model, start, targets = in_x64(
            jax.tree.map(np.asarray, make_problem(surface, truth, rng))
        )
        error, scales = gradient_paths.final_error(targets), SCHEDULE.scales()
        step = partial(steps.point_to_plane, kernel=kernels.constant)
        centre = jnp.mean(model.points, axis=0)

        @jax.jit
        def probe():
            how = {"scales": scales, "step": step, "error": error}
            found = gradient_paths.gradient_by_step(scene, model, start, **how)
            modes = gradient_paths.gradient_by_mode(
                scene, model, start, **how, by_step=found, last=2
            )
            return found, modes

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
        np.testing.assert_allclose(found.pose_gradients[0], slope, rtol=1e-3, atol=1e-6)


def test_gradients_of_copies_sum_to_the_whole():
    def function(copies):
        a, b = copies
        return jnp.sum(a["x"] ** 2) * jnp.sum(jnp.sin(b["x"]))

    x = {"x": jnp.array([0.3, -1.2, 2.0])}
    shares = jax.jacrev(function)((x, x))
    whole = jax.grad(lambda x: function((x, x)))(x)
    np.testing.assert_allclose(shares[0]["x"] + shares[1]["x"], whole["x"], rtol=1e-6)
    matrix = gradient_paths.stack_gradients(shares)
    compared = gradient_paths.compare_gradients(jnp.concatenate([matrix, jnp.zeros((1, 3))]))
    np.testing.assert_allclose(compared.norms[:2], np.linalg.norm(matrix, axis=1), rtol=1e-6)
    assert float(compared.norms[2]) == 0.0 and not np.asarray(compared.cosines[2]).any()
