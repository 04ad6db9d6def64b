"""Follows the poses of all levels from one depth image to the next. Pure; one program a frame.

The bone that a registration saw is remembered as points on the model. In the next image they are
looked up where the predicted poses project them: that gives region of interest, mask and samples
without a network, a tree or a search. A few steps then move all levels together, for the camera
moved, and each level by itself, for the spine bends. A filter weighs the measured motion against
the predicted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import correspondences, depth_pixels, poses
from e2r.geometry.depth_pixels import Pinhole, PixelPoints
from e2r.registration import iterate, kernels, steps
from e2r.registration.levels import mean_pose
from e2r.types import Array, Float, Int, LevelPoses, MaskedCloud, Pose, Surface

LEVER_MM = 50.0
"""Arm at which a turn of the motion counts as a shift."""
NEAR_MM = 10.0
"""Levels nearer to each other pull no stronger than these, mm."""
LEVEL_POINTS = 512
"""Points by which a level moves by itself, at most."""
LEVEL_NOISE, LEVEL_GAIN = 3.0, 0.3
"""A level by itself is held by fewer points: its noise, as a multiple of that of the motion of all,
and the share of it that is believed."""


@dataclass(frozen=True)
class TrackingSettings:
    """How a frame is followed."""

    rounds: int = 2
    """times that the image is read, each at better poses"""
    steps: int = 4
    """steps of all levels together, in each round"""
    first_scale_mm: float = 5.0
    """robust scale of the first step, mm"""
    last_scale_mm: float = 1.0
    """robust scale of the last steps, mm"""
    level_steps: int = 4
    """steps of each level by itself, at the last scale"""
    posture_weight: float = 20.0
    """by which a level is held in the posture of the last registration, in scene points"""
    hold_share: float = 0.15
    """the poses stay where they are while a smaller share of the remembered bone agrees"""
    covered_mm: float = 8.0
    """a remembered point is covered where the scene lies so far before it, mm"""
    quiet_mm: float = 0.2
    """a motion that differs less from the predicted one is taken for noise, mm"""
    quiet_gain: float = 0.3
    """share of such a difference that is believed; twice as large ones are believed whole"""
    velocity_gain: float = 0.6
    """share of a difference that changes the velocity, where all of the difference is believed"""

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "level_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"tracking.{name} is {getattr(self, name)}; use 1 or more")
        if not 0 < self.last_scale_mm <= self.first_scale_mm:
            raise ValueError(
                f"tracking.last_scale_mm is {self.last_scale_mm}; use more than 0, and at most "
                f"first_scale_mm, which is {self.first_scale_mm}"
            )
        for name in ("posture_weight", "covered_mm", "quiet_mm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"tracking.{name} is {getattr(self, name)}; use more than 0")
        for name in ("quiet_gain", "velocity_gain", "hold_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"tracking.{name} is {getattr(self, name)}; use more than 0, and 1 at most"
                )


class SeenBone(NamedTuple):
    """Points of the model that a registration saw, N of them, level by level; 0 weighs padding."""

    points: Float[Array, "n 3"]  # mm, model frame
    levels: Int[Array, "n"]  # index of each point's level, ascending
    weights: Float[Array, "n"]  # mask weight times robust weight


class TrackState(NamedTuple):
    """What one frame hands to the next."""

    pose: Pose  # of each level, leading axis L, camera from model
    posture: Pose  # the same at the last registration: how the spine is bent
    velocity: Float[Array, "6"]  # of the camera's picture: turn (rad/s), shift (mm/s) at the centre
    bone: SeenBone


class Evidence(NamedTuple):
    """What a frame says about its poses; shares of the remembered weight."""

    seen: Float[Array, ""]  # has a depth, and nothing before it
    covered: Float[Array, ""]  # something lies before it
    agreeing: Float[Array, ""]  # lies on the model
    of_levels: Float[Array, "l"]  # the share of each level's own weight that lies on the model
    residual: Float[Array, ""]  # mm, robust RMS distance of the agreeing points
    surprise: Float[Array, ""]  # mm between predicted and measured motion


def remember_bone(
    cloud: MaskedCloud, surface: Surface, levels: Pose, *, scale_mm: float = 1.5
) -> SeenBone:
    """The points of the model on which a registration's scene points lie.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      levels: pose of each level, leading axis L, camera from model.
      scale_mm: of Welsch's kernel, which weighs a point by its distance from the model.
    """
    cloud = iterate.zero_nonfinite(cloud)

    def at(pose: Pose, level: Array) -> tuple[jax.Array, jax.Array]:
        queries = poses.apply_inverse(pose, cloud.points)
        match = correspondences.project(surface, queries)
        square = jnp.sum(jnp.square(queries - match.points), axis=1)
        return jnp.asarray(match.points), jnp.where(match.levels == level, square, jnp.inf)

    count = levels.translation.shape[0]
    points, squares = jax.vmap(at)(levels, jnp.arange(count, dtype=jnp.int32))
    best = jnp.argmin(squares, axis=0).astype(jnp.int32)
    rows = jnp.arange(best.shape[0])
    square = squares[best, rows]
    found = jnp.isfinite(square)
    robust = kernels.welsch(jnp.where(found, square, 0.0), cloud.weights, scale_mm)
    weights = jnp.where(found, cloud.weights * robust, 0.0)
    order = jnp.argsort(best)
    return SeenBone(points[best, rows][order], best[order], weights[order])


def start_track(levels: Pose, bone: SeenBone) -> TrackState:
    """The state after a registration, of a camera at rest."""
    rest = np.zeros(6, levels.translation.dtype)
    return TrackState(levels, levels, rest, bone)


def centre_of(pose: Pose, bone: SeenBone) -> Float[jax.Array, "3"]:
    """The weighted centre of the remembered bone, mm, camera frame.

    Args:
      pose: of each level, leading axis L, camera from model.
      bone: of a registration.
    """
    placed = jax.vmap(poses.apply)(_own(pose, bone), bone.points)
    total = jnp.maximum(jnp.sum(bone.weights), 1e-6)
    return jnp.sum(bone.weights[:, None] * placed, axis=0) / total


def _own(pose: Pose, bone: SeenBone) -> Pose:
    """The pose of each remembered point's level, leading axis N."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[bone.levels], pose)


def track_frame(
    state: TrackState,
    depth: Float[Array, "h w"],
    seconds: Float[Array, ""],
    *,
    camera: Pinhole,
    surface: Surface,
    settings: TrackingSettings = TrackingSettings(),
) -> tuple[TrackState, LevelPoses, Evidence]:
    """Follows the levels into the next depth image.

    Args:
      state: after the frame before.
      depth: mm along the optical axis, 0 where unseen.
      seconds: since the frame before.
      camera: of the depth image.
      surface: the model.
      settings: steps, scales, filter.

    Returns:
      the next state, whose poses are filtered; each level's measured pose; the evidence.
    """
    pivot = centre_of(state.pose, state.bone)
    predicted = _moved(state.velocity * seconds, state.pose, pivot)
    scales = np.geomspace(
        settings.first_scale_mm, settings.last_scale_mm, settings.rounds * settings.steps
    ).astype(np.float32)
    current = predicted
    for number in range(settings.rounds):
        cloud, _ = _look_up(current, state.bone, depth, camera=camera, settings=settings)
        some = scales[number * settings.steps : (number + 1) * settings.steps]
        current = _step_together(cloud, surface, current, state.bone, scales=some)
    cloud, found = _look_up(current, state.bone, depth, camera=camera, settings=settings)
    measured = _step_each(cloud, surface, current, state, settings=settings)
    evidence = _judge(measured, cloud, found, state.bone, settings=settings)
    filtered, velocity, surprise = _filter(
        state, predicted, measured.pose, pivot, seconds=seconds, settings=settings
    )
    holds = evidence.agreeing < settings.hold_share
    after = TrackState(filtered, state.posture, velocity, state.bone)
    held = state._replace(velocity=jnp.zeros_like(velocity))
    after = jax.tree.map(lambda a, b: jnp.where(holds, a, b), held, after)
    return after, measured, evidence._replace(surprise=surprise)


def _look_up(
    pose: Pose,
    bone: SeenBone,
    depth: Float[Array, "h w"],
    *,
    camera: Pinhole,
    settings: TrackingSettings,
) -> tuple[MaskedCloud, PixelPoints]:
    """The scene points where the remembered bone projects; what is covered weighs nothing."""
    placed = jax.vmap(poses.apply)(_own(pose, bone), bone.points)
    found = depth_pixels.read_pixels(depth, camera, placed)
    usable = found.seen & (found.ahead < settings.covered_mm)
    return MaskedCloud(found.points, found.normals, jnp.where(usable, bone.weights, 0.0)), found


def _step_together(
    cloud: MaskedCloud, surface: Surface, pose: Pose, bone: SeenBone, *, scales: np.ndarray
) -> Pose:
    """Moves all levels by one motion of the camera.

    The scene is straightened first: each point moves from its level's pose to that of the level
    with most points, as if the spine were not bent. The steps are then those of a rigid model.
    """
    number = jnp.argmax(_sums(cloud.weights, bone, jnp.asarray(pose.translation).shape[0]))
    middle = jax.tree.map(lambda leaf: jnp.asarray(leaf)[number], pose)
    straight = jax.vmap(lambda one: poses.compose(middle, poses.inverse(one)))(pose)
    own = _own(straight, bone)
    cloud = cloud._replace(
        points=jax.vmap(poses.apply)(own, cloud.points),
        normals=jax.vmap(poses.rotate)(own, cloud.normals),
    )

    def body(current: Pose, scale: jax.Array) -> tuple[Pose, None]:
        return steps.symmetric(cloud, surface, current, scale).pose, None

    after, _ = jax.lax.scan(body, middle, jnp.asarray(scales, cloud.points.dtype))
    motion = poses.compose(after, poses.inverse(middle))
    return jax.vmap(lambda one: poses.compose(motion, one))(pose)


def _step_each(
    cloud: MaskedCloud,
    surface: Surface,
    current: Pose,
    state: TrackState,
    *,
    settings: TrackingSettings,
) -> LevelPoses:
    """Moves each level by itself; the others pull it to where the posture puts it beside them."""
    count, bone = current.translation.shape[0], state.bone
    sums = _sums(bone.weights, bone, count)
    places = _sums(bone.weights[:, None] * bone.points, bone, count)
    centres = places / jnp.maximum(sums, 1e-6)[:, None]
    square = jnp.sum(jnp.square(centres[:, None] - centres[None]), axis=2)
    near = (1.0 - jnp.eye(count)) * sums[None] / jnp.maximum(square, NEAR_MM**2)
    motions = jax.vmap(lambda now, then: poses.compose(now, poses.inverse(then)))(
        current, state.posture
    )

    def one(level: Array, rows: Array, pose: Pose, posture: Pose) -> Pose:
        carried = jax.vmap(lambda motion: poses.compose(motion, posture))(motions)
        mean = mean_pose(carried, near[level], centres[level], fallback=pose)
        anchor = steps.Anchor(mean, settings.posture_weight)
        own = jnp.where(bone.levels == level, cloud.weights, 0.0)
        mine = iterate.take_rows(cloud._replace(weights=own), rows)

        def body(pose: Pose, _: None) -> tuple[Pose, None]:
            scale = settings.last_scale_mm
            return steps.symmetric(mine, surface, pose, scale, anchor=anchor).pose, None

        after: Pose = jax.lax.scan(body, pose, None, length=settings.level_steps)[0]
        return after

    levels = jnp.arange(count, dtype=jnp.int32)
    after = jax.vmap(one)(levels, _rows_of_levels(bone, count), current, state.posture)
    return _score_each(cloud, surface, after, bone, scale=settings.last_scale_mm)


def _rows_of_levels(bone: SeenBone, count: int) -> jax.Array:
    """Rows of each level's first points, (L, LEVEL_POINTS); others' where it has fewer."""
    last = len(bone.levels) - 1
    first = jnp.searchsorted(bone.levels, jnp.arange(count, dtype=bone.levels.dtype))
    some = np.arange(min(LEVEL_POINTS, last + 1), dtype=np.int32)
    return jnp.minimum(first[:, None] + some[None], last)


def _score_each(
    cloud: MaskedCloud, surface: Surface, several: Pose, bone: SeenBone, *, scale: float
) -> LevelPoses:
    """Inlier weight and residual of each level's pose on its own points."""
    queries = jax.vmap(poses.apply_inverse)(_own(several, bone), cloud.points)
    match = correspondences.project(surface, queries)
    square = jnp.sum(jnp.square(queries - match.points), axis=1)
    weights = jnp.where(match.levels == bone.levels, cloud.weights, 0.0)
    share = weights * kernels.welsch(square, weights, scale)
    count = several.translation.shape[0]
    total, squares = (_sums(value, bone, count) for value in (share, share * square))
    mean = squares / jnp.maximum(total, 1e-6)
    return LevelPoses(several, total, jnp.sqrt(jnp.maximum(mean, 1e-12)))


def _sums(values: Float[Array, "n *more"], bone: SeenBone, count: int) -> jax.Array:
    """The sum of some values of the remembered points over each level."""
    values = jnp.asarray(values)
    return jnp.zeros((count, *values.shape[1:]), values.dtype).at[bone.levels].add(values)


def _judge(
    measured: LevelPoses,
    cloud: MaskedCloud,
    found: PixelPoints,
    bone: SeenBone,
    *,
    settings: TrackingSettings,
) -> Evidence:
    """The evidence of a frame, but for the surprise."""
    total = jnp.maximum(jnp.sum(bone.weights), 1e-6)
    inliers = measured.inlier_weight
    square = jnp.sum(inliers * jnp.square(measured.residual)) / jnp.maximum(jnp.sum(inliers), 1e-6)
    covered = jnp.where(found.inside & (found.ahead >= settings.covered_mm), bone.weights, 0.0)
    return Evidence(
        seen=jnp.sum(cloud.weights) / total,
        covered=jnp.sum(covered) / total,
        agreeing=jnp.sum(inliers) / total,
        of_levels=inliers / jnp.maximum(_sums(bone.weights, bone, inliers.shape[0]), 1e-6),
        residual=jnp.sqrt(jnp.maximum(square, 1e-12)),
        surprise=jnp.zeros(()),
    )


def _filter(
    state: TrackState,
    predicted: Pose,
    measured: Pose,
    pivot: Float[Array, "3"],
    *,
    seconds: Float[Array, ""],
    settings: TrackingSettings,
) -> tuple[Pose, Float[Array, "6"], Float[Array, ""]]:
    """Poses between the predicted and the measured ones, the velocity, and their distance in mm.

    The difference is split: a motion of all levels, for the camera moved, and what is left of each
    level. The gain of each part grows with its size: noise is averaged, motion is followed at once.
    """
    twists = jax.vmap(lambda a, b: _twist(a, b, pivot))(predicted, measured)
    count = twists.shape[0]
    sums = _sums(state.bone.weights, state.bone, count)
    share = sums / jnp.maximum(jnp.sum(sums), 1e-6)
    together = jnp.matmul(share, twists, precision="highest")
    apart = twists - together[None]
    surprise = _size(together)
    gain = _gain(surprise, settings.quiet_mm, settings.quiet_gain)
    own = jax.vmap(lambda one: _gain(_size(one), LEVEL_NOISE * settings.quiet_mm, LEVEL_GAIN))(
        apart
    )
    pose = jax.vmap(lambda one, twist: _moved_one(twist, one, pivot))(
        predicted, gain * together[None] + own[:, None] * apart
    )
    pose = pose._replace(rotation=jax.vmap(poses.nearest_rotation)(pose.rotation))
    passed = jnp.where(seconds > 0, seconds, jnp.inf)  # the same frame again tells no velocity
    over = settings.velocity_gain * gain * gain / passed
    return pose, state.velocity + over * together, surprise


def _size(twist: Float[Array, "6"]) -> jax.Array:
    """The length of a twist, mm; a turn counts by its lever."""
    square = jnp.sum(jnp.square(twist[3:])) + LEVER_MM**2 * jnp.sum(jnp.square(twist[:3]))
    return jnp.sqrt(jnp.maximum(square, 1e-12))


def _gain(size: Float[Array, ""], quiet: float, low: float) -> jax.Array:
    """The share of a difference that is believed: ``low`` up to ``quiet``, all from twice that."""
    return jnp.clip(low + (1.0 - low) * (size / quiet - 1.0), low, 1.0)


def _moved(twist: Float[Array, "6"], pose: Pose, pivot: Float[Array, "3"]) -> Pose:
    """Poses (leading axis L) after a twist about a point of the camera frame."""
    moved: Pose = jax.vmap(lambda one: _moved_one(twist, one, pivot))(pose)
    return moved


def _moved_one(twist: Float[Array, "6"], pose: Pose, pivot: Float[Array, "3"]) -> Pose:
    motion = poses.about(Pose(poses.exp_rotation(twist[:3]), twist[3:]), pivot)
    return poses.compose(motion, pose)


def _twist(before: Pose, after: Pose, pivot: Float[Array, "3"]) -> jax.Array:
    """The twist about a point of the camera frame that takes a pose to another one nearby."""
    motion = poses.compose(after, poses.inverse(before))
    skew = 0.5 * (motion.rotation - motion.rotation.T)
    turn = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    return jnp.concatenate([turn, poses.apply(motion, pivot) - pivot])
