"""Draw the README's picture: frames of held-out specimens with the learnt mask.

Command:  python -m experiments.figures --checkpoint runs/demo --output docs/scene.png
Time:     half a minute on two cores
Expect:   the mask (red) on the bone (white) in the bottom row
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig, InitialPose
from e2r.evaluation import runner
from e2r.evaluation.predictions import Registered
from e2r.simulation.simulator import held_out_cases
from e2r.training.trained_model import load_trained


@dataclass(frozen=True)
class Picture:
    """Draw frames of held-out specimens with the learnt mask."""

    checkpoint: Path
    """output folder of experiments.train"""
    output: Path
    """PNG file to write"""
    specimens: int = 6
    """number of frames, one a specimen"""
    seed: int = 3
    """of the specimens"""
    scale: int = 3
    """size of a pixel"""


def column(result: Registered) -> np.ndarray:
    """One frame as a column: colour, depth, mask."""
    picture = result.case.image
    if picture is None or result.case.bone is None:
        raise ValueError(f"{result.case.id}: has no picture with known bone")
    seen = picture.depth > 0
    low, high = np.quantile(picture.depth[seen], [0.02, 0.95])
    grey = np.clip(1.0 - (picture.depth - low) / (high - low), 0.08, 1.0) * seen
    depth = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    flat = 0.35 * picture.color.reshape(-1, 3).astype(float)
    pixels = np.flatnonzero(seen.ravel())
    flat[pixels[result.case.bone]] = 235.0
    kept = result.rows[result.weights["learnt"] > 0.5]
    flat[pixels[kept]] = 0.35 * flat[pixels[kept]] + 0.65 * np.array([214.0, 40.0, 60.0])
    mask = flat.reshape(picture.color.shape).astype(np.uint8)
    return np.concatenate([picture.color, depth, mask])


def draw(options: Picture) -> int:
    """Draws the picture."""
    config, params = load_trained(options.checkpoint)
    cases = held_out_cases(
        config.scenes.simulation, specimens=options.specimens, frames=1, seed=options.seed
    )
    job = EvaluationConfig(start=InitialPose("truth"), batch=options.specimens)
    results = runner.run(cases, config, params, job)
    columns = [column(r) for r in results if isinstance(r, Registered)]
    image = Image.fromarray(np.concatenate(columns, axis=1))
    size = (image.width * options.scale, image.height * options.scale)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.NEAREST).save(options.output, optimize=True)
    print(options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and draws."""
    options = tyro.cli(
        Picture, args=arguments, prog="python -m experiments.figures", description=__doc__
    )
    return run_command(lambda: draw(options))


if __name__ == "__main__":
    sys.exit(main())
