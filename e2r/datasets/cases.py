"""A case: one RGB-D frame (or cloud), one preoperative model, maybe the truth. On disk and off.

The folder layout is described in the README. Everything a user wrote is checked once, while it is
read, and refused in one sentence that names the file and the remedy.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from PIL import Image, UnidentifiedImageError

from e2r.geometry import clouds, poses
from e2r.types import Pose

MESH_SUFFIXES = (".stl", ".ply", ".obj")
BOMB = Image.DecompressionBombError
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


class Picture(NamedTuple):
    """An RGB-D frame. Integer pixel (u, v) is the pixel's centre."""

    color: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) mm, 0 where unseen
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Case:
    """One registration problem, on the host.

    Attributes:
      id: unique within a data set.
      model: level name -> surface, mm, all in one model frame.
      points: (M, 3) mm, camera frame.
      colors: (M, 3) in [0, 1].
      normals: (M, 3) or None.
      picture: the RGB-D frame the points come from, or None.
      truth: level name -> camera-from-model pose, or None. For scoring and named starts only.
      targets: level name -> (T, 3) mm, model frame, or None.
      exposed: levels the surgeon says are in the wound, or None.
      source: the specimen or patient; statistics are grouped by it.
      bone: (M,) bool, which points are bone, or None. Only a simulator knows; the oracle mask of
        an evaluation uses it, nothing else.
    """

    id: str
    model: Mapping[str, trimesh.Trimesh]
    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray | None = None
    picture: Picture | None = None
    truth: Mapping[str, Pose] | None = None
    targets: Mapping[str, np.ndarray] | None = None
    exposed: tuple[str, ...] | None = None
    source: str = ""
    bone: np.ndarray | None = None


def from_picture(picture: Picture, *, bone: np.ndarray | None = None, **fields: Any) -> Case:
    """A case whose points are the picture's pixels that have a depth; ``bone`` is (H, W)."""
    points, pixels = clouds.back_project(
        picture.depth, picture.fx, picture.fy, picture.cx, picture.cy
    )
    colors = picture.color.reshape(-1, 3)[pixels] / 255.0
    if bone is not None:
        bone = bone.ravel()[pixels]
    return Case(points=points, colors=colors, picture=picture, bone=bone, **fields)


def scored_targets(case: Case) -> dict[str, np.ndarray]:
    """Targets at which a case is judged, by level: the named ones, else model vertices."""
    if case.truth is None:
        return {}
    if case.targets:
        return {name: np.asarray(points) for name, points in case.targets.items()}
    result = {}
    for name in case.truth:
        vertices = np.asarray(case.model[name].vertices)
        result[name] = vertices[:: max(1, len(vertices) // 200)]
    return result


def true_pose(case: Case) -> Pose:
    """The one rigid pose of a case that has a truth: that of its middle scored level."""
    names = list(scored_targets(case))
    if case.truth is None or not names:
        raise ValueError(f"{case.id}: has no truth.json")
    return case.truth[names[len(names) // 2]]


# Reading ------------------------------------------------------------------------------------------


def find(folder: Path) -> list[Path]:
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


def source_of(folder: Path) -> str:
    """The source of a case folder, without reading the rest."""
    return str(read_json(folder / "case.json").get("source", ""))


def id_of(folder: Path) -> str:
    """The id of a case folder, without reading the rest; the folder's name if that is broken."""
    try:
        found = read_json(folder / "case.json").get("id")
    except (ValueError, OSError):
        found = None
    return found if isinstance(found, str) and found.strip() else folder.name


SWEEP = 64
"""Cases read after which those that nobody holds are collected: trimesh's meshes refer to
themselves, and among all of jax's objects Python looks for such circles so rarely that the meshes
of a thousand cases would pile up."""
_reads = itertools.count()


def read(folder: Path) -> Case:
    """Reads and checks one case folder.

    Raises:
      ValueError: one sentence, naming the file or field and the remedy.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a case folder")
    if not (folder / "case.json").exists():
        inside = sorted(path.parent.name for path in folder.glob("*/case.json"))
        hint = f"it is a data set, name one case, such as {inside[0]}" if inside else (
            "a case folder holds case.json, a scene and model/"
        )  # fmt: skip
        raise ValueError(f"{folder}: not a case, there is no case.json; {hint}")
    about = read_json(folder / "case.json")
    where = folder / "case.json"
    if about.get("unit", "mm") != "mm":
        raise ValueError(f'{where}: unit is {about["unit"]!r}; convert everything to "mm"')
    identity = about.get("id", folder.name)
    if not isinstance(identity, str) or not identity.strip():
        raise ValueError(f"{where}: id must be a non-empty text, not {identity!r}")
    levels = _names(about.get("levels"), where, "levels")
    if not levels:
        raise ValueError(f'{where}: levels is empty; list the levels in model/, such as ["L3"]')
    exposed = None
    if about.get("exposed") is not None:
        exposed = tuple(_names(about["exposed"], where, "exposed"))
        _known(exposed, levels, f"{where}: exposed")
    model = {name: read_mesh(_mesh_path(folder / "model", name)) for name in levels}
    truth, targets = None, None
    if (folder / "truth.json").exists():
        truth, targets = _read_truth(folder / "truth.json", levels)
    fields: dict[str, Any] = dict(
        id=identity, model=model, truth=truth, targets=targets, exposed=exposed,
        source=str(about.get("source", "")),
    )  # fmt: skip
    if (folder / "depth.png").exists() or (folder / "camera.json").exists():
        picture = _read_picture(folder)
        bone = None
        if (folder / "bone.png").exists():
            bone = read_image(folder / "bone.png") > 0
            if bone.shape != picture.depth.shape:
                raise ValueError(
                    f"{folder / 'bone.png'}: must be one channel, as large as depth.png"
                )
        case = from_picture(picture, bone=bone, **fields)
    elif (folder / "scene.ply").exists():
        points, colors, normals = read_cloud(folder / "scene.ply")
        case = Case(points=points, colors=colors, normals=normals, **fields)
    else:
        raise ValueError(
            f"{folder}: no scene; put color.png, depth.png and camera.json there, or scene.ply"
        )
    scene = "depth.png" if case.picture is not None else "scene.ply"
    check_scene(case.points, folder / scene)
    if next(_reads) % SWEEP == SWEEP - 1:
        gc.collect()
    return case


def read_mesh(path: Path, *, merge: bool = True) -> trimesh.Trimesh:
    """Reads a surface in mm, and refuses what cannot be one vertebra in millimetres.

    Args:
      path: STL, PLY or OBJ.
      merge: make one of vertices at one place; without it they keep the file's order.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; export the level's surface there") from None
    try:
        return _mesh(content, path.suffix.lower(), merge).copy()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@lru_cache(maxsize=32)
def _mesh(content: bytes, suffix: str, merge: bool) -> trimesh.Trimesh:
    """What is in a surface's file; the frames of one operation share it, each in its own folder."""
    try:
        mesh = trimesh.load(io.BytesIO(content), file_type=suffix[1:], force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"cannot be read as a mesh ({error}); export it again") from None
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError("holds vertices that are not finite; export it again")
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    if extent < 1.0:
        raise ValueError(f"is {extent:.3g} mm large, so it is in metres; multiply it by 1000")
    if not extent < 10_000.0:
        raise ValueError(f"is {extent:.3g} mm large, which no spine is; export it again, in mm")
    if not mesh.area > 0:
        raise ValueError("its surface has no area; export it again")
    if merge:
        mesh.merge_vertices()
    corners = np.asarray(mesh.triangles) - mesh.vertices.mean(0)
    if np.linalg.det(corners).sum() < 0:  # six times the volume: inside out, as mirrors leave it
        mesh.invert()
    return mesh


def read_meshes(folder: Path) -> dict[str, trimesh.Trimesh]:
    """All surfaces of a folder, by file name without suffix (the level)."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of STL, PLY or OBJ surfaces")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in MESH_SUFFIXES)
    _names([path.stem for path in paths], folder, "the surfaces' file names")
    if not paths:
        raise ValueError(f"{folder}: holds no STL, PLY or OBJ surface; export one file a level")
    return {path.stem: read_mesh(path) for path in paths}


def numbers(lines: Sequence[str], delimiter: str | None = None) -> np.ndarray:
    """The table (R, C) that lines of text hold; (0, 0) where they hold none.

    Raises:
      ValueError: they are no table of numbers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        rows = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    return rows if rows.size else np.zeros((0, 0))


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Points (M, 3) mm, colours (M, 3) in [0, 1] and maybe normals of a PLY file."""
    try:
        loaded = trimesh.load(path, process=False)
        vertex = loaded.metadata.get("_ply_raw", {}).get("vertex", {})
        data = vertex.get("data")
        points = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), np.float64)
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as a PLY cloud ({error}); write it again"
        ) from None
    if not isinstance(data, dict):  # a binary file comes as a structured array
        data = {name: data[name] for name in getattr(getattr(data, "dtype", None), "names", ())}
    columns = data.keys()
    if len(points) == 0 or len(points) != vertex.get("length", len(points)):
        raise ValueError(f"{path}: the cloud is empty or cut short; write it again")
    if not {"red", "green", "blue"} <= set(columns):
        raise ValueError(f"{path}: has no red, green, blue; the cloud needs colours from 0 to 255")
    colors = np.stack([np.ravel(data[c]) for c in ("red", "green", "blue")], 1) / 255.0
    if colors.max() <= 1 / 255 and not np.issubdtype(np.asarray(data["red"]).dtype, np.integer):
        raise ValueError(f"{path}: has colours from 0 to 1; write red, green, blue from 0 to 255")
    normals = None
    if {"nx", "ny", "nz"} <= set(columns):
        normals = np.stack([np.ravel(data[c]) for c in ("nx", "ny", "nz")], 1).astype(np.float64)
        normals = face_camera(normals, points, path)
    return points, colors, normals


def face_camera(normals: np.ndarray, points: np.ndarray, path: Path) -> np.ndarray:
    """Normals (M, 3) of a file, made unit and turned to the camera.

    Raises:
      ValueError: a normal is not finite, or far from unit.
    """
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length < 0.5).any():
        raise ValueError(f"{path}: has normals that are not unit; leave nx ny nz out")
    normals = normals / length
    return np.where((normals * points).sum(1, keepdims=True) > 0, -normals, normals)


def check_scene(points: np.ndarray, path: Path) -> None:
    """Refuses points (M, 3) that cannot be what a camera sees, in mm, before it.

    Raises:
      ValueError: not finite, too few, behind the camera, or in metres; names ``path``.
    """
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise ValueError(f"{path}: {bad} points are not finite; leave invalid points out")
    if len(points) < 32:
        raise ValueError(f"{path}: holds {len(points)} points; a scene needs 32 at least")
    far = float(np.median(points[:, 2]))
    if far <= 0:
        raise ValueError(f"{path}: lies behind the camera (median z {far:.3g}); z points forward")
    if far < 20.0:
        raise ValueError(
            f"{path}: is {far:.3g} mm away, so it is in metres; e2r works in millimetres, "
            "multiply by 1000 (for a depth picture: divide depth_scale by 1000)"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: no such file, or not one object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a case needs it") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); write it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold one JSON object, not a {type(value).__name__}")
    return value


def _names(value: Any, where: Path, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f'{where}: {field} must be a list of names, such as ["L3", "L4"]')
    for name in value:
        if not NAME.fullmatch(name):
            raise ValueError(f"{where}: {field}: {name!r} is no level name; use letters and digits")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: {field} names a level twice; name each once")
    return value


def _known(names: Sequence[str], levels: Sequence[str], where: str) -> None:
    unknown = sorted(set(names) - set(levels))
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is not among the levels {list(levels)}")


def _mesh_path(folder: Path, name: str) -> Path:
    for suffix in (*MESH_SUFFIXES, *(s.upper() for s in MESH_SUFFIXES)):
        if (folder / f"{name}{suffix}").exists():
            return folder / f"{name}{suffix}"
    raise ValueError(f"{folder / name}.stl: no such file; export level {name} as STL, PLY or OBJ")


def _read_truth(
    path: Path, levels: Sequence[str]
) -> tuple[dict[str, Pose], dict[str, np.ndarray] | None]:
    value = read_json(path)
    matrices = value.get("T_camera_model")
    if not isinstance(matrices, dict) or not matrices:
        raise ValueError(f"{path}: T_camera_model must map levels to 4x4 matrices")
    _known(list(matrices), levels, f"{path}: T_camera_model")
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
        _known([name], list(truth), f"{path}: targets")
        try:
            array = np.asarray(points, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.zeros(0)
        if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise ValueError(f"{path}: targets.{name} must be a list of [x, y, z] in mm")
        targets[name] = array
    return truth, targets


def _read_picture(folder: Path) -> Picture:
    camera = read_json(folder / "camera.json")
    numbers: dict[str, float] = {}
    for field in ("width", "height", "fx", "fy", "cx", "cy", "depth_scale"):
        value = camera.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise ValueError(f"{folder / 'camera.json'}: {field} must be a number, not {value!r}")
        if field not in ("cx", "cy") and value <= 0:
            raise ValueError(f"{folder / 'camera.json'}: {field} must be positive, not {value}")
        numbers[field] = float(value)
    color = read_image(folder / "color.png")
    depth = read_image(folder / "depth.png")
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
    return Picture(
        color[..., :3], depth.astype(np.float32) / np.float32(numbers["depth_scale"]),
        numbers["fx"], numbers["fy"], numbers["cx"], numbers["cy"],
    )  # fmt: skip


def read_image(path: Path) -> np.ndarray:
    """A picture's values, as the file has them."""
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a picture needs color.png and depth.png") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, BOMB) as error:
        raise ValueError(f"{path}: cannot be read as a PNG ({error}); write it again") from None


# Writing ------------------------------------------------------------------------------------------


def write(case: Case, folder: Path, *, depth_scale: float = 50.0) -> None:
    """Writes a case folder that :func:`read` reads back.

    Args:
      case: the case.
      folder: made if it is not there.
      depth_scale: 16-bit steps per mm; 50 reaches 1310 mm in steps of 0.02 mm.
    """
    (folder / "model").mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "id": case.id, "levels": list(case.model), "unit": "mm", "source": case.source,
    }  # fmt: skip
    if case.exposed is not None:
        about["exposed"] = list(case.exposed)
    for name, mesh in case.model.items():
        mesh.export(folder / "model" / f"{name}.stl")
    if case.picture is not None:
        write_picture(case.picture, folder, depth_scale=depth_scale)
        if case.bone is not None:
            bone = np.zeros(case.picture.depth.shape, np.uint8)
            bone[case.picture.depth > 0] = np.where(case.bone, 255, 0)
            Image.fromarray(bone).save(folder / "bone.png")
    else:
        write_cloud(case, folder / "scene.ply")
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


def write_cloud(case: Case, path: Path) -> None:
    """Writes the points, colours and (where there are any) normals as a binary PLY."""
    columns = {axis: case.points[:, i] for i, axis in enumerate("xyz")}
    if case.normals is not None:
        columns |= {axis: case.normals[:, i] for i, axis in enumerate(("nx", "ny", "nz"))}
    kinds = [(name, "<f4") for name in columns]
    kinds += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.zeros(len(case.points), kinds)
    for name, column in columns.items():
        rows[name] = column
    for i, name in enumerate(("red", "green", "blue")):
        rows[name] = np.round(255 * case.colors[:, i])
    types = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}",
        *(f"property {types[kind]} {name}" for name, kind in kinds), "end_header", "",
    ]  # fmt: skip
    path.write_bytes("\n".join(header).encode() + rows.tobytes())


def write_picture(picture: Picture, folder: Path, *, depth_scale: float) -> None:
    """Writes color.png, depth.png (16 bit) and camera.json."""
    write_images(picture, folder / "color.png", folder / "depth.png", depth_scale=depth_scale)
    height, width = picture.depth.shape
    camera = {
        "width": width, "height": height, "fx": picture.fx, "fy": picture.fy,
        "cx": picture.cx, "cy": picture.cy, "depth_scale": depth_scale,
    }  # fmt: skip
    (folder / "camera.json").write_text(json.dumps(camera, indent=1))


def write_images(picture: Picture, color: Path, depth: Path, *, depth_scale: float) -> None:
    """Writes a picture as 8-bit colour and 16-bit depth, ``depth_scale`` steps a mm."""
    steps = np.round(picture.depth * depth_scale)
    steps = np.where(steps > 65535, 0, steps).astype(np.uint16)
    Image.fromarray(picture.color).save(color)
    Image.fromarray(steps).save(depth)
