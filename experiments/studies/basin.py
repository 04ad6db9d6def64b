"""How far off may a registration begin? Success by initial rotation and translation.

Command:  python -m experiments.studies.basin --output runs/basin
Time:     about four minutes on two cores
Expect:   from 8 degrees and 8 mm off, with Welsch's kernel: symmetric steps succeed for 100 %,
          point_to_plane for 79 %

The frames are simulated, with their depth noise and occlusion. The mask is the true bone, so the
study measures the registration, not the mask. Each initial pose is the true pose, turned about the
centre of the visible bone by an exact angle about a random axis, and moved by an exact distance in
a random direction.

Writes basin.json (every rate) and basin.html (a heat map for each step and kernel).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import ScenesConfig
from e2r.datasets.case import Case, true_pose, visible_bone
from e2r.evaluation.text_table import text_table
from e2r.formats.meshes import read_meshes
from e2r.geometry import point_clouds, poses, surfaces
from e2r.registration import iterate
from e2r.registration.kernels import KERNELS
from e2r.registration.schedule import Schedule
from e2r.registration.steps import STEPS
from e2r.runtime import outputs
from e2r.runtime.provenance import versions
from e2r.runtime.seeds import require_seed
from e2r.simulation import simulator, specimens
from e2r.training import examples, losses
from e2r.types import Array, Float, MaskedCloud, Pose, PRNGKey, Registration, Surface, Targets
from e2r.visualisation.plots import heat_maps


@dataclass(frozen=True)
class Basin:
    """How far off may a registration begin? Success by initial rotation and translation."""

    output: Path
    """folder for basin.json and basin.html"""
    anatomy: Path | None = None
    """folder of real surfaces, one a level; by default a procedural spine"""
    steps: tuple[str, ...] = tuple(STEPS)
    """registration steps to compare"""
    kernels: tuple[str, ...] = tuple(KERNELS)
    """robust kernels to compare"""
    degrees: tuple[float, ...] = (0, 4, 8, 12, 16, 24)
    """initial rotations, degrees"""
    mm: tuple[float, ...] = (0, 4, 8, 12, 16, 24)
    """initial translations, mm"""
    frames: int = 4
    """simulated frames"""
    starts: int = 6
    """random axes and directions for each frame, rotation and translation"""
    points: int = 512
    """bone points of a frame"""
    count: int = 40
    """steps of a registration; its robust scale anneals from 6 to 1 mm"""
    success: float = 2.0
    """mm: a TRE below it is a success"""
    seed: int = 0
    """of the frames and the initial poses"""

    def __post_init__(self) -> None:
        for name, table in (("steps", STEPS), ("kernels", KERNELS)):
            chosen = getattr(self, name)
            if not chosen or any(item not in table for item in chosen):
                raise ValueError(f"--{name}: use some of {', '.join(table)}")
        for name in ("frames", "starts", "points", "count"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.degrees or not self.mm:
            raise ValueError("give at least one of --degrees and --mm")
        require_seed(self.seed)


class Frame(NamedTuple):
    """The registration problem of one simulated frame."""

    bone: MaskedCloud  # true bone points, padded
    truth: Pose  # camera from model
    targets: Targets


def make_frame(case: Case, *, count: int, seed: int) -> Frame:
    """The registration problem of a case, with a fixed number of its bone points.

    Args:
      case: a simulated case, which knows its bone.
      count: bone points that are drawn; fewer are padded.
      seed: of the draw.
    """
    rows = np.random.default_rng(seed).permutation(visible_bone(case))[:count]
    points = case.points[rows]
    if case.normals is None:
        normals = point_clouds.estimate_normals(case.points, points)
    else:
        normals = case.normals[rows]
    cloud = point_clouds.make_cloud(points, case.colors[rows], normals, count=count)
    bone = MaskedCloud(cloud.points, cloud.normals, cloud.valid.astype(np.float32))
    return Frame(bone, true_pose(case), examples.make_targets(case))


def displaced(
    key: PRNGKey,
    truth: Pose,
    centre: Float[Array, "3"],
    *,
    degrees: Float[Array, ""],
    mm: Float[Array, ""],
) -> Pose:
    """The true pose, turned and moved by exact amounts in random directions.

    Args:
      key: draws the axis and the direction.
      truth: camera from model.
      centre: of the rotation, mm, camera frame.
      degrees: angle of the rotation.
      mm: length of the translation.
    """
    k_axis, k_direction = jax.random.split(key)
    axis, direction = jax.random.normal(k_axis, (3,)), jax.random.normal(k_direction, (3,))
    rotation = poses.exp_rotation(jnp.deg2rad(degrees) * axis / jnp.linalg.norm(axis))
    translation = mm * direction / jnp.linalg.norm(direction)
    return poses.compose(poses.about(Pose(rotation, translation), centre), truth)


def success_rates(
    options: Basin, surface: Surface, frames: Frame, *, schedule: Schedule
) -> np.ndarray:
    """Share of successes of one step and kernel, (degrees, mm).

    Args:
      options: of the command line.
      surface: of the model.
      frames: stacked along a leading axis.
      schedule: the registration.
    """
    step, scales = schedule.bound_step(), schedule.scales()

    def succeeds(key: Array, offset: tuple[Array, Array], frame: Frame) -> Array:
        bone, degrees, mm = frame.bone, *offset
        valid = bone.weights[:, None] > 0
        total = jnp.sum(jnp.where(valid, bone.points, 0.0), 0)
        centre = total / jnp.sum(valid).astype(total.dtype)
        start = displaced(key, frame.truth, centre, degrees=degrees, mm=mm)
        result: Registration = iterate.run_unrolled(bone, surface, start, scales, step=step)
        return losses.mean_target_error(result.pose, frame.targets) < options.success

    keys = jax.random.split(jax.random.key(options.seed), (options.frames, options.starts))
    over_starts = jax.vmap(succeeds, (0, None, None))
    over_frames = jax.vmap(over_starts, (0, None, 0))
    rate = jax.jit(lambda offset: jnp.mean(over_frames(keys, offset, frames)))
    return np.array([[float(rate((a, b))) for b in options.mm] for a in options.degrees])


Rates = dict[str, dict[str, list[list[float]]]]
"""Step -> kernel -> success rates (degrees, mm)."""


def rate_maps(options: Basin, rates: Rates) -> go.Figure:
    """A heat map for each step (row) and kernel (column)."""
    maps = {
        f"{step}, {kernel}": np.round(100 * np.array(rates[step][kernel]))
        for step in options.steps
        for kernel in options.kernels
    }
    sheet = heat_maps(
        maps,
        options.mm,
        options.degrees,
        x_title="initial translation, mm",
        y_title="initial rotation, degrees",
        columns=len(options.kernels),
    )
    title = f"Registrations with a TRE below {options.success:g} mm, in percent"
    return sheet.update_layout(title=title, margin_t=100)


def map_basin(options: Basin) -> int:
    """Measures the rates of every step and kernel, and writes them."""
    outputs.require_folder(options.output)
    key = jax.random.key(options.seed)
    if options.anatomy is None:
        specimen = specimens.procedural_specimen(jax.random.fold_in(key, 0), "basin")
    else:
        meshes = read_meshes(options.anatomy)
        specimen = specimens.specimen_from_surfaces(meshes, options.anatomy.resolve().name)
    cases = simulator.simulate_frames(
        jax.random.fold_in(key, 1), specimen, ScenesConfig().simulation, count=options.frames
    )
    surface = jax.tree.map(
        jnp.asarray,
        surfaces.build_surface(
            specimen.model, seed=0, nodes=surfaces.PROJECTION_NODES, exact=False
        ),
    )
    each = [make_frame(case, count=options.points, seed=i) for i, case in enumerate(cases)]
    frames = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *each)
    rates: Rates = {}
    pairs = [(step, kernel) for step in options.steps for kernel in options.kernels]
    for step, kernel in tqdm(pairs, desc="basin", unit="map"):
        schedule = Schedule(step=step, kernel=kernel, steps=options.count)
        grid = success_rates(options, surface, frames, schedule=schedule)
        rates.setdefault(step, {})[kernel] = grid.tolist()
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {**dataclasses.asdict(options), "versions": versions()}
    settings |= {"output": str(options.output), "anatomy": str(options.anatomy)}
    (options.output / "basin.json").write_text(json.dumps({"settings": settings, "rates": rates}))
    rate_maps(options, rates).write_html(options.output / "basin.html", include_plotlyjs=True)
    rows = [
        [step, kernel, f"{100 * np.mean(grid):.1f} %"]
        for step, by_kernel in rates.items()
        for kernel, grid in by_kernel.items()
    ]
    print(text_table(["step", "kernel", "all starts that succeed"], rows))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and maps the basin."""
    prog = "python -m experiments.studies.basin"
    return run_command(
        lambda: map_basin(parse_options(Basin, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
