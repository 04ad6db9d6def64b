"""The settings of both networks, and the Linen modules and parameters that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from e2r.networks.coarse_network import (
    CoarseCorrespondences,
    CoarseNetwork,
    ModelSamples,
    draw_tokens,
)
from e2r.networks.mask_network import MaskNetwork, MaskOutput
from e2r.runtime.registry import PluginName, Registry, settle_plugins
from e2r.types import Array, Cloud, Float, Params, PRNGKey, Pyramid

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
"""Data types of the networks' layers; None: that of the inputs, which tests make double."""


@dataclass(frozen=True)
class NetworkConfig:
    """The settings of both networks and of the cloud they see."""

    mask_network: PluginName = "point_unet"
    """mask network: a name in MASK_NETWORKS, or module:function"""
    coarse_network: PluginName = "attention"
    """coarse network: a name in COARSE_NETWORKS, or module:function"""
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
        settle_plugins(self, "network", mask_network=MASK_NETWORKS, coarse_network=COARSE_NETWORKS)
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

    def reached_code(self) -> tuple[Any, ...]:
        """The functions that are named, for :mod:`e2r.runtime.code_digest`."""
        return (MASK_NETWORKS.find(self.mask_network), COARSE_NETWORKS.find(self.coarse_network))


def _point_unet(config: NetworkConfig) -> MaskNetwork:
    return MaskNetwork(
        widths=config.widths, blocks=config.blocks, dtype=PRECISIONS[config.precision]
    )


def _attention(config: NetworkConfig) -> CoarseNetwork:
    return CoarseNetwork(
        width=config.coarse_width, layers=config.coarse_layers, dtype=PRECISIONS[config.precision]
    )


MASK_NETWORKS: Registry[Callable[[NetworkConfig], nn.Module]] = Registry(
    "mask_network", {"point_unet": _point_unet}
)
"""All mask networks: functions of the settings that return a Linen module.

The module maps a :class:`~e2r.types.Cloud` and its :class:`~e2r.types.Pyramid` to a
:class:`~e2r.networks.mask_network.MaskOutput`."""
COARSE_NETWORKS: Registry[Callable[[NetworkConfig], nn.Module]] = Registry(
    "coarse_network", {"attention": _attention}
)
"""All coarse networks: functions of the settings that return a Linen module.

The module maps :class:`~e2r.networks.coarse_network.SceneTokens` and
:class:`~e2r.networks.coarse_network.ModelSamples` to
:class:`~e2r.networks.coarse_network.CoarseCorrespondences`."""


def build_mask_network(config: NetworkConfig) -> nn.Module:
    """The mask network that the settings describe."""
    return MASK_NETWORKS.find(config.mask_network)(config)


def build_coarse_network(config: NetworkConfig) -> nn.Module:
    """The coarse network that the settings describe."""
    return COARSE_NETWORKS.find(config.coarse_network)(config)


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
    _check(config.mask_network, "mask_network", output, MaskOutput, count=cloud.points.shape[0])
    tokens = draw_tokens(k_coarse, cloud, output, count=config.tokens)
    zeros = jnp.zeros((config.samples, 3))
    samples = ModelSamples(zeros, zeros, zeros)
    found, coarse = build_coarse_network(config).init_with_output(k_coarse, tokens, samples)
    _check(
        config.coarse_network, "coarse_network", found, CoarseCorrespondences, count=config.tokens
    )
    return {"mask": params, "coarse": coarse}


AXES = {"logits": 1, "interest": 1, "features": 2, "places": 2, "confidence": 1}
"""Part of a network's output -> number of its axes."""


def _check(name: PluginName, field: str, output: Any, kind: type[Any], *, count: int) -> None:
    """Raises a ValueError unless a network returns what the next stage reads."""
    if not isinstance(output, kind) or {leaf.shape[0] for leaf in output} != {count}:
        raise ValueError(
            f"network.{field} {name} returns {type(output).__name__}; make it return a "
            f"{kind.__name__} with {count} rows"
        )
    for part, leaf in output._asdict().items():
        if leaf.ndim != AXES[part]:
            raise ValueError(
                f"network.{field} {name} returns {part} of shape {leaf.shape}; make it "
                f"{'(n,)' if AXES[part] == 1 else '(n, c)'}"
            )


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
    module: nn.Module, params: Params, cloud: Cloud, pyramid: Pyramid
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
