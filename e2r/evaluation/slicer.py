"""Poses out: for ITK, for 3D Slicer, and as registered surfaces.

Frames: e2r's case folders hold models and poses as they came, usually in the scanner's RAS axes (x
right, y anterior, z superior). ITK and files of Slicer's kind are LPS by convention: x and y change
sign. Both sides of a transform are converted: ``M_lps = F M F`` with ``F = diag(-1, -1, 1)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh

from e2r.geometry import poses
from e2r.types import Pose

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to LPS, and back."""
SURFACES = ("ply", "stl", "glb")


def write_matrix(path: Path, pose: Pose) -> None:
    """Writes a pose as a 4x4 matrix in text, row by row, mm, in the case's own axes."""
    np.savetxt(path, poses.to_matrix(pose), fmt="%.9g")


def write_itk(path: Path, pose: Pose) -> None:
    """Writes a rigid motion as an ITK text transform (``.tfm``), in LPS mm.

    ITK's ``TransformPoint`` then maps the motion's source to its goal. Slicer reads such a file as
    a transform *from* the parent: to move a model by ``pose`` there, write ``poses.inverse(pose)``.
    """
    matrix = RAS_TO_LPS @ poses.to_matrix(pose) @ RAS_TO_LPS
    numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    path.write_text(
        "#Insight Transform File V1.0\n"
        "#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(f'{v:.12g}' for v in numbers)}\n"
        "FixedParameters: 0 0 0\n"
    )


def write_markups(path: Path, points: Mapping[str, np.ndarray]) -> None:
    """Writes points as 3D Slicer markups (``.mrk.json``), in LPS mm.

    Args:
      path: of the file.
      points: name -> (T, 3) mm in the case's axes; each point is labelled ``name-1``, ``name-2``...
    """
    controls = [
        {
            "id": str(count),
            "label": label,
            "position": [round(float(v), 6) for v in position],
            "selected": True,
            "visibility": True,
            "positionStatus": "defined",
        }
        for count, (label, position) in enumerate(_labelled(points), 1)
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
        "Resources/Schema/markups-schema-v1.0.3.json#"
    )
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": controls,
    }
    path.write_text(json.dumps({"@schema": schema, "markups": [markup]}, indent=1))


def _labelled(points: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [
        (f"{name}-{i}", row * RAS_TO_LPS.diagonal()[:3])
        for name, rows in points.items()
        for i, row in enumerate(np.asarray(rows, np.float64), 1)
    ]


def registered(model: Mapping[str, trimesh.Trimesh], found: Mapping[str, Pose]) -> trimesh.Scene:
    """The model's levels where they are in the camera's frame, mm, one geometry a level."""
    scene = trimesh.Scene()
    for name, mesh in model.items():
        moved = mesh.copy()
        moved.apply_transform(poses.to_matrix(found[name]))
        scene.add_geometry(moved, geom_name=name, node_name=name)
    return scene


def export_prediction(
    folder: Path,
    model: Mapping[str, trimesh.Trimesh],
    found: Mapping[str, Pose],
    targets: Mapping[str, np.ndarray] | None = None,
    *,
    surfaces: Sequence[str] = ("ply",),
) -> list[Path]:
    """Writes everything a result can be looked at with.

    ``L1.txt`` (4x4), ``L1.tfm`` (for ITK: model to camera), ``L1_slicer.tfm`` (for Slicer: loaded
    there, it moves the model to the camera), ``L1.ply`` and so on (registered), ``levels.glb`` (all
    of them), and ``targets.mrk.json`` (targets in the camera's frame).

    Args:
      folder: made if it is not there.
      model: level -> surface, mm.
      found: level -> camera-from-model pose.
      targets: level -> (T, 3) mm in the model frame.
      surfaces: kinds of surface files: ply, stl, glb.

    Returns:
      the files.

    Raises:
      ValueError: another kind of surface, or a level without a pose.
    """
    for kind in surfaces:
        if kind not in SURFACES:
            raise ValueError(f"--surfaces {kind}: use some of {', '.join(SURFACES)}")
    lost = [name for name in model if name not in found]
    if lost:
        raise ValueError(
            f"the prediction has no pose of {', '.join(lost)}; register this case again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    scene = registered(model, found)
    for name in model:
        pose = found[name]
        write_matrix(folder / f"{name}.txt", pose)
        write_itk(folder / f"{name}.tfm", pose)
        write_itk(folder / f"{name}_slicer.tfm", poses.inverse(pose))
        written += [folder / f"{name}{end}" for end in (".txt", ".tfm", "_slicer.tfm")]
        for kind in set(surfaces) - {"glb"}:
            path = folder / f"{name}.{kind}"
            scene.geometry[name].export(path)
            written.append(path)
    if "glb" in surfaces:
        scene.export(folder / "levels.glb")
        written.append(folder / "levels.glb")
    if targets:
        goals = {
            name: np.asarray(poses.apply(found[name], np.asarray(rows, np.float32)))
            for name, rows in targets.items()
        }
        write_markups(folder / "targets.mrk.json", goals)
        written.append(folder / "targets.mrk.json")
    return written
