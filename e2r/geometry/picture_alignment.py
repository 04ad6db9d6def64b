"""Whether depth and colour of one picture lie on each other, by their edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from scipy import fft, ndimage

from e2r.types import Bool, Float, Shaped

MAX_WIDTH = 800
"""Wider pictures are made smaller first."""
REACH = 60
"""Largest shift that is tried, in pixels of that picture."""
NEAR = 4
"""Shifts up to this many pixels are none: edges of depth are as wide."""
JUMP = 0.01
"""Depth step between neighbours, as a share of the depth, from which they are an edge."""
MIN_PEAK, MIN_GAIN = 4.5, 2.0
"""A shift is believed if its score is so large, and so much larger than that of no shift."""
SCALES = tuple(float(scale) for scale in np.exp(0.02 * np.arange(-22, 23)) if scale != 1.0)
"""Focal lengths of the colour, in those of the depth; 1.43 for a RealSense D435."""
GOOD = 8.0
"""At such a score at rest no scale is tried."""
SCALED_GAIN = 3.5
"""As MIN_GAIN, where many scales were tried."""
MIN_EDGES = 200
"""Fewer pixels of edges say nothing."""


class Shift(NamedTuple):
    """The shift of the depth that brings its edges onto those of the colour, best of all."""

    right: int  # pixels of the picture
    down: int
    scale: float  # by which the depth is enlarged about the picture's middle first
    score: float  # with both: standard deviations over all shifts
    score_at_rest: float  # without, or the best one of up to NEAR pixels

    @property
    def is_certain(self) -> bool:
        """Whether the picture is better with the shift than without."""
        if self.scale != 1.0:
            return is_better(self.score - SCALED_GAIN + MIN_GAIN, self.score_at_rest)
        moved = max(abs(self.right), abs(self.down)) > NEAR
        return moved and is_better(self.score, self.score_at_rest)


def find_shift(color: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"]) -> Shift | None:
    """Correlates the edges of depth with those of colour over all small shifts.

    The score of a shift is the mean colour gradient on the depth edges, in robust standard
    deviations (1.4826 times the median absolute deviation) over all shifts. Where the edges do not
    fit at rest, other scales are tried as well: a depth camera often sees a wider field.

    Args:
      color: of the picture.
      depth: of the same size; 0 where unseen.

    Returns:
      The shift of the largest score; None if the picture is too small or has too few edges.
    """
    step = -(-depth.shape[1] // MAX_WIDTH)
    edges = _depth_edges(depth[::step, ::step])
    if min(edges.shape) <= 2 * REACH or edges.sum() < MIN_EDGES:
        return None
    gradient = sum(
        ndimage.gaussian_gradient_magnitude(color[..., i].astype(np.float64), 1.5 * step)
        for i in range(3)
    )[::step, ::step]
    gradient = np.minimum(gradient, np.quantile(gradient, 0.9))
    gradient = gradient - ndimage.uniform_filter(gradient, REACH)
    if not gradient.any():
        return None
    spectrum = fft.rfft2(gradient, _padded(gradient.shape))
    scores = {1.0: _scores(spectrum, edges)}
    rest = scores[1.0][REACH - NEAR : REACH + NEAR + 1, REACH - NEAR : REACH + NEAR + 1].max()
    if rest < GOOD:
        scores |= {scale: _scores(spectrum, _enlarge(edges, scale)) for scale in SCALES}
    scale = max(scores, key=lambda key: scores[key].max() - (SCALED_GAIN - MIN_GAIN) * (key != 1.0))
    best = scores[scale]
    down, right = np.unravel_index(int(best.argmax()), best.shape)
    return Shift(
        right=int(right - REACH) * step,
        down=int(down - REACH) * step,
        scale=scale,
        score=float(best.max()),
        score_at_rest=float(rest),
    )


def score_at_rest(color: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"]) -> float:
    """How well the edges of depth lie on those of the colour; see :func:`find_shift`.

    Args:
      color: of the picture.
      depth: of the same size; 0 where unseen.

    Returns:
      The score at rest; 0 if the picture says nothing.
    """
    shift = find_shift(color, depth)
    return 0.0 if shift is None else shift.score_at_rest


def is_better(first: float, second: float) -> bool:
    """Whether one score at rest is certainly better than another one.

    Args:
      first: a score.
      second: the score of another depth on the same colour.
    """
    return first > MIN_PEAK and first - second > MIN_GAIN


def _padded(shape: tuple[int, ...]) -> tuple[int, int]:
    """The size of the spectra; REACH pixels of padding keep one side from the other."""
    return fft.next_fast_len(shape[0] + REACH, True), fft.next_fast_len(shape[1] + REACH, True)


def _scores(
    spectrum: Shaped[np.ndarray, "_ _"], edges: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "shifts shifts"]:
    """The score of each shift, from -REACH to REACH down and to the right."""
    size = _padded(edges.shape)
    product = spectrum * np.conj(fft.rfft2(edges.astype(np.float64), size))
    sums = np.roll(fft.irfft2(product, size), (REACH, REACH), (0, 1))
    sums = sums[: 2 * REACH + 1, : 2 * REACH + 1]
    middle = np.median(sums)
    spread = 1.4826 * float(np.median(np.abs(sums - middle)))
    return (sums - middle) / max(spread, 1e-12)


def _enlarge(edges: Bool[np.ndarray, "h w"], scale: float) -> Bool[np.ndarray, "h w"]:
    """The edges of the picture enlarged about its middle."""
    middle = (np.array(edges.shape) - 1) / 2
    places = np.rint((np.argwhere(edges) - middle) * scale + middle).astype(int)
    places = places[((places >= 0) & (places < edges.shape)).all(axis=1)]
    result = np.zeros_like(edges)
    result[tuple(places.T)] = True
    return result


def _depth_edges(depth: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Both pixels of each pair of neighbours that are seen, at depths far from each other."""
    edges = np.zeros(depth.shape, bool)
    for first, second in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = depth[first], depth[second]
        far = (a > 0) & (b > 0) & (np.abs(a - b) > JUMP * np.minimum(a, b))
        edges[first] |= far
        edges[second] |= far
    return edges
