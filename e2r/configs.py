"""The configuration of a training run: frozen dataclasses, and the named ones."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2r import pipeline
from e2r.datasets import simulated
from e2r.segmentation import masks


@dataclass(frozen=True)
class Scenes:
    """The scenes to train on."""

    specimens: int = 64
    """procedural specimens"""
    frames: int = 10
    """scenes of each specimen"""
    simulation: simulated.Simulation = simulated.Simulation(fill=(0.2, 0.8), least_bone=0.02)
    nodes: int = 2**17
    """lattice nodes of a model"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1 or self.nodes < 4096:
            raise ValueError("scenes: use 1 specimen, 1 frame, 4096 nodes or more")


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and teacher."""

    steps: int = 1600
    """training steps"""
    batch: int = 8
    """scenes a step"""
    learning_rate: float = 2e-3
    """peak of the learning rate: short warm-up, then a cosine"""
    weight_decay: float = 1e-4
    clip: float = 1.0
    """largest global norm of a gradient"""
    degrees: float = 4.0
    """standard deviation of the start's rotation per axis, degrees"""
    mm: float = 4.0
    """standard deviation of the start's translation per axis, mm"""
    knee: float = 1.0
    """mm: errors well above it count by their order of magnitude"""
    estimator: str = "gumbel_straight_through"
    """how the mask is drawn and differentiated: soft, gates, straight_through,
    gumbel_straight_through, gumbel_rao or reinmax"""
    temperature: float = 1.0
    """of the estimators that have one"""
    least_keep: float = 0.03
    """a mask that is expected to keep less is pushed back"""
    coarse: float = 0.5
    """weight of the coarse stage's loss"""
    coarse_knee: float = 5.0
    """mm: as the knee, of the coarse stage"""
    roll: float = 30.0
    """degrees: the coarse stage sees scenes up to so far from upright"""
    frame: float = 6.0
    """degrees: standard deviation, per axis, of a model's anatomical frame"""
    middle: float = 20.0
    """mm: standard deviation of its origin along the spine: models have more levels or fewer"""
    checkpoint_every: int = 200
    """steps between checkpoints"""
    accumulate: int = 1
    """parts of a device's share of the batch, taken one after the other: less memory"""
    skip_not_finite: bool = False
    """skip, and count, steps whose loss is not finite, instead of stopping there"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use 1 or more")
        if self.estimator not in masks.ESTIMATORS:
            raise ValueError(
                f"optimisation.estimator is {self.estimator!r}; use one of "
                f"{', '.join(masks.ESTIMATORS)}"
            )
        for name in ("learning_rate", "clip", "knee", "temperature", "coarse_knee"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use more than 0")
        for name in (
            "weight_decay",
            "degrees",
            "mm",
            "least_keep",
            "coarse",
            "roll",
            "frame",
            "middle",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use 0 or more")


@dataclass(frozen=True)
class Config:
    """One training run, whole."""

    seed: int = 0
    """of the scenes, the starting parameters and every step"""
    network: pipeline.Network = pipeline.Network()
    scenes: Scenes = Scenes()
    schedule: pipeline.Schedule = pipeline.Schedule(
        step="point_to_plane", steps=10, first_scale=8.0, last_scale=1.5
    )
    optimisation: Optimisation = Optimisation()


CONFIGS: dict[str, tuple[str, Config]] = {
    "demo": (
        "Minutes on two cores: 64 specimens in close-up scenes.",
        Config(network=pipeline.Network(tokens=96)),
    ),
    "base": (
        "36 to 96 minutes on two cores: 400 specimens, three to seven levels, at every distance.",
        Config(
            scenes=Scenes(
                specimens=400,
                frames=6,
                simulation=simulated.Simulation(
                    width=256,
                    height=192,
                    fill=(0.05, 0.9),
                    least_bone=0.01,
                    posture_degrees=2.0,
                    posture_mm=1.5,
                    still=0.75,
                    first=("T12", "L1", "L1", "L1", "L2"),
                    last=("L4", "L5", "L5", "S1", "S1"),
                ),
            ),
            optimisation=Optimisation(steps=6000),
        ),
    ),
}


def to_settings(config: Config) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_settings(settings: dict[str, Any]) -> Config:
    """The configuration that :func:`to_settings` wrote.

    Raises:
      ValueError: fields are missing or unknown (written by another version).
    """

    def build(kind: type, value: dict[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})

    try:
        scenes = dict(settings["scenes"])
        scenes["simulation"] = build(simulated.Simulation, scenes["simulation"])
        return Config(
            seed=settings["seed"],
            network=build(pipeline.Network, settings["network"]),
            scenes=Scenes(**scenes),
            schedule=build(pipeline.Schedule, settings["schedule"]),
            optimisation=build(Optimisation, settings["optimisation"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the checkpoint's settings are of another version of e2r ({error}); train again"
        ) from None


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, and the commit."""
    names = ("e2r", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "trimesh")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    here = Path(__file__).resolve().parent
    try:
        found["commit"] = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        found["commit"] = "unknown"
    return found
