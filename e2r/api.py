"""The front door: load a trained model, read a case, register it, view the result.

The differentiable core stands beside it: :func:`make_example`, :func:`icp`, :func:`target_error`.
Paths may be strings. Compiled programs are kept between processes, as the command line keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case
from e2r.datasets.case_folder import read_case
from e2r.evaluation import diagnosis, runner
from e2r.evaluation.calibration import Calibration, load_calibration
from e2r.evaluation.predictions import Hypothesis, Prediction, make_prediction
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Failed, Registered
from e2r.geometry import poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import register_cloud
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator
from e2r.training import examples
from e2r.training.losses import mean_target_error
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Example, Params

SINGLE_CASE = EvaluationConfig(batch=1)
"""The settings of :func:`register`: one case, with a global search."""
CLOSE_UP = simulator.SimulationConfig(wound_fraction=(0.2, 0.8), min_bone_fraction=0.02)
"""The settings of :func:`simulate`: small frames, the wound in the foreground."""


@dataclass(frozen=True)
class Model:
    """A trained model: networks, parameters, calibration."""

    config: TrainingConfig
    """settings it was trained with"""
    params: Params
    """of both networks, ``{"mask": ..., "coarse": ...}``"""
    calibration: Calibration | None
    """turns inliers into probabilities; None where the run was not calibrated"""


@dataclass(frozen=True)
class RegistrationResult:
    """The poses of one case's levels, and how far to trust them."""

    prediction: Prediction
    """as a line of ``predictions.jsonl`` holds it"""
    details: Registered
    """the points, mask weights and registrations behind it"""
    mask: str
    """the mask that was registered"""
    job: EvaluationConfig
    """the settings of the registration"""

    @property
    def poses(self) -> dict[str, np.ndarray]:
        """Level -> 4x4 matrix, camera from model, mm."""
        return {name: poses.to_matrix(pose) for name, pose in self.prediction.poses.items()}

    @property
    def accepted(self) -> bool:
        """Whether the poses may be used."""
        return self.prediction.accepted

    @property
    def expected_tre_mm(self) -> float | None:
        """The expected target registration error; None without a calibration."""
        return self.prediction.expected_tre_mm

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The candidate poses of the whole model, the best first."""
        return self.prediction.hypotheses

    @property
    def tre_mm(self) -> float | None:
        """The target registration error; None where the case has no truth."""
        errors = self.details.errors.get(self.mask)
        return None if errors is None else errors.tre_mm

    def __repr__(self) -> str:
        """Levels, acceptance and errors in one line."""
        found = {"expected": self.expected_tre_mm, "true": self.tre_mm}
        errors = ", ".join(f"{k} TRE {v:.2f} mm" for k, v in found.items() if v is not None)
        verdict = "accepted" if self.accepted else "not accepted"
        levels = ", ".join(self.prediction.poses)
        return f"<RegistrationResult of {self.prediction.id}: {levels}; {verdict}; {errors}>"


def load_model(folder: str | os.PathLike[str] | None = None) -> Model:
    """Loads a trained model.

    Args:
      folder: output folder of ``experiments.train`` or ``experiments.publish``; by default, the
        model that comes with e2r.

    Raises:
      ValueError: no usable checkpoint in the folder.
    """
    place = PACKAGED if folder is None else Path(folder)
    config, params = load_trained(place)
    return Model(config, params, load_calibration(place))


def register(
    case: Case | str | os.PathLike[str], model: Model, *, job: EvaluationConfig = SINGLE_CASE
) -> RegistrationResult:
    """Registers one case: one pose a level, by default without an initial pose.

    Args:
      case: the case, or its folder.
      model: the trained model.
      job: initial pose, masks, schedule, seed.

    Raises:
      ValueError: the case cannot be read or registered; the message says why.
      TypeError: the model is no :class:`Model`, or the case neither a case nor a path.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; give what e2r.load_model returns, as the second "
            "argument"
        )
    enable_cache()
    case = _as_case(case)
    (result,) = _run([case], model, job, folder=case.folder)
    if isinstance(result, Failed):
        raise ValueError(result.message)
    mask = job.primary_mask
    return RegistrationResult(make_prediction(result, mask, model.calibration), result, mask, job)


def _run(
    cases: Iterable[Case], model: Model, job: EvaluationConfig, *, folder: Path | None
) -> Iterator[Registered | Failed]:
    """Registers cases of the surfaces in one case folder, with the programs that compile soon."""
    surface_file = None if folder is None else folder / "model" / "surface.npz"
    programs = compile_programs(
        model.config.network, job.program, batch=job.batch, fast_compile=True
    )
    return runner.run(
        cases, model.config, model.params, job=job, programs=programs, surface_file=surface_file
    )


def find_cause(result: RegistrationResult, model: Model) -> diagnosis.Cause | None:
    """The likely cause of a registration that was not accepted.

    The case is registered nine times more: with a mirrored scene, other sizes, other focal lengths.

    Args:
      result: of :func:`register`.
      model: the same trained model.

    Returns:
      the cause, as a name and a sentence; None for an accepted registration, for one with an
      initial pose, and where no cause can be told.
    """
    if result.accepted or result.job.start != "auto":
        return None
    job, mask, folder = result.job, result.mask, result.details.case.folder
    return diagnosis.find_cause(
        result.details,
        mask,
        attempt=lambda cases: _run(cases, model, job, folder=folder),
        accepts=lambda one: make_prediction(one, mask, model.calibration).accepted,
        min_keep_ratio=job.program.min_keep_ratio,
    )


def view(result: RegistrationResult, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serves a page that shows a registration step by step, until Ctrl-C.

    Args:
      result: of :func:`register`.
      host: address to serve at.
      port: port to serve at; 0: any free one.

    Raises:
      ValueError: the port is taken.
    """
    from e2r.visualisation import snapshots, viewer  # noqa: PLC0415 - a second of imports

    viewer.check_port_free(host, port)
    viewer.serve([snapshots.make_snapshot(result.details, result.mask)], host=host, port=port)


def simulate(
    count: int = 1, *, seed: int = 0, config: simulator.SimulationConfig = CLOSE_UP
) -> list[Case]:
    """Simulates cases of open spine surgery, one specimen each, with truth and bone.

    Args:
      count: number of cases.
      seed: the same seed gives the same cases.
      config: image size, wound, posture, levels.
    """
    enable_cache()
    groups = simulator.simulate_specimens(
        jax.random.key(seed), config, specimens=count, frames=1, prefix=f"seed{seed}_"
    )
    return [case for group in groups for case in group]


def make_example(
    case: Case | str | os.PathLike[str], network: NetworkConfig = NetworkConfig(), *, seed: int = 0
) -> Example:
    """Makes a training example of a case: cloud, neighbours, surface, targets, true pose.

    Args:
      case: a case with a truth, or its folder.
      network: sizes of the cloud and its neighbourhoods.
      seed: draws the cloud's points, about the exposed bone, and the surface's samples.

    Raises:
      ValueError: the case cannot be read, or has no truth.
    """
    case = _as_case(case)
    if case.truth is None:
        raise ValueError(f"{case.id}: has no truth.json, which an example needs")
    example = examples.make_example(case, network, seed=seed, cropped=True)
    surface = surfaces.build_surface(
        case.model, seed=seed, nodes=surfaces.PROJECTION_NODES, exact=False
    )
    return jax.tree.map(jax.numpy.asarray, example._replace(surface=surface))


def _as_case(case: Case | str | os.PathLike[str]) -> Case:
    """The case itself, or the one in a folder."""
    if isinstance(case, Case):
        return case
    if not isinstance(case, (str, os.PathLike)):
        raise TypeError(f"case is a {type(case).__name__}; give a case or the path of its folder")
    return read_case(case)


icp = register_cloud
"""Registers a weighted cloud to a surface; see :func:`e2r.registration.schedule.register_cloud`."""
target_error = mean_target_error
"""Mean target registration error; see :func:`e2r.training.losses.mean_target_error`."""
