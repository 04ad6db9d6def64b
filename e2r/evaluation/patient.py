"""Whose vertebrae a model was adapted to: the sizes by which they are known again.

A level's size is the spread of its surface along its three principal axes. It does not depend on
the frame, the format or the number of triangles of its mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from e2r.formats import file_checks

PATIENT_FILE = "patient.json"
"""In the folder of an adapted model: whose it is, and how it was adapted."""
TOLERANCE = 0.02
"""Largest relative difference of a size. Other meshes of a level differ by less than 0.01."""

Sizes = dict[str, tuple[float, float, float]]
"""Level -> its spread along its principal axes, mm, the largest first."""


def level_sizes(model: Mapping[str, trimesh.Trimesh]) -> Sizes:
    """The sizes of each level of a model.

    Args:
      model: level -> surface, mm.
    """
    return {name: _spread(mesh) for name, mesh in model.items()}


def _spread(mesh: trimesh.Trimesh) -> tuple[float, float, float]:
    """Standard deviations of the surface's points along its principal axes, mm."""
    areas = np.asarray(mesh.area_faces)
    weights = areas / max(float(areas.sum()), 1e-12)
    corners = np.asarray(mesh.triangles, np.float64)
    centres = corners.mean(1)
    centre = weights @ centres
    # A triangle's own second moment: of its corners about its centre, over 12.
    own = corners - centres[:, None]
    inner = np.einsum("t,tki,tkj->ij", weights / 12.0, own, own)
    apart = centres - centre
    moments = np.einsum("t,ti,tj->ij", weights, apart, apart) + inner
    first, second, third = np.sqrt(np.maximum(np.linalg.eigvalsh(moments), 0.0))[::-1].tolist()
    return first, second, third


def foreign_level(sizes: Sizes, model: Mapping[str, trimesh.Trimesh]) -> str | None:
    """The first level of a model that is not the patient's; None where all are.

    Args:
      sizes: of the patient's levels.
      model: level -> surface, mm.
    """
    for name, found in level_sizes(model).items():
        known = sizes.get(name)
        if known is None or not np.allclose(found, known, rtol=TOLERANCE, atol=0.0):
            return name
    return None


def foreign_sentence(sizes: Sizes, model: Mapping[str, trimesh.Trimesh]) -> str | None:
    """Why a model is not the patient's, and the remedy; None where it is.

    Args:
      sizes: of the patient's levels.
      model: level -> surface, mm.
    """
    foreign = foreign_level(sizes, model)
    if foreign is None:
        return None
    return (
        f"its {foreign} is not that of the patient to whom the model was adapted; register it with "
        "the packaged model, or adapt to this patient"
    )


def read_patient(folder: Path) -> dict[str, Any] | None:
    """What the file of an adapted model says; None where the model is not adapted.

    Args:
      folder: of the model.

    Raises:
      ValueError: the file is broken.
    """
    path = folder / PATIENT_FILE
    if not path.is_file():
        return None
    try:
        value = file_checks.parse_json(path.read_text())
        value["sizes"] = {
            str(name): (float(a), float(b), float(c)) for name, (a, b, c) in value["sizes"].items()
        }
        value.setdefault("believed", "both")
        if value["believed"] not in ("both", "base"):
            raise ValueError
        if not isinstance(value["settings"], dict) or not value["sizes"]:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path}: does not say whose model it is; adapt again into another folder"
        ) from None
    return dict(value)
