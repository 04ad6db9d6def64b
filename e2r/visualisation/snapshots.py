"""Snapshots: what is drawn of one registered case, as small arrays that fit in a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from jaxtyping import UInt8
from PIL import Image

from e2r.datasets.case import scored_targets
from e2r.evaluation.results import Registered, level_poses
from e2r.formats.file_checks import visible
from e2r.geometry.closest_points import distance_to_mesh
from e2r.geometry.poses import apply_host
from e2r.runtime.atomic_files import atomic_write
from e2r.types import Float, Pose
from e2r.visualisation.figures import simplify_mesh
from e2r.visualisation.overlays import mask_overlay

MAX_SNAPSHOTS = 6
"""Snapshots of a job that are kept."""
MAX_POINTS = 5000
"""Scene points of a snapshot."""
MAX_FACES = 3000
"""Triangles of each level's surface."""
MAX_TARGETS = 50
"""Targets of each level."""
MAX_IMAGE_SIDE = 480
"""Pixels of the image's longer side."""


class Snapshot(NamedTuple):
    """One registered case under one mask, to be drawn."""

    id: str  # of the case
    points: Float[np.ndarray, "n 3"]  # scene points, mm, camera frame
    colors: Float[np.ndarray, "n 3"]  # 0 to 1
    weights: Float[np.ndarray, "n"]  # mask weights, 0 to 1
    surfaces: dict[str, trimesh.Trimesh]  # level -> simplified surface, mm, model frame
    trajectory: Pose  # leading axis K: the whole model's pose after each step
    poses: dict[str, Pose]  # level -> predicted pose, camera from model
    truth: dict[str, Pose]  # level -> true pose; empty if it is unknown
    targets: dict[str, Float[np.ndarray, "_ 3"]]  # level -> mm, model frame; needs a truth
    overlay: UInt8[np.ndarray, "h w 3"] | None  # the mask over the colour image
    tre_mm: float | None  # None without a truth
    error_or_disagreement: float  # see the function of this name

    @property
    def masked_points(self) -> Float[np.ndarray, "m 3"]:
        """The scene points that the mask keeps, mm, camera frame."""
        return self.points[self.weights > 0.5]


def make_snapshot(result: Registered, mask: str) -> Snapshot:
    """Draws a snapshot from the result of a case.

    Args:
      result: the registered case.
      mask: name of the mask whose result is shown.
    """
    cloud, case = result.cloud, result.case
    rows = np.flatnonzero(np.asarray(cloud.valid))[:MAX_POINTS]  # the points are in random order
    targets = {
        name: points[:: -(-len(points) // MAX_TARGETS) or 1]
        for name, points in scored_targets(case).items()
    }
    overlay = None
    if case.image is not None:
        image = Image.fromarray(mask_overlay(case, result.weights[mask], result.rows))
        image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
        overlay = np.asarray(image)
    return Snapshot(
        id=case.id,
        points=np.asarray(cloud.points, np.float32)[rows],
        colors=np.asarray(cloud.colors, np.float32)[rows],
        weights=np.asarray(result.weights[mask], np.float32)[rows],
        surfaces={name: simplify_mesh(mesh, MAX_FACES) for name, mesh in case.model.items()},
        trajectory=result.registrations[mask].trajectory,
        poses=level_poses(case, result.levels[mask]),
        truth=dict(case.truth or {}),
        targets=targets,
        overlay=overlay,
        tre_mm=result.errors[mask].tre_mm if result.errors else None,
        error_or_disagreement=error_or_disagreement(result, mask),
    )


def error_or_disagreement(result: Registered, mask: str) -> float:
    """The badness of a result: its TRE in mm, or without a truth the mask's disagreement.

    The disagreement is the share of the mask's points that do not lie on the model: at most 1.
    A TRE above 1 mm therefore counts as worse than any disagreement.

    Args:
      result: the registered case.
      mask: name of the mask.
    """
    if result.errors:
        return result.errors[mask].tre_mm
    mask_points = max(float(result.weights[mask].sum()), 1.0)
    inliers = float(np.sum(result.levels[mask].inlier_weight))
    return 1.0 - min(inliers / mask_points, 1.0)


def poses_by_step(snapshot: Snapshot) -> list[dict[str, Pose]]:
    """Level -> pose after each step of the whole model, and at the end each level's own pose."""
    trajectory = zip(*map(np.asarray, snapshot.trajectory), strict=True)
    whole = [Pose(rotation, translation) for rotation, translation in trajectory]
    return [*(dict.fromkeys(snapshot.surfaces, pose) for pose in whole), snapshot.poses]


def distance_to_model(
    points: Float[np.ndarray, "n 3"],
    surfaces: Mapping[str, trimesh.Trimesh],
    poses: Mapping[str, Pose],
) -> Float[np.ndarray, "n"]:
    """The distance in mm of each point from the nearest surface.

    Args:
      points: mm, camera frame.
      surfaces: level -> surface, mm, model frame.
      poses: level -> pose, camera from model.
    """
    nearest = np.full(len(points), np.inf)
    for name, mesh in surfaces.items():
        vertices = apply_host(poses[name], mesh.vertices)
        nearest = np.minimum(nearest, distance_to_mesh(points, vertices, mesh.faces)[0])
    return nearest


def true_targets(snapshot: Snapshot) -> Float[np.ndarray, "t 3"]:
    """The targets of all levels under the true poses, mm, camera frame."""
    placed = [apply_host(snapshot.truth[name], points) for name, points in snapshot.targets.items()]
    return np.concatenate([*placed, np.zeros((0, 3))])


# The worst cases of a job -------------------------------------------------------------------------


class WorstCases:
    """Draws a snapshot of a result if it is one of the worst of those that were offered."""

    def __init__(self, mask: str, *, max_snapshots: int = MAX_SNAPSHOTS) -> None:
        """No result was offered yet.

        Args:
          mask: name of the mask whose results are shown.
          max_snapshots: number of worst cases.
        """
        self._mask, self._max = mask, max_snapshots
        self._worst: list[float] = []

    def offer(self, result: Registered) -> Snapshot | None:
        """Its snapshot; None where worse ones were offered.

        Args:
          result: the registered case.
        """
        badness = error_or_disagreement(result, self._mask)
        if len(self._worst) >= self._max and badness < self._worst[0]:
            return None
        self._worst = sorted([*self._worst, badness])[-self._max :]
        return make_snapshot(result, self._mask)


def keep_worst(folder: Path, snapshot: Snapshot, *, max_snapshots: int = MAX_SNAPSHOTS) -> None:
    """Writes a snapshot if it is one of the worst, and deletes the best one then.

    File names begin with the badness.

    Args:
      folder: the snapshots' folder.
      snapshot: of a case.
      max_snapshots: number of snapshots that the folder holds, at most.
    """
    badness = snapshot.error_or_disagreement
    name = f"{badness:012.4f}_{zlib.crc32(snapshot.id.encode()):08x}.npz"
    kept = [path.name for path in visible(folder.glob("*.npz"))]
    if name in kept or (len(kept) >= max_snapshots and name <= kept[0]):
        return
    write_snapshot(snapshot, folder / name)
    for surplus in sorted([*kept, name])[:-max_snapshots]:
        (folder / surplus).unlink()


def read_worst(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder, the worst case first."""
    return [read_snapshot(path) for path in reversed(visible(folder.glob("*.npz")))]


def read_worst_of_job(output: Path) -> list[Snapshot]:
    """The snapshots in an evaluation's output folder, the worst case first.

    Args:
      output: the folder that ``e2r evaluate`` wrote.

    Raises:
      ValueError: the folder has no snapshots.
    """
    worst = read_worst(output / "views")
    if not worst:
        raise ValueError(
            f"{output}: neither a case (no case.json) nor an evaluation's output (no views/*.npz); "
            f"name a case folder, or run e2r evaluate --output {output}"
        )
    return worst


# Files --------------------------------------------------------------------------------------------


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Writes a snapshot as an ``.npz`` file.

    Args:
      snapshot: the snapshot.
      path: the file; its folder is made if needed.
    """
    arrays: dict[str, Any] = {
        "id": snapshot.id,
        "points": snapshot.points,
        "weights": snapshot.weights.astype(np.float16),
        "colours": np.round(255 * snapshot.colors).astype(np.uint8),
        "levels": np.array([*snapshot.surfaces]),
        "scored": np.array([*snapshot.truth], np.str_),
        "tre_mm": np.nan if snapshot.tre_mm is None else snapshot.tre_mm,
        "doubt": snapshot.error_or_disagreement,
    }
    if snapshot.overlay is not None:
        arrays["picture"] = snapshot.overlay
    for name, mesh in snapshot.surfaces.items():
        arrays[f"vertices {name}"] = np.asarray(mesh.vertices, np.float32)
        arrays[f"faces {name}"] = np.asarray(mesh.faces, np.int32)
    for name, points in snapshot.targets.items():
        arrays[f"targets {name}"] = np.asarray(points, np.float32)
    named = {f"found {k}": p for k, p in snapshot.poses.items()}
    named |= {f"truth {k}": p for k, p in snapshot.truth.items()}
    for name, pose in {"trajectory": snapshot.trajectory, **named}.items():
        arrays[f"R {name}"], arrays[f"t {name}"] = map(np.asarray, pose)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot that :func:`write_snapshot` wrote.

    Raises:
      ValueError: the file is not a snapshot.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _snapshot_from_arrays({name: file[name] for name in file.files})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: is not a snapshot that e2r wrote ({error}); run the evaluation again"
        ) from None


def _snapshot_from_arrays(arrays: Mapping[str, Any]) -> Snapshot:
    def pose(name: str) -> Pose:
        return Pose(arrays[f"R {name}"], arrays[f"t {name}"])

    def surface(name: str) -> trimesh.Trimesh:
        vertices, faces = arrays[f"vertices {name}"], arrays[f"faces {name}"]
        return trimesh.Trimesh(vertices, faces, process=False)

    levels = [str(name) for name in arrays["levels"]]
    targets = [name for name in arrays if name.startswith("targets ")]
    tre_mm = float(arrays["tre_mm"])
    return Snapshot(
        id=str(arrays["id"]),
        points=arrays["points"],
        colors=arrays["colours"] / np.float32(255),
        weights=arrays["weights"].astype(np.float32),
        surfaces={name: surface(name) for name in levels},
        trajectory=pose("trajectory"),
        poses={name: pose(f"found {name}") for name in levels},
        truth={str(name): pose(f"truth {name}") for name in arrays["scored"]},
        targets={name.removeprefix("targets "): arrays[name] for name in targets},
        overlay=arrays.get("picture"),
        tre_mm=None if np.isnan(tre_mm) else tre_mm,
        error_or_disagreement=float(arrays["doubt"]),
    )
