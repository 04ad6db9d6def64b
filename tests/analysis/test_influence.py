"""Influence of points: the derivative against removing them, and rank correlation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from conftest import in_x64
from noisy_problem import SCHEDULE, make_problem

from e2r.analysis import influence
from e2r.registration.schedule import run_schedule
from e2r.training import losses
from e2r.types import MaskedCloud


def test_rank_correlation_is_scipys(rng):
    a, b = rng.integers(0, 6, (2, 40)).astype(np.float32)
    use = rng.uniform(size=40) < 0.7
    expected = scipy.stats.spearmanr(a[use], b[use]).statistic
    np.testing.assert_allclose(influence.rank_correlation(a, b, use), expected, atol=1e-6)
    assert float(influence.rank_correlation(a, np.zeros(40, np.float32), use)) == 0.0


def test_influence_agrees_with_leaving_points_out(surface, truth, rng):
    """With soft masks and matches. The exact effect is that of a cloud without the point."""
    schedule = replace(SCHEDULE, correspondence="soft")
    with jax.enable_x64(True):
        scene, model, start, targets = in_x64(make_problem(surface, truth, rng))

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
            np.testing.assert_allclose(found.removed[place], exact, rtol=1e-6, atol=1e-12)
