"""The settings of an adaptation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptationConfig:
    """How a model is adapted to a patient's vertebrae."""

    minutes: float = 5.0
    """time to spend; the training takes as many steps as fit in"""
    steps: int = 0
    """training steps; 0: as many as fit in the minutes"""
    frames: int = 60
    """simulated frames of the patient to train on"""
    specimens: int = 12
    """simulated specimens of the base that are trained on, too, two frames each, so that it is not
    forgotten"""
    held_out: int = 24
    """further frames of the patient, on which base and adapted model are compared and calibrated"""
    learning_rate: float = 5e-4
    """peak of the learning rate"""
    unbent_fraction: float = 0.5
    """share of the frames whose spine has the posture of the scan"""
    colours: bool = True
    """keep the colours of the simulated frames; without, half of them have colours that tell
    nothing"""
    exposed: tuple[str, ...] = ()
    """levels that will be exposed; any run of two to five without them"""
    seed: int = 0
    """of frames, steps and samples"""

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 0),
            ("frames", 4),
            ("specimens", 0),
            ("held_out", 8),
            ("seed", 0),
        ):
            if (value := getattr(self, name)) < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}; use {least} or more")
        if not 0 < self.minutes <= 24 * 60:
            raise ValueError(f"--minutes is {self.minutes}; use more than 0, at most a day")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"--learning-rate is {self.learning_rate}; use more than 0, below 1")
        if not 0 <= self.unbent_fraction <= 1:
            raise ValueError(f"--unbent-fraction is {self.unbent_fraction}; use a share, 0 to 1")
