"""The nouns of e2r, as small frozen pytrees, and the callable types, each named once.

Everything here describes **one** case; a batch is the same pytree with a leading axis, made by
``jax.vmap``. Lengths are millimetres, and a pose maps model coordinates to camera coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""A ``jax.Array`` or ``np.ndarray``: the leaves of a pytree are the one or the other by where it
lives, so a checker can hold neither. Shapes and units stand in the docstrings."""
Params: TypeAlias = Any


class Pose(NamedTuple):
    """A rigid motion ``x -> rotation @ x + translation`` (mm); as a result, camera from model."""

    rotation: Array  # (3, 3), orthonormal, det +1
    translation: Array  # (3,), mm


class Cloud(NamedTuple):
    """What the camera sees, padded to a static size. Invalid rows are finite and never used."""

    points: Array  # (N, 3) mm, camera frame
    colors: Array  # (N, 3) in [0, 1]
    normals: Array  # (N, 3) unit, towards the camera
    valid: Array  # (N,) bool


class Surface(NamedTuple):
    """A preoperative model: samples with normals, and a grid that names the nearest sample.

    The grid is flat and padded, its extent is data (not shape), so that models of any size share
    one compiled program.
    """

    points: Array  # (S, 3) mm, model frame
    normals: Array  # (S, 3) unit, outward
    levels: Array  # (S,) int32, index into the case's level names
    cells: Array  # (M,) uint16, nearest sample of each cell's centre, C order over `shape`
    origin: Array  # (3,) mm, centre of cell (0, 0, 0)
    spacing: Array  # () mm, cell edge
    shape: Array  # (3,) int32, cells along each axis
    reach: Array  # () mm, how far a sample stands for its tangent plane


class Match(NamedTuple):
    """What each query is compared with: a point of the surface and the normal there."""

    points: Array  # (N, 3) mm, model frame
    normals: Array  # (N, 3) unit, model frame


class Registration(NamedTuple):
    """A registration's value and the figures that say how far to trust it."""

    pose: Pose  # camera from model, after the last step
    trajectory: Pose  # leading axis K: the pose after each step
    residual: Array  # () mm, robust weighted RMS distance at the last step
    evidence: Array  # () total weight times robust weight at the last step (in points)


class Pyramid(NamedTuple):
    """Neighbour indices of a cloud and of its random, nested subsamples (prefixes of the cloud).

    Level ``l`` of the network works on the first ``sizes[l]`` points. All entries are indices
    into the cloud, of valid points (also those of a padded point, which nobody reads).
    """

    within: tuple[Array, ...]  # level l: (sizes[l], k) neighbours inside level l
    down: tuple[Array, ...]  # level l: (sizes[l + 1], k) neighbours of the next level in level l
    up: tuple[Array, ...]  # level l: (sizes[l], 3) neighbours of level l in the next level


class Targets(NamedTuple):
    """Points at which a registration is judged, padded to a static size."""

    points: Array  # (T, 3) mm, model frame
    goals: Array  # (T, 3) mm, camera frame: where the truth puts them
    valid: Array  # (T,) bool


class Example(NamedTuple):
    """What training sees of one scene: no label of bone anywhere, the pose is the only teacher."""

    cloud: Cloud
    pyramid: Pyramid
    surface: Surface
    targets: Targets
    pose: Pose  # the true camera-from-model pose


Correspond: TypeAlias = Callable[[Surface, Array], Match]
"""(surface, queries (N, 3) in the model frame) -> what they are matched with."""

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""(squared distance, scale) -> robust weight in [0, 1]."""

Step: TypeAlias = Callable[[Array, Array, Surface, Pose, Array], tuple[Pose, Array, Array]]
"""(points, weights, surface, pose, scale) -> (next pose, residual, evidence)."""

MaskEstimator: TypeAlias = Callable[[Array, Array], Array]
"""(key, logits (N,)) -> weights (N,) in [0, 1]."""
