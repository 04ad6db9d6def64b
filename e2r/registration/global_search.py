"""The global search: the pose of a whole model, without an initial pose. Batch by vmap.

The coarse network gives one pose for each camera roll. These are shifted along the spine, and
registered with few steps on few points. The best are perturbed and registered again. The best of
all run through the whole schedule, and the pose with the highest inlier score wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import correspondences, poses, vectors
from e2r.networks.build import NetworkConfig
from e2r.networks.coarse_network import draw_tokens
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse, iterate, kernels, starts
from e2r.registration.schedule import Schedule, run_schedule
from e2r.types import (
    Array,
    Bool,
    Cloud,
    Float,
    Hypotheses,
    MaskedCloud,
    Params,
    Pose,
    PRNGKey,
    Registration,
    Surface,
)

NUM_PROBES = 32
"""Model points, about, at which the distance of two poses is measured."""


@dataclass(frozen=True)
class SearchConfig:
    """The settings of the global search."""

    rolls: int = 8
    """camera rolls at which the coarse network sees the scene"""
    shifts: tuple[float, ...] = (0.0, -12.0, 12.0, -24.0, 24.0, -36.0, 36.0, 48.0)
    """shifts of each coarse pose along the spine, mm: it may be a level off"""
    points: int = 256
    """masked points that the short registrations use"""
    steps: int = 15
    """steps of a short registration"""
    parents: int = 8
    """best poses of the first round that are perturbed for the second; 0: no second round"""
    finalists: int = 4
    """best poses that run through the whole schedule"""
    min_distance_mm: float = 5.0
    """poses nearer to each other than this count as one, mm"""
    first_scale_mm: float = 6.0
    """robust scale of the first short step, mm"""
    last_scale_mm: float = 2.0
    """robust scale of the last short step, mm"""
    handover_scale_mm: float = 2.5
    """robust scale at which the whole schedule begins, at most, mm"""
    score_scale_mm: float = 1.5
    """robust scale of the inlier score that decides, mm"""

    def __post_init__(self) -> None:
        if not self.shifts:
            raise ValueError("search.shifts is empty; give 1 or more")
        starts_ = self.rolls * len(self.shifts)
        for name, least, most in (
            ("rolls", 1, None),
            ("points", 1, None),
            ("steps", 1, None),
            ("finalists", 1, starts_),
            ("parents", 0, starts_),
        ):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                upper = "" if most is None else f", at most {most} (rolls times shifts)"
                raise ValueError(f"search.{name} is {value}; use {least} or more{upper}")
        if not self.min_distance_mm >= 0:
            raise ValueError(f"search.min_distance_mm is {self.min_distance_mm}; use 0 or more")
        if not 0 < self.last_scale_mm <= self.first_scale_mm:
            raise ValueError(
                f"search.last_scale_mm is {self.last_scale_mm}; use more than 0, and at most "
                f"search.first_scale_mm, which is {self.first_scale_mm}"
            )
        for name in ("score_scale_mm", "handover_scale_mm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"search.{name} is {getattr(self, name)}; use more than 0")


class ObservedScene(NamedTuple):
    """One scene, as the mask network sees it."""

    cloud: Cloud  # scene points of all samples
    masked: MaskedCloud  # the points to register, with their mask weights
    output: MaskOutput  # of the mask network, for `cloud`


class SearchResult(NamedTuple):
    """The result of a global search."""

    registration: Registration  # of the best hypothesis
    hypotheses: Hypotheses


def search(
    key: PRNGKey,
    observed: ObservedScene,
    surface: Surface,
    *,
    exposed: Bool[Array, "l"],
    params: Params,
    network: NetworkConfig,
    schedule: Schedule,
    config: SearchConfig,
) -> SearchResult:
    """Searches for the pose of a whole model.

    Args:
      key: consumed.
      observed: the scene.
      surface: the model.
      exposed: levels that may lie in the wound.
      params: of both networks.
      network: settings of both networks.
      schedule: of the final registrations.
      config: of the search.
    """
    k_tokens, k_few = jax.random.split(key)
    guesses = coarse_poses(
        k_tokens, observed, surface, params=params, network=network, rolls=config.rolls
    )
    several = starts.shift_along_spine(guesses, surface, config.shifts)
    probes = jnp.asarray(surface.points)[:: max(1, surface.points.shape[0] // NUM_PROBES)]
    masked = iterate.zero_nonfinite(observed.masked)
    few = draw_points(k_few, masked, min(config.points, masked.weights.shape[0]))
    ends, scores = run_rounds(
        few, surface, several, probes=probes, exposed=exposed, schedule=schedule, config=config
    )
    best = starts.select_distinct(
        ends, scores, probes, count=config.finalists, min_distance_mm=config.min_distance_mm
    )
    return register_finalists(
        masked, surface, best, probes=probes, exposed=exposed, schedule=schedule, config=config
    )


def coarse_poses(
    key: PRNGKey,
    observed: ObservedScene,
    surface: Surface,
    *,
    params: Params,
    network: NetworkConfig,
    rolls: int,
) -> Pose:
    """The coarse network's pose at each camera roll (leading axis).

    Args:
      key: consumed.
      observed: the scene.
      surface: the model.
      params: of both networks.
      network: settings of both networks.
      rolls: number of rolls, evenly spaced.
    """
    tokens = draw_tokens(key, observed.cloud, observed.output, count=network.tokens)
    angles = jnp.asarray(np.arange(rolls) * 2.0 * np.pi / rolls, jnp.float32)
    return jax.vmap(
        lambda roll: coarse.predict_pose(params, tokens, surface, roll=roll, config=network)[0]
    )(angles)


def run_rounds(
    few: MaskedCloud,
    surface: Surface,
    several: Pose,
    *,
    probes: Float[Array, "c 3"],
    exposed: Bool[Array, "l"],
    schedule: Schedule,
    config: SearchConfig,
) -> tuple[Pose, Float[Array, "k"]]:
    """Short registrations from many poses, and again from the best of them, perturbed.

    Args:
      few: masked points that the short registrations use.
      surface: the model.
      several: initial poses, camera from model, leading axis.
      probes: model points at which poses are compared, mm.
      exposed: levels that may lie in the wound.
      schedule: its step is used.
      config: of the search.

    Returns:
      The poses after all rounds (leading axis), and their inlier scores.
    """
    total = jnp.maximum(jnp.sum(few.weights), 1e-6)
    centre = jnp.sum(few.weights[:, None] * few.points, axis=0) / total
    scales = iterate.annealed_scales(config.first_scale_mm, config.last_scale_mm, config.steps)
    step = schedule.bound_step()

    def register(start: Pose) -> tuple[Pose, Array]:
        pose = iterate.run_unrolled(few, surface, start, scales, step=step).pose
        score = inlier_score(few, surface, pose, exposed=exposed, scale_mm=config.last_scale_mm)
        return pose, score

    # Both rounds are one loop, which is compiled once. The smaller round is filled with copies.
    counts = [several.translation.shape[0], config.parents * len(starts.HYPOTHESIS_MOVES)]
    counts = counts[: 2 if config.parents else 1]
    size = max(counts)

    def filled(some: Pose) -> Pose:
        rows = np.minimum(np.arange(size), some.translation.shape[0] - 1)
        return jax.tree.map(lambda leaf: leaf[rows], some)

    def run_round(
        state: tuple[Pose, Pose, jax.Array], number: jax.Array
    ) -> tuple[tuple[Pose, Pose, jax.Array], None]:
        begin, ends, scores = state
        found, marks = jax.vmap(register)(begin)
        marks = jnp.where(jnp.arange(size) < jnp.asarray(counts)[number], marks, -jnp.inf)
        ends = jax.tree.map(lambda a, b: a.at[number].set(b), ends, found)
        scores = scores.at[number].set(marks)
        if config.parents:
            parents = starts.select_distinct(
                starts.merge_axes(ends),
                scores.ravel(),
                probes,
                count=config.parents,
                min_distance_mm=config.min_distance_mm,
            )
            begin = filled(starts.perturb_hypotheses(parents, surface, centre))
        return (begin, ends, scores), None

    begin = filled(several)
    ends = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(counts)), begin)
    state = (begin, ends, jnp.full((len(counts), size), -jnp.inf))
    (_, ends, scores), _ = jax.lax.scan(run_round, state, jnp.arange(len(counts)))
    return starts.merge_axes(ends), scores.ravel()


def register_finalists(
    masked: MaskedCloud,
    surface: Surface,
    best: Pose,
    *,
    probes: Float[Array, "c 3"],
    exposed: Bool[Array, "l"],
    schedule: Schedule,
    config: SearchConfig,
) -> SearchResult:
    """Runs the schedule from each of the best poses, and sorts the results by inlier score.

    Args:
      masked: all scene points with their mask weights.
      surface: the model.
      best: initial poses, camera from model, leading axis.
      probes: model points at which poses are compared, mm.
      exposed: levels that may lie in the wound.
      schedule: of the registrations; it begins at the handover scale.
      config: of the search.
    """
    first_scale_mm = min(
        max(config.handover_scale_mm, schedule.last_scale_mm), schedule.first_scale_mm
    )
    schedule = replace(schedule, first_scale_mm=first_scale_mm)

    def register(start: Pose) -> tuple[Registration, Array]:
        result = run_schedule(masked, surface, start, schedule)
        score = inlier_score(
            masked, surface, result.pose, exposed=exposed, scale_mm=config.score_scale_mm
        )
        return result, score

    results, scores = jax.vmap(register)(best)
    order = jnp.argsort(-scores)
    results = jax.tree.map(lambda leaf: leaf[order], results)
    winner = jax.tree.map(lambda leaf: leaf[0], results)
    placed = jax.vmap(lambda pose: poses.apply(pose, probes))(results.pose)
    distance = jnp.mean(jnp.linalg.norm(placed[:, None] - placed[None], axis=-1), axis=-1)
    better = jnp.tri(config.finalists, k=-1, dtype=bool)
    distinct = ~jnp.any((distance < config.min_distance_mm) & better, axis=1)
    hypotheses = Hypotheses(results.pose, scores[order], results.inlier_weight, distinct)
    return SearchResult(winner, hypotheses)


def single_hypothesis(
    masked: MaskedCloud,
    surface: Surface,
    result: Registration,
    *,
    exposed: Bool[Array, "l"],
    config: SearchConfig,
) -> Hypotheses:
    """The one hypothesis of a registration that had an initial pose.

    Args:
      masked: scene points with their mask weights.
      surface: the model.
      result: the registration.
      exposed: levels that may lie in the wound.
      config: of the search; gives the scale of the score.
    """
    score = inlier_score(
        masked, surface, result.pose, exposed=exposed, scale_mm=config.score_scale_mm
    )
    one = Hypotheses(result.pose, score, result.inlier_weight, jnp.asarray(True))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)


def draw_points(key: PRNGKey, cloud: MaskedCloud, count: int) -> MaskedCloud:
    """Draws ``count`` different points in proportion to their weights.

    Args:
      key: consumed.
      cloud: scene points with their mask weights.
      count: at most the number of points.
    """
    chance = jnp.where(cloud.weights > 0, jnp.log(jnp.maximum(cloud.weights, 1e-6)), -1e9)
    noise = jax.random.gumbel(key, cloud.weights.shape, cloud.points.dtype)
    _, rows = jax.lax.top_k(jax.lax.stop_gradient(chance + noise), count)
    return MaskedCloud(cloud.points[rows], cloud.normals[rows], cloud.weights[rows])


def inlier_score(
    cloud: MaskedCloud, surface: Surface, pose: Pose, *, exposed: Bool[Array, "l"], scale_mm: float
) -> Float[jax.Array, ""]:
    """How many masked points lie on the model's outside: near it, with an agreeing normal.

    Normals matter: the back of a vertebral body may fit a lamina's points, but faces the other way.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      pose: camera from model.
      exposed: levels that may lie in the wound; points on other levels do not count.
      scale_mm: of Welsch's kernel.
    """
    queries = poses.apply_inverse(pose, cloud.points)
    match = correspondences.project(surface, queries)
    apart = queries - match.points
    normals = poses.rotate_columns(pose.rotation.T, vectors.columns(cloud.normals))
    facing = vectors.dot(normals, vectors.columns(match.normals))
    near = kernels.welsch(jnp.sum(apart * apart, axis=1), cloud.weights, jnp.asarray(scale_mm))
    near = jnp.where(jnp.asarray(exposed)[match.levels], near, 0.0)
    total: jax.Array = jnp.sum(cloud.weights * near * jnp.maximum(facing, 0.0))
    return total
