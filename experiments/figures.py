"""Draws the pictures of README and docs: the scene, the registration, the report, the scaling.

Command:  python -m experiments.figures scene registration report scaling --output docs
Time:     half a minute each for scene and registration on two cores, three minutes for report
Expect:   scene: the mask (red) on the bone (white) of 6 specimens; registration: 10 images, from
          11.3 mm off to 0.2 mm after six steps; report: a page of 24 cases, 1200 pixels wide

The report needs Chromium. The registration and the report show the packaged model on frames that
`python -m e2r simulate --count 24 --frames 2 --seed 77 --width 128 --height 96` writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from e2r.api.examples import CLOSE_UP
from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, ScenesConfig
from e2r.datasets.case import true_pose
from e2r.evaluation import runner
from e2r.evaluation.models import Model
from e2r.evaluation.results import Registered
from e2r.geometry import poses, surfaces
from e2r.registration.schedule import Schedule, register_cloud
from e2r.simulation import simulator
from e2r.training.examples import make_targets
from e2r.training.losses import mean_target_error
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Pose
from e2r.visualisation.animation import registration_animation
from e2r.visualisation.plots import growth_curves
from e2r.visualisation.snapshots import make_snapshot

SEED, WIDTH, HEIGHT = 77, 128, 96
"""Frames of the registration and the report: seed, and size in pixels."""
CASES, FRAMES = 24, 2
"""Cases of the report, and scenes of each specimen."""
STEPS = 9
"""Steps of the registration that is shown."""
START_NOISE_DEG, START_NOISE_MM = 4.0, 8.0
"""Standard deviations of its initial pose, per axis."""
PAGE_SIZE = (1200, 1870)
"""Pixels of the report that are shown."""
SCALING_SIZE = (1200, 360)
"""Pixels of the page of the scaling."""
RESULTS = Path(__file__).resolve().parent / "results"
MASK_RGB = np.array([214.0, 40.0, 60.0])
BONE_GREY = 235.0
BROWSER = Path(__file__).resolve().parents[1] / "tests" / "browser.py"


@dataclass(frozen=True)
class Figures:
    """Draws the pictures of README and docs."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """pictures to draw: scene, registration, report, scaling"""
    output: Path = Path("docs")
    """folder of the pictures"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train for the scene; by default the packaged model"""
    specimens: int = 6
    """scene: number of frames, one a specimen"""
    seed: int = 3
    """scene: seed of the specimens"""
    scale: int = 3
    """scene: size of a pixel"""
    work: Path = Path("runs/figures")
    """folder for the cases and the job of the report"""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in FIGURES:
                raise ValueError(f"{name}: is no picture; use some of {', '.join(FIGURES)}")
        if not self.names or min(self.specimens, self.scale) < 1:
            raise ValueError("give a picture, and --specimens and --scale of 1 or more")


def draw_scene(options: Figures) -> Path:
    """Frames of held-out specimens: colour, depth, and the learnt mask on the true bone."""
    config, params = load_trained(options.checkpoint)
    cases = simulator.held_out_cases(
        CLOSE_UP, specimens=options.specimens, frames=1, seed=options.seed
    )
    job = EvaluationConfig(start="truth", batch=options.specimens)
    results = runner.run(cases, Model(config, params), job=job)
    columns = [scene_column(r) for r in results if isinstance(r, Registered)]
    image = Image.fromarray(np.concatenate(columns, axis=1))
    size = (image.width * options.scale, image.height * options.scale)
    path = options.output / "scene.png"
    image.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)
    return path


def scene_column(result: Registered) -> np.ndarray:
    """One frame as a column of three images, (3 H, W, 3) uint8.

    Args:
      result: of a simulated case.

    Raises:
      ValueError: the case has no image, or does not know its bone.
    """
    image = result.case.image
    if image is None or result.case.bone is None:
        raise ValueError(f"{result.case.id}: has no image with known bone")
    seen = image.depth > 0
    low, high = np.quantile(image.depth[seen], [0.02, 0.95])
    grey = np.clip(1.0 - (image.depth - low) / (high - low), 0.08, 1.0) * seen
    depth = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    flat = 0.35 * image.color.reshape(-1, 3).astype(float)
    pixels = np.flatnonzero(seen.ravel())
    flat[pixels[result.case.bone]] = BONE_GREY
    kept = result.rows[result.weights["learnt"] > 0.5]
    flat[pixels[kept]] = 0.35 * flat[pixels[kept]] + 0.65 * MASK_RGB
    mask = flat.reshape(image.color.shape).astype(np.uint8)
    return np.concatenate([image.color, depth, mask])


def draw_registration(options: Figures) -> Path:
    """The steps of a registration under the learnt mask, from an initial pose that is far off."""
    config, params = load_trained(PACKAGED)
    simulation = simulator.SimulationConfig(
        width=WIDTH, height=HEIGHT, wound_fraction=(0.2, 0.8), min_bone_fraction=0.02
    )
    (cases,) = simulator.simulate_specimens(
        jax.random.key(SEED), simulation, specimens=1, frames=FRAMES, prefix=f"seed{SEED}_"
    )
    results = runner.run(cases[:1], Model(config, params), job=EvaluationConfig(batch=1))
    (result,) = runner.raise_failures(results)
    surface = surfaces.build_surface(result.case.model, seed=0, nodes=ScenesConfig().nodes)
    targets = make_targets(result.case)
    centre = np.mean(targets.goals[np.asarray(targets.valid)], axis=0)
    start = poses.perturb(
        jax.random.key(SEED),
        true_pose(result.case),
        centre,
        degrees=START_NOISE_DEG,
        mm=START_NOISE_MM,
    )
    schedule = Schedule(steps=STEPS, first_scale_mm=8.0)
    cloud = jax.tree.map(jnp.asarray, result.cloud)
    weights = jnp.asarray(result.weights["learnt"])
    registration = jax.jit(register_cloud, static_argnums=4)(
        cloud, weights, surface, start, schedule
    )
    trajectory: Pose = jax.tree.map(
        lambda first, others: np.concatenate([np.asarray(first)[None], np.asarray(others)]),
        start,
        registration.trajectory,
    )
    errors = jax.vmap(lambda pose: mean_target_error(pose, targets))(trajectory)
    print("TRE after each step:", " ".join(f"{error:.2f}" for error in np.asarray(errors)), "mm")
    path = options.output / "registration.webp"
    snapshot = make_snapshot(result, "learnt")._replace(trajectory=trajectory)
    registration_animation(snapshot, path)
    return path


def draw_report(options: Figures) -> Path:
    """The report of an evaluation of the packaged model, as a browser shows it."""
    cases, job = options.work / "cases", options.work / "job"
    path = options.output / "report.png"
    simulate = ["-m", "e2r", "simulate", "--count", CASES, "--frames", FRAMES, "--seed", SEED]
    simulate += ["--width", WIDTH, "--height", HEIGHT, "--output", cases]
    evaluate = ["-m", "experiments.evaluate", "--cases", cases, "--output", job]
    evaluate += ["--masks", "all", "learnt", "oracle"]
    _run_python(simulate)
    _run_python(evaluate)
    _photograph_page(job / "report.html", path, PAGE_SIZE)
    return path


def draw_scaling(options: Figures) -> Path:
    """How time and memory grow, by the results of experiments.benchmarks.scaling."""
    rows = json.loads((RESULTS / "scaling.json").read_text())["rows"]
    panels: dict[str, dict[str, list[float]]] = {}
    for quantity, value, time_ms, memory_mb, *_ in rows:
        panel = panels.setdefault(quantity, {"values": [], "time, ms": [], "memory, MB": []})
        for series, number in zip(panel.values(), (value, time_ms, memory_mb), strict=True):
            series.append(float(number))
    page, path = options.work / "scaling.html", options.output / "scaling.png"
    page.parent.mkdir(parents=True, exist_ok=True)
    plot = growth_curves(panels).to_html(full_html=False, config={"displayModeBar": False})
    page.write_text(f"<!doctype html><body style='margin: 0'>{plot}</body>", encoding="utf-8")
    _photograph_page(page, path, SCALING_SIZE)
    return path


def _photograph_page(page: Path, path: Path, size: tuple[int, int]) -> None:
    """A picture of a page, as a browser shows it."""
    _run_python([BROWSER, page, path, *size])


def _run_python(arguments: Sequence[object]) -> None:
    words = [sys.executable, *map(str, arguments)]
    if subprocess.run(words, check=False).returncode:
        raise ValueError(f"{' '.join(words[1:4])}: failed; see its message above")


FIGURES: dict[str, Callable[[Figures], Path]] = {
    "scene": draw_scene,
    "registration": draw_registration,
    "report": draw_report,
    "scaling": draw_scaling,
}
"""Name -> what draws the picture and returns its file."""


def draw(options: Figures) -> int:
    """Draws the chosen pictures."""
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        print(FIGURES[name](options))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and draws."""
    prog = "python -m experiments.figures"
    return run_command(
        lambda: draw(parse_options(Figures, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
