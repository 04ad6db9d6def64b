"""Rendered frames: all materials appear, noise is realistic, the wound fills its share."""

import jax
import numpy as np
import pytest

from e2r.simulation.bone_grids import bake_specimen
from e2r.simulation.materials import BONE, TISSUE
from e2r.simulation.rendering import photograph


@pytest.fixture(scope="module")
def bones():
    return jax.jit(bake_specimen)(jax.random.key(4))


def photographer(bones, wound_fraction):
    """Frames of many keys."""
    return jax.jit(
        jax.vmap(
            lambda key: photograph(key, bones, width=96, height=72, wound_fraction=wound_fraction)
        )
    )


def test_the_same_key_gives_the_same_frame_and_all_materials_appear(bones):
    take = photographer(bones, (0.2, 0.8))
    keys = jax.random.split(jax.random.key(8), 6)
    frames, again = take(keys), take(keys)
    for a, b in zip(jax.tree.leaves(frames), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    shares = np.bincount(np.asarray(frames.material).ravel(), minlength=5) / frames.material.size
    assert (shares > 0.005).all(), shares
    seen = np.asarray(frames.depth)
    assert 0.02 < (seen == 0).mean() < 0.4
    noise = (seen - np.asarray(frames.clean))[(np.asarray(frames.material) == BONE) & (seen > 0)]
    assert 0.1 < np.median(np.abs(noise)) < 1.5
    # Between two and five levels in a row are exposed.
    for row in np.asarray(frames.exposed).astype(int):
        assert 2 <= row.sum() <= 5
        assert np.abs(np.diff(np.pad(row, 1))).sum() == 2


def test_the_wound_fills_the_requested_share_of_the_frame(bones):
    """Measured on rendered frames: what is neither skin, drape nor instrument is wound."""
    shares = []
    for fraction in ((0.05, 0.06), (0.5, 0.6)):
        take = photographer(bones, fraction)
        material = np.asarray(take(jax.random.split(jax.random.key(2), 8)).material)
        shares.append(np.median((material <= TISSUE).mean((1, 2))))
    assert 0.02 < shares[0] < 0.10, shares
    assert 0.25 < shares[1] < 0.75, shares
