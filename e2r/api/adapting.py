"""Adapts a model to a patient before surgery."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import trimesh

from e2r.adaptation import adapt as adaptation
from e2r.adaptation.settings import AdaptationConfig
from e2r.api.models import require_type
from e2r.evaluation.models import Model
from e2r.formats import meshes
from e2r.formats.camera_files import read_lens
from e2r.runtime.compile_cache import enable_cache


def adapt(
    model: Model,
    surfaces: str | os.PathLike[str] | Mapping[str, trimesh.Trimesh],
    *,
    output: str | os.PathLike[str] | None = None,
    config: AdaptationConfig = AdaptationConfig(),
    camera: str | os.PathLike[str] | None = None,
) -> Model:
    """Adapts a model to a patient, from the preoperative surfaces alone.

    Surgery is simulated on the surfaces, and the model learns on there. A frame is later shown to
    the adapted model and to the one it began with; the surer of both is believed. Where an initial
    pose is given, the adapted one alone is asked.

    Args:
      model: the model to begin with.
      surfaces: level -> closed surface, mm; or their folder. Two levels or more.
      output: folder of the adapted model, which every command takes as ``--checkpoint``; None:
        nothing is kept.
      config: minutes, frames, levels that will be exposed, seed.
      camera: file with the intrinsics, width and height of the room's camera; any camera without
        it.

    Returns:
      the adapted model, calibrated; it refuses cases of another patient.

    Raises:
      ValueError: surfaces, settings or camera are refused, the model keeps no calibration cases, or
        the folder holds another adaptation or a model.
      TypeError: the model is no :class:`Model`.
    """
    require_type(Model, model=model)
    enable_cache()
    lens = None if camera is None else read_lens(camera, unchecked=None)
    if not isinstance(surfaces, Mapping):
        surfaces = meshes.read_meshes(surfaces)
    with ExitStack() as stack:
        kept = output if output is not None else stack.enter_context(TemporaryDirectory())
        return adaptation.adapt(model, surfaces, Path(kept), config=config, lens=lens)
