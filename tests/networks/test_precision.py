"""Networks in half precision."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from conftest import TINY, first_example, first_state

from e2r.networks.build import build_mask_network
from e2r.networks.coarse_network import draw_tokens
from e2r.registration import coarse
from e2r.training.step import init_state


def test_networks_in_bfloat16_read_nearly_the_same(bank):
    """Their parameters and their outputs are float32."""
    example = first_example(bank)
    params = first_state().params
    half = dataclasses.replace(TINY.network, precision="bfloat16")

    cloud, full = example.cloud, TINY.network

    @jax.jit
    def read():
        several = [
            build_mask_network(settings).apply(params["mask"], cloud, example.pyramid)
            for settings in (full, half)
        ]
        tokens = draw_tokens(jax.random.key(0), cloud, several[0], count=full.tokens)
        where = [
            coarse.predict_pose(
                params, tokens, example.surface, roll=jnp.float32(0.3), config=settings
            )
            for settings in (full, half)
        ]
        return tuple(zip(several, where, strict=True))

    # Flax's layers promote their own statistics to float32.
    with jax.numpy_dtype_promotion("standard"):
        found, rough = read()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(rough), strict=True):
        assert a.dtype == b.dtype
        if a.dtype == jnp.float32:
            assert 0 < float(jnp.linalg.norm(a - b)) < 0.1 * float(jnp.linalg.norm(a))
    config = dataclasses.replace(TINY, network=half)
    with jax.numpy_dtype_promotion("standard"):
        fresh = jax.eval_shape(partial(init_state, config))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh.params)} == {jnp.dtype("float32")}
