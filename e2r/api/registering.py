"""Registers one case, explains a failure, and shows the steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2r.api.models import require_type
from e2r.config import EvaluationConfig
from e2r.datasets.case import Case
from e2r.datasets.case_folder import as_case
from e2r.evaluation import diagnosis, runner
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import Hypothesis, Prediction, make_prediction
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Failed, Registered
from e2r.geometry import poses
from e2r.runtime.compile_cache import enable_cache

SINGLE_CASE = EvaluationConfig(batch=1)
"""The settings of :func:`register`: one case, with a global search."""


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
    def bound95_mm(self) -> float | None:
        """A larger target registration error has a chance of 5 %; None without a calibration."""
        return self.prediction.bound95_mm

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
      TypeError: the model is no :class:`Model`, the job no :class:`EvaluationConfig`, or the case
        neither a case nor a path.
    """
    require_type(Model, model=model)
    require_type(EvaluationConfig, job=job)
    enable_cache()
    case = as_case(case)
    (result,) = runner.raise_failures(_run([case], model, job, folder=case.folder))
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
    return runner.run(cases, model, job=job, programs=programs, surface_file=surface_file)


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
