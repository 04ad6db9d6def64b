"""The coarse network's inputs: scene tokens and model samples."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.networks import coarse_network
from e2r.networks.mask_network import MaskOutput
from e2r.types import Cloud


def test_tokens_are_different_points_drawn_by_the_mask():
    count = 400
    logits = jnp.where(jnp.arange(count) % 4 == 0, 6.0, -9.0)
    points = jnp.arange(count, dtype=jnp.float32)[:, None] * jnp.ones((1, 3))
    output = MaskOutput(logits, logits, points)

    def draw(valid):
        cloud = Cloud(points, points, points, jnp.arange(count) < valid)
        return coarse_network.draw_tokens(jax.random.key(0), cloud, output, count=60)

    found = draw(300)
    rows = np.asarray(found.points[:, 0]).astype(int)
    assert len(set(rows)) == 60
    assert found.use.all()
    assert (rows < 300).all()
    assert (rows % 4 == 0).mean() > 0.8
    assert int(draw(10).use.sum()) == 10


def test_model_samples_cover_every_level(surface):
    for count in (256, 300, 2500):
        found = coarse_network.model_samples(surface, count)
        assert found.points.shape == (count, 3)
        low, high = np.min(found.points[:, 2]), np.max(found.points[:, 2])
        whole = poses.apply(surface.canonical_from_model, surface.points)[:, 2]
        assert low < np.min(whole) + 12.0
        assert high > np.max(whole) - 12.0
