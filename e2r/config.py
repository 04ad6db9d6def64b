"""The settings of a training run and of an evaluation, and the named training runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from e2r.datasets.augmentation import AUGMENTATIONS, Augmentation
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig
from e2r.pipeline import ProgramConfig
from e2r.registration.schedule import Schedule
from e2r.runtime.registry import (
    PluginName,
    Registry,
    UnknownPluginError,
    importing_nothing,
    plugin_digests,
    settle_plugins,
)
from e2r.runtime.seeds import require_seed
from e2r.simulation import simulator
from e2r.simulation.variety import VARIETIES
from e2r.types import Array, MaskEstimator

LOSS_TERMS: Registry[Callable[..., Array]] = Registry("loss_term", {})
"""Further loss terms: functions of :class:`e2r.training.losses.LossInputs` that return a scalar."""


@dataclass(frozen=True)
class ScenesConfig:
    """The simulated scenes to train on."""

    specimens: int = 64
    """procedural specimens"""
    frames: int = 10
    """scenes of each specimen"""
    simulation: simulator.SimulationConfig = simulator.SimulationConfig(
        wound_fraction=(0.2, 0.8), min_bone_fraction=0.02
    )
    nodes: int = 2**17
    """lattice nodes of each surface"""

    def __post_init__(self) -> None:
        for name, least in (("specimens", 1), ("frames", 1), ("nodes", 4096)):
            if getattr(self, name) < least:
                raise ValueError(f"scenes.{name} is {getattr(self, name)}; use {least} or more")


@dataclass(frozen=True)
class OptimisationConfig:
    """The optimiser and the loss."""

    steps: int = 1600
    """training steps"""
    batch: int = 8
    """scenes of each step"""
    learning_rate: float = 2e-3
    """peak of the learning rate, after a short warm-up and before a cosine decay"""
    weight_decay: float = 1e-4
    """of the AdamW optimiser"""
    clip: float = 1.0
    """largest global norm of a gradient"""
    start_noise_deg: float = 4.0
    """initial pose: standard deviation of the rotation per axis, degrees"""
    start_noise_mm: float = 4.0
    """initial pose: standard deviation of the translation per axis, mm"""
    error_scale_mm: float = 1.0
    """scale of the logarithmic loss, log(1 + error / scale), mm"""
    estimator: PluginName = "gumbel_straight_through"
    """mask estimator: soft, gates, straight_through, gumbel_straight_through, gumbel_rao, reinmax,
    or module:function"""
    temperature: float = 1.0
    """temperature of the estimators that have one"""
    min_keep_ratio: float = 0.03
    """a mask that is expected to keep a smaller share of the points is penalised"""
    coarse_weight: float = 0.5
    """weight of the coarse stage's loss"""
    coarse_error_scale_mm: float = 5.0
    """scale of the coarse stage's logarithmic loss, mm"""
    max_roll_deg: float = 30.0
    """largest roll from upright at which the coarse stage sees a scene, degrees"""
    frame_noise_deg: float = 6.0
    """canonical frame: standard deviation of its rotation per axis, degrees"""
    frame_noise_mm: float = 20.0
    """canonical frame: standard deviation of its origin along the spine, mm"""
    checkpoint_every: int = 200
    """steps between checkpoints"""
    accumulate: int = 1
    """parts of a device's share of the batch, computed one after the other to save memory"""
    skip_not_finite: bool = False
    """skip and count steps whose loss is not finite, instead of stopping"""
    loss_terms: tuple[PluginName, ...] = ()
    """further terms that are added to the loss, each as module:function"""
    augmentations: tuple[PluginName, ...] = ("view_and_colours",)
    """random changes of an example, in order: names in AUGMENTATIONS, or module:function"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; use 1 or more")
        settle_plugins(
            self,
            "optimisation",
            estimator=mask_estimators.ESTIMATORS,
            loss_terms=LOSS_TERMS,
            augmentations=AUGMENTATIONS,
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
            most, more = (1.0, ", below 1") if name == "min_keep_ratio" else (float("inf"), "")
            if not 0 <= getattr(self, name) < most:
                value = getattr(self, name)
                raise ValueError(f"optimisation.{name} is {value}; use 0 or more{more}")

    def mask_estimator(self) -> MaskEstimator:
        """The mask estimator that is named."""
        return mask_estimators.by_name(self.estimator, temperature=self.temperature)

    def chosen_augmentations(self) -> list[Augmentation]:
        """The augmentations that are named."""
        return [AUGMENTATIONS.find(name) for name in self.augmentations]

    def chosen_loss_terms(self) -> list[Callable[..., Array]]:
        """The loss terms that are named."""
        return [LOSS_TERMS.find(name) for name in self.loss_terms]

    def reached_code(self) -> tuple[Any, ...]:
        """The functions that are named, for :mod:`e2r.runtime.code_digest`."""
        return (self.mask_estimator(), self.chosen_augmentations(), self.chosen_loss_terms())


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a training run."""

    seed: int = 0
    """seed of the scenes, the initial parameters and every step"""
    network: NetworkConfig = NetworkConfig()
    scenes: ScenesConfig = ScenesConfig()
    schedule: Schedule = Schedule(
        step="point_to_plane", steps=10, first_scale_mm=8.0, last_scale_mm=1.5
    )
    optimisation: OptimisationConfig = OptimisationConfig()

    def __post_init__(self) -> None:
        require_seed(self.seed)


_BASE = TrainingConfig(
    scenes=ScenesConfig(
        specimens=400,
        frames=6,
        simulation=simulator.SimulationConfig(
            width=256,
            height=192,
            wound_fraction=(0.03, 0.9),
            min_bone_fraction=0.005,
            posture_degrees=2.0,
            posture_mm=1.5,
            unbent_fraction=0.75,
            first=("T12", "L1", "L1", "L1", "L2"),
            last=("L4", "L5", "L5", "S1", "S1"),
            variety=VARIETIES,
        ),
    ),
    optimisation=OptimisationConfig(steps=6000),
)

NAMED_CONFIGS: dict[str, tuple[str, TrainingConfig]] = {
    "demo": (
        "Minutes on two cores: 64 specimens in close-up scenes.",
        TrainingConfig(network=NetworkConfig(tokens=96)),
    ),
    "base": (
        "An hour or more on two cores: 400 specimens, three to seven levels, at every distance, "
        "in frames of every variety.",
        _BASE,
    ),
    "tiny": (
        "Seconds on two cores: everything at its smallest, to try the tools; it learns nothing.",
        TrainingConfig(
            network=NetworkConfig(
                points=256,
                widths=(8, 16),
                neighbours=4,
                tokens=32,
                samples=64,
                coarse_width=16,
                coarse_layers=1,
            ),
            scenes=ScenesConfig(
                specimens=1,
                frames=4,
                simulation=simulator.SimulationConfig(
                    wound_fraction=(0.3, 0.8), min_bone_fraction=0.05
                ),
                nodes=2**15,
            ),
            schedule=Schedule(step="point_to_plane", steps=3, last_scale_mm=2.0),
            optimisation=OptimisationConfig(steps=8, batch=2, checkpoint_every=3),
        ),
    ),
}
"""Name -> (what it is for, settings) of the training runs that the command line knows."""


def config_to_json(config: TrainingConfig) -> dict[str, Any]:
    """A configuration as JSON values."""
    sections = {"network": config.network, "schedule": config.schedule}
    sections["optimisation"] = config.optimisation
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain | {name: _plain_section(section) for name, section in sections.items()}


def _plain_section(section: Any) -> dict[str, Any]:
    """Settings as JSON values; digests of plug-ins only where there are some."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(section)))
    digests = plugin_digests(section)
    return plain | {"plugins": digests} if digests else plain


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
    "search": {"apart": "min_distance_mm", "scale": "score_scale_mm"},
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
"""Section -> old field name -> new field name, for checkpoints of earlier versions."""


def migrate(settings: dict[str, Any]) -> dict[str, Any]:
    """Replaces the field names of earlier versions by today's, and fills in the fields added since.

    Args:
      settings: JSON values.
    """

    def walk(value: Any, section: str) -> Any:
        if not isinstance(value, dict):
            return value
        names = RENAMED.get(section, {})
        return {names.get(key, key): walk(inner, key) for key, inner in value.items()}

    migrated: dict[str, Any] = walk(settings, "")
    kinds: dict[str, Any] = {
        "network": NetworkConfig,
        "schedule": Schedule,
        "optimisation": OptimisationConfig,
        "scenes": ScenesConfig,
    }
    for name, kind in kinds.items():
        if isinstance(migrated.get(name), dict):
            migrated[name] = _plain_section(kind()) | migrated[name]
    scenes = migrated.get("scenes")
    if isinstance(scenes, dict) and isinstance(scenes.get("simulation"), dict):
        simulation = _plain_section(simulator.SimulationConfig())
        scenes["simulation"] = simulation | scenes["simulation"]
    return migrated


def config_from_json(settings: dict[str, Any]) -> TrainingConfig:
    """The configuration that :func:`config_to_json` wrote, in this version or an earlier one.

    Args:
      settings: JSON values.

    Raises:
      ValueError: fields are missing, unknown, or refused.
      UnknownPluginError: a plug-in is not registered, nor its module imported.
    """

    def build(kind: type, value: dict[str, Any]) -> Any:
        given = {k: v for k, v in value.items() if k != "plugins"}
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})

    try:
        settings = migrate(settings)
        scenes = dict(settings["scenes"])
        scenes["simulation"] = build(simulator.SimulationConfig, scenes["simulation"])
        with importing_nothing():
            return TrainingConfig(
                seed=settings["seed"],
                network=build(NetworkConfig, settings["network"]),
                scenes=ScenesConfig(**scenes),
                schedule=build(Schedule, settings["schedule"]),
                optimisation=build(OptimisationConfig, settings["optimisation"]),
            )
    except UnknownPluginError as error:
        raise UnknownPluginError(f"the checkpoint's {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the checkpoint's settings belong to another version of e2r ({error}); train again"
        ) from None


def changed_plugins(settings: dict[str, Any], config: TrainingConfig) -> list[str]:
    """The plug-ins whose code is no longer the one of a checkpoint, as "field name".

    Args:
      settings: of the checkpoint, JSON values.
      config: made of them by :func:`config_from_json`.
    """
    today = plugin_digests(config.network, config.schedule, config.optimisation)
    return [
        name
        for section in ("network", "schedule", "optimisation")
        for name, digest in settings[section].get("plugins", {}).items()
        if today.get(name) != digest
    ]


@dataclass(frozen=True)
class EvaluationConfig:
    """How the cases of a job are registered."""

    program: Annotated[ProgramConfig, tyro.conf.arg(name="")] = ProgramConfig()
    """what each case goes through"""
    start: str = "auto"
    """initial pose: auto (found by a global search), truth (the true pose, perturbed), or the path
    of a JSON file with a 4x4 T_camera_model"""
    start_noise_deg: float = 4.0
    """with --start truth: standard deviation of the rotation per axis, degrees"""
    start_noise_mm: float = 4.0
    """with --start truth: standard deviation of the translation per axis, mm"""
    retry_below: float = 0.6
    """a frame is tried again, with other samples, where the evidence for its pose is smaller: the
    share of the mask that agrees, and half its lead, less what sticks out; 0: never"""
    tries: int = 3
    """most tries of a frame"""
    looks: int = 8
    """samples of a frame that are looked at where the first is unsure of the wound"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """seed of the initial poses, the search and the bootstrap"""

    @property
    def primary_mask(self) -> str:
        """The mask whose results are the job's: the learnt one, if it is registered."""
        masks = self.program.masks
        return "learnt" if "learnt" in masks else masks[0]

    def __post_init__(self) -> None:
        for name, noise in (
            ("--start-noise-deg", self.start_noise_deg),
            ("--start-noise-mm", self.start_noise_mm),
        ):
            if not 0 <= noise < float("inf"):
                raise ValueError(f"{name} is {noise}; use 0 or more")
        if not 0 <= self.retry_below <= 1:
            raise ValueError(f"--retry-below is {self.retry_below}; use a share, 0 to 1")
        for name in ("tries", "looks", "batch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} is {value}; use 1 or more")
        require_seed(self.seed)
