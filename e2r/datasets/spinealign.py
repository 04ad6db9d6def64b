"""SpineAlign: operations seen by an Azure Kinect, with points of the scene that lie on the bone.

Daly et al., "Towards Markerless Intraoperative Tracking of Deformable Spine Tissue", 2025 (arXiv
2506.23657). The data are under their owners' terms and not part of e2r. We have not seen them: the
layout is that which the authors' own loader reads (github.com/condog101/SpineAlign), ::

    index_data_map*.pkl              {number: [path of closest_points_<sequence>.pkl,
                                               the frame's key in it, path of the frame's .pcd,
                                               unused, vertices (T,)], ...}
    closest_points_<sequence>.pkl    {frame: [points (T, 3), ...], ...}     camera frame, mm
    mesh_transformed_<sequence>.ply  the spine's surface, mm                also "undeformed" ones,
                                                                            which are not used
    *.pcd                            organised, mm, x y z rgb; z == 0: unseen

anywhere below one folder; paths in the index are of the machine that made it, and are found by
their last parts. What is ours is this reading: ``vertices`` and ``points`` are pairs, a vertex of
the surface and the place of the scene where it is, in the same order. The truth is the best rigid
motion of the pairs; how far off they stay (:class:`Label`) is the floor below which no figure means
anything. Pickles are read by :mod:`e2r.datasets.safe_pickle`, which runs none of what they say.

A case is a frame, with a model of one level, ``spine``; its targets are the vertices, its source is
the sequence, by which training and evaluation are to be split.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from e2r.datasets import file_checks, meshes, pcd, rgbd, safe_pickle
from e2r.datasets.case import Case, true_pose
from e2r.geometry import poses

LEVEL = "spine"
TRAINED = 17
"""Sequences, the last ones of the index, that the data set's own split trains on."""
LOOSE = 20.0
"""mm: pairs that stay farther apart than this after the best rigid motion are no pairs."""


class Label(NamedTuple):
    """A frame's truth: camera from model (4, 4), and RMS distance of its pairs, mm."""

    pose: np.ndarray
    rmse_mm: float


class Entry(NamedTuple):
    """A frame, by the index."""

    sequence: str
    frame: Any
    closest: Path
    cloud: Path
    vertices: np.ndarray

    @property
    def id(self) -> str:
        """The name of its case."""
        number = f"{self.frame:05d}" if isinstance(self.frame, int) else str(self.frame)
        return f"{self.sequence}_frame{number}"


def find_index(root: Path) -> Path:
    """The one index below a folder.

    Raises:
      ValueError: none, or several.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds index_data_map*.pkl")
    found = sorted(root.rglob("index_data_map*.pkl"))
    if len(found) != 1:
        raise ValueError(
            f"{root}: holds {len(found)} files index_data_map*.pkl; leave the one to convert"
        )
    return found[0]


def locate(root: Path, files: Mapping[str, Sequence[Path]], path: object, where: str) -> Path:
    """The file below a folder whose last parts are most like those of a path of another machine.

    Args:
      root: the folder.
      files: all in it, by name.
      path: of the other machine.
      where: what holds the path, for the error message.

    Raises:
      ValueError: no such file, several, or it would lie outside ``root``.
    """
    if not isinstance(path, str) or not path.strip("/\\"):
        raise ValueError(f"{where} holds {str(path)[:40]!r} for a path; write it as text")
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts:
        raise ValueError(f"{where} names {path}, which may lead outside the folder; leave .. out")

    def alike(found: Path) -> int:
        both = zip(reversed(found.parts), reversed(parts), strict=False)
        return next((i for i, (a, b) in enumerate(both) if a != b), len(parts))

    found = sorted(files.get(parts[-1], []), key=alike)
    if not found:
        raise ValueError(f"{root}: holds no {parts[-1]}, which {where} names; download it again")
    if len(found) > 1 and alike(found[-1]) == alike(found[-2]):
        raise ValueError(f"{found[-1]}: could be {found[-2]}, too, by {where}; leave one there")
    if not found[-1].resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{found[-1]}: is a link that leads outside {root}; copy the file there")
    return found[-1]


def read_index(root: Path) -> list[Entry]:
    """The frames of a data set, in the order of the index.

    Raises:
      ValueError: the index, or what it names, is missing or broken.
    """
    path = find_index(root)
    table = safe_pickle.read(path)
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path}: must hold a dict of frames; download it again")
    files: dict[str, list[Path]] = {}
    for file in root.rglob("*"):
        files.setdefault(file.name, []).append(file)
    found, known = [], {}
    for number, row in table.items():
        where = f"{path}: frame {number}"
        if not isinstance(row, list | tuple) or len(row) < 5:
            raise ValueError(f"{where} must be a list of five; download it again")
        name, frame, cloud, _, vertices = row[:5]
        if str(name) not in known:
            # The authors' loader takes the ones that are not sampled, too.
            text = name.replace("SAMPLED_RESULTS", "RESULTS") if isinstance(name, str) else name
            known[str(name)] = locate(root, files, text, where)
        closest = known[str(name)]
        sequence = closest.stem.removeprefix("closest_points_")
        rows = np.asarray(vertices)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) < 3 or rows.min() < 0:
            raise ValueError(f"{where} must name three vertices or more, by whole numbers")
        entry = Entry(sequence, frame, closest, locate(root, files, cloud, where), rows)
        if not isinstance(frame, int | str) or not file_checks.NAME.fullmatch(entry.id):
            raise ValueError(f"{where}: {entry.id!r} is no name for a case; number the frames")
        found.append(entry)
    return found


def read_surface(root: Path, sequence: str) -> trimesh.Trimesh:
    """A sequence's surface, its vertices in the order of the file."""
    found = sorted(
        p for p in root.rglob(f"mesh_transformed_{sequence}.ply") if "undeformed" not in p.name
    )
    if len(found) != 1:
        raise ValueError(
            f"{root}: holds {len(found)} files mesh_transformed_{sequence}.ply; leave one there"
        )
    return meshes.read_mesh(found[0], merge=False)


def read_points(path: Path, frame: Any, table: Any = None) -> np.ndarray:
    """Points (T, 3) mm of a frame, on the bone.

    Args:
      path: of the sequence's closest points.
      frame: its key.
      table: what is in the file, if it has been read already.

    Raises:
      ValueError: a broken file, or no such frame in it.
    """
    table = safe_pickle.read(path) if table is None else table
    if not isinstance(table, dict) or frame not in table:
        raise ValueError(f"{path}: has no frame {frame!r}; download it again")
    row = table[frame]
    points = np.asarray(row[0] if isinstance(row, list | tuple) and row else np.zeros(0))
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"{path}: frame {frame!r} must begin with points x y z; download it again")
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: frame {frame!r} has points that are not finite")
    return points.astype(np.float64)


def fit(model: np.ndarray, scene: np.ndarray, where: str) -> Label:
    """The rigid motion that brings pairs together best (Kabsch, Acta Cryst. A32, 1976).

    Args:
      model, scene: (T, 3) mm, the same points in two frames.
      where: file and frame, for the error message.

    Raises:
      ValueError: not as many of both, on one line, or no pairs.
    """
    if len(model) != len(scene):
        raise ValueError(
            f"{where}: has {len(scene)} points, but the index names {len(model)} vertices; they "
            "must be pairs"
        )
    a, b = model.mean(0), scene.mean(0)
    u, s, v = np.linalg.svd((scene - b).T @ (model - a))
    if not s[1] > 1e-6 * max(s[0], 1e-9):
        raise ValueError(f"{where}: its points lie on one line, which fixes no pose")
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, b - rotation @ a
    apart = (model - a) @ rotation.T - (scene - b)
    rmse = float(np.sqrt(np.mean(np.sum(apart**2, axis=1))))
    if rmse > LOOSE or not 0.5 < np.std(scene - b) / np.std(model - a) < 2.0:
        raise ValueError(
            f"{where}: points and vertices stay {rmse:.0f} mm apart; they must be pairs, in mm"
        )
    return Label(pose, rmse)


def convert(
    root: Path, *, sequences: Sequence[str] = (), every: int = 1
) -> Iterator[tuple[Case, Label]]:
    """Cases of a data set, with the label that each one's truth is.

    Args:
      root: the folder that everything lies below.
      sequences: which, all without it.
      every: take one frame in so many of each sequence.

    Raises:
      ValueError: something is missing or broken; the message names it.
    """
    entries = read_index(root)
    lost = set(sequences) - {entry.sequence for entry in entries}
    if lost:
        raise ValueError(f"{root}: has no sequence {sorted(lost)[0]}; name others")
    count: dict[str, int] = {}
    known: tuple[str, Any, Any, Any] = ("", None, None, None)
    for entry in entries:
        count[entry.sequence] = count.get(entry.sequence, 0) + 1
        if (sequences and entry.sequence not in sequences) or (count[entry.sequence] - 1) % every:
            continue
        if known[0] != entry.sequence:
            mesh = read_surface(root, entry.sequence)
            model = mesh.copy()
            model.merge_vertices()
            known = (entry.sequence, mesh, model, safe_pickle.read(entry.closest))
        _, mesh, model, table = known
        points = read_points(entry.closest, entry.frame, table)
        if entry.vertices.max() >= len(mesh.vertices):
            raise ValueError(
                f"{find_index(root)}: {entry.id} names vertex {entry.vertices.max()}, but the "
                f"surface has {len(mesh.vertices)}; the two are of different versions"
            )
        anchors = np.asarray(mesh.vertices)[entry.vertices]
        label = fit(anchors, points, f"{entry.closest}: frame {entry.frame!r}")
        scan = rgbd.read_cloud(entry.cloud)
        yield (
            Case(
                id=entry.id,
                model={LEVEL: model},
                truth={LEVEL: poses.from_matrix(label.pose, str(entry.closest))},
                targets={LEVEL: anchors},
                source=entry.sequence,
                **scan._asdict(),
            ),
            label,
        )


# A small copy of the layout -----------------------------------------------------------------------


def whole(model: Mapping[str, trimesh.Trimesh]) -> trimesh.Trimesh:
    """All levels as one surface."""
    return trimesh.util.concatenate(list(model.values()))


def write(root: Path, given: Mapping[tuple[str, int], Case], *, pairs: int = 60) -> None:
    """Writes simulated cases in this layout, their pairs exact.

    Cases of one sequence share a model, and stand still in it: the truth is one pose.

    Args:
      root: the data set's folder.
      given: sequence and frame -> case; a frame shows vertices of its surface.
      pairs: of a frame, at most.

    Raises:
      ValueError: a case has no picture, truth or bone.
    """
    index: dict[int, list[Any]] = {}
    closest: dict[str, dict[int, list[np.ndarray]]] = {}
    for (sequence, frame), case in given.items():
        if case.image is None or case.truth is None or case.bone is None:
            raise ValueError(f"{case.id}: needs a picture, a truth and its bone")
        mesh, pose, picture = whole(case.model), true_pose(case), case.image
        place = root / "clouds" / sequence
        place.mkdir(parents=True, exist_ok=True)
        mesh.export(root / f"mesh_transformed_{sequence}.ply")
        moved = np.asarray(poses.apply(pose, np.asarray(mesh.vertices, np.float32)), np.float64)
        seen = case.points[case.bone]
        near = np.flatnonzero(cKDTree(seen).query(moved)[0] < 2.0)
        near = near[:: max(1, -(-len(near) // pairs))]
        grid = np.zeros((*picture.depth.shape, 3))
        grid[picture.depth > 0] = case.points
        pcd.write(place / f"frame_{frame}.pcd", grid, picture.color / 255.0)
        closest.setdefault(sequence, {})[frame] = [moved[near]]
        index[len(index)] = [
            f"/data/RESULTS/closest_points_{sequence}.pkl",
            frame,
            f"/data/clouds/{sequence}/frame_{frame}.pcd",
            None,
            near,
        ]
    (root / "RESULTS").mkdir(exist_ok=True)
    for sequence, table in closest.items():
        with (root / "RESULTS" / f"closest_points_{sequence}.pkl").open("wb") as file:
            pickle.dump(table, file)
    with (root / "index_data_map.pkl").open("wb") as file:
        pickle.dump(index, file)
