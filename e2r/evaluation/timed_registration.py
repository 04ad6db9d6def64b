"""The registration that benchmarks time: a noisy cloud on a spine, from poses near the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from e2r.formats.meshes import read_meshes
from e2r.geometry import poses, surfaces
from e2r.registration.schedule import Schedule, run_schedule
from e2r.simulation import specimens
from e2r.types import Array, MaskedCloud, Pose, Surface

LEVELS = ("L1", "L2", "L3", "L4", "L5")
POINTS, NOISE_MM, BATCH, MAX_STEPS = 2048, 0.3, 64, 20
TIMED_SCHEDULE = Schedule(
    step="point_to_plane",
    steps=MAX_STEPS,
    hold_steps=10,
    first_scale_mm=8.0,
    last_scale_mm=1.5,
    early_steps=10,
    tolerance_mm=2e-3,
)
"""It anneals on 256 points, settles on all of them, and stops early."""


class Problem(NamedTuple):
    """Noisy scene points on a model, and initial poses near the true one, the identity."""

    meshes: dict[str, trimesh.Trimesh]
    surface: Surface
    scene: MaskedCloud  # at the true pose
    starts: Pose  # leading axis BATCH

    def start(self, i: int) -> Pose:
        """One of the initial poses."""
        return jax.tree.map(lambda leaf: leaf[i], self.starts)

    def mean_tre(self, results: Sequence[Pose]) -> float:
        """Mean error of the model's samples over results, mm."""
        points = np.asarray(self.surface.points, np.float64)

        def tre(pose: Pose) -> float:
            rotation, translation = (np.asarray(leaf, np.float64) for leaf in pose)
            errors = points @ rotation.T + translation - points
            return float(np.linalg.norm(errors, axis=1).mean())

        return float(np.mean([*map(tre, results)]))


def make_problem(anatomy: Path | None) -> Problem:
    """2,048 points on a model of up to five levels; starts 1.5 degrees and 1.5 mm an axis off.

    Args:
      anatomy: folder of real surfaces; a simulated spine without it.

    Raises:
      ValueError: the folder holds no surface.
    """
    if anatomy is None:
        meshes = dict(specimens.procedural_specimen(jax.random.key(0), "benchmark").model)
    else:
        real = read_meshes(anatomy)
        meshes = {name: real[name] for name in LEVELS if name in real} or dict(real)
    surface = jax.tree.map(
        jnp.asarray, surfaces.build_surface(meshes, seed=0, nodes=surfaces.PROJECTION_NODES)
    )
    spine = trimesh.util.concatenate(list(meshes.values()))
    points, faces = trimesh.sample.sample_surface(spine, POINTS, seed=1)
    points = points + np.random.default_rng(2).normal(size=points.shape) * NOISE_MM
    scene = MaskedCloud(
        jnp.asarray(points, jnp.float32),
        jnp.asarray(spine.face_normals[faces], jnp.float32),
        jnp.ones(POINTS),
    )
    truth, centre = poses.identity(), jnp.mean(scene.points, axis=0)
    starts = jax.vmap(lambda k: poses.perturb(k, truth, centre, degrees=1.5, mm=1.5))(
        jax.random.split(jax.random.key(3), BATCH)
    )
    return Problem(meshes, surface, scene, starts)


def loss_and_gradient(problem: Problem, schedule: Schedule) -> Callable[..., Any]:
    """The compiled function (weights, start) -> ((loss, pose), gradient by all weights).

    Args:
      problem: the scene and the model.
      schedule: the registration.
    """

    def loss(weights: Array, start: Pose) -> tuple[Array, Pose]:
        scene = problem.scene._replace(weights=weights)
        pose = run_schedule(scene, problem.surface, start, schedule).pose
        errors = poses.apply(pose, problem.surface.points[:64]) - problem.surface.points[:64]
        return jnp.mean(jnp.sum(errors * errors, axis=1)), pose

    return jax.jit(jax.value_and_grad(loss, has_aux=True))
