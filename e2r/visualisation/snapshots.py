"""What is drawn of one registered case: small arrays, of a bounded size, that a file can keep."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import igl
import numpy as np
import trimesh
from PIL import Image

from e2r.datasets.case import scored_targets
from e2r.evaluation.predictions import Registered, level_poses
from e2r.runtime.atomic_files import atomic_write
from e2r.types import Pose
from e2r.visualisation import figures

MAX_KEPT = 6
"""Cases of a job that are drawn."""
POINTS = 5000
"""Of its cloud."""
FACES = 3000
"""Of each level's surface."""
TARGETS = 50
"""Of each level."""
SIDE = 480
"""Pixels of a picture's longer side."""


class Snapshot(NamedTuple):
    """One registered case, to look at. Lengths in mm, camera frame unless said otherwise."""

    id: str
    points: np.ndarray  # (N, 3)
    colours: np.ndarray  # (N, 3) in [0, 1]
    weights: np.ndarray  # (N,) the mask
    surfaces: dict[str, trimesh.Trimesh]  # by level, model frame, thinned
    trajectory: Pose  # leading axis K: the whole model's pose after each step
    found: dict[str, Pose]  # by level, in the end
    truth: dict[str, Pose]  # by level; empty where nobody knows it
    targets: dict[str, np.ndarray]  # by level, model frame, of the levels with a truth
    image: np.ndarray | None  # (H, W, 3) uint8, the mask over the colour picture
    tre_mm: float | None
    error_or_disagreement: (
        float  # larger: worse; the TRE in mm, or without a truth the share that disagrees
    )


def make_snapshot(result: Registered, mask: str) -> Snapshot:
    """What is drawn of a result under one mask."""
    cloud, case = result.cloud, result.case
    rows = np.flatnonzero(np.asarray(cloud.valid))[:POINTS]  # the points come in random order
    targets = {
        name: points[:: -(-len(points) // TARGETS) or 1]
        for name, points in scored_targets(case).items()
    }
    picture = None
    if case.image is not None:
        image = Image.fromarray(figures.overlay(case, result.weights[mask], result.rows))
        image.thumbnail((SIDE, SIDE))
        picture = np.asarray(image)
    return Snapshot(
        case.id,
        np.asarray(cloud.points, np.float32)[rows],
        np.asarray(cloud.colors, np.float32)[rows],
        np.asarray(result.weights[mask], np.float32)[rows],
        {name: figures.thinned(mesh, FACES) for name, mesh in case.model.items()},
        result.registrations[mask].trajectory,
        level_poses(case, result.levels[mask]),
        dict(case.truth or {}),
        targets,
        picture,
        result.errors[mask]["tre_mm"] if result.errors else None,
        error_or_disagreement(result, mask),
    )


def error_or_disagreement(result: Registered, mask: str) -> float:
    """How bad a result is: its TRE in mm, or without a truth the share of the mask off the model.

    A share is below 1, so what is known to be more than 1 mm off comes before it.
    """
    if result.errors:
        return float(result.errors[mask]["tre_mm"])
    kept = max(float(result.weights[mask].sum()), 1.0)
    return 1.0 - min(float(np.sum(result.levels[mask].inlier_weight)) / kept, 1.0)


def keep_worst(folder: Path, result: Registered, mask: str, *, most: int = MAX_KEPT) -> None:
    """Writes a result's view if it is among the ``most`` worst of a folder, and drops another.

    A view's name begins with how bad it is; several processes take turns, see :mod:`e2r.evaluation.job_folder`.
    """
    name = f"{error_or_disagreement(result, mask):012.4f}_{zlib.crc32(result.case.id.encode()):08x}.npz"
    kept = sorted(path.name for path in folder.glob("*.npz"))
    if name in kept or (len(kept) >= most and name <= kept[0]):
        return
    write_snapshot(make_snapshot(result, mask), folder / name)
    for old in sorted([*kept, name])[:-most]:
        (folder / old).unlink()


def read_worst(folder: Path) -> list[Snapshot]:
    """The views of a folder, the worst first."""
    return [read_snapshot(path) for path in sorted(folder.glob("*.npz"), reverse=True)]


def snapshot_steps(view: Snapshot) -> list[dict[str, Pose]]:
    """Pose by level after each step of the whole model, then that of each level by itself."""
    whole = [Pose(r, t) for r, t in zip(*map(np.asarray, view.trajectory), strict=True)]
    return [*(dict.fromkeys(view.surfaces, pose) for pose in whole), view.found]


def distances(view: Snapshot, placed_by: Mapping[str, Pose]) -> np.ndarray:
    """Distance (N,) in mm of each point from the nearest of the placed levels."""
    nearest = np.full(len(view.points), np.inf)
    for name, mesh in view.surfaces.items():
        placed = figures.place_points(placed_by[name], mesh.vertices).astype(np.float64)
        squared = igl.point_mesh_squared_distance(
            view.points.astype(np.float64), placed, np.ascontiguousarray(mesh.faces, np.int64)
        )[0]
        nearest = np.minimum(nearest, np.sqrt(squared))
    return nearest


def true_targets(view: Snapshot) -> np.ndarray:
    """Targets (T, 3) where the truth puts them, camera frame."""
    found = [
        figures.place_points(view.truth[name], points) for name, points in view.targets.items()
    ]
    return np.concatenate([*found, np.zeros((0, 3), np.float32)])


# Files --------------------------------------------------------------------------------------------


def write_snapshot(view: Snapshot, path: Path) -> None:
    """Writes a view as an ``.npz`` that :func:`read_snapshot` reads back."""
    arrays: dict[str, Any] = {
        "id": view.id,
        "points": view.points,
        "weights": view.weights.astype(np.float16),
        "colours": np.round(255 * view.colours).astype(np.uint8),
        "levels": np.array([*view.surfaces]),
        "scored": np.array([*view.truth], np.str_),
        "tre_mm": np.nan if view.tre_mm is None else view.tre_mm,
        "doubt": view.error_or_disagreement,
    }
    if view.image is not None:
        arrays["picture"] = view.image
    for name, mesh in view.surfaces.items():
        arrays[f"vertices {name}"] = np.asarray(mesh.vertices, np.float32)
        arrays[f"faces {name}"] = np.asarray(mesh.faces, np.int32)
    for name, points in view.targets.items():
        arrays[f"targets {name}"] = np.asarray(points, np.float32)
    named = {f"found {k}": p for k, p in view.found.items()}
    named |= {f"truth {k}": p for k, p in view.truth.items()}
    for name, pose in {"trajectory": view.trajectory, **named}.items():
        arrays[f"R {name}"], arrays[f"t {name}"] = map(np.asarray, pose)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_snapshot(path: Path) -> Snapshot:
    """Reads a view.

    Raises:
      ValueError: not a file that :func:`write_snapshot` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            a = {name: file[name] for name in file.files}

        def pose(name: str) -> Pose:
            return Pose(a[f"R {name}"], a[f"t {name}"])

        levels = [str(name) for name in a["levels"]]
        tre = float(a["tre_mm"])
        return Snapshot(
            str(a["id"]),
            a["points"],
            a["colours"] / np.float32(255),
            a["weights"].astype(np.float32),
            {
                name: trimesh.Trimesh(a[f"vertices {name}"], a[f"faces {name}"], process=False)
                for name in levels
            },
            pose("trajectory"),
            {name: pose(f"found {name}") for name in levels},
            {str(name): pose(f"truth {name}") for name in a["scored"]},
            {k.removeprefix("targets "): v for k, v in a.items() if k.startswith("targets ")},
            a.get("picture"),
            None if np.isnan(tre) else tre,
            float(a["doubt"]),
        )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: is not a view that e2r wrote ({error}); run the evaluation again"
        ) from None
