"""SpineDepth in pairs: a level's surface, and the cloud that a camera has of it.

::

    preoperative/<specimen>_<level>.stl               mm
    intraoperative/<specimen>_<level>_camera{0,1}.xyz   text, a point a row: x y z, mm, maybe r g b

A cloud lies where its surface is: both share the level's own frame, so the truth is the identity.
The layout says it nowhere; that the cloud is near its surface says it, and a cloud that is not is
refused (:data:`FARTHEST`). No camera pose is given either. A case needs one, because a camera sees
only what faces it: :func:`viewpoint` puts a camera before the side of the surface that the cloud
shows, and the truth of the case is that camera's pose.

Its protocol: register each pair from :data:`STARTS` random perturbations of the truth; a success is
less than :data:`SUCCESS_MM` and :data:`SUCCESS_DEGREES` off (``experiments.protocol``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import igl
import numpy as np
import trimesh

from e2r.datasets import file_checks, meshes
from e2r.datasets.case import Case
from e2r.geometry import poses

STARTS = 10
SUCCESS_MM = 4.0
SUCCESS_DEGREES = 5.0
AWAY = 400.0
"""mm between the camera that is made up and the middle of the cloud."""
FARTHEST = 10.0
"""mm: a cloud whose median distance to its surface is more does not lie in the surface's frame."""
NEAR = 2.5
"""mm: of a simulated scene, points so near a level are that level's."""


class Source(NamedTuple):
    """One pair of the data set."""

    specimen: str
    level: str
    camera: int

    @property
    def id(self) -> str:
        """The name of its case, and of its cloud's file."""
        return f"{self.specimen}_{self.level}_camera{self.camera}"


def find(root: Path) -> dict[Source, tuple[Path, Path]]:
    """The pairs of a data set, sorted: source -> surface and cloud.

    Raises:
      ValueError: a folder or a cloud's surface is missing, or there is no cloud.
    """
    before, during = (_files(root / name) for name in ("preoperative", "intraoperative"))
    surfaces = {path.stem.lower(): path for path in before if path.suffix.lower() == ".stl"}
    found = {}
    for path in during:
        if path.suffix.lower() != ".xyz":
            continue
        named = re.fullmatch(r"(.+)_([^_]+)_camera([01])", path.stem, re.IGNORECASE)
        if named is None or not all(map(file_checks.NAME.fullmatch, named.groups())):
            raise ValueError(
                f"{path}: is not named <specimen>_<level>_camera0.xyz or ..._camera1.xyz; rename it"
            )
        name = f"{named[1]}_{named[2]}"
        if name.lower() not in surfaces:
            raise ValueError(
                f"{root / 'preoperative' / name}.stl: no such file, but there is {path.name}; "
                "put the level's surface there"
            )
        source = Source(named[1], named[2].upper(), int(named[3]))
        found[source] = (surfaces[name.lower()], path)
    if not found:
        raise ValueError(f"{root / 'intraoperative'}: holds no .xyz cloud; download it again")
    return dict(sorted(found.items()))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that holds preoperative and intraoperative"
        )
    return sorted(folder.iterdir())


def read_xyz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) mm and colours (M, 3) in [0, 1] of a text file of rows x y z, maybe r g b.

    Colours are grey where there are none.

    Raises:
      ValueError: no table of three or six finite columns, too few rows, or in metres.
    """
    try:
        rows = file_checks.parse_table(
            path.read_text(encoding="utf-8").replace(",", " ").splitlines()
        )
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0][:99]
        raise ValueError(f"{path}: is no table of numbers ({first}); download it again") from None
    if rows.size and rows.shape[1] not in (3, 6):
        raise ValueError(f"{path}: has rows of {rows.shape[1]} values; use x y z, or x y z r g b")
    if len(rows) < 32:
        raise ValueError(f"{path}: holds {len(rows)} points; a scene needs 32 at least")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: holds values that are not finite; leave such points out")
    extent = float(np.ptp(rows[:, :3], axis=0).max())
    if extent < 1.0:
        raise ValueError(f"{path}: is {extent:.3g} mm large, so in metres; multiply x y z by 1000")
    colors = rows[:, 3:] / 255.0 if rows.shape[1] == 6 else np.full((len(rows), 3), 0.5)
    if colors.min() < 0 or colors.max() > 1:
        raise ValueError(f"{path}: columns 4 to 6 are not colours from 0 to 255; leave them out")
    return rows[:, :3], colors


def nearest(mesh: trimesh.Trimesh, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (M,) mm of each point to a surface, and the triangle (M,) that is nearest."""
    squared, faces, _ = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
    )
    return np.sqrt(np.ravel(squared)), np.ravel(faces)


def viewpoint(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """The pose (4, 4), camera from model, of a camera that faces the part of a surface seen.

    It looks against the mean normal of the triangles nearest to the points, at their middle.

    Args:
      mesh: the level's surface, mm.
      points: (M, 3) mm, on it.
    """
    _, faces = nearest(mesh, points)
    mean = np.asarray(mesh.face_normals)[faces].mean(0)
    if np.linalg.norm(mean) < 1e-6:  # seen from all around: one side is as good as another
        mean = np.array([0.0, 0.0, 1.0])
    z = -mean / np.linalg.norm(mean)
    x = np.cross(np.eye(3)[np.argmin(np.abs(z))], z)
    x = x / np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = [x, np.cross(z, x), z]
    pose[:3, 3] = [0.0, 0.0, AWAY] - pose[:3, :3] @ points.mean(0)
    return pose


def convert(
    root: Path, *, specimens: Sequence[str] = (), cameras: Sequence[int] = (0, 1)
) -> Iterator[Case]:
    """One case a pair: a model of one level, a cloud, and the truth.

    Args:
      root: the folder that holds ``preoperative`` and ``intraoperative``.
      specimens: which, all without it.
      cameras: 0, 1 or both.

    Raises:
      ValueError: something is missing or broken; the message names it.
    """
    if set(cameras) - {0, 1} or not cameras:
        raise ValueError(f"--cameras {tuple(cameras)}: use 0, 1 or both")
    pairs = find(root)
    lost = set(specimens) - {source.specimen for source in pairs}
    if lost:
        raise ValueError(f"{root}: has no specimen {sorted(lost)[0]}; name others")
    for source, (surface, cloud) in pairs.items():
        if source.camera not in cameras or (specimens and source.specimen not in specimens):
            continue
        mesh = meshes.read_mesh(surface)
        points, colors = read_xyz(cloud)
        off = float(np.median(nearest(mesh, points[:: max(1, len(points) // 2000)])[0]))
        if off > FARTHEST:
            raise ValueError(
                f"{cloud}: lies {off:.0f} mm off {surface.name}; bring both into one frame, mm"
            )
        pose = viewpoint(mesh, points)
        yield Case(
            id=source.id,
            model={source.level: mesh},
            points=points @ pose[:3, :3].T + pose[:3, 3],
            colors=colors,
            truth={source.level: poses.from_matrix(pose, str(cloud))},
            source=source.specimen,
        )


# A small copy of the layout -----------------------------------------------------------------------


def one_level(case: Case, level: str) -> Case:
    """What a scene shows of one level, with that level's surface alone: its points, its truth.

    Raises:
      ValueError: the case has no truth, or hardly shows the level.
    """
    if case.truth is None or level not in case.truth:
        raise ValueError(f"{case.id}: has no truth of {level}")
    mesh, pose = case.model[level], case.truth[level]
    model = np.asarray(poses.apply_inverse(pose, case.points.astype(np.float32)), np.float64)
    rows = np.flatnonzero(nearest(mesh, model)[0] < NEAR)
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


def write(root: Path, given: Mapping[Source, Case]) -> None:
    """Writes what scenes show of one level each in this layout, in steps of 0.1 micrometres.

    Args:
      root: the data set's folder.
      given: where each case goes; its cloud is what it shows of that level.
    """
    for name in ("preoperative", "intraoperative"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for source, case in given.items():
        one = one_level(case, source.level)
        assert one.truth is not None
        points = poses.apply_inverse(one.truth[source.level], one.points.astype(np.float32))
        one.model[source.level].export(
            root / "preoperative" / f"{source.specimen}_{source.level}.stl"
        )
        rows = np.column_stack([points, np.round(255 * one.colors)])
        np.savetxt(root / "intraoperative" / f"{source.id}.xyz", rows, fmt="%.4f")
