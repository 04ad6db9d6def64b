"""Any roll is as good as upright: the same frames, the camera turned about its optical axis.

Command:  python -m experiments.studies.roll --output runs/base
Time:     about ten minutes on two cores for 96 cases and 6 amounts
Expect:   see the README for what was measured

Each frame is first turned upright (by its true pose: cranial up), then by the given roll.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.datasets.case import Case, true_pose
from e2r.geometry import anatomical_frame, poses
from e2r.types import Pose
from experiments.studies import sweeps


@dataclass(frozen=True)
class Roll(sweeps.Sweep):
    """Any roll is as good as upright."""

    amounts: tuple[float, ...] = (0.0, 45.0, 90.0, 135.0, 180.0, 270.0)
    """degrees from upright"""


def turn(case: Case, degrees: float, _: np.random.Generator) -> Case:
    """The case at a roll of ``degrees`` from upright (the spine's head up in the picture).

    Raises:
      ValueError: the case has no truth.
    """
    if not case.truth:
        raise ValueError(f"{case.id}: needs a truth.json, to know what is upright")
    cranial = true_pose(case).rotation @ anatomical_frame.estimate_frame(case.model).rotation[2]
    upright = np.arctan2(-cranial[0], -cranial[1])  # up in the camera frame is -y
    angle = upright + np.deg2rad(degrees)
    spin = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    motion = Pose(spin.astype(np.float32), np.zeros(3, np.float32))
    truth = {
        name: Pose(*map(np.asarray, poses.compose(motion, pose)))
        for name, pose in case.truth.items()
    }
    points = case.points @ spin.T
    normals = None if case.normals is None else case.normals @ spin.T
    return replace(case, points=points, normals=normals, truth=truth, image=None)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the sweep."""
    options = tyro.cli(
        Roll, args=arguments, prog="python -m experiments.studies.roll", description=__doc__
    )

    def run() -> int:
        sweeps.sweep(options, turn, name="roll", unit="degrees")
        return 0

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
