"""The settings of both networks, and the Linen modules and parameters that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from e2r.networks.coarse_network import CoarseNetwork, ModelSamples, draw_tokens
from e2r.networks.mask_network import MaskNetwork, MaskOutput
from e2r.types import Array, Cloud, Float, Params, PRNGKey, Pyramid

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
"""Data types of the networks' layers; None: that of the inputs, which tests make double."""


@dataclass(frozen=True)
class NetworkConfig:
    """The settings of both networks and of the cloud they see."""

    points: int = 2048
    """points of a cloud, a multiple of 4^(levels - 1)"""
    widths: tuple[int, ...] = (32, 64, 96)
    """channels of each level of the pyramid, finest first"""
    blocks: int = 1
    """layers of each level of the pyramid"""
    neighbours: int = 12
    """neighbours of a point"""
    tokens: int = 128
    """scene points that the coarse network reads"""
    samples: int = 256
    """model points that the coarse network reads"""
    coarse_width: int = 96
    """channels of the coarse network, a multiple of 4"""
    coarse_layers: int = 3
    """layers of the coarse network"""
    precision: str = "float32"
    """precision of the layers: float32 or bfloat16; parameters and geometry are always float32"""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"network.widths is {self.widths}; use numbers of 1 or more")
        for name, most in (
            ("blocks", None),
            ("neighbours", None),
            ("tokens", self.points),
            ("samples", 4096),
            ("coarse_width", None),
            ("coarse_layers", None),
        ):
            value = getattr(self, name)
            if value < 1 or (most is not None and value > most):
                upper = "" if most is None else f", at most {most}"
                raise ValueError(f"network.{name} is {value}; use 1 or more{upper}")
        if self.coarse_width % 4:
            raise ValueError(f"network.coarse_width is {self.coarse_width}; use a multiple of 4")
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


def build_mask_network(config: NetworkConfig) -> MaskNetwork:
    """The mask network that the settings describe."""
    return MaskNetwork(
        widths=config.widths, blocks=config.blocks, dtype=PRECISIONS[config.precision]
    )


def build_coarse_network(config: NetworkConfig) -> CoarseNetwork:
    """The coarse network that the settings describe."""
    return CoarseNetwork(
        width=config.coarse_width, layers=config.coarse_layers, dtype=PRECISIONS[config.precision]
    )


def init_params(key: PRNGKey, config: NetworkConfig, cloud: Cloud, pyramid: Pyramid) -> Params:
    """Initial parameters of both networks, ``{"mask": ..., "coarse": ...}``.

    Args:
      key: consumed.
      config: of both networks.
      cloud: of the right shape; its numbers have no effect.
      pyramid: of the right shape; its numbers have no effect.
    """
    k_mask, k_coarse = jax.random.split(key)
    mask = build_mask_network(config)
    params = mask.init(k_mask, cloud, pyramid)
    output = mask.apply(params, cloud, pyramid)
    tokens = draw_tokens(k_coarse, cloud, output, count=config.tokens)
    zeros = jnp.zeros((config.samples, 3))
    samples = ModelSamples(zeros, zeros, zeros)
    return {"mask": params, "coarse": build_coarse_network(config).init(k_coarse, tokens, samples)}


def apply_mask_network(
    config: NetworkConfig, params: Params, cloud: Cloud, pyramid: Pyramid
) -> MaskOutput:
    """Applies the mask network to every sample of a scene.

    Args:
      config: of both networks.
      params: of both networks.
      cloud: the samples, leading axis V.
      pyramid: of each sample, leading axis V.

    Returns:
      One row for each point of all samples, as in
      :func:`e2r.geometry.point_clouds.flatten_samples`.
    """
    module = build_mask_network(config)
    output = jax.vmap(partial(module.apply, params["mask"]))(cloud, pyramid)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), output)


def mask_logits(
    module: MaskNetwork, params: Params, cloud: Cloud, pyramid: Pyramid
) -> Float[Array, "n"]:
    """Mask logits of one cloud.

    Args:
      module: the mask network.
      params: of the mask network alone.
      cloud: one sample of a scene.
      pyramid: of that sample.
    """
    output: MaskOutput = module.apply(params, cloud, pyramid)
    return output.logits
