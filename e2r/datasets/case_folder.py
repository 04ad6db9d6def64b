"""A case: one RGB-D frame (or cloud), one preoperative model, maybe the truth. On disk and off.

The folder layout is described in the README. Everything a user wrote is checked once, while it is
read, and refused in one sentence that names the file and the remedy.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from e2r.datasets import file_checks, meshes, ply
from e2r.datasets.case import Case, RgbdImage, case_from_image
from e2r.datasets.meshes import MESH_SUFFIXES
from e2r.geometry import poses
from e2r.types import Pose


def find_cases(folder: Path) -> list[Path]:
    """The case folders of a data set (or the folder itself, if it is one case), sorted.

    Raises:
      ValueError: no such folder, or no case in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a case folder or a folder of cases")
    if (folder / "case.json").exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/case.json"))
    if not found:
        raise ValueError(f"{folder}: holds no case (no case.json in it or one level below)")
    return found


def read_source(folder: Path) -> str:
    """The source of a case folder, without reading the rest."""
    return str(file_checks.read_json(folder / "case.json").get("source", ""))


def read_id(folder: Path) -> str:
    """The id of a case folder, without reading the rest; the folder's name if that is broken."""
    try:
        found = file_checks.read_json(folder / "case.json").get("id")
    except (ValueError, OSError):
        found = None
    return found if isinstance(found, str) and found.strip() else folder.name


SWEEP = 64
"""Cases read after which those that nobody holds are collected: trimesh's meshes refer to
themselves, and among all of jax's objects Python looks for such circles so rarely that the meshes
of a thousand cases would pile up."""
_reads = itertools.count()


def read_case(folder: Path) -> Case:
    """Reads and checks one case folder.

    Raises:
      ValueError: one sentence, naming the file or field and the remedy.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a case folder")
    if not (folder / "case.json").exists():
        inside = sorted(path.parent.name for path in folder.glob("*/case.json"))
        hint = (
            f"it is a data set, name one case, such as {inside[0]}"
            if inside
            else ("a case folder holds case.json, a scene and model/")
        )
        raise ValueError(f"{folder}: not a case, there is no case.json; {hint}")
    about = file_checks.read_json(folder / "case.json")
    where = folder / "case.json"
    if about.get("unit", "mm") != "mm":
        raise ValueError(f'{where}: unit is {about["unit"]!r}; convert everything to "mm"')
    identity = about.get("id", folder.name)
    if not isinstance(identity, str) or not identity.strip():
        raise ValueError(f"{where}: id must be a non-empty text, not {identity!r}")
    levels = file_checks.check_names(about.get("levels"), where, "levels")
    if not levels:
        raise ValueError(f'{where}: levels is empty; list the levels in model/, such as ["L3"]')
    exposed = None
    if about.get("exposed") is not None:
        exposed = tuple(file_checks.check_names(about["exposed"], where, "exposed"))
        file_checks.check_known(exposed, levels, f"{where}: exposed")
    model = {name: meshes.read_mesh(_mesh_path(folder / "model", name)) for name in levels}
    truth, targets = None, None
    if (folder / "truth.json").exists():
        truth, targets = _read_truth(folder / "truth.json", levels)
    fields: dict[str, Any] = dict(
        id=identity,
        model=model,
        truth=truth,
        targets=targets,
        exposed=exposed,
        source=str(about.get("source", "")),
    )
    if (folder / "depth.png").exists() or (folder / "camera.json").exists():
        picture = _read_image(folder)
        bone = None
        if (folder / "bone.png").exists():
            bone = file_checks.read_image(folder / "bone.png") > 0
            if bone.shape != picture.depth.shape:
                raise ValueError(
                    f"{folder / 'bone.png'}: must be one channel, as large as depth.png"
                )
        case = case_from_image(picture, bone=bone, **fields)
    elif (folder / "scene.ply").exists():
        points, colors, normals = ply.read_cloud(folder / "scene.ply")
        case = Case(points=points, colors=colors, normals=normals, **fields)
    else:
        raise ValueError(
            f"{folder}: no scene; put color.png, depth.png and camera.json there, or scene.ply"
        )
    scene = "depth.png" if case.image is not None else "scene.ply"
    file_checks.check_scene(case.points, folder / scene)
    if next(_reads) % SWEEP == SWEEP - 1:
        gc.collect()
    return case


def _mesh_path(folder: Path, name: str) -> Path:
    for suffix in (*MESH_SUFFIXES, *(s.upper() for s in MESH_SUFFIXES)):
        if (folder / f"{name}{suffix}").exists():
            return folder / f"{name}{suffix}"
    raise ValueError(f"{folder / name}.stl: no such file; export level {name} as STL, PLY or OBJ")


def _read_truth(
    path: Path, levels: Sequence[str]
) -> tuple[dict[str, Pose], dict[str, np.ndarray] | None]:
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


def _read_image(folder: Path) -> RgbdImage:
    camera = file_checks.read_json(folder / "camera.json")
    numbers: dict[str, float] = {}
    for field in ("width", "height", "fx", "fy", "cx", "cy", "depth_scale"):
        value = camera.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise ValueError(f"{folder / 'camera.json'}: {field} must be a number, not {value!r}")
        if field not in ("cx", "cy") and value <= 0:
            raise ValueError(f"{folder / 'camera.json'}: {field} must be positive, not {value}")
        numbers[field] = float(value)
    color = file_checks.read_image(folder / "color.png")
    depth = file_checks.read_image(folder / "depth.png")
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{folder / 'color.png'}: must be an 8-bit RGB picture")
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise ValueError(f"{folder / 'depth.png'}: must be one 16-bit channel; 8 bits are too few")
    size = (int(numbers["height"]), int(numbers["width"]))
    for name, image in (("color.png", color), ("depth.png", depth)):
        if image.shape[:2] != size:
            raise ValueError(
                f"{folder / name}: is {image.shape[1]}x{image.shape[0]}, but camera.json says "
                f"{size[1]}x{size[0]}; all three must agree"
            )
    if not (depth > 0).any():
        raise ValueError(f"{folder / 'depth.png'}: every pixel is 0, so the cloud is empty")
    return RgbdImage(
        color[..., :3],
        depth.astype(np.float32) / np.float32(numbers["depth_scale"]),
        numbers["fx"],
        numbers["fy"],
        numbers["cx"],
        numbers["cy"],
    )


def write_case(case: Case, folder: Path, *, depth_scale: float = 50.0) -> None:
    """Writes a case folder that :func:`read_case` reads back.

    Args:
      case: the case.
      folder: made if it is not there.
      depth_scale: 16-bit steps per mm; 50 reaches 1310 mm in steps of 0.02 mm.
    """
    (folder / "model").mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "id": case.id,
        "levels": list(case.model),
        "unit": "mm",
        "source": case.source,
    }
    if case.exposed is not None:
        about["exposed"] = list(case.exposed)
    for name, mesh in case.model.items():
        mesh.export(folder / "model" / f"{name}.stl")
    if case.image is not None:
        write_rgbd_image(case.image, folder, depth_scale=depth_scale)
        if case.bone is not None:
            bone = np.zeros(case.image.depth.shape, np.uint8)
            bone[case.image.depth > 0] = np.where(case.bone, 255, 0)
            Image.fromarray(bone).save(folder / "bone.png")
    else:
        ply.write_cloud(case, folder / "scene.ply")
    if case.truth is not None:
        truth: dict[str, Any] = {
            "T_camera_model": {
                name: poses.to_matrix(pose).tolist() for name, pose in case.truth.items()
            }
        }
        if case.targets is not None:
            truth["targets"] = {
                name: np.round(points, 4).tolist() for name, points in case.targets.items()
            }
        (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    # Last, so that a folder with a case.json is whole.
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def write_rgbd_image(picture: RgbdImage, folder: Path, *, depth_scale: float) -> None:
    """Writes color.png, depth.png (16 bit) and camera.json."""
    write_images(picture, folder / "color.png", folder / "depth.png", depth_scale=depth_scale)
    height, width = picture.depth.shape
    camera = {
        "width": width,
        "height": height,
        "fx": picture.fx,
        "fy": picture.fy,
        "cx": picture.cx,
        "cy": picture.cy,
        "depth_scale": depth_scale,
    }
    (folder / "camera.json").write_text(json.dumps(camera, indent=1))


def write_images(picture: RgbdImage, color: Path, depth: Path, *, depth_scale: float) -> None:
    """Writes a picture as 8-bit colour and 16-bit depth, ``depth_scale`` steps a mm."""
    steps = np.round(picture.depth * depth_scale)
    steps = np.where(steps > 65535, 0, steps).astype(np.uint16)
    Image.fromarray(picture.color).save(color)
    Image.fromarray(steps).save(depth)
