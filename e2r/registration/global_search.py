"""From a frame to a pose with no start: look, look closer, guess, search, refine. Batch by vmap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import correspondences, poses, vectors
from e2r.networks.build import NetworkConfig, draw_tokens
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse, iterate, kernels, starts
from e2r.registration.schedule import Schedule, run_schedule
from e2r.types import Array, Cloud, Hypotheses, MaskedCloud, Params, Pose, Registration, Surface


@dataclass(frozen=True)
class SearchConfig:
    """How the pose is searched for."""

    rolls: int = 8
    """rolls at which the coarse stage sees the scene"""
    shifts: tuple[float, ...] = (0.0, -12.0, 12.0, -24.0, 24.0, -36.0, 36.0, 48.0)
    """mm along the spine, of each guess: a guess may be a level off"""
    points: int = 512
    """points of the mask that the short registrations see"""
    steps: int = 15
    """of the short registrations"""
    parents: int = 8
    """how many ends of the first round the second begins at, each moved about; 0: no second"""
    finalists: int = 4
    """ends that are registered with the whole schedule"""
    apart: float = 5.0
    """mm: ends nearer to each other than this are one"""
    first_scale_mm: float = 6.0
    """robust scale of the first short step, mm"""
    last_scale_mm: float = 2.0
    """robust scale of the last short step, mm"""
    handover_scale_mm: float = 2.5
    """robust scale at which the whole schedule takes over, at most, mm"""
    scale: float = 1.5
    """robust scale of the agreement that decides, mm"""

    def __post_init__(self) -> None:
        if min(self.rolls, self.points, self.steps, self.finalists) < 1 or not self.shifts:
            raise ValueError("search: use 1 or more rolls, shifts, points, steps and finalists")
        if not 0 <= self.parents <= self.rolls * len(self.shifts) or not self.apart >= 0:
            raise ValueError("search: parents are 0 or more, and no more than the starts")
        if self.finalists > self.rolls * len(self.shifts):
            raise ValueError("search: there are more finalists than starts")
        if (
            not 0 < self.last_scale_mm <= self.first_scale_mm
            or not min(self.scale, self.handover_scale_mm) > 0
        ):
            raise ValueError(
                "search: use 0 < last_scale_mm <= first_scale_mm, scale and handover_scale_mm > 0"
            )


class SearchResult(NamedTuple):
    """What a search came to."""

    registration: Registration  # of the best hypothesis
    hypotheses: Hypotheses


def coarse_poses(
    settings: NetworkConfig,
    params: Params,
    key: Array,
    cloud: Cloud,
    reading: MaskOutput,
    surface: Surface,
    *,
    rolls: int,
) -> Pose:
    """What the coarse stage says at each roll (leading axis); consumes the key."""
    tokens = draw_tokens(key, cloud, reading, settings)
    angles = jnp.asarray(np.arange(rolls) * 2.0 * np.pi / rolls, jnp.float32)
    return jax.vmap(lambda roll: coarse.predict_pose(settings, params, tokens, surface, roll)[0])(
        angles
    )


def search(
    settings: NetworkConfig,
    params: Params,
    key: Array,
    cloud: Cloud,
    scene: MaskedCloud,
    reading: MaskOutput,
    surface: Surface,
    exposed: Array,
    schedule: Schedule,
    search: SearchConfig,
) -> SearchResult:
    """Searches for the pose of a whole model.

    Guesses at several rolls, each also shifted along the spine, are registered shortly on a few
    points of the mask; the best go through the whole schedule on all points, and the one that
    agrees most with the scene wins.

    Args:
      settings, params: of the networks.
      key: consumed.
      cloud: (N,) points, reading what the network said of them.
      scene: those to register, under their mask.
      surface: the model.
      exposed: (L,) bool, levels that may lie in the wound.
      schedule: of the last registration.
      search: how.
    """
    k_tokens, k_few = jax.random.split(key)
    guess = coarse_poses(settings, params, k_tokens, cloud, reading, surface, rolls=search.rolls)
    begin = starts.shift_along_spine(guess, surface, search.shifts)
    corners = jnp.asarray(surface.points)[:: max(1, surface.points.shape[0] // 32)]
    scene = iterate.zero_nonfinite(scene)
    few = draw_points(k_few, scene, min(search.points, scene.weights.shape[0]))
    total = jnp.maximum(jnp.sum(few.weights), 1e-6)
    centre = jnp.sum(few.weights[:, None] * few.points, axis=0) / total
    takes_over = min(max(search.handover_scale_mm, schedule.last_scale_mm), schedule.first_scale_mm)
    schedule = replace(schedule, first_scale_mm=takes_over)
    scales = iterate.annealed_scales(search.first_scale_mm, search.last_scale_mm, search.steps)

    def short(start: Pose) -> tuple[Pose, Array]:
        pose = iterate.run_unrolled(few, surface, start, scales, step=schedule.bound_step()).pose
        return pose, inlier_score(few, surface, pose, exposed, search.last_scale_mm)

    def long(start: Pose) -> tuple[Registration, Array]:
        result = run_schedule(scene, surface, start, schedule)
        return result, inlier_score(scene, surface, result.pose, exposed, search.scale)

    # Both rounds are one loop, which is compiled once; the smaller one is filled up with copies.
    counts = [begin.translation.shape[0], search.parents * len(starts.HYPOTHESIS_MOVES)]
    counts = counts[: 2 if search.parents else 1]
    room = max(counts)

    def filled(several: Pose) -> Pose:
        pick = np.minimum(np.arange(room), several.translation.shape[0] - 1)
        return jax.tree.map(lambda leaf: leaf[pick], several)

    def search_round(
        state: tuple[Pose, Pose, Array], number: Array
    ) -> tuple[tuple[Pose, Pose, Array], None]:
        begin, ends, scores = state
        found, marks = jax.vmap(short)(begin)
        marks = jnp.where(jnp.arange(room) < jnp.asarray(counts)[number], marks, -jnp.inf)
        ends = jax.tree.map(lambda a, b: a.at[number].set(b), ends, found)
        scores = scores.at[number].set(marks)
        if search.parents:
            parents = starts.select_distinct(
                _flat(ends), scores.ravel(), corners, count=search.parents, apart=search.apart
            )
            begin = filled(starts.perturb_hypotheses(parents, surface, centre))
        return (begin, ends, scores), None

    begin = filled(begin)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(counts)), begin)
    state = (begin, several, jnp.full((len(counts), room), -jnp.inf))
    (_, ends, scores), _ = jax.lax.scan(search_round, state, jnp.arange(len(counts)))
    best = starts.select_distinct(
        _flat(ends), scores.ravel(), corners, count=search.finalists, apart=search.apart
    )
    results, scores = jax.vmap(long)(best)
    order = jnp.argsort(-scores)
    results = jax.tree.map(lambda leaf: leaf[order], results)
    first = jax.tree.map(lambda leaf: leaf[0], results)
    placed = jax.vmap(lambda pose: poses.apply(pose, corners))(results.pose)
    gap = jnp.mean(jnp.linalg.norm(placed[:, None] - placed, axis=-1), axis=-1)
    before = jnp.tri(search.finalists, k=-1, dtype=bool)  # what is nearly the same counts once
    new = ~jnp.any((gap < search.apart) & before, axis=1)
    return SearchResult(first, Hypotheses(results.pose, scores[order], results.inlier_weight, new))


def _flat(several: Pose) -> Pose:
    """Two leading axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), several)


def single_hypothesis(
    scene: MaskedCloud, surface: Surface, result: Registration, exposed: Array, search: SearchConfig
) -> Hypotheses:
    """The one hypothesis of a registration that had its start."""
    score = inlier_score(scene, surface, result.pose, exposed, search.scale)
    one = Hypotheses(result.pose, score, result.inlier_weight, jnp.asarray(True))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)


def draw_points(key: Array, scene: MaskedCloud, count: int) -> MaskedCloud:
    """``count`` points of a scene, drawn in proportion to their weights; consumes the key."""
    chance = jnp.where(scene.weights > 0, jnp.log(jnp.maximum(scene.weights, 1e-6)), -1e9)
    noise = jax.random.gumbel(key, scene.weights.shape, scene.points.dtype)
    _, pick = jax.lax.top_k(jax.lax.stop_gradient(chance + noise), count)
    return MaskedCloud(scene.points[pick], scene.normals[pick], scene.weights[pick])


def inlier_score(
    scene: MaskedCloud, surface: Surface, pose: Pose, exposed: Array, scale: float
) -> jax.Array:
    """How much of a mask (in points) lies on the model's outside: near it, and facing as it does.

    The back of a vertebral body may fit a lamina's points, but it faces the other way.

    Args:
      scene, surface, pose: as registered.
      exposed: (L,) bool; points on other levels do not agree.
      scale: mm, of Welsch's kernel.
    """
    queries = poses.apply_inverse(pose, scene.points)
    match = correspondences.project(surface, queries)
    apart = queries - match.points
    normals = poses.rotate_columns(pose.rotation.T, vectors.columns(scene.normals))
    facing = vectors.dot(normals, vectors.columns(match.normals))
    near = kernels.welsch(jnp.sum(apart * apart, axis=1), scene.weights, jnp.asarray(scale))
    near = jnp.where(jnp.asarray(exposed)[match.levels], near, 0.0)
    total: jax.Array = jnp.sum(scene.weights * near * jnp.maximum(facing, 0.0))
    return total
