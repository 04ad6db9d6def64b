"""The front door: load or train a model, read a case, register or evaluate, view the result.

The differentiable core stands beside it: :func:`make_example`, :func:`icp`, :func:`target_error`.
Paths may be strings. Compiled programs are kept between processes, as the command line keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case
from e2r.datasets.case_folder import find_cases, read_case
from e2r.evaluation import diagnosis, runner
from e2r.evaluation.calibration import Calibration, load_calibration
from e2r.evaluation.errors_table import table_rows
from e2r.evaluation.predictions import (
    CaseScores,
    Hypothesis,
    Prediction,
    judge_case,
    make_prediction,
)
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Failed, Registered
from e2r.evaluation.summary import Summary, summarise_job, summary_table
from e2r.geometry import poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import register_cloud
from e2r.runtime.compile_cache import enable_cache
from e2r.runtime.provenance import code_record
from e2r.runtime.registry import PluginName
from e2r.simulation import simulator
from e2r.training import examples, given_scenes, loop
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
      folder: output folder of ``e2r train`` or ``experiments.publish``; by default, the
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
    _require_model(model)
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


@dataclass(frozen=True)
class Evaluation:
    """The results of :func:`evaluate`."""

    summary: Summary
    """all figures"""
    predictions: dict[str, list[Prediction]]
    """mask name -> prediction of every case, also of failed ones"""
    scores: list[CaseScores]
    """errors of every registered case"""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a case and mask, as in ``errors.csv``; pandas makes a table of them."""
        return table_rows(self.predictions, self.scores)

    def to_table(self) -> str:
        """The figures of each mask as text."""
        return summary_table(self.summary)

    def __repr__(self) -> str:
        """The table."""
        return f"<Evaluation of {self.summary.cases} cases>\n{self.to_table()}"


def evaluate(
    cases: str | os.PathLike[str] | Iterable[Case | str | os.PathLike[str]],
    model: Model,
    *,
    masks: tuple[str, ...] = ("learnt",),
    estimator: PluginName = "deterministic",
    job: EvaluationConfig = EvaluationConfig(),
) -> Evaluation:
    """Registers many cases and measures the errors, in memory.

    A case that cannot be registered counts as failed. ``e2r evaluate`` is for long jobs.

    Args:
      cases: a data set's folder; or cases, and folders of cases.
      model: the trained model.
      masks: masks to register under: all, learnt, oracle.
      estimator: how logits become weights of the learnt mask: its name, or a function.
      job: initial pose, schedule, seed; masks and estimator are set in it.

    Raises:
      ValueError: the folder holds no case, or the settings are refused.
      TypeError: the model is no :class:`Model`, or a case neither a case nor a path.
    """
    _require_model(model)
    if isinstance(cases, (str, os.PathLike)):
        cases = find_cases(Path(cases))
    enable_cache()
    program = replace(job.program, masks=tuple(masks), estimator=estimator)
    job = replace(job, program=program)
    predictions: dict[str, list[Prediction]] = {mask: [] for mask in program.masks}
    scores: list[CaseScores] = []
    order: dict[str, int] = {}

    def read() -> Iterator[Case | Failed]:
        for case in map(_read_or_fail, cases):
            order.setdefault(case.id, len(order))
            yield case

    for result in runner.run(read(), model.config, model.params, job=job):
        outcome = judge_case(result, program.masks, calibration=model.calibration)
        for mask, several in predictions.items():
            several.append(outcome.predictions[mask])
        if outcome.scores is not None:
            scores.append(outcome.scores)
    for several in predictions.values():
        several.sort(key=lambda prediction: order[prediction.id])
    scores.sort(key=lambda score: order[score.id])
    summary = summarise_job(
        predictions[job.primary_mask],
        scores,
        job=job,
        config=model.config,
        origin={},
        code=code_record(model.config.network, program, program.schedule),
    )
    return Evaluation(summary, predictions, scores)


def _read_or_fail(case: Case | str | os.PathLike[str]) -> Case | Failed:
    try:
        return _as_case(case)
    except (ValueError, OSError) as error:
        return Failed(str(case), str(error))


def train(
    config: TrainingConfig,
    scenes: given_scenes.Scenes = None,
    *,
    output: str | os.PathLike[str] | None = None,
    on_log: Callable[[dict[str, Any]], object] | None = None,
    log_every: int = 10,
) -> Model:
    """Trains a model, or resumes the run in a folder.

    Args:
      config: all settings; ``e2r.NAMED_CONFIGS`` has some.
      scenes: a folder of cases, or cases, with truth; simulated by the settings without them.
      output: folder of the run, as ``e2r train`` writes it; None: nothing is kept.
      on_log: called with each line of the log, a dictionary; what it raises stops the run.
      log_every: steps between lines, which hold means over them.

    Returns:
      the trained model, not calibrated.

    Raises:
      ValueError: the settings or the scenes are refused, or the folder holds another run.
      FloatingPointError: a loss is not finite; the steps before it are saved.
    """
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"config is a {type(config).__name__}; give an e2r.TrainingConfig")
    enable_cache()
    with ExitStack() as stack:
        kept = output if output is not None else stack.enter_context(TemporaryDirectory())
        folder, source = Path(kept), given_scenes.source_name(scenes)
        if loop.steps_done(config, folder, source=source) < config.optimisation.steps:
            inputs = loop.RunInputs(
                config, given_scenes.make_batches(scenes, config), source=source
            )
            loop.train(inputs, folder, log_options=loop.LogOptions(log_every, on_log=on_log))
        return Model(*load_trained(folder), calibration=None)


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


def _require_model(model: object) -> None:
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; give what e2r.load_model returns, as the second "
            "argument"
        )


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
