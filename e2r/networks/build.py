"""The networks' settings, and the Linen modules and parameters that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from e2r.networks import coarse_network
from e2r.networks.mask_network import MaskNetwork, MaskOutput
from e2r.types import Array, Cloud, Params, Pyramid


def apply_mask_network(
    settings: NetworkConfig, params: Params, cloud: Cloud, pyramid: Pyramid
) -> MaskOutput:
    """Reads all views of a scene (leading axis V); rows (V * N) as in :func:`point_clouds.flatten_samples`."""
    module = build_mask_network(settings)
    reading = jax.vmap(partial(module.apply, params["mask"]))(cloud, pyramid)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), reading)


PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
"""Of a network's layers; None follows its inputs, which tests make double."""


@dataclass(frozen=True)
class NetworkConfig:
    """The mask network and the cloud it sees."""

    points: int = 2048
    """points of a cloud, a multiple of 4^(levels - 1)"""
    widths: tuple[int, ...] = (32, 64, 96)
    """channels of each level, finest first"""
    blocks: int = 1
    """layers of each level"""
    neighbours: int = 12
    """neighbours of a point"""
    tokens: int = 128
    """scene points that the coarse stage reads"""
    samples: int = 256
    """model points that the coarse stage reads"""
    coarse_width: int = 96
    """channels of the coarse stage, a multiple of 4"""
    coarse_layers: int = 3
    """layers of the coarse stage"""
    precision: str = "float32"
    """of the networks' layers: float32 or bfloat16; parameters and geometry are float32 always"""

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.blocks, self.neighbours, 1) < 1:
            raise ValueError("network: use one width or more, and 1 or more of everything")
        if min(self.tokens, self.samples, self.coarse_width, self.coarse_layers) < 1:
            raise ValueError("network: use 1 or more tokens, samples, coarse_width, coarse_layers")
        if self.coarse_width % 4 or not self.tokens <= self.points or self.samples > 4096:
            raise ValueError(
                "network: coarse_width is a multiple of 4, tokens at most points, samples 4096"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"network.precision is {self.precision!r}; use {' or '.join(PRECISIONS)}"
            )
        part = 4 ** (len(self.widths) - 1)
        if self.points < 4 * part or self.points % part:
            raise ValueError(
                f"network.points is {self.points}; with {len(self.widths)} levels use a multiple "
                f"of {part}, {4 * part} or more"
            )


def build_mask_network(settings: NetworkConfig) -> MaskNetwork:
    """The Linen module that ``settings`` describe."""
    return MaskNetwork(
        widths=settings.widths, blocks=settings.blocks, dtype=PRECISIONS[settings.precision]
    )


def build_coarse_network(settings: NetworkConfig) -> coarse_network.CoarseNetwork:
    """The Linen module of the coarse stage."""
    return coarse_network.CoarseNetwork(
        width=settings.coarse_width,
        layers=settings.coarse_layers,
        dtype=PRECISIONS[settings.precision],
    )


def init_params(key: Array, settings: NetworkConfig, cloud: Cloud, pyramid: Pyramid) -> Params:
    """Fresh parameters of both networks, ``{"mask": ..., "coarse": ...}``.

    Args:
      key: consumed.
      settings: sizes.
      cloud, pyramid: of the right shapes; their numbers mean nothing.
    """
    k_mask, k_coarse = jax.random.split(key)
    mask = build_mask_network(settings)
    params = mask.init(k_mask, cloud, pyramid)
    reading = mask.apply(params, cloud, pyramid)
    tokens = draw_tokens(k_coarse, cloud, reading, settings)
    place = jnp.zeros((settings.samples, 3))
    samples = coarse_network.ModelSamples(place, place, place)
    return {
        "mask": params,
        "coarse": build_coarse_network(settings).init(k_coarse, tokens, samples),
    }


def draw_tokens(
    key: Array, cloud: Cloud, reading: MaskOutput, settings: NetworkConfig
) -> coarse_network.SceneTokens:
    """Draws the points that the coarse stage reads; consumes the key."""
    return coarse_network.choose_tokens(
        key,
        jnp.asarray(cloud.points),
        jnp.asarray(cloud.normals),
        reading.features,
        reading.logits,
        jnp.asarray(cloud.valid),
        count=settings.tokens,
    )


def mask_logits(module: MaskNetwork, params: Params, cloud: Cloud, pyramid: Pyramid) -> jax.Array:
    """Mask logits (N,) of one cloud; the parameters are the mask network's alone."""
    reading: MaskOutput = module.apply(params, cloud, pyramid)
    return reading.logits
