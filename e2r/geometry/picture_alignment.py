"""Whether depth and colour of one picture lie on each other, by their edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage, signal

from e2r.types import Bool, Float

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
MIN_EDGES = 200
"""Fewer pixels of edges say nothing."""


class Shift(NamedTuple):
    """The shift of the depth that brings its edges onto those of the colour, best of all."""

    right: int  # pixels of the picture
    down: int
    score: float  # at this shift: standard deviations over all shifts
    score_at_rest: float  # at no shift, or the best one of up to NEAR pixels

    @property
    def is_certain(self) -> bool:
        """Whether the picture is better with the shift than without."""
        moved = max(abs(self.right), abs(self.down)) > NEAR
        return moved and is_better(self.score, self.score_at_rest)


def find_shift(color: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"]) -> Shift | None:
    """Correlates the edges of depth with those of colour over all small shifts.

    The score of a shift is the mean colour gradient on the depth edges, in robust standard
    deviations (1.4826 times the median absolute deviation) over all shifts.

    Args:
      color: of the picture.
      depth: of the same size; 0 where unseen.

    Returns:
      The shift of the largest score; None if the picture is too small or has too few edges.
    """
    step = -(-depth.shape[1] // MAX_WIDTH)
    edges = _depth_edges(depth[::step, ::step]).astype(np.float64)
    height, width = edges.shape
    if min(height, width) <= 2 * REACH or edges.sum() < MIN_EDGES:
        return None
    gradient = sum(
        ndimage.gaussian_gradient_magnitude(color[..., i].astype(np.float64), 1.5 * step)
        for i in range(3)
    )[::step, ::step]
    gradient = np.minimum(gradient, np.quantile(gradient, 0.9))
    gradient = gradient - ndimage.uniform_filter(gradient, REACH)
    scores = signal.fftconvolve(gradient, edges[::-1, ::-1])
    scores = scores[height - 1 - REACH : height + REACH, width - 1 - REACH : width + REACH]
    middle = np.median(scores)
    spread = 1.4826 * float(np.median(np.abs(scores - middle)))
    if not spread > 0:
        return None
    scores = (scores - middle) / spread
    down, right = np.unravel_index(int(scores.argmax()), scores.shape)
    rest = scores[REACH - NEAR : REACH + NEAR + 1, REACH - NEAR : REACH + NEAR + 1].max()
    return Shift(
        right=int(right - REACH) * step,
        down=int(down - REACH) * step,
        score=float(scores.max()),
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


def _depth_edges(depth: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Both pixels of each pair of neighbours that are seen, at depths far from each other."""
    edges = np.zeros(depth.shape, bool)
    for first, second in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = depth[first], depth[second]
        far = (a > 0) & (b > 0) & (np.abs(a - b) > JUMP * np.minimum(a, b))
        edges[first] |= far
        edges[second] |= far
    return edges
