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
from e2r.geometry import clouds, correspondences
from e2r.registration import kernels, starts, steps, unroll
from e2r.segmentation.network import MaskNetwork
from e2r.types import (
    Array,
    Cloud,
    Correspond,
    Kernel,
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

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.blocks, self.neighbours, 1) < 1:
            raise ValueError("network: use one width or more, and 1 or more of everything")
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
    return MaskNetwork(widths=settings.widths, blocks=settings.blocks)


class Seen(NamedTuple):
    """A scene as the network sees it: V disjoint random views of N points each."""

    cloud: Cloud  # leading axis V
    pyramid: Pyramid  # leading axis V
    rows: np.ndarray  # (V, N) row of each point in the case, -1 where padded


def see(case: Case, settings: Network, *, seed: int, views: int = 1) -> Seen:
    """Samples a case's scene on the host, and finds the neighbours.

    The network works near the density it was trained at: more points come as more views, each seen
    on its own, and the registration uses all of them. A scene of fewer points than ``views`` need
    fills as many views as come nearest to N points each; the others stay empty.

    Args:
      case: its scene is used, nothing else.
      settings: sizes.
      seed: draws the sample.
      views: V.
    """
    used = int(np.clip(round(len(case.points) / settings.points), 1, views))
    order = np.random.default_rng(seed).permutation(len(case.points))[: used * settings.points]
    clouds_, pyramids = [], []
    rows = np.full((views, settings.points), -1)
    for view in range(views):
        pick = order[view::used] if view < used else order[:0]
        rows[view, : len(pick)] = pick
        cloud = clouds.make(
            case.points, case.colors, case.normals, pick=pick, count=settings.points
        )
        clouds_.append(cloud)
        pyramids.append(
            clouds.build_pyramid(cloud, levels=len(settings.widths), neighbours=settings.neighbours)
        )
    cloud = jax.tree.map(lambda *leaves: np.stack(leaves), *clouds_)
    pyramid = jax.tree.map(lambda *leaves: np.stack(leaves), *pyramids)
    return Seen(cloud, pyramid, rows)


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
    """Logits (N,) of one cloud."""
    out: jax.Array = module.apply(params, cloud, pyramid)
    return out


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


def register_from_axes(
    cloud: Cloud, weights: Array, surface: Surface, schedule: Schedule
) -> Registration:
    """Registers without a start: crude ones from principal axes, the best residual wins.

    The many starts are registered shortly on the first eighth of the cloud (which is in random
    order), the best one on all of it.
    """
    scene = masked(cloud, weights)
    few = unroll.first(scene, max(64, cloud.points.shape[0] // 8))
    short = unroll.annealed(2.0 * schedule.first_scale, 3.0, 12)
    attempts = jax.vmap(
        lambda start: unroll.register(few, surface, start, short, step=schedule.bound_step())
    )(starts.axes_starts(scene.points, scene.weights, surface))
    choice = starts.choose(attempts, few.weights)
    return register_scene(scene, surface, choice.pose, schedule)
