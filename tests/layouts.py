"""Writes simulated cases in the layouts of cameras and data sets, to test their readers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from e2r.datasets.case import Case, true_pose
from e2r.datasets.case_folder import write_images
from e2r.datasets.spinedepth import FrameId
from e2r.datasets.spinedepth_files import LEVELS, RESOLUTIONS, SERIALS
from e2r.datasets.spinedepth_pairs import PairId
from e2r.formats.scenes import RgbdImage
from e2r.geometry import lens_distortion, poses
from e2r.geometry.closest_points import distance_to_mesh

LEVEL_DISTANCE_MM = 2.5
"""Scene points nearer to a level belong to it."""


# A frame of any camera ----------------------------------------------------------------------------


def write_rgbd(
    folder: Path,
    image: RgbdImage,
    lens: lens_distortion.Lens,
    *,
    unit: str = "mm",
    suffix: str = ".png",
) -> None:
    """Writes an image without distortion as a camera with this lens takes it.

    A depth of suffix ``.npy`` is float32, and NaN where nothing was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    color, depth = image.color, image.depth
    if any(lens.distortion):
        color, depth = lens_distortion.remap(color, depth, lens, ray_map=lens_distortion.undistort)
    values = depth * lens.depth_scale / (1000.0 if unit == "m" else 1.0)
    Image.fromarray(color).save(folder / "color.png")
    if suffix == ".npy":
        np.save(folder / "depth.npy", np.where(depth > 0, values, np.nan).astype(np.float32))
    else:
        whole = np.where(values < 65535, np.round(values), 0).astype(np.uint16)
        Image.fromarray(whole).save(folder / "depth.png")
    about = {
        "width": depth.shape[1],
        "height": depth.shape[0],
        "fx": lens.fx,
        "fy": lens.fy,
        "cx": lens.cx,
        "cy": lens.cy,
        "depth_scale": lens.depth_scale,
        **dict(zip(lens_distortion.COEFFICIENTS, lens.distortion, strict=True)),
    }
    (folder / "intrinsics.json").write_text(json.dumps(about, indent=1))


def write_pcd(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    """Writes an organised cloud, (H, W, 3) mm with zeros where unseen, as binary PCD."""
    height, width, _ = points.shape
    rows = np.zeros(height * width, [("p", "<f4", 3), ("rgb", "<u4")])
    rows["p"] = points.reshape(-1, 3)
    r, g, b = np.round(255 * colors.reshape(-1, 3)).astype(np.uint32).T
    rows["rgb"] = (r << 16) | (g << 8) | b
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\n"
        "DATA binary\n"
    )
    path.write_bytes(header.encode() + rows.tobytes())


# SpineDepth ---------------------------------------------------------------------------------------


def write_spinedepth(root: Path, cases: Mapping[FrameId, Case], *, clouds: bool = False) -> None:
    """Writes cases of five levels as extracted images, or as labelled clouds.

    Cases of one specimen share a model. Each level's own coordinates lie off the bone, as in the
    original. The layout holds no targets and no bone.
    """
    poses_of: dict[tuple[int, int, int], dict[int, np.ndarray]] = {}
    for frame, case in cases.items():
        if list(case.model) != list(LEVELS) or case.truth is None or case.image is None:
            raise ValueError(f"{case.id}: needs an image, a truth, and levels L1 to L5")
        folder = root / f"Specimen_{frame.specimen}"
        (folder / "STL").mkdir(parents=True, exist_ok=True)
        (folder / "Calib").mkdir(exist_ok=True)
        matrices = []
        for i, name in enumerate(LEVELS):
            stl_from_model = np.eye(4)  # off the bone, and turned
            turn = trimesh.transformations.rotation_matrix(0.4 * i, [1, i, 2])
            stl_from_model[:3, :3] = turn[:3, :3]
            stl_from_model[:3, 3] = [90.0 + 10.0 * i, -100.0, 120.0]
            own = case.model[name].copy().apply_transform(stl_from_model)
            own.export(folder / "STL" / f"{name}.stl")
            matrices.append(poses.to_matrix(case.truth[name]) @ np.linalg.inv(stl_from_model))
        recorded = poses_of.setdefault((frame.specimen, frame.recording, frame.camera), {})
        recorded[frame.frame] = np.stack(matrices)
        if clouds:
            _write_labelled_cloud(root, frame, case)
        else:
            _write_extracted_images(folder, frame, case)
    for (specimen, recording, camera), frames in poses_of.items():
        place = root / f"Specimen_{specimen}" / "Recordings" / f"Recording{recording}"
        place.mkdir(parents=True, exist_ok=True)
        last = next(iter(frames.values()))
        table = []
        for number in range(max(frames) + 1):  # a frame without a scene repeats the pose before it
            last = frames.get(number, last)
            table.append(last.reshape(len(LEVELS), 16))
        np.savetxt(place / f"Poses_{camera}.txt", np.concatenate(table), delimiter=",", fmt="%.9g")


def _write_labelled_cloud(root: Path, frame: FrameId, case: Case) -> None:
    label = np.zeros(len(case.points)) if case.bone is None else case.bone
    rows = np.column_stack([case.points, np.round(255 * case.colors), label])
    name = (
        f"Specimen_{frame.specimen}_recording_{frame.recording}_cam_{frame.camera}"
        f"_frame_{frame.frame}.npz"
    )
    np.savez_compressed(root / name, rows.astype(np.float32))


def _write_extracted_images(folder: Path, frame: FrameId, case: Case) -> None:
    image = case.image
    assert image is not None
    height, width = image.depth.shape
    resolution = RESOLUTIONS.get((width, height))
    if resolution is None:
        raise ValueError(f"{case.id}: is {width}x{height}; simulate it at 672x376 or larger")
    place = folder / f"recording_{frame.recording}" / f"cam_{frame.camera}"
    place = place / f"frame_{frame.frame}"
    place.mkdir(parents=True, exist_ok=True)
    write_images(image, place / "image.png", place / "depth.png", depth_scale=1.0)
    lens = {"fx": image.fx, "fy": image.fy, "cx": image.cx, "cy": image.cy}
    lines = [f"[LEFT_CAM_{resolution}]", *(f"{key}={value:.9g}" for key, value in lens.items())]
    lines += ["k1=0", "k2=0", "p1=0", "p2=0", "k3=0", "[STEREO]", "BaseLine=63"]
    path, text = folder / "Calib" / f"{SERIALS[frame.camera]}.conf", "\n".join(lines) + "\n"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{case.id}: is of another lens than this camera's; simulate one lens")
    path.write_text(text)


# SpineDepth in pairs ------------------------------------------------------------------------------


def one_level(case: Case, level: str) -> Case:
    """The part of a case that belongs to one level: its surface, points and truth."""
    if case.truth is None or level not in case.truth:
        raise ValueError(f"{case.id}: has no truth of {level}")
    mesh, pose = case.model[level], case.truth[level]
    points = np.asarray(poses.apply_inverse(pose, case.points.astype(np.float32)), np.float64)
    rows = np.flatnonzero(
        distance_to_mesh(points, mesh.vertices, mesh.faces)[0] < LEVEL_DISTANCE_MM
    )
    if len(rows) < 32:
        raise ValueError(f"{case.id}: shows {len(rows)} points of {level}; name another level")
    return Case(
        id=case.id,
        model={level: mesh},
        points=case.points[rows],
        colors=case.colors[rows],
        truth={level: pose},
        source=case.source,
    )


def write_pairs(root: Path, cases: Mapping[PairId, Case]) -> None:
    """Writes one level of each case, its points in steps of 0.1 micrometres."""
    for name in ("preoperative", "intraoperative"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for pair, case in cases.items():
        part = one_level(case, pair.level)
        assert part.truth is not None
        points = poses.apply_inverse(part.truth[pair.level], part.points.astype(np.float32))
        name = f"{pair.specimen}_{pair.level}.stl"
        part.model[pair.level].export(root / "preoperative" / name)
        rows = np.column_stack([points, np.round(255 * part.colors)])
        np.savetxt(root / "intraoperative" / f"{pair.case_id}.xyz", rows, fmt="%.4f")


# SpineAlign ---------------------------------------------------------------------------------------


def merge_levels(model: Mapping[str, trimesh.Trimesh]) -> trimesh.Trimesh:
    """All levels as one surface."""
    return trimesh.util.concatenate(list(model.values()))


def write_spinealign(
    root: Path, cases: Mapping[tuple[str, int], Case], *, max_pairs: int = 60
) -> None:
    """Writes cases by sequence and frame, with exact pairs.

    Cases of one sequence share a model and its posture: the truth is one pose.
    """
    index: dict[int, list[Any]] = {}
    closest_points: dict[str, dict[int, list[np.ndarray]]] = {}
    for (sequence, frame), case in cases.items():
        if case.image is None or case.truth is None or case.bone is None:
            raise ValueError(f"{case.id}: needs an image, a truth and its bone")
        mesh, pose, image = merge_levels(case.model), true_pose(case), case.image
        place = root / "clouds" / sequence
        place.mkdir(parents=True, exist_ok=True)
        mesh.export(root / f"mesh_transformed_{sequence}.ply")
        moved = np.asarray(poses.apply(pose, np.asarray(mesh.vertices, np.float32)), np.float64)
        visible = np.flatnonzero(cKDTree(case.points[case.bone]).query(moved)[0] < 2.0)
        visible = visible[:: max(1, -(-len(visible) // max_pairs))]
        grid = np.zeros((*image.depth.shape, 3))
        grid[image.depth > 0] = case.points
        write_pcd(place / f"frame_{frame}.pcd", grid, image.color / 255.0)
        closest_points.setdefault(sequence, {})[frame] = [moved[visible]]
        index[len(index)] = [
            f"/data/RESULTS/closest_points_{sequence}.pkl",
            frame,
            f"/data/clouds/{sequence}/frame_{frame}.pcd",
            None,
            visible,
        ]
    (root / "RESULTS").mkdir(exist_ok=True)
    for sequence, table in closest_points.items():
        with (root / "RESULTS" / f"closest_points_{sequence}.pkl").open("wb") as file:
            pickle.dump(table, file)
    with (root / "index_data_map.pkl").open("wb") as file:
        pickle.dump(index, file)
