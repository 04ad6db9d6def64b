"""SpineAlign: operations seen by an Azure Kinect, with scene points that lie on the bone.

Daly et al., "Towards Markerless Intraoperative Tracking of Deformable Spine Tissue", 2025 (arXiv
2506.23657). The data are under their owners' terms and not part of e2r. This reader was never tried
on them. It follows the layout that the authors' loader reads (github.com/condog101/SpineAlign)::

    index_data_map*.pkl              {number: [path of closest_points_<sequence>.pkl,
                                               the frame's key in it, path of the frame's .pcd,
                                               unused, vertices (T,)], ...}
    closest_points_<sequence>.pkl    {frame: [points (T, 3), ...], ...}     camera frame, mm
    mesh_transformed_<sequence>.ply  the spine's surface, mm; "undeformed" ones are not used
    *.pcd                            organised, mm, x y z rgb; z == 0: no measurement

The files may lie at any depth below one folder. The index holds paths of the machine that made it;
their last parts find the files.

``vertices`` and ``points`` are pairs: a vertex of the surface, and its place in the scene. The
truth is the rigid motion that fits the pairs best. The RMS distance that is left (:class:`Label`)
is the error of the label; no result below it means anything.

A case is one frame. Its model has one level, ``spine``; its targets are the vertices. Its source is
the sequence, by which training and evaluation are to be split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.datasets import safe_pickle
from e2r.datasets.case import Case, make_case
from e2r.formats import clouds, file_checks, meshes
from e2r.formats.file_checks import PathLike
from e2r.geometry import poses
from e2r.types import Float, Int

LEVEL = "spine"
MAX_PAIR_DISTANCE_MM = 20.0
"""Pairs with a larger RMS distance after the best rigid motion are no pairs."""


class Label(NamedTuple):
    """The truth of a frame."""

    pose: Float[np.ndarray, "4 4"]  # camera from model
    rmse_mm: float  # RMS distance of the pairs after the motion


class IndexEntry(NamedTuple):
    """One frame of the index."""

    sequence: str
    frame: Any  # its key among the closest points: a number or a text
    closest_points: Path
    cloud: Path
    vertices: Int[np.ndarray, "t"]  # of the surface

    @property
    def id(self) -> str:
        """The id of its case."""
        number = f"{self.frame:05d}" if isinstance(self.frame, int) else str(self.frame)
        return f"{self.sequence}_frame{number}"


class _Sequence(NamedTuple):
    """The files that all frames of a sequence share."""

    name: str
    surface: trimesh.Trimesh  # vertices in the order of the file
    model: trimesh.Trimesh  # the same surface, vertices merged
    closest_points: Any


def convert(
    root: PathLike, *, sequences: Sequence[str] = (), every: int = 1
) -> Iterator[tuple[Case, Label]]:
    """Yields the cases of the data set, each with the label that is its truth.

    Args:
      root: the folder that holds all files, at any depth.
      sequences: sequences to convert; all by default.
      every: convert every n-th frame of each sequence.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    root = Path(root)
    entries = read_index(root)
    missing = set(sequences) - {entry.sequence for entry in entries}
    if missing:
        raise ValueError(f"{root}: has no sequence {sorted(missing)[0]}; name others")
    count: dict[str, int] = {}
    shared: _Sequence | None = None
    for entry in entries:
        number = count[entry.sequence] = count.get(entry.sequence, -1) + 1
        if (sequences and entry.sequence not in sequences) or number % every:
            continue
        if shared is None or shared.name != entry.sequence:
            shared = _read_sequence(root, entry)
        yield _read_frame(root, entry, shared)


def _read_sequence(root: Path, entry: IndexEntry) -> _Sequence:
    surface = read_surface(root, entry.sequence)
    model = surface.copy()
    model.merge_vertices()
    return _Sequence(entry.sequence, surface, model, safe_pickle.read(entry.closest_points))


def _read_frame(root: Path, entry: IndexEntry, shared: _Sequence) -> tuple[Case, Label]:
    points = points_of_frame(shared.closest_points, entry.frame, entry.closest_points)
    surface = shared.surface
    if entry.vertices.max() >= len(surface.vertices):
        raise ValueError(
            f"{find_index(root)}: {entry.id} names vertex {entry.vertices.max()}, but the "
            f"surface has {len(surface.vertices)}; the two are of different versions"
        )
    vertices = np.asarray(surface.vertices)[entry.vertices]
    label = fit_pairs(vertices, points, f"{entry.closest_points}: frame {entry.frame!r}")
    case = make_case(
        clouds.read_cloud(entry.cloud, None),
        id=entry.id,
        model={LEVEL: shared.model},
        truth={LEVEL: poses.from_matrix(label.pose, str(entry.closest_points))},
        targets={LEVEL: vertices},
        source=entry.sequence,
    )
    return case, label


# The index ----------------------------------------------------------------------------------------


def find_index(root: PathLike) -> Path:
    """Finds the one index below a folder.

    Args:
      root: the folder.

    Raises:
      ValueError: there is no index, or several.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds index_data_map*.pkl")
    found = file_checks.visible(root.rglob("index_data_map*.pkl"))
    if len(found) != 1:
        raise ValueError(
            f"{root}: holds {len(found)} files index_data_map*.pkl; leave the one to convert"
        )
    return found[0]


def read_index(root: PathLike) -> list[IndexEntry]:
    """Reads the frames of a data set, in the order of the index.

    Args:
      root: the folder that holds all files, at any depth.

    Raises:
      ValueError: the index, or a file that it names, is missing or broken.
    """
    root = Path(root)
    path = find_index(root)
    table = safe_pickle.read(path)
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path}: must hold a dict of frames; download it again")
    files: dict[str, list[Path]] = {}
    for file in file_checks.visible(root.rglob("*")):
        files.setdefault(file.name, []).append(file)
    located: dict[str, Path] = {}  # the frames of a sequence name one file of closest points
    entries = []
    for number, row in table.items():
        field = f"{path}: frame {number}"
        if not isinstance(row, list | tuple) or len(row) < 5:
            raise ValueError(f"{field} must be a list of five; download it again")
        name, frame, cloud, _, vertices = row[:5]
        if str(name) not in located:
            # The authors' loader takes the closest points that are not sampled, too.
            text = name.replace("SAMPLED_RESULTS", "RESULTS") if isinstance(name, str) else name
            located[str(name)] = locate(root, text, files=files, field=field)
        closest = located[str(name)]
        indices = np.asarray(vertices)
        if (
            indices.ndim != 1
            or indices.dtype.kind not in "iu"
            or len(indices) < 3
            or indices.min() < 0
        ):
            raise ValueError(f"{field} must name three vertices or more, by whole numbers")
        entry = IndexEntry(
            sequence=closest.stem.removeprefix("closest_points_"),
            frame=frame,
            closest_points=closest,
            cloud=locate(root, cloud, files=files, field=field),
            vertices=indices,
        )
        if not isinstance(frame, int | str) or not file_checks.NAME_PATTERN.fullmatch(entry.id):
            raise ValueError(f"{field}: {entry.id!r} is no name for a case; number the frames")
        entries.append(entry)
    return entries


def locate(
    root: PathLike, path: object, *, files: Mapping[str, Sequence[Path]], field: str
) -> Path:
    """Finds the file whose path ends most like a path of another machine.

    Args:
      root: the folder to look in.
      path: the path of the other machine.
      files: all files below the folder, by name.
      field: the file and field that hold the path, for the message.

    Raises:
      ValueError: there is no such file, or several, or it lies outside the folder.
    """
    root = Path(root)
    if not isinstance(path, str) or not path.strip("/\\"):
        raise ValueError(f"{field} holds {str(path)[:40]!r} for a path; write it as text")
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts:
        raise ValueError(f"{field} names {path}, which may lead outside the folder; leave .. out")

    def common_parts(candidate: Path) -> int:
        pairs = zip(reversed(candidate.parts), reversed(parts), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(parts))

    found = sorted(files.get(parts[-1], []), key=common_parts)
    if not found:
        raise ValueError(f"{root}: holds no {parts[-1]}, which {field} names; download it again")
    best = found[-1]
    if len(found) > 1 and common_parts(best) == common_parts(found[-2]):
        raise ValueError(f"{best}: could be {found[-2]}, too, by {field}; leave one there")
    if not best.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{best}: is a link that leads outside {root}; copy the file there")
    return best


# Surfaces and pairs -------------------------------------------------------------------------------


def read_surface(root: PathLike, sequence: str) -> trimesh.Trimesh:
    """Reads the surface of a sequence, its vertices in the order of the file.

    Args:
      root: the folder that holds it, at any depth.
      sequence: its name.

    Raises:
      ValueError: there is no such surface, or several, or a broken one.
    """
    name = f"mesh_transformed_{sequence}.ply"
    found = sorted(path for path in Path(root).rglob(name) if "undeformed" not in path.name)
    if len(found) != 1:
        raise ValueError(f"{root}: holds {len(found)} files {name}; leave one there")
    return meshes.read_mesh(found[0], merge=False)


def points_of_frame(table: Any, frame: Any, path: PathLike) -> Float[np.ndarray, "t 3"]:
    """The points of a frame that lie on the bone, mm, camera frame.

    Args:
      table: the closest points of the sequence.
      frame: the frame's key.
      path: the file of the table, for the message.

    Raises:
      ValueError: the table has no such frame, or a broken one.
    """
    if not isinstance(table, dict) or frame not in table:
        raise ValueError(f"{path}: has no frame {frame!r}; download it again")
    row = table[frame]
    points = np.asarray(row[0] if isinstance(row, list | tuple) and row else np.zeros(0))
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"{path}: frame {frame!r} must begin with points x y z; download it again")
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: frame {frame!r} has points that are not finite")
    return points.astype(np.float64)


def fit_pairs(
    model: Float[np.ndarray, "t 3"], scene: Float[np.ndarray, "s 3"], field: str
) -> Label:
    """Fits the rigid motion that brings pairs together best (Kabsch, Acta Cryst. A32, 1976).

    Args:
      model: mm, model frame.
      scene: the same points in the camera frame, mm.
      field: file and frame, for the message.

    Raises:
      ValueError: the numbers of points differ, or they lie on one line, or they are no pairs.
    """
    if len(model) != len(scene):
        raise ValueError(
            f"{field}: has {len(scene)} points, but the index names {len(model)} vertices; they "
            "must be pairs"
        )
    a, b = model.mean(0), scene.mean(0)
    u, s, v = np.linalg.svd((scene - b).T @ (model - a))
    if not s[1] > 1e-6 * max(s[0], 1e-9):
        raise ValueError(f"{field}: its points lie on one line, which fixes no pose")
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, b - rotation @ a
    offsets = (model - a) @ rotation.T - (scene - b)
    rmse = float(np.sqrt(np.mean(np.sum(offsets**2, axis=1))))
    if rmse > MAX_PAIR_DISTANCE_MM or not 0.5 < np.std(scene - b) / np.std(model - a) < 2.0:
        raise ValueError(
            f"{field}: points and vertices stay {rmse:.0f} mm apart; they must be pairs, in mm"
        )
    return Label(pose, rmse)
