"""The settings of an adaptation, and those of the scenes and of the training that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from e2r.config import TrainingConfig
from e2r.geometry.lens_distortion import Lens
from e2r.runtime.seeds import require_seed
from e2r.simulation.simulator import SimulationConfig
from e2r.simulation.tracing import CONE

OPEN_END = 100_000
"""Steps of the learning rate's schedule. It is flat over an adaptation, so that one program does
for every number of steps, and a longer adaptation goes on with a shorter one."""

START_NOISE = 2.0
"""Degrees and mm. From there ten steps with the true bone end at 1.1 mm, from the base's 4 degrees
and 4 mm at 4.0 mm: a trained mask learns from what it does, not from how far the start was."""


@dataclass(frozen=True)
class AdaptationConfig:
    """How a model is adapted to a patient's vertebrae."""

    minutes: float = 5.0
    """time to spend: the training takes as many steps as fit in. The same command with more
    minutes goes on"""
    steps: int = 0
    """training steps; 0: as many as fit in the minutes"""
    frames: int = 40
    """simulated frames of the patient to train on"""
    specimens: int = 8
    """simulated specimens, two frames each, that are trained on, too: they keep the model from
    forgetting"""
    held_out: int = 24
    """further frames of the patient, on which the models are compared and calibrated"""
    batch: int = 4
    """scenes of each step"""
    learning_rate: float = 5e-4
    """of the optimiser"""
    share: float = 0.5
    """of the way from the base's parameters to the trained ones that the adapted model goes"""
    exposed: tuple[str, ...] = ()
    """levels that will be exposed; any run of two to five without them"""
    seed: int = 0
    """of frames, steps and samples"""

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 0),
            ("frames", 4),
            ("specimens", 0),
            ("held_out", 4),
            ("batch", 1),
        ):
            if (value := getattr(self, name)) < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}; use {least} or more")
        require_seed(self.seed)
        if self.steps > OPEN_END:
            raise ValueError(f"--steps is {self.steps}; use at most {OPEN_END}")
        if not 0 < self.minutes <= 24 * 60:
            raise ValueError(f"--minutes is {self.minutes}; use more than 0, at most a day (1440)")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"--learning-rate is {self.learning_rate}; use more than 0, below 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"--share is {self.share}; use more than 0, at most 1")


def training_config(base: TrainingConfig, config: AdaptationConfig) -> TrainingConfig:
    """The settings of the training: the base's, but for the optimisation.

    Args:
      base: settings that the base was trained with.
      config: of the adaptation.
    """
    optimisation = replace(
        base.optimisation,
        steps=OPEN_END,
        batch=config.batch,
        learning_rate=config.learning_rate,
        start_noise_deg=START_NOISE,
        start_noise_mm=START_NOISE,
        checkpoint_every=50,
    )
    schedule = replace(base.schedule, first_scale_mm=4.0, last_scale_mm=1.0)
    return replace(base, seed=config.seed, schedule=schedule, optimisation=optimisation)


def patient_scenes(
    base: SimulationConfig, config: AdaptationConfig, lens: Lens | None = None
) -> SimulationConfig:
    """The settings of the patient's frames: those that the base saw, narrowed to what will be seen.

    Args:
      base: of the base's own frames.
      config: names the levels in the wound.
      lens: of the room's camera; any zoom without it.

    Raises:
      ValueError: the camera's size is unknown, or it or its focal length is out of all proportion.
    """
    scenes = replace(base, exposed=config.exposed)
    if lens is None:
        return scenes
    if lens.size is None:
        raise ValueError("--camera: its file gives no width and height; add them")
    height = CONE * max(1, round(base.width * lens.size[1] / lens.size[0] / CONE))
    return replace(scenes, height=height, focal_to_width=lens.fx / lens.size[0])
