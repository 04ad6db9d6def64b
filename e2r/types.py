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
    """A preoperative model: its triangles, and a lattice that names the nearest one.

    The lattice is flat and padded, its extent is data (not shape), so that models of any size
    share one compiled program. Padded triangles are never named.
    """

    planes: Array  # (F, 8) of each triangle: centre (mm), unit normal, radius (mm), level
    corners: Array  # (F, 9) mm, its corners; (0, 9) where built for projection only
    corner_normals: Array  # (F, 9) unit normals there, of the triangles around; or (0, 9)
    rings: Array  # (F, R) int32, the triangles that touch it, padded with itself
    nodes: Array  # (M,) int32, nearest triangle of each lattice node, C order over `shape`
    origin: Array  # (3,) mm, node (0, 0, 0)
    spacing: Array  # () mm, between nodes
    shape: Array  # (3,) int32, nodes along each axis
    points: Array  # (S, 3) mm, samples spread evenly by area, model frame
    normals: Array  # (S, 3) unit, outward
    levels: Array  # (S,) int32, index into the case's level names
    upright: Pose  # canonical from model: x to the patient's left, y posterior, z cranial
    dropped: Array  # () int32, triangles without area that were left out


class Match(NamedTuple):
    """What each query is compared with: a point of the surface, the normal and the level there."""

    points: Array  # (N, 3) mm, model frame
    normals: Array  # (N, 3) unit, model frame
    levels: Array  # (N,) int32, index into the case's level names


class Scene(NamedTuple):
    """What is registered: a cloud under its mask."""

    points: Array  # (N, 3) mm, camera frame
    normals: Array  # (N, 3) unit, camera frame; zeros where nobody estimated them
    weights: Array  # (N,) mask weights in [0, 1]; zero where padded


class Moved(NamedTuple):
    """What one registration step came to."""

    pose: Pose  # camera from model, after the step
    residual: Array  # () mm, robust weighted RMS distance before it
    evidence: Array  # () total weight times robust weight (in points)
    freedom: Array  # () in [0, 6]: directions of motion that the evidence determines, not the prior


class Registration(NamedTuple):
    """A registration's value and the figures that say how far to trust it."""

    pose: Pose  # camera from model, after the last step
    trajectory: Pose  # leading axis K: the pose after each step
    residual: Array  # () mm, robust weighted RMS distance at the last step
    evidence: Array  # () total weight times robust weight at the last step (in points)
    freedom: Array  # () in [0, 6], effective degrees of freedom; well below 6: not to be trusted
    steps: Array  # () int32, steps taken


class Levels(NamedTuple):
    """One pose a level of the model, leading axis L."""

    pose: Pose  # camera from model
    evidence: Array  # (L,) total weight times robust weight of the level's own points
    residual: Array  # (L,) mm, robust weighted RMS distance of them


class Hypotheses(NamedTuple):
    """Where a model may be: leading axis K, the one that agrees most first."""

    pose: Pose  # camera from model
    agreement: Array  # (K,) points of the mask that lie on the model's outside
    evidence: Array  # (K,) total weight times robust weight
    distinct: Array  # (K,) bool: not the same as one before


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

Kernel: TypeAlias = Callable[[Array, Array, Array], Array]
"""(squared distances (N,), mask weights (N,), scale) -> robust weights (N,) in [0, 1]."""

Step: TypeAlias = Callable[[Scene, Surface, Pose, Array], Moved]
"""(scene, surface, pose, robust scale in mm) -> the next pose and its figures."""

MaskEstimator: TypeAlias = Callable[[Array, Array], Array]
"""(key, logits (N,)) -> weights (N,) in [0, 1]."""

Judge: TypeAlias = Callable[[Array], Array]
"""weights or logits (N,) -> how wrong the registration with them ends: an error, or a loss, ()."""
