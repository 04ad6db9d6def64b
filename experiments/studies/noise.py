"""How noisy the camera may be: registration with more and more depth noise.

Command:  python -m experiments.studies.noise --output runs/base
Time:     about ten minutes on two cores for 96 cases and 6 amounts
Expect:   median TRE 0.3 mm up to 1 mm of noise, 0.7 mm at 2 mm, 1.4 mm at 3 mm

Gaussian noise along each pixel's ray, on top of what the simulated sensor has already.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.datasets.case import Case
from experiments.studies import sweeps


@dataclass(frozen=True)
class Noise(sweeps.Sweep):
    """How noisy the camera may be."""

    amounts: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
    """standard deviations of the noise, mm"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= amount < 100 for amount in self.amounts):
            raise ValueError(f"--amounts {self.amounts}: use millimetres, 0 to below 100")


def disturb(case: Case, mm: float, rng: np.random.Generator) -> Case:
    """The case with Gaussian noise of ``mm`` in each point's depth, along its ray."""
    shift = mm * rng.standard_normal((len(case.points), 1))
    points = case.points * (1.0 + shift / case.points[:, 2:])
    return replace(case, points=points, normals=None, image=None) if mm else case


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the sweep."""
    options = tyro.cli(
        Noise, args=arguments, prog="python -m experiments.studies.noise", description=__doc__
    )

    def run() -> int:
        sweeps.sweep(options, disturb, name="noise", unit="mm of noise")
        return 0

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
