"""The mask network: tells for each scene point whether to use it, and whether the wound is near."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from e2r.types import Array, Cloud, Float, Int, Pyramid

COORDINATE_UNIT_MM = 50.0
"""The network sees centred coordinates divided by this."""


class MaskOutput(NamedTuple):
    """The network's output for a cloud; rows of padded points have no meaning."""

    logits: Float[Array, "n"]  # of the mask: use this point for the registration
    interest: Float[Array, "n"]  # logits: exposed bone is near this point
    features: Float[Array, "n c"]  # the last layer, for the coarse network


class MaskNetwork(nn.Module):
    """A U-shaped point network over nested subsamples (after PointNet++, Qi et al., 2017).

    For every point, a layer takes the maximum over its neighbours of a linear function of feature
    and relative position. Because it is linear, it is computed once for each point, not once for
    each pair: gather, maximum, then the MLP.

    Attributes:
      widths: channels of each level of the pyramid, finest first.
      blocks: layers of each level on the way down.
      bias: initial bias of the mask logit; a positive one keeps most points at first, so that the
        mask cannot become empty before it has seen a gradient.
      dtype: of the layers; None: that of the inputs. Parameters, coordinates and outputs always
        have that of the inputs.
    """

    widths: Sequence[int] = (32, 64, 96)
    blocks: int = 1
    bias: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, cloud: Cloud, pyramid: Pyramid) -> MaskOutput:
        """Applies the network to one cloud."""
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        neighbours = partial(Neighbours, dtype=self.dtype)
        valid = jnp.asarray(cloud.valid)[:, None]
        count = jnp.maximum(jnp.sum(valid), 1)
        total = jnp.sum(jnp.where(valid, cloud.points, 0.0), axis=0)
        centre = total / count.astype(total.dtype)
        xyz = (cloud.points - centre[None]) / COORDINATE_UNIT_MM
        distance = jnp.broadcast_to(centre[2:] / 500.0, (xyz.shape[0], 1))
        colors = (cloud.colors - 0.5) * 2.0
        features = jnp.concatenate([xyz, cloud.normals, colors, distance], axis=1)

        h = nn.gelu(dense(self.widths[0])(features))
        skips = []
        for level, width in enumerate(self.widths):
            if level:
                skips.append(h)
                index = pyramid.down[level - 1]
                h = neighbours(width)(h, xyz, index)
            index = pyramid.within[level]
            for _ in range(self.blocks):
                h = norm()(h + neighbours(width)(h, xyz, index))
        n = h.shape[0]
        use = valid[:n]
        total = jnp.sum(jnp.where(use, h, 0.0), axis=0)
        mean = total / jnp.maximum(jnp.sum(use), 1).astype(total.dtype)
        # The maximum is gathered: jnp.max's derivative searches it again by equality. It divides by
        # zero if the compiler computes `h` twice with different rounding.
        winner = jnp.argmax(jnp.where(use, jax.lax.stop_gradient(h), -jnp.inf), axis=0)
        peak = jnp.where(jnp.any(use), h[winner, jnp.arange(h.shape[1])], 0.0)
        summary = nn.gelu(dense(h.shape[1])(jnp.concatenate([mean, peak])))
        h = jnp.concatenate([h, jnp.broadcast_to(summary, h.shape)], axis=1)
        for level in reversed(range(len(self.widths) - 1)):
            index = pyramid.up[level]
            h = dense(self.widths[level])(h)
            apart = xyz[: index.shape[0], None] - xyz[index]
            near = 1.0 / (jnp.sum(apart * apart, axis=-1) + 1e-4)
            near = near / jnp.sum(near, axis=1, keepdims=True)
            h = weighted_sum(h, index, near)
            h = nn.gelu(
                dense(self.widths[level])(
                    jnp.concatenate([h, skips[level].astype(h.dtype)], axis=1)
                )
            )
            h = norm()(h + dense(self.widths[level])(nn.gelu(dense(h.shape[1])(h))))
        bias = jnp.array([self.bias, 0.0])
        logits = dense(2, bias_init=lambda *_: bias)(h)
        wide = features.dtype
        logits = logits.astype(wide)
        return MaskOutput(logits[:, 0], logits[:, 1], h.astype(wide))


class Neighbours(nn.Module):
    """``max_j (W h_j + V (x_j - x_i))`` over the neighbours ``j``, then an MLP."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, xyz: Array, index: Array) -> jax.Array:
        """Features (m, width) at ``xyz[:m]``, from features ``h`` (n, C) at ``xyz[:n]``, m <= n."""
        place, _ = Weights(self.width, use_bias=False, name="Dense_0")(xyz)
        kernel, bias = Weights(self.width, name="Dense_1")(h)
        xyz = 8.0 * xyz[: h.shape[0]]
        h, xyz, place, kernel, bias = promote_dtype(h, xyz, place, kernel, bias, dtype=self.dtype)
        # The product itself is gathered. If more were added to it, each of the k gathers would
        # compute that sum again for its rows.
        pair = jnp.concatenate([h, xyz], axis=1) @ jnp.concatenate([kernel, place])
        peak = max_over_neighbours(pair, index) + (bias[None] - xyz[: index.shape[0]] @ place)
        return nn.Dense(self.width, dtype=self.dtype, name="Dense_2")(nn.gelu(peak))


class Weights(nn.Module):
    """The parameters of an ``nn.Dense``, for a product that is written by hand."""

    width: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Kernel (C, width) and bias (width,) for rows ``x`` (n, C); a bias of zeros for none."""
        kernel = self.param("kernel", nn.linear.default_kernel_init, (x.shape[1], self.width))
        if not self.use_bias:
            return kernel, jnp.zeros(self.width, kernel.dtype)
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.width,))


def weighted_sum(
    h: Float[Array, "n c"], index: Int[Array, "m k"], weights: Float[Array, "m k"]
) -> Float[Array, "m c"]:
    """``sum_j weights[i, j] h[index[i, j], c]``, without an array of all pairs.

    Args:
      h: features of the points.
      index: the neighbours of each centre.
      weights: of the neighbours.
    """
    parts = [
        weights[:, j, None] * _rows(h, index[:, j]).astype(weights.dtype)
        for j in range(index.shape[1])
    ]
    return sum(parts[1:], parts[0])


@jax.custom_jvp
def max_over_neighbours(h: Float[Array, "n c"], index: Int[Array, "m k"]) -> Float[Array, "m c"]:
    """``max_j h[index[i, j], c]``; of equal numbers the first is taken.

    The neighbours are read one after the other, so that no array of all pairs is written. The
    derivative is gathered from the maximum's row. So the reverse pass scatters m * c numbers
    instead of m * k * c. Both is several times faster on a CPU.

    Args:
      h: features of the points.
      index: the neighbours of each centre.
    """
    return _peak_and_row(h, index)[0]


@max_over_neighbours.defjvp
def _max_over_neighbours_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    h, index = primals
    peak, row = _peak_and_row(h, index)
    return peak, tangents[0][row, jnp.arange(h.shape[1])]


def _peak_and_row(h: Array, index: Array) -> tuple[jax.Array, jax.Array]:
    """The maximum over the neighbours (m, c), and the row of ``h`` where it was found."""
    peak = _rows(h, index[:, 0])
    row = jnp.broadcast_to(index[:, :1], peak.shape)
    for j in range(1, index.shape[1]):
        other = _rows(h, index[:, j])
        more = (other > peak) | jnp.isnan(other)
        peak = jnp.where(more, other, peak)
        row = jnp.where(more, index[:, j, None], row)
    return peak, row


def _rows(h: Array, rows: Array) -> jax.Array:
    return jnp.take(jnp.asarray(h), rows, axis=0, mode="clip")
