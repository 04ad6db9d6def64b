"""Case folders: one folder holds one case. A data set is a folder of them.

A user's files are checked once, when they are read. A broken one is refused by one sentence that
names the file and the remedy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from e2r.datasets import case_files
from e2r.datasets.case import Case, make_case
from e2r.formats import depth_files, file_checks, meshes, model_checks, pictures, ply
from e2r.formats.cameras import distortion
from e2r.formats.cameras.fields import Fields
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.geometry import poses
from e2r.runtime.atomic_folders import replace_parts
from e2r.types import Float, Pose

DEPTH_SCALE = 50.0
"""Depth units per mm of the images that e2r writes; 16 bits reach 1310 mm in steps of 0.02 mm."""
MAX_DEPTH_VALUE = 65534
CAMERA_FIELDS = ("width", "height", "fx", "fy", "cx", "cy", "depth_scale")


def find_cases(folder: PathLike) -> list[Path]:
    """Finds the case folders of a data set, sorted by name.

    Args:
      folder: a data set, or one case.

    Raises:
      ValueError: there is no such folder, or no case in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a case folder or a folder of cases")
    if (folder / "case.json").exists():
        return [folder]
    found = case_files.cases_below(folder)
    if not found:
        raise ValueError(f"{folder}: holds no case (no case.json in it or one level below)")
    return found


def read_source(folder: PathLike) -> str:
    """Reads the source of a case, and nothing else of it.

    Args:
      folder: a case folder.

    Raises:
      ValueError: case.json is broken.
    """
    return str(file_checks.read_json(Path(folder) / "case.json").get("source", ""))


def read_id(folder: PathLike) -> str:
    """Reads the id of a case, and nothing else of it.

    Args:
      folder: a case folder; its name is returned if its case.json is broken.
    """
    folder = Path(folder)
    try:
        found = file_checks.read_json(folder / "case.json").get("id")
    except (ValueError, OSError):
        found = None
    return found if isinstance(found, str) and found.strip() else folder.name


# Reading ------------------------------------------------------------------------------------------


def read_case(folder: PathLike) -> Case:
    """Reads and checks one case.

    Args:
      folder: a case folder.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    folder = Path(folder)
    about = _read_about(folder)
    levels, exposed = about["levels"], about["exposed"]
    paths = {name: _mesh_path(folder / "model", name) for name in levels}
    meshes.refuse_mixed_axes(list(paths.values()))
    model = {name: meshes.read_mesh(path) for name, path in paths.items()}
    model_checks.check_model(model, folder / "model")
    truth, targets = None, None
    if (folder / "truth.json").exists():
        truth, targets = _read_truth(folder / "truth.json", levels)
    scene, path = _read_scene(folder)
    bone = None
    if isinstance(scene, RgbdImage) and (folder / "bone.png").exists():
        bone = pictures.read_image(folder / "bone.png") > 0
        if bone.shape != scene.depth.shape:
            raise ValueError(f"{folder / 'bone.png'}: must be one channel, as large as depth.png")
    case = make_case(
        scene,
        id=about["id"],
        model=model,
        truth=truth,
        targets=targets,
        exposed=exposed,
        source=about["source"],
        bone=bone,
    )
    file_checks.check_scene(case.points, path)
    return replace(case, folder=folder)


def as_case(case: Case | PathLike) -> Case:
    """The case itself, or the one in a folder.

    Args:
      case: a case, or the folder of one.

    Raises:
      ValueError: the folder holds no whole case.
      TypeError: it is neither a case nor a path.
    """
    if isinstance(case, Case):
        return case
    if not isinstance(case, (str, os.PathLike)):
        raise TypeError(f"case is a {type(case).__name__}; give a case or the path of its folder")
    return read_case(case)


def _read_about(folder: Path) -> dict[str, Any]:
    """The checked fields of case.json: id, levels, exposed, source."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: {what}; give a case folder")
    path = folder / "case.json"
    if not path.exists():
        inside = case_files.cases_below(folder)
        remedy = "a case folder holds case.json, a scene and model/"
        if inside:
            remedy = f"it is a data set; name one case, such as {inside[0].name}"
        raise ValueError(f"{folder}: not a case, there is no case.json; {remedy}")
    about = file_checks.read_json(path)
    if about.get("unit", "mm") != "mm":
        raise ValueError(f'{path}: unit is {about["unit"]!r}; convert everything to "mm"')
    identity = about.get("id", folder.name)
    if not isinstance(identity, str) or not identity.strip():
        raise ValueError(f"{path}: id must be a non-empty text, not {identity!r}")
    levels = file_checks.check_names(about.get("levels"), path, "levels")
    if not levels:
        raise ValueError(f'{path}: levels is empty; list the levels in model/, such as ["L3"]')
    exposed = about.get("exposed")
    if exposed is not None:
        exposed = tuple(file_checks.check_names(exposed, path, "exposed"))
        file_checks.check_known(exposed, levels, f"{path}: exposed")
    return {
        "id": identity,
        "levels": levels,
        "exposed": exposed,
        "source": str(about.get("source", "")),
    }


def _mesh_path(folder: Path, name: str) -> Path:
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [
        path for path in inside if path.stem == name and path.suffix.lower() in meshes.MESH_SUFFIXES
    ]
    if not found:
        raise ValueError(
            f"{folder / name}.stl: no such file; export level {name} as STL, PLY or OBJ"
        )
    if len(found) > 1:
        raise ValueError(f"{found[1]}: level {name} is {found[0].name} already; keep one")
    return found[0]


def _read_truth(
    path: Path, levels: Sequence[str]
) -> tuple[dict[str, Pose], dict[str, Float[np.ndarray, "_ 3"]] | None]:
    """The true poses and, if there are any, the targets, by level."""
    value = file_checks.read_json(path)
    matrices = value.get("T_camera_model")
    if not isinstance(matrices, dict) or not matrices:
        raise ValueError(f"{path}: T_camera_model must map levels to 4x4 matrices")
    file_checks.check_known(list(matrices), levels, f"{path}: T_camera_model")
    truth = {
        name: poses.from_matrix(matrices[name], f"{path}: T_camera_model.{name}")
        for name in matrices
    }
    if value.get("targets") is None:
        return truth, None
    if not isinstance(value["targets"], dict):
        raise ValueError(f"{path}: targets must map levels to lists of points")
    targets = {}
    for name, points in value["targets"].items():
        file_checks.check_known([name], list(truth), f"{path}: targets")
        try:
            array = np.asarray(points, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.zeros(0)
        if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise ValueError(f"{path}: targets.{name} must be a list of [x, y, z] in mm")
        targets[name] = array
    return truth, targets


def _read_scene(folder: Path) -> tuple[RgbdImage | ScenePoints, Path]:
    """The scene of a case, and the file that its points come from."""
    if (folder / "depth.png").exists() or (folder / "camera.json").exists():
        return _read_image(folder), folder / "depth.png"
    path = folder / "scene.ply"
    if path.exists():
        return ply.read_cloud(path), path
    raise ValueError(
        f"{folder}: no scene; put color.png, depth.png and camera.json there, or scene.ply"
    )


def _read_image(folder: Path) -> RgbdImage:
    camera = _read_camera(folder / "camera.json")
    color = pictures.read_color(folder / "color.png")
    depth = pictures.read_image(folder / "depth.png")
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise ValueError(f"{folder / 'depth.png'}: must be one 16-bit channel; 8 bits are too few")
    size = (int(camera["height"]), int(camera["width"]))
    for name, values in (("color.png", color), ("depth.png", depth)):
        if values.shape[:2] != size:
            raise ValueError(
                f"{folder / name}: is {values.shape[1]}x{values.shape[0]}, but camera.json says "
                f"{size[1]}x{size[0]}; all three must agree"
            )
    depth = np.where(depth_files.unmeasured(depth), 0, depth)
    if not depth.any():
        raise ValueError(f"{folder / 'depth.png'}: no pixel is measured, so the cloud is empty")
    return RgbdImage(
        color=color,
        depth=depth.astype(np.float32) / np.float32(camera["depth_scale"]),
        fx=camera["fx"],
        fy=camera["fy"],
        cx=camera["cx"],
        cy=camera["cy"],
    )


def _read_camera(path: Path) -> dict[str, float]:
    camera = file_checks.read_json(path)
    if any(distortion.read_distortion(Fields(camera, path))[1]):
        raise ValueError(
            f"{path}: has a distortion, but a case is a picture without one; make the case by "
            "e2r convert rgbd, which removes it"
        )
    numbers: dict[str, float] = {}
    for field in CAMERA_FIELDS:
        value = camera.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise ValueError(f"{path}: {field} must be a number, not {value!r}")
        if field not in ("cx", "cy") and value <= 0:
            raise ValueError(f"{path}: {field} must be positive, not {value}")
        numbers[field] = float(value)
    return numbers


# Writing ------------------------------------------------------------------------------------------


def write_cases(cases: Iterable[Case], folder: PathLike) -> int:
    """Writes cases as a data set.

    Args:
      cases: the cases; each goes to the folder of its id.
      folder: made if it is missing.

    Returns:
      The number of cases.

    Raises:
      ValueError: the folder is a case.
    """
    case_files.require_data_set(Path(folder))
    count = 0
    for case in cases:
        write_case(case, Path(folder) / case.id)
        count += 1
    return count


def write_case(case: Case, folder: PathLike) -> None:
    """Writes a case folder that :func:`read_case` reads back.

    An older case in the folder is replaced whole and at once. Files that are no part of a case
    stay.

    Args:
      case: the case.
      folder: made if it is missing.

    Raises:
      ValueError: the folder holds files of a case but no case.json, or cannot be exchanged.
    """
    folder = Path(folder)
    with replace_parts(folder, case_files.old_parts(folder), last="case.json") as stage:
        _write_files(case, stage)


def _write_files(case: Case, folder: Path) -> None:
    """Writes the files of a case into an empty folder."""
    meshes.write_meshes(case.model, folder / "model")
    if case.image is not None:
        _write_rgbd_image(case.image, folder)
        if case.bone is not None:
            bone = np.zeros(case.image.depth.shape, np.uint8)
            bone[case.image.depth > 0] = np.where(case.bone, 255, 0)
            Image.fromarray(bone).save(folder / "bone.png")
    else:
        ply.write_cloud(case.scene, folder / "scene.ply")
    if case.truth is not None:
        _write_truth(folder / "truth.json", case.truth, case.targets)
    about: dict[str, Any] = {
        "id": case.id,
        "levels": list(case.model),
        "unit": "mm",
        "source": case.source,
    }
    if case.exposed is not None:
        about["exposed"] = list(case.exposed)
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def _write_truth(
    path: Path, truth: Mapping[str, Pose], targets: Mapping[str, Float[np.ndarray, "_ 3"]] | None
) -> None:
    value: dict[str, Any] = {
        "T_camera_model": {name: poses.to_matrix(pose).tolist() for name, pose in truth.items()}
    }
    if targets is not None:
        value["targets"] = {name: np.round(points, 4).tolist() for name, points in targets.items()}
    path.write_text(json.dumps(value, indent=1))


def _write_rgbd_image(image: RgbdImage, folder: Path) -> None:
    """Writes color.png, depth.png (16 bit) and camera.json."""
    depth_scale = max(1.0, min(DEPTH_SCALE, MAX_DEPTH_VALUE // float(image.depth.max(initial=1.0))))
    write_images(image, folder / "color.png", folder / "depth.png", depth_scale=depth_scale)
    write_camera(image, folder / "camera.json", depth_scale=depth_scale)


def write_camera(image: RgbdImage, path: PathLike, *, depth_scale: float) -> None:
    """Writes the intrinsics of an RGB-D image as camera.json.

    Args:
      image: only its size and its intrinsics are written.
      path: of the file.
      depth_scale: depth units per mm.
    """
    height, width = image.depth.shape
    camera = {
        "width": width,
        "height": height,
        "fx": image.fx,
        "fy": image.fy,
        "cx": image.cx,
        "cy": image.cy,
        "depth_scale": depth_scale,
    }
    Path(path).write_text(json.dumps(camera, indent=1))


def write_images(
    image: RgbdImage, color: PathLike, depth: PathLike, *, depth_scale: float = DEPTH_SCALE
) -> None:
    """Writes an RGB-D image as 8-bit colour and 16-bit depth.

    Args:
      image: the image; depths that 16 bits do not hold become 0.
      color: file of the colour.
      depth: file of the depth.
      depth_scale: depth units per mm.
    """
    values = np.round(image.depth * depth_scale)
    values = np.where(values > MAX_DEPTH_VALUE, 0, values).astype(np.uint16)
    # Noise hardly compresses: the default level takes 0.2 s a frame, and saves 6 % of its bytes.
    Image.fromarray(image.color).save(color, compress_level=1)
    Image.fromarray(values).save(depth, compress_level=1)
