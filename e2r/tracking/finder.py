"""Finds the levels in a whole frame, without an initial pose: what a track begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from e2r.config import EvaluationConfig
from e2r.datasets.case import make_case
from e2r.evaluation import runner
from e2r.evaluation.models import Model
from e2r.evaluation.patient import foreign_sentence
from e2r.evaluation.predictions import Prediction, make_prediction
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Failed
from e2r.evaluation.shared_models import SharedModels
from e2r.formats.scenes import RgbdImage
from e2r.geometry import surfaces
from e2r.registration import iterate
from e2r.registration.schedule import apply_mask
from e2r.registration.tracking import SeenBone, remember_bone
from e2r.types import MaskedCloud, Pose, Surface

SINGLE_FRAME = EvaluationConfig(batch=1, retry_below=0.0)
"""A frame is registered in one try: the next frame is the next try."""
MASK = SINGLE_FRAME.primary_mask


class Found(NamedTuple):
    """The levels in one frame, and how far to trust them."""

    number: int  # of the frame
    pose: Pose  # of each level, leading axis L, camera from model
    bone: SeenBone  # always of the same number of points
    prediction: Prediction
    evidence: float  # of the registration


@runtime_checkable
class Finder(Protocol):
    """Registers whole frames of one patient."""

    levels: Sequence[str]
    """names of the levels"""
    surface: Surface
    """of all of them, on the device"""

    def find(self, image: RgbdImage, number: int) -> Found | str:
        """Registers a frame; a sentence that says why where that fails.

        Args:
          image: the frame.
          number: of the frame.
        """


class ModelFinder:
    """A :class:`Finder` that asks a trained model, without an initial pose.

    Args:
      model: the trained model.
      levels: level -> surface, mm, model frame.
      points: scene points that are remembered.

    Raises:
      ValueError: the surfaces are not those of the model's patient.
    """

    def __init__(self, model: Model, levels: Mapping[str, trimesh.Trimesh], *, points: int) -> None:
        foreign = foreign_sentence(model.patient, levels) if model.patient else None
        if foreign is not None:
            raise ValueError(f"the patient's surfaces: {foreign}")
        self._model, self._meshes, self._points = model, levels, points
        self.levels: Sequence[str] = list(levels)
        self._programs = compile_programs(
            model.config.network, SINGLE_FRAME.program, batch=SINGLE_FRAME.batch
        )
        self._shared = SharedModels(exact=False)
        stacked = surfaces.stack([self._shared.get(levels).surface], shared=True)
        self.surface: Surface = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked)
        self._remember = jax.jit(remember_bone)

    def find(self, image: RgbdImage, number: int) -> Found | str:
        """Registers a frame; a sentence that says why where that fails.

        Args:
          image: the frame.
          number: of the frame.
        """
        if not (image.depth > 0).any():
            return "no pixel has a depth"
        case = make_case(image, id=f"frame{number}", model=self._meshes)
        (result,) = runner.run(
            [case], self._model, job=SINGLE_FRAME, programs=self._programs, models=self._shared
        )
        if isinstance(result, Failed):
            return result.message.removeprefix(f"{case.id}: ")
        poses = jax.tree.map(
            lambda leaf: np.asarray(leaf)[: len(self.levels)], result.levels[MASK].pose
        )
        cloud = apply_mask(result.cloud, result.weights[MASK])
        cloud = MaskedCloud(*(jnp.asarray(leaf) for leaf in cloud))
        bone = self._remember(iterate.top_weighted(cloud, self._points), self.surface, poses)
        return Found(
            number,
            poses,
            bone,
            make_prediction(result, MASK, self._model.calibration, digest=""),
            result.evidence(MASK),
        )
