"""The nouns of e2r as small frozen pytrees, and the callable types. Each is named once.

Every type describes **one** case; a batch is the same pytree with a leading axis, made by
``jax.vmap``. Lengths are millimetres. A pose maps model coordinates to camera coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Scalar, Shaped

Array: TypeAlias = jax.Array | np.ndarray
"""A leaf of a pytree: on the device, or on the host."""
ScalarLike: TypeAlias = Float[Array, ""] | np.floating | float
"""A real number: traced, or on the host."""
PRNGKey: TypeAlias = Key[Array, ""]
"""A typed random key; the function that takes it consumes it."""
Params: TypeAlias = Any
"""Parameters of a Linen module, or of both: ``{"mask": ..., "coarse": ...}``."""


class Pose(NamedTuple):
    """A rigid motion ``x -> rotation @ x + translation``; as a result, camera from model."""

    rotation: Float[Array, "3 3"]  # orthonormal, determinant +1
    translation: Float[Array, "3"]  # mm


class Cloud(NamedTuple):
    """The points a camera sees, padded to a static size. Padded rows are finite and unused."""

    points: Float[Array, "n 3"]  # mm, camera frame
    colors: Float[Array, "n 3"]  # 0 to 1
    normals: Float[Array, "n 3"]  # unit, towards the camera
    valid: Bool[Array, "n"]


class Surface(NamedTuple):
    """A preoperative model: its triangles, and a lattice that names the nearest one.

    The lattice is flat and padded. Its extent is data, not shape, so models of any size share one
    compiled program. Padded triangles are never named.
    """

    planes: Float[Array, "f 8"]  # of each triangle: centre (mm), unit normal, radius (mm), level
    corners: Float[Array, "f 9"]  # mm; (0, 9) where built for projection only
    corner_normals: Float[Array, "f 9"]  # unit, of the triangles around each corner; or (0, 9)
    rings: Int[Array, "f r"]  # the triangles that touch it, padded with itself
    nodes: Int[Array, "m"]  # nearest triangle of each lattice node, in C order over `shape`
    origin: Float[Array, "3"]  # mm, node (0, 0, 0)
    spacing: Float[Array, ""]  # mm, between nodes
    shape: Int[Array, "3"]  # nodes along each axis
    points: Float[Array, "s 3"]  # mm, model frame: samples spread evenly by area
    normals: Float[Array, "s 3"]  # unit, outward
    levels: Int[Array, "s"]  # index into the case's level names
    canonical_from_model: Pose  # x to the patient's left, y posterior, z cranial
    num_degenerate: Int[Array, ""]  # triangles without area, which were left out


class Correspondence(NamedTuple):
    """The surface point, normal and level that each query point is compared with."""

    points: Float[Array, "n 3"]  # mm, model frame
    normals: Float[Array, "n 3"]  # unit, model frame
    levels: Int[Array, "n"]  # index into the case's level names


class MaskedCloud(NamedTuple):
    """The points that a registration uses, with their mask weights."""

    points: Float[Array, "n 3"]  # mm, camera frame
    normals: Float[Array, "n 3"]  # unit, camera frame; zeros where there are none
    weights: Float[Array, "n"]  # mask weights in [0, 1]; zero where padded


class StepResult(NamedTuple):
    """The result of one registration step."""

    pose: Pose  # camera from model, after the step
    residual: Float[Array, ""]  # mm, robust weighted RMS distance before the step
    inlier_weight: Float[Array, ""]  # sum of weight times robust weight, in points
    effective_dof: Float[Array, ""]  # 0 to 6: directions that the points determine, not the prior


class Registration(NamedTuple):
    """The result of a registration, and the figures that tell how far to trust it."""

    pose: Pose  # camera from model, after the last step
    trajectory: Pose  # leading axis K: the pose after each step
    residual: Float[Array, ""]  # mm, robust weighted RMS distance at the last step
    inlier_weight: Float[Array, ""]  # sum of weight times robust weight at the last step, in points
    effective_dof: Float[Array, ""]  # 0 to 6; well below 6 the pose is not determined
    steps: Int[Array, ""]  # steps taken


class LevelPoses(NamedTuple):
    """One pose for each level of the model, leading axis L."""

    pose: Pose  # camera from model
    inlier_weight: Float[Array, "l"]  # sum of weight times robust weight of the level's own points
    residual: Float[Array, "l"]  # mm, robust weighted RMS distance of those points


class Hypotheses(NamedTuple):
    """Candidate poses of the whole model, leading axis K, the best score first."""

    pose: Pose  # camera from model
    inlier_score: Float[Array, "k"]  # mask points that lie on the model's outside
    inlier_weight: Float[Array, "k"]  # sum of weight times robust weight
    distinct: Bool[Array, "k"]  # False where it repeats a better one


class Pyramid(NamedTuple):
    """Neighbour indices of a cloud and of its nested random subsamples, which are its prefixes.

    Level ``l`` of the network works on the first ``sizes[l]`` points. All entries are indices of
    valid points of the cloud, those of padded rows too.
    """

    within: tuple[Int[Array, "m k"], ...]  # level l: neighbours inside level l
    down: tuple[Int[Array, "m k"], ...]  # level l: neighbours of level l + 1 in level l
    up: tuple[Int[Array, "m 3"], ...]  # level l: neighbours of level l in level l + 1


class Targets(NamedTuple):
    """Points at which a registration is judged, padded to a static size."""

    points: Float[Array, "t 3"]  # mm, model frame
    goals: Float[Array, "t 3"]  # mm, camera frame: where the true pose puts them
    valid: Bool[Array, "t"]


class Example(NamedTuple):
    """One training example. It holds no label of bone: the pose is the only teacher."""

    cloud: Cloud
    pyramid: Pyramid
    surface: Surface
    targets: Targets
    pose: Pose  # true pose, camera from model


CorrespondenceFn: TypeAlias = Callable[[Surface, Float[Array, "n 3"]], Correspondence]
"""(surface, query points in the model frame, mm) -> their correspondences."""

RobustKernel: TypeAlias = Callable[
    [Float[Array, "n"], Float[Array, "n"], ScalarLike], Float[Array, "n"]
]
"""(squared distances in mm^2, mask weights, scale in mm) -> robust weights in [0, 1]."""

RegistrationStep: TypeAlias = Callable[[MaskedCloud, Surface, Pose, ScalarLike], StepResult]
"""(cloud, surface, pose, robust scale in mm) -> the next pose and its figures."""

MaskEstimator: TypeAlias = Callable[[PRNGKey, Float[Array, "n"]], Float[Array, "n"]]
"""(key, mask logits) -> mask weights in [0, 1]."""

MaskObjective: TypeAlias = Callable[[Float[Array, "n"]], Float[Array, ""]]
"""mask weights, or logits -> the error or loss of the registration that uses them."""

__all__ = [
    "Array",
    "Bool",
    "Cloud",
    "Correspondence",
    "CorrespondenceFn",
    "Example",
    "Float",
    "Hypotheses",
    "Int",
    "LevelPoses",
    "MaskEstimator",
    "MaskObjective",
    "MaskedCloud",
    "PRNGKey",
    "Params",
    "Pose",
    "Pyramid",
    "Registration",
    "RegistrationStep",
    "RobustKernel",
    "Scalar",
    "ScalarLike",
    "Shaped",
    "StepResult",
    "Surface",
    "Targets",
]
