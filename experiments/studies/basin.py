"""How far off a registration may start: success by initial rotation and translation.

Command:  python -m experiments.studies.basin --output runs/basin
Time:     about four minutes on two cores
Expect:   a table of rates and the heat maps; see the README for what was measured

Real depth noise, occlusion and the true bone of simulated frames: what is measured is the
registration, not the mask. Each start is turned about the middle of the visible bone, by exactly
so many degrees about a random axis, and moved by exactly so many millimetres in a random direction.
Writes basin.json (every rate) and basin.html (a heat map for each step and kernel).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
import tyro
from tqdm import tqdm

from e2r.cli.errors import run_command
from e2r.config import ScenesConfig
from e2r.datasets.case import Case, true_pose
from e2r.datasets.meshes import read_meshes
from e2r.geometry import point_clouds, poses, surfaces
from e2r.registration import iterate
from e2r.registration.schedule import KERNELS, STEPS, Schedule
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training import examples, losses
from e2r.types import Array, MaskedCloud, Pose, Registration, Surface, Targets
from e2r.visualisation import figures


@dataclass(frozen=True)
class Basin:
    """Map the basin of convergence of every step and kernel."""

    output: Path
    """folder for basin.json and basin.html"""
    anatomy: Path | None = None
    """folder of real surfaces to photograph; a procedural spine without it"""
    steps: tuple[str, ...] = tuple(STEPS)
    """which steps"""
    kernels: tuple[str, ...] = tuple(KERNELS)
    """which kernels"""
    degrees: tuple[float, ...] = (0, 4, 8, 12, 16, 24)
    """initial rotations"""
    mm: tuple[float, ...] = (0, 4, 8, 12, 16, 24)
    """initial translations"""
    frames: int = 4
    """simulated frames"""
    starts: int = 6
    """random axes and directions of each frame, rotation and translation"""
    points: int = 512
    """bone points of a frame"""
    count: int = 40
    """steps of a registration; it anneals from 6 to 1 mm"""
    success: float = 2.0
    """mm: a TRE below it is a success"""
    seed: int = 0
    """of the frames and the starts"""

    def __post_init__(self) -> None:
        for name, table in (("steps", STEPS), ("kernels", KERNELS)):
            chosen = getattr(self, name)
            if not chosen or any(item not in table for item in chosen):
                raise ValueError(f"--{name}: use some of {', '.join(table)}")
        for name in ("frames", "starts", "points", "count"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.degrees or not self.mm or self.seed < 0:
            raise ValueError("give at least one of --degrees and --mm, and --seed 0 or more")


def bone_scene(case: Case, count: int, seed: int) -> MaskedCloud:
    """A fixed number of the case's true bone points, padded."""
    rng = np.random.default_rng(seed)
    if case.bone is None:
        raise ValueError(f"{case.id}: does not know its bone")
    rows = rng.permutation(np.flatnonzero(case.bone))[:count]
    cloud = point_clouds.make_cloud(case.points, case.colors, case.normals, pick=rows, count=count)
    return MaskedCloud(cloud.points, cloud.normals, cloud.valid.astype(np.float32))


def displaced(key: Array, truth: Pose, centre: Array, degrees: Array, mm: Array) -> Pose:
    """The true pose turned about ``centre`` and moved, by exactly so much, any way."""
    k_axis, k_way = jax.random.split(key)
    axis, way = jax.random.normal(k_axis, (3,)), jax.random.normal(k_way, (3,))
    turn = poses.exp_rotation(jnp.deg2rad(degrees) * axis / jnp.linalg.norm(axis))
    move = poses.about(Pose(turn, mm * way / jnp.linalg.norm(way)), centre)
    return poses.compose(move, truth)


def rates(
    options: Basin, schedule: Schedule, surface: Surface, frames: tuple[MaskedCloud, Pose, Targets]
) -> np.ndarray:
    """Share of successes (degrees, mm) of one step and kernel."""
    step, scales = schedule.bound_step(), schedule.scales()

    def attempt(key: Array, degrees: Array, mm: Array, frame: Any) -> Array:
        scene, truth, targets = frame
        valid = scene.weights[:, None] > 0
        centre = jnp.sum(jnp.where(valid, scene.points, 0.0), 0) / jnp.sum(valid)
        start = displaced(key, truth, centre, degrees, mm)
        found: Registration = iterate.run_unrolled(scene, surface, start, scales, step=step)
        return losses.mean_target_error(found.pose, targets) < options.success

    keys = jax.random.split(jax.random.key(options.seed), (options.frames, options.starts))
    over_starts = jax.vmap(attempt, (0, None, None, None))
    over_frames = jax.vmap(over_starts, (0, None, None, 0))
    run = jax.jit(lambda degrees, mm: jnp.mean(over_frames(keys, degrees, mm, frames)))
    return np.array([[float(run(a, b)) for b in options.mm] for a in options.degrees])


def figure(options: Basin, found: dict[str, dict[str, list[list[float]]]]) -> go.Figure:
    """A heat map for each step (row) and kernel (column)."""
    maps = {
        f"{step}, {kernel}": np.round(100 * np.array(found[step][kernel]))
        for step in options.steps
        for kernel in options.kernels
    }
    sheet = figures.heat_maps(
        maps,
        options.mm,
        options.degrees,
        x_title="initial translation, mm",
        y_title="initial rotation, degrees",
        columns=len(options.kernels),
    )
    title = f"Registrations that end below {options.success:g} mm, in percent"
    return sheet.update_layout(title=title, margin_t=100)


def basin(options: Basin) -> int:
    """Maps the basins."""
    key = jax.random.key(options.seed)
    if options.anatomy is None:
        specimen = simulator.procedural_specimen(jax.random.fold_in(key, 0), "basin")
    else:
        meshes = read_meshes(options.anatomy)
        specimen = simulator.specimen_from_surfaces(meshes, options.anatomy.resolve().name)
    group = simulator.simulate_frames(
        jax.random.fold_in(key, 1), specimen, ScenesConfig().simulation, count=options.frames
    )
    surface = jax.tree.map(
        jnp.asarray, surfaces.build(specimen.model, seed=0, nodes=surfaces.COARSE, exact=False)
    )
    prepared = [
        (bone_scene(case, options.points, i), true_pose(case), examples.make_targets(case))
        for i, case in enumerate(group)
    ]
    frames = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *prepared)
    found: dict[str, dict[str, list[list[float]]]] = {}
    pairs = [(step, kernel) for step in options.steps for kernel in options.kernels]
    for step, kernel in tqdm(pairs, desc="basin", unit="map"):
        schedule = Schedule(step=step, kernel=kernel, steps=options.count)
        found.setdefault(step, {})[kernel] = rates(options, schedule, surface, frames).tolist()
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {**dataclasses.asdict(options), "versions": versions()}
    settings |= {"output": str(options.output), "anatomy": str(options.anatomy)}
    (options.output / "basin.json").write_text(json.dumps({"settings": settings, "rates": found}))
    figure(options, found).write_html(options.output / "basin.html", include_plotlyjs=True)
    for step, by_kernel in found.items():
        for kernel, grid in by_kernel.items():
            print(f"{step:16s} {kernel:14s} {100 * np.mean(grid):5.1f} % of all starts succeed")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and maps the basins."""
    options = tyro.cli(
        Basin, args=arguments, prog="python -m experiments.studies.basin", description=__doc__
    )
    return run_command(partial(basin, options))


if __name__ == "__main__":
    sys.exit(main())
