"""The whole chain for one case: cloud -> logits -> weights -> registration. Pure; batch by vmap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.datasets.cases import Case
from e2r.geometry import clouds, correspondences, poses
from e2r.registration import coarse, kernels, levels, steps, unroll
from e2r.segmentation.network import MaskNetwork, Reading
from e2r.types import (
    Array,
    Cloud,
    Correspond,
    Kernel,
    Levels,
    Moved,
    Params,
    Pose,
    Pyramid,
    Registration,
    Scene,
    Step,
    Surface,
)

STEPS: dict[str, Callable[..., Moved]] = {
    "point_to_point": steps.point_to_point,
    "point_to_plane": steps.point_to_plane,
    "symmetric": steps.symmetric,
    "generalised": steps.generalised,
}
KERNELS: dict[str, Kernel] = {
    "welsch": kernels.welsch,
    "geman_mcclure": kernels.geman_mcclure,
    "tukey": kernels.tukey,
    "huber": kernels.huber,
    "trimmed": kernels.trimmed,
    "constant": kernels.constant,
}
CORRESPONDENCES: dict[str, Correspond] = {
    "project": correspondences.project,
    "closest": correspondences.closest,
    "nearest": correspondences.nearest,
    "soft": correspondences.soft,
}


FOCUS = 110.0
"""mm: farthest that the second look goes from its middle, which up to five exposed levels need."""


PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
"""Of a network's layers; None follows its inputs, which tests make double."""


DENSITY = 6
"""Normals are estimated among so many times the network's points, whatever the picture's size."""


LEVEL_STEPS = 20
LEVEL_SCALE = 2.5
"""Steps of the refinement of each level, and its first robust scale, mm."""


@dataclass(frozen=True)
class Network:
    """The mask network and the cloud it sees."""

    points: int = 2048
    """points of a cloud, a multiple of 4^(levels - 1)"""
    widths: tuple[int, ...] = (32, 64, 96)
    """channels of each level, finest first"""
    blocks: int = 1
    """layers of each level"""
    neighbours: int = 12
    """neighbours of a point"""
    tokens: int = 128
    """scene points that the coarse stage reads"""
    samples: int = 256
    """model points that the coarse stage reads"""
    coarse_width: int = 96
    """channels of the coarse stage, a multiple of 4"""
    coarse_layers: int = 3
    """layers of the coarse stage"""
    precision: str = "float32"
    """of the networks' layers: float32 or bfloat16; parameters and geometry are float32 always"""

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.blocks, self.neighbours, 1) < 1:
            raise ValueError("network: use one width or more, and 1 or more of everything")
        if min(self.tokens, self.samples, self.coarse_width, self.coarse_layers) < 1:
            raise ValueError("network: use 1 or more tokens, samples, coarse_width, coarse_layers")
        if self.coarse_width % 4 or not self.tokens <= self.points or self.samples > 4096:
            raise ValueError(
                "network: coarse_width is a multiple of 4, tokens at most points, samples 4096"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"network.precision is {self.precision!r}; use {' or '.join(PRECISIONS)}"
            )
        part = 4 ** (len(self.widths) - 1)
        if self.points < 4 * part or self.points % part:
            raise ValueError(
                f"network.points is {self.points}; with {len(self.widths)} levels use a multiple "
                f"of {part}, {4 * part} or more"
            )


@dataclass(frozen=True)
class Schedule:
    """A registration: which step, how often, at which robust scales, and how to differentiate."""

    step: str = "symmetric"
    """point_to_point, point_to_plane, symmetric or generalised"""
    kernel: str = "welsch"
    """welsch, geman_mcclure, tukey, huber, trimmed or constant"""
    correspondence: str = "project"
    """project (quick), closest (on the triangles), nearest (hard) or soft"""
    steps: int = 60
    """steps, at most"""
    hold: int = 0
    """of them, how many more at the last scale"""
    first_scale: float = 6.0
    """robust scale of the first step, mm"""
    last_scale: float = 1.0
    """robust scale of the last step, mm"""
    early_steps: int = 0
    """of the steps, how many see a subsample only"""
    early_points: int = 256
    """points of that subsample"""
    mode: unroll.Mode = "unrolled"
    """how to differentiate"""
    last: int = 4
    """steps that the mode `last` differentiates"""
    remat: bool = False
    """recompute steps in the backward pass instead of storing them"""
    tolerance: float = 0.0
    """mm: at inference, stop when a step moves less; 0 takes all steps"""

    def __post_init__(self) -> None:
        for name, table in (
            ("step", STEPS), ("kernel", KERNELS), ("correspondence", CORRESPONDENCES),
            ("mode", unroll.MODES),
        ):  # fmt: skip
            if getattr(self, name) not in table:
                raise ValueError(
                    f"schedule.{name} is {getattr(self, name)!r}; use one of {', '.join(table)}"
                )
        if self.steps < 1 or not 0 < self.last_scale <= self.first_scale:
            raise ValueError("schedule: use steps >= 1 and 0 < last_scale <= first_scale")
        if not 0 <= self.hold < self.steps or not 0 <= self.early_steps < self.steps:
            raise ValueError("schedule: hold and early_steps are 0 or more, and fewer than steps")
        if self.early_points < 1 or self.last < 1 or not self.tolerance >= 0:
            raise ValueError("schedule: use early_points >= 1, last >= 1 and tolerance >= 0")

    def scales(self) -> np.ndarray:
        """Robust scale of every step, mm."""
        return unroll.annealed(self.first_scale, self.last_scale, self.steps, hold=self.hold)

    def bound_step(self) -> Step:
        """The step with its kernel and correspondence."""
        return partial(
            STEPS[self.step],
            kernel=KERNELS[self.kernel],
            correspond=CORRESPONDENCES[self.correspondence],
        )


def network(settings: Network) -> MaskNetwork:
    """The Linen module that ``settings`` describe."""
    return MaskNetwork(
        widths=settings.widths, blocks=settings.blocks, dtype=PRECISIONS[settings.precision]
    )


def coarse_network(settings: Network) -> coarse.CoarseNetwork:
    """The Linen module of the coarse stage."""
    return coarse.CoarseNetwork(
        width=settings.coarse_width, layers=settings.coarse_layers,
        dtype=PRECISIONS[settings.precision],
    )  # fmt: skip


def init(key: Array, settings: Network, cloud: Cloud, pyramid: Pyramid) -> Params:
    """Fresh parameters of both networks, ``{"mask": ..., "coarse": ...}``.

    Args:
      key: consumed.
      settings: sizes.
      cloud, pyramid: of the right shapes; their numbers mean nothing.
    """
    k_mask, k_coarse = jax.random.split(key)
    mask = network(settings)
    params = mask.init(k_mask, cloud, pyramid)
    reading = mask.apply(params, cloud, pyramid)
    tokens = tokens_of(k_coarse, cloud, reading, settings)
    place = jnp.zeros((settings.samples, 3))
    samples = coarse.Samples(place, place, place)
    return {"mask": params, "coarse": coarse_network(settings).init(k_coarse, tokens, samples)}


def tokens_of(key: Array, cloud: Cloud, reading: Reading, settings: Network) -> coarse.Tokens:
    """Draws the points that the coarse stage reads; consumes the key."""
    return coarse.choose_tokens(
        key, jnp.asarray(cloud.points), jnp.asarray(cloud.normals), reading.features,
        reading.logits, jnp.asarray(cloud.valid), count=settings.tokens,
    )  # fmt: skip


def locate(
    settings: Network, params: Params, tokens: coarse.Tokens, surface: Surface, roll: Array
) -> tuple[Pose, coarse.Correspondences]:
    """One guess of the coarse stage: the pose, camera from model, if the scene's roll is this.

    Args:
      settings, params: of the networks.
      tokens: of the scene, camera frame.
      surface: the model.
      roll: () radians that turn the scene upright.
    """
    frame = coarse.upright_frame(tokens, roll)
    upright = tokens._replace(
        points=poses.apply(frame, tokens.points), normals=poses.rotate(frame, tokens.normals)
    )
    samples = coarse.model_samples(surface, settings.samples)
    found = coarse_network(settings).apply(params["coarse"], upright, samples)
    return coarse.solve(tokens, found, surface), found


class Seen(NamedTuple):
    """A scene as the network sees it: V disjoint random views of N points each."""

    cloud: Cloud  # leading axis V
    pyramid: Pyramid  # leading axis V
    rows: np.ndarray  # (V, N) row of each point in the case, -1 where padded


def see(
    case: Case,
    settings: Network,
    *,
    seed: int,
    views: int = 1,
    within: np.ndarray | None = None,
) -> Seen:
    """Samples a case's scene on the host, and finds the neighbours.

    The network works near the density it was trained at: more points come as more views, each seen
    on its own, and the registration uses all of them. A scene of fewer points than ``views`` need
    fills as many views as come nearest to N points each; the others stay empty.

    Args:
      case: its scene is used, nothing else.
      settings: sizes.
      seed: draws the sample.
      views: V.
      within: rows of the scene to look at, all without it.
    """
    inside = np.arange(len(case.points)) if within is None else within
    used = int(np.clip(round(len(inside) / settings.points), 1, views))
    pool = np.random.default_rng(seed).permutation(inside)[: DENSITY * settings.points]
    points, colors = case.points[pool], case.colors[pool]
    normals = None if case.normals is None else case.normals[pool]
    order = np.arange(min(len(pool), used * settings.points))
    clouds_, pyramids = [], []
    rows = np.full((views, settings.points), -1)
    for view in range(views):
        pick = order[view::used] if view < used else order[:0]
        rows[view, : len(pick)] = pool[pick]
        cloud = clouds.make(points, colors, normals, pick=pick, count=settings.points)
        clouds_.append(cloud)
        pyramids.append(
            clouds.build_pyramid(cloud, levels=len(settings.widths), neighbours=settings.neighbours)
        )
    cloud = jax.tree.map(lambda *leaves: np.stack(leaves), *clouds_)
    pyramid = jax.tree.map(lambda *leaves: np.stack(leaves), *pyramids)
    return Seen(cloud, pyramid, rows)


def near(points: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Rows of the points (M, 3) within ``radius`` mm of a place."""
    return np.flatnonzero(np.sum(np.square(points - centre), axis=1) < radius**2)


def flatten(cloud: Cloud) -> Cloud:
    """The points of all views in one cloud (V * N), view by view."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cloud)


def oracle_weights(case: Case, rows: np.ndarray) -> np.ndarray:
    """The mask that nobody has, (V, N): one on true bone. For comparison; no training uses it.

    Raises:
      ValueError: the case does not know its bone.
    """
    if case.bone is None:
        raise ValueError(f"{case.id}: the oracle mask needs bone.png, which only simulation knows")
    return np.where(rows >= 0, case.bone[rows], False).astype(np.float32)


def logits(module: MaskNetwork, params: Params, cloud: Cloud, pyramid: Pyramid) -> jax.Array:
    """Mask logits (N,) of one cloud; the parameters are the mask network's alone."""
    reading: Reading = module.apply(params, cloud, pyramid)
    return reading.logits


def register(
    cloud: Cloud, weights: Array, surface: Surface, start: Pose, schedule: Schedule
) -> Registration:
    """Registers one cloud with given weights (N,); padded points count for nothing."""
    return register_scene(masked(cloud, weights), surface, start, schedule)


def masked(cloud: Cloud, weights: Array) -> Scene:
    """A cloud under a mask; what is padded weighs nothing."""
    return Scene(cloud.points, cloud.normals, jnp.where(cloud.valid, weights, 0.0))


def register_scene(scene: Scene, surface: Surface, start: Pose, schedule: Schedule) -> Registration:
    """Runs a schedule: early steps on a subsample, late ones on all points.

    With a tolerance, the late steps end by themselves, and only forward mode differentiates.
    """
    scales, early, step = schedule.scales(), schedule.early_steps, schedule.bound_step()
    run = partial(
        unroll.register, step=step, mode=schedule.mode, last=schedule.last, remat=schedule.remat
    )
    if not early:
        if schedule.tolerance:
            tolerance = schedule.tolerance
            return unroll.settle(scene, surface, start, scales, step=step, tolerance=tolerance)
        return run(scene, surface, start, scales)
    few = unroll.first(scene, schedule.early_points)
    head = run(few, surface, start, scales[:early])
    begin = head.pose
    if schedule.mode != "unrolled":
        begin = jax.lax.stop_gradient(begin)
    if schedule.tolerance:
        tail = unroll.settle(
            scene, surface, begin, scales[early:], step=step, tolerance=schedule.tolerance
        )
    else:
        tail = run(scene, surface, begin, scales[early:])
    track = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head.trajectory, tail.trajectory)
    return tail._replace(trajectory=track, steps=head.steps + tail.steps)


def register_levels(
    scene: Scene, surface: Surface, whole: Registration, centres: Array, schedule: Schedule
) -> Levels:
    """One pose a level, if the spine is not bent as it was in the scan; else that of the whole.

    Args:
      scene, surface: as registered.
      whole: the whole model's registration by ``schedule``.
      centres: (L, 3) mm, middle of each level, see :func:`e2r.registration.levels.refine`.
      schedule: its last scale is the levels' too.
    """
    last = schedule.last_scale
    scales = unroll.annealed(max(LEVEL_SCALE, last), last, LEVEL_STEPS, hold=LEVEL_STEPS // 3)
    scene = unroll.finite(scene)
    count = centres.shape[0]
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), whole.pose)
    several, gain = levels.refine_and_judge(scene, surface, whole.pose, centres, scales)
    single = levels.explain(scene, surface, one, scales[-1])
    bent = gain > levels.GAIN
    return jax.tree.map(lambda each, same: jnp.where(bent, each, same), several, single)
