"""A folder of exported files that says itself of which case they are, and whether to use them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2r.datasets.case import Case
from e2r.evaluation import slicer
from e2r.evaluation.stored_predictions import StoredPrediction
from e2r.formats import file_checks, glb, mesh_space
from e2r.runtime.atomic_folders import replace_parts

RECORD = "export.json"
"""The file that tells what the others are."""
CONTENTS = {
    "_slicer.tfm": "ITK transform from camera to model, LPS, mm; in 3D Slicer it moves the model "
    "to the camera",
    ".tfm": "ITK transform from model to camera, LPS, mm",
    ".txt": "4x4 matrix by rows, camera from model, mm, RAS axes; a model that says LPS is turned "
    "first",
    ".mrk.json": "the targets under the predicted pose, camera frame, LPS, mm",
    ".ply": "registered surface, camera frame, mm; its header says SPACE=RAS, so that 3D Slicer "
    "keeps its numbers",
    ".stl": "registered surface, camera frame, mm; its header says SPACE=RAS, so that 3D Slicer "
    "keeps its numbers",
    ".glb": "registered surfaces of all levels, axes of the camera frame, metres as glTF demands",
}
"""End of a file's name -> what it holds. The first end that fits counts."""


def write_export(
    folder: Path, case: Case, prediction: StoredPrediction, *, surfaces: Sequence[str] = ("ply",)
) -> list[Path]:
    """Exports a prediction with ``export.json``; an older export in the folder is replaced whole.

    Where the prediction was not accepted, each file says so itself. So does each file of a level
    that no point holds, of which acceptance says nothing.

    Args:
      folder: for the files; created if needed. Other files in it stay.
      case: the case.
      prediction: of this case.
      surfaces: formats of the surface files: ply, stl, glb.

    Returns:
      the files' paths.

    Raises:
      ValueError: the surface format is unknown, a level has no pose, or the folder holds an export
        that does not say what it is.
    """
    _check_unknown_export(folder, case)
    with replace_parts(folder, _parts(folder), last=RECORD) as stage:
        written = slicer.export_prediction(
            stage, case.model, prediction.poses, targets=case.targets, surfaces=surfaces
        )
        names = [path.name for path in written]
        if not prediction.accepted:
            warning = f"NOT ACCEPTED: the pose of {case.id} may be wrong ({prediction.verdict})"
            for path in written:
                _warn(path, warning)
        for path in written:
            unseen = _unseen_in(path, prediction)
            if prediction.accepted and unseen:
                _warn(
                    path, f"NOT SEEN: no point holds {unseen} of {case.id}; it follows the others"
                )
        record = {
            "case": case.id,
            "source": case.source,
            "case_digest": prediction.case_digest,
            "accepted": prediction.accepted,
            "expected_tre_mm": prediction.expected_tre_mm,
            "bound95_mm": prediction.bound95_mm,
            "not_seen": list(prediction.unseen),
            "levels": list(case.model),
            "camera_frame": "x right, y down, z forward, mm",
            "model_frame": "that of the preoperative surfaces, mm",
            "files": {name: _content(name) for name in names},
        }
        (stage / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return [folder / name for name in [*names, RECORD]]


def _unseen_in(path: Path, prediction: StoredPrediction) -> str:
    """The levels in a file that no point holds, as text: one, or all in a file of all levels."""
    stem = path.name.split(".", 1)[0].removesuffix("_slicer")
    inside = [stem] if stem in prediction.poses else [*prediction.poses]
    return ", ".join(name for name in prediction.unseen if name in inside)


def _content(name: str) -> str:
    return next((what for end, what in CONTENTS.items() if name.endswith(end)), "see the manual")


def _parts(folder: Path) -> list[str]:
    """The files of an older export."""
    try:
        files = file_checks.read_json(folder / RECORD).get("files")
    except (ValueError, OSError):
        return []
    return [RECORD, *(name for name in (files if isinstance(files, dict) else []))]


def _check_unknown_export(folder: Path, case: Case) -> None:
    """Refuses other levels' transforms of an export without a record: nobody knows of whom."""
    known = {*_parts(folder), *(f"{name}_slicer.tfm" for name in case.model)}
    unknown = sorted(path.name for path in folder.glob("*_slicer.tfm") if path.name not in known)
    if unknown:
        raise ValueError(
            f"{folder}: holds {unknown[0]} of an older export; name another folder, or delete it"
        )


def _warn(path: Path, warning: str) -> None:
    """Writes a warning into a file; into the 80 bytes of an STL's header, its first words."""
    line = " ".join(warning.split())
    if path.suffix == ".txt":
        path.write_text(f"# {line}\n{path.read_text()}", encoding="utf-8")
    elif path.suffix == ".tfm":  # the first line names the format
        first, rest = path.read_text().split("\n", 1)
        path.write_text(f"{first}\n# {line}\n{rest}", encoding="utf-8")
    elif path.suffix == ".ply":
        head = path.read_bytes().split(b"\n", 2)  # "ply", the format, the rest
        head.insert(2, f"comment {line}".encode("ascii", "replace"))
        path.write_bytes(b"\n".join(head))
    elif path.suffix == ".stl":
        path.write_bytes(mesh_space.warn_stl(path.read_bytes(), line.split(":")[0]))
    elif path.suffix == ".glb":
        path.write_bytes(glb.add_extras(path.read_bytes(), {"warning": line}))
    elif path.name.endswith(".mrk.json"):
        value: dict[str, Any] = json.loads(path.read_text())
        for markup in value["markups"]:
            for point in markup["controlPoints"]:
                point["description"] = f"{point['description']}; {line}"
        path.write_text(json.dumps(value, indent=1))
