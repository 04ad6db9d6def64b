"""The settings of a training run and of an evaluation: frozen dataclasses, and the named ones."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Any

from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig
from e2r.registration import global_search
from e2r.registration.schedule import Schedule
from e2r.simulation import simulator


@dataclass(frozen=True)
class ScenesConfig:
    """The scenes to train on."""

    specimens: int = 64
    """procedural specimens"""
    frames: int = 10
    """scenes of each specimen"""
    simulation: simulator.SimulationConfig = simulator.SimulationConfig(
        wound_fraction=(0.2, 0.8), min_bone_fraction=0.02
    )
    nodes: int = 2**17
    """lattice nodes of a model"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1 or self.nodes < 4096:
            raise ValueError("scenes: use 1 specimen, 1 frame, 4096 nodes or more")


@dataclass(frozen=True)
class OptimisationConfig:
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
    start_noise_deg: float = 4.0
    """standard deviation of the start's rotation per axis, degrees"""
    start_noise_mm: float = 4.0
    """standard deviation of the start's translation per axis, mm"""
    error_scale_mm: float = 1.0
    """mm: scale of the logarithmic loss, log(1 + error / scale)"""
    estimator: str = "gumbel_straight_through"
    """how the mask is drawn and differentiated: soft, gates, straight_through,
    gumbel_straight_through, gumbel_rao or reinmax"""
    temperature: float = 1.0
    """of the estimators that have one"""
    min_keep_ratio: float = 0.03
    """a mask that is expected to keep less is pushed back"""
    coarse_weight: float = 0.5
    """weight of the coarse stage's loss"""
    coarse_error_scale_mm: float = 5.0
    """mm: the same for the coarse stage"""
    max_roll_deg: float = 30.0
    """degrees: the coarse stage sees scenes up to so far from upright"""
    frame_noise_deg: float = 6.0
    """degrees: standard deviation, per axis, of a model's anatomical frame"""
    frame_noise_mm: float = 20.0
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
        if self.estimator not in mask_estimators.ESTIMATORS:
            raise ValueError(
                f"optimisation.estimator is {self.estimator!r}; use one of "
                f"{', '.join(mask_estimators.ESTIMATORS)}"
            )
        for name in (
            "learning_rate",
            "clip",
            "error_scale_mm",
            "temperature",
            "coarse_error_scale_mm",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use more than 0")
        for name in (
            "weight_decay",
            "start_noise_deg",
            "start_noise_mm",
            "min_keep_ratio",
            "coarse_weight",
            "max_roll_deg",
            "frame_noise_deg",
            "frame_noise_mm",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use 0 or more")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run, whole."""

    seed: int = 0
    """of the scenes, the starting parameters and every step"""
    network: NetworkConfig = NetworkConfig()
    scenes: ScenesConfig = ScenesConfig()
    schedule: Schedule = Schedule(
        step="point_to_plane", steps=10, first_scale_mm=8.0, last_scale_mm=1.5
    )
    optimisation: OptimisationConfig = OptimisationConfig()


NAMED_CONFIGS: dict[str, tuple[str, TrainingConfig]] = {
    "demo": (
        "Minutes on two cores: 64 specimens in close-up scenes.",
        TrainingConfig(network=NetworkConfig(tokens=96)),
    ),
    "base": (
        "36 to 96 minutes on two cores: 400 specimens, three to seven levels, at every distance.",
        TrainingConfig(
            scenes=ScenesConfig(
                specimens=400,
                frames=6,
                simulation=simulator.SimulationConfig(
                    width=256,
                    height=192,
                    wound_fraction=(0.05, 0.9),
                    min_bone_fraction=0.01,
                    posture_degrees=2.0,
                    posture_mm=1.5,
                    unbent_fraction=0.75,
                    first=("T12", "L1", "L1", "L1", "L2"),
                    last=("L4", "L5", "L5", "S1", "S1"),
                ),
            ),
            optimisation=OptimisationConfig(steps=6000),
        ),
    ),
}


def config_to_json(config: TrainingConfig) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


RENAMED = {
    "simulation": {
        "fill": "wound_fraction",
        "least_bone": "min_bone_fraction",
        "still": "unbent_fraction",
    },
    "schedule": {
        "first_scale": "first_scale_mm",
        "last_scale": "last_scale_mm",
        "tolerance": "tolerance_mm",
        "hold": "hold_steps",
    },
    "optimisation": {
        "degrees": "start_noise_deg",
        "mm": "start_noise_mm",
        "knee": "error_scale_mm",
        "least_keep": "min_keep_ratio",
        "coarse": "coarse_weight",
        "coarse_knee": "coarse_error_scale_mm",
        "roll": "max_roll_deg",
        "frame": "frame_noise_deg",
        "middle": "frame_noise_mm",
    },
}
"""Section -> old field name -> new one: checkpoints of earlier versions are read by today's names."""


def migrate(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON, with the field names of earlier versions replaced by today's."""

    def walk(value: Any, section: str) -> Any:
        if not isinstance(value, dict):
            return value
        names = RENAMED.get(section, {})
        return {names.get(key, key): walk(inner, key) for key, inner in value.items()}

    migrated: dict[str, Any] = walk(settings, "")
    return migrated


def config_from_json(settings: dict[str, Any]) -> TrainingConfig:
    """The configuration that :func:`config_to_json` wrote, in this version or an earlier one.

    Raises:
      ValueError: fields are missing or unknown.
    """

    def build(kind: type, value: dict[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})

    try:
        settings = migrate(settings)
        scenes = dict(settings["scenes"])
        scenes["simulation"] = build(simulator.SimulationConfig, scenes["simulation"])
        return TrainingConfig(
            seed=settings["seed"],
            network=build(NetworkConfig, settings["network"]),
            scenes=ScenesConfig(**scenes),
            schedule=build(Schedule, settings["schedule"]),
            optimisation=build(OptimisationConfig, settings["optimisation"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the checkpoint's settings are of another version of e2r ({error}); train again"
        ) from None


MASKS = ("all", "learnt", "oracle")


@dataclass(frozen=True)
class InitialPose:
    """Where each registration begins."""

    kind: str = "auto"
    """auto: found, with no start at all; truth: the true pose, perturbed; or the path of a JSON
    file with a 4x4 T_camera_model"""
    degrees: float = 4.0
    """with truth: standard deviation of the rotation per axis"""
    mm: float = 4.0
    """with truth: standard deviation of the translation per axis"""

    def __post_init__(self) -> None:
        for name, value in (("degrees", self.degrees), ("mm", self.mm)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"--start-{name} is {value}; use 0 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """How cases are evaluated."""

    start: InitialPose = InitialPose()
    schedule: Schedule = Schedule()
    search: global_search.SearchConfig = global_search.SearchConfig()
    num_samples: int = 2
    """the scene is seen in so many disjoint samples of the network's number of points"""
    masks: tuple[str, ...] = ("learnt",)
    """which masks: all, learnt, oracle (true bone; simulated cases only)"""
    min_keep_ratio: float = 0.1
    """share of the points that the learnt mask keeps at least, by their order"""
    points: int = 2048
    """points of a mask that are registered, at most"""
    retry_below: float = 0.6
    """a frame of whose learnt mask a smaller share agrees with the model is tried again, in other
    samples and under a stricter mask, and the better result stays; 0: never"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of the starts, the search's draws and the bootstrap"""
    per_level: bool = True
    """refine one pose a level, for a spine that is not bent as in the scan"""

    @property
    def head(self) -> str:
        """The mask whose results are the job's: the learnt one, if it runs."""
        return "learnt" if "learnt" in self.masks else self.masks[0]

    @property
    def compiled(self) -> EvaluationConfig:
        """What programs depend on: of jobs whose cases run through the same, the same."""
        start = InitialPose("auto" if self.start.kind == "auto" else "truth")
        return replace(self, start=start, seed=0, retry_below=0.0)

    def __post_init__(self) -> None:
        for name in self.masks:
            if name not in MASKS:
                raise ValueError(f"--masks {name}: use some of {', '.join(MASKS)}")
        if not 0 <= self.min_keep_ratio < 1:
            raise ValueError(
                f"--min-keep-ratio is {self.min_keep_ratio}; use a share, 0 to below 1"
            )
        if not 0 <= self.retry_below <= 1:
            raise ValueError(f"--retry-below is {self.retry_below}; use a share, 0 to 1")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; use 0 or more")
        if not self.masks:
            raise ValueError("--masks: give at least one")
        for name in ("points", "batch", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
