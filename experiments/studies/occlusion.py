"""How much of the bone may be hidden: registration with a cloth over part of the wound.

Command:  python -m experiments.studies.occlusion --output runs/base
Time:     about ten minutes on two cores for 96 cases and 6 amounts
Expect:   see the README for what was measured

A cloth's straight edge, in a random direction, hides the given share of the visible bone, and all
that lies beyond the edge nearby: the points there come 10 to 20 mm nearer to the camera, in the
colour of a sponge. Nothing tells the registration that they are not tissue.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.datasets.case import Case
from experiments.studies import sweeps

REACH = 30.0
"""mm that the cloth reaches beyond the bone, sideways and away from its edge."""
SPONGE = np.array([0.83, 0.80, 0.74])


@dataclass(frozen=True)
class Occlusion(sweeps.Sweep):
    """How much of the bone may be hidden."""

    amounts: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5, 0.6, 0.7)
    """shares of the visible bone that are hidden"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= amount < 1 for amount in self.amounts):
            raise ValueError(f"--amounts {self.amounts}: use shares, 0 to below 1")


def hide(case: Case, share: float, rng: np.random.Generator) -> Case:
    """The case with a share of its visible bone under a cloth.

    Args:
      case: a simulated one.
      share: of its bone points.
      rng: draws the direction of the cloth's edge and its height.
    """
    rows = sweeps.visible_bone(case)
    angle, lift = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(10.0, 20.0)
    if not share or not len(rows):
        return case
    bone = case.points[rows]
    along = case.points[:, :2] @ np.array([np.cos(angle), np.sin(angle)])
    edge = np.quantile(along[rows], 1.0 - share)
    low, high = bone[:, :2].min(0) - REACH, bone[:, :2].max(0) + REACH
    inside = ((case.points[:, :2] > low) & (case.points[:, :2] < high)).all(1)
    covered = inside & (along >= edge) & (case.points[:, 2] < np.quantile(bone[:, 2], 0.95) + 40.0)
    points, colors = case.points.copy(), case.colors.copy()
    # Along the ray, to a cloth that follows what is under it.
    points[covered] *= 1.0 - lift / points[covered, 2:]
    weave = 0.04 * rng.standard_normal((int(covered.sum()), 1))
    colors[covered] = np.clip(SPONGE + weave, 0.0, 1.0)
    known = case.bone & ~covered if case.bone is not None else None
    return replace(case, points=points, colors=colors, normals=None, image=None, bone=known)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the sweep."""
    options = tyro.cli(
        Occlusion,
        args=arguments,
        prog="python -m experiments.studies.occlusion",
        description=__doc__,
    )

    def run() -> int:
        sweeps.sweep(options, hide, name="occlusion", unit="share hidden")
        return 0

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
