"""Exports poses for ITK and 3D Slicer, and as registered surfaces.

Case folders hold models and poses in RAS axes (x right, y anterior, z superior). ITK's transforms
and Slicer's markups use LPS axes: x and y change sign. Both sides of a transform are converted:
``M_lps = F M F`` with ``F = diag(-1, -1, 1)``. Surfaces keep their numbers, and their header says
``SPACE=RAS``, without which Slicer takes them for LPS. Only glTF is in metres.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh

from e2r.formats import glb, mesh_space
from e2r.formats.mesh_space import LPS_TO_RAS
from e2r.geometry import poses
from e2r.types import Float, Pose

SURFACE_FORMATS = ("ply", "stl", "glb")
CAMERA_FRAME = "camera frame: x right, y down, z forward"


def write_matrix(path: Path, pose: Pose) -> None:
    """Writes a pose as a text file with a 4x4 matrix, row by row.

    Args:
      path: of the file.
      pose: camera from model, mm, RAS axes.
    """
    frame = (
        f"camera from model, mm, RAS axes (a model that says LPS is turned first); {CAMERA_FRAME}"
    )
    np.savetxt(path, poses.to_matrix(pose), fmt="%.9g", header=frame)


def write_itk(path: Path, pose: Pose, content: str = "rigid motion") -> None:
    """Writes a rigid motion as an ITK text transform (``.tfm``), in LPS mm.

    ITK's ``TransformPoint`` applies the motion. Slicer applies the inverse of the transform in such
    a file: to move a model by ``pose`` in Slicer, write ``poses.inverse(pose)``.

    Args:
      path: of the file.
      pose: the motion, mm, in the case's own axes.
      content: what the motion is, for a comment.
    """
    matrix = LPS_TO_RAS @ poses.to_matrix(pose) @ LPS_TO_RAS
    numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    path.write_text(
        "#Insight Transform File V1.0\n"
        f"# {content}, LPS, mm\n"
        "#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(f'{v:.12g}' for v in numbers)}\n"
        "FixedParameters: 0 0 0\n"
    )


def write_markups(
    path: Path, points: Mapping[str, Float[np.ndarray, "_ 3"]], content: str = ""
) -> None:
    """Writes points as 3D Slicer markups (``.mrk.json``), in LPS mm.

    Args:
      path: of the file.
      points: name -> points, mm, in the case's axes; their labels are ``name-1``, ``name-2``...
      content: what the points are, for their descriptions.
    """
    controls = [
        {
            "id": str(count),
            "label": label,
            "description": content,
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
    """Label and LPS position of each point."""
    return [
        (f"{name}-{i}", row * LPS_TO_RAS.diagonal()[:3])
        for name, rows in points.items()
        for i, row in enumerate(np.asarray(rows, np.float64), 1)
    ]


def registered_scene(
    model: Mapping[str, trimesh.Trimesh], predicted: Mapping[str, Pose]
) -> trimesh.Scene:
    """The model's levels in the camera frame, mm; one geometry a level.

    Args:
      model: level -> surface, mm, model frame.
      predicted: level -> camera from model.
    """
    scene = trimesh.Scene()
    for name, mesh in model.items():
        moved = mesh.copy()
        moved.apply_transform(poses.to_matrix(predicted[name]))
        scene.add_geometry(moved, geom_name=name, node_name=name)
    return scene


def export_prediction(
    folder: Path,
    model: Mapping[str, trimesh.Trimesh],
    predicted: Mapping[str, Pose],
    *,
    targets: Mapping[str, Float[np.ndarray, "_ 3"]] | None = None,
    surfaces: Sequence[str] = ("ply",),
) -> list[Path]:
    """Writes the poses and the registered surfaces of a case.

    Each level, for example L1, has these files: ``L1.txt`` (4x4 matrix), ``L1.tfm`` (ITK transform
    from model to camera), ``L1_slicer.tfm`` (moves the model to the camera in Slicer) and
    ``L1.ply`` (registered surface). ``levels.glb`` holds all registered surfaces, in metres.
    ``targets.mrk.json`` holds the targets in the camera frame.

    Args:
      folder: for the files; created if needed.
      model: level -> surface, mm, model frame.
      predicted: level -> camera from model.
      targets: level -> targets, mm, model frame.
      surfaces: formats of the surface files: ply, stl, glb.

    Returns:
      the files' paths.

    Raises:
      ValueError: the surface format is unknown, or a level has no pose.
    """
    for kind in surfaces:
        if kind not in SURFACE_FORMATS:
            raise ValueError(f"--surfaces {kind}: use some of {', '.join(SURFACE_FORMATS)}")
    missing = [name for name in model if name not in predicted]
    if missing:
        raise ValueError(
            f"the prediction has no pose of {', '.join(missing)}; register this case again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    scene = registered_scene(model, predicted)
    for name in model:
        pose = predicted[name]
        write_matrix(folder / f"{name}.txt", pose)
        write_itk(folder / f"{name}.tfm", pose, f"{name}: from model to camera")
        write_itk(
            folder / f"{name}_slicer.tfm",
            poses.inverse(pose),
            f"{name}: from camera to model; 3D Slicer moves the model to the camera by it",
        )
        written += [folder / f"{name}{end}" for end in (".txt", ".tfm", "_slicer.tfm")]
        for kind in set(surfaces) - {"glb"}:
            path = folder / f"{name}.{kind}"
            title = f"registered {name[:20]}, camera frame, mm"
            path.write_bytes(mesh_space.encode(scene.geometry[name], f".{kind}", title))
            written.append(path)
    if "glb" in surfaces:
        content = glb.write_scene(scene, CAMERA_FRAME)
        (folder / "levels.glb").write_bytes(content)
        written.append(folder / "levels.glb")
    if targets:
        goals = {name: poses.apply_host(predicted[name], rows) for name, rows in targets.items()}
        write_markups(folder / "targets.mrk.json", goals, "target, camera frame")
        written.append(folder / "targets.mrk.json")
    return written
