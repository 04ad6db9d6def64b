"""A user's module with one plug-in of each kind, and one constant in each."""

PLUGINS = """
import flax.linen as nn
import jax
import jax.numpy as jnp

from e2r.geometry import correspondences
from e2r.networks.coarse_network import CoarseCorrespondences
from e2r.networks.mask_network import MaskOutput
from e2r.registration import steps

KERNEL_POWER = 1.0
STEP_PRIOR = 2.0
PULL = 0.1
SLOPE = 1.0
GAIN = 1.0
SHIFT_MM = 1.0
LOSS_WEIGHT = 0.1
BRIGHTNESS = 1.0


def cauchy(square, weights, scale):
    return 1.0 / (1.0 + KERNEL_POWER * square / (scale * scale))


def stiff(cloud, surface, pose, scale, **policies):
    return steps.point_to_plane(cloud, surface, pose, scale, **policies, prior=STEP_PRIOR)


def pulled(surface, queries):
    match = correspondences.project(surface, queries)
    return match._replace(points=match.points + PULL * match.normals)


def steep(key, logits):
    return jax.nn.sigmoid(SLOPE * logits)


class MaskNetwork(nn.Module):
    width: int

    @nn.compact
    def __call__(self, cloud, pyramid):
        seen = jnp.concatenate([cloud.normals, cloud.colors], axis=1)
        hidden = jnp.tanh(GAIN * nn.Dense(self.width)(seen))
        out = nn.Dense(2)(hidden)
        return MaskOutput(out[:, 0] + 1.0, out[:, 1], hidden)


def mask_network(config):
    return MaskNetwork(config.widths[0])


class CoarseNetwork(nn.Module):
    @nn.compact
    def __call__(self, tokens, samples):
        out = nn.Dense(4)(jnp.concatenate([tokens.points / 50.0, tokens.features], axis=1))
        confidence = jnp.where(tokens.use, jax.nn.sigmoid(out[:, 3]), 0.0)
        return CoarseCorrespondences(50.0 * out[:, :3] + SHIFT_MM, confidence)


def coarse_network(config):
    return CoarseNetwork()


def sparse(inputs):
    return LOSS_WEIGHT * jnp.mean(inputs.weights)


def bright(key, example):
    cloud = example.cloud
    return example._replace(cloud=cloud._replace(colors=BRIGHTNESS * cloud.colors))
"""
CONSTANTS = {
    "kernel": ("KERNEL_POWER = 1.0", "KERNEL_POWER = 4.0"),
    "step": ("STEP_PRIOR = 2.0", "STEP_PRIOR = 200.0"),
    "correspondence": ("PULL = 0.1", "PULL = 0.8"),
    "estimator": ("SLOPE = 1.0", "SLOPE = 3.0"),
    "mask_network": ("GAIN = 1.0", "GAIN = 3.0"),
    "coarse_network": ("SHIFT_MM = 1.0", "SHIFT_MM = 9.0"),
    "loss_term": ("LOSS_WEIGHT = 0.1", "LOSS_WEIGHT = 0.7"),
    "augmentation": ("BRIGHTNESS = 1.0", "BRIGHTNESS = 0.5"),
}
"""Kind -> (line of its constant, another value)."""


def options(module: str) -> dict[str, tuple[str, ...]]:
    """The options of a command line that choose the plug-ins of a module."""
    return {
        "--schedule.kernel": (f"{module}:cauchy",),
        "--schedule.step": (f"{module}:stiff",),
        "--schedule.correspondence": (f"{module}:pulled",),
        "--network.mask-network": (f"{module}:mask_network",),
        "--network.coarse-network": (f"{module}:coarse_network",),
        "--optimisation.estimator": (f"{module}:steep",),
        "--optimisation.loss-terms": (f"{module}:sparse",),
        "--optimisation.augmentations": ("view_and_colours", f"{module}:bright"),
    }
