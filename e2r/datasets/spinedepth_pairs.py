"""SpineDepth in pairs: the surface of one level, and the cloud that a camera has of it.

::

    preoperative/<specimen>_<level>.stl                 mm
    intraoperative/<specimen>_<level>_camera{0,1}.xyz   text, a point a row: x y z, mm; maybe r g b

A cloud lies in its surface's own coordinates, so the pair is registered already. No file says so:
a cloud that lies far from its surface is refused (:data:`MAX_CLOUD_DISTANCE_MM`). This reader was
never tried on the owners' data.

No file holds a camera pose either. A case needs one, because a camera sees only what faces it.
:func:`estimate_camera` puts a camera in front of the side that the cloud shows, and the true pose
of the case is camera from model.

The data set's protocol registers each pair from :data:`STARTS` random initial poses. A success ends
less than :data:`SUCCESS_MM` and :data:`SUCCESS_DEGREES` from the truth (``experiments.protocol``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from e2r.datasets.case import Case, make_case
from e2r.formats import file_checks, meshes
from e2r.formats.file_checks import MIN_POINTS, PathLike
from e2r.formats.scenes import ScenePoints
from e2r.geometry import poses
from e2r.geometry.closest_points import distance_to_mesh
from e2r.types import Float

STARTS = 10
SUCCESS_MM = 4.0
SUCCESS_DEGREES = 5.0
CAMERA_DISTANCE_MM = 400.0
"""Distance of the estimated camera from the centre of the cloud."""
MAX_CLOUD_DISTANCE_MM = 10.0
"""A cloud with a larger median distance is not in its surface's coordinates."""


class PairId(NamedTuple):
    """One pair of the data set."""

    specimen: str
    level: str
    camera: int

    @property
    def case_id(self) -> str:
        """The id of its case, and the name of its cloud's file."""
        return f"{self.specimen}_{self.level}_camera{self.camera}"


class PairFiles(NamedTuple):
    """The files of one pair."""

    surface: Path
    cloud: Path


def convert(
    root: PathLike, *, specimens: Sequence[str] = (), cameras: Sequence[int] = (0, 1)
) -> Iterator[Case]:
    """Yields one case a pair: a model of one level, a cloud, and the truth.

    Args:
      root: the folder that holds ``preoperative`` and ``intraoperative``.
      specimens: specimens to convert; all by default.
      cameras: 0, 1 or both.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    root = Path(root)
    if set(cameras) - {0, 1} or not cameras:
        raise ValueError(f"--cameras {tuple(cameras)}: use 0, 1 or both")
    pairs = find_pairs(root)
    missing = set(specimens) - {pair.specimen for pair in pairs}
    if missing:
        raise ValueError(f"{root}: has no specimen {sorted(missing)[0]}; name others")
    for pair, files in pairs.items():
        if pair.camera in cameras and (not specimens or pair.specimen in specimens):
            yield _read_pair(pair, files)


def find_pairs(root: PathLike) -> dict[PairId, PairFiles]:
    """Finds the pairs of a data set, sorted.

    Args:
      root: the folder that holds ``preoperative`` and ``intraoperative``.

    Raises:
      ValueError: a folder or the surface of a cloud is missing, or there is no cloud.
    """
    before, during = Path(root) / "preoperative", Path(root) / "intraoperative"
    surfaces = {
        path.stem.lower(): path for path in _list_files(before) if path.suffix.lower() == ".stl"
    }
    pairs = {}
    for path in _list_files(during):
        if path.suffix.lower() != ".xyz":
            continue
        named = re.fullmatch(r"(.+)_([^_]+)_camera([01])", path.stem, re.IGNORECASE)
        if named is None or not all(map(file_checks.NAME_PATTERN.fullmatch, named.groups())):
            raise ValueError(
                f"{path}: is not named <specimen>_<level>_camera0.xyz or ..._camera1.xyz; rename it"
            )
        name = f"{named[1]}_{named[2]}"
        if name.lower() not in surfaces:
            raise ValueError(
                f"{before / name}.stl: no such file, but there is {path.name}; "
                "put the level's surface there"
            )
        pair = PairId(named[1], named[2].upper(), int(named[3]))
        pairs[pair] = PairFiles(surfaces[name.lower()], path)
    if not pairs:
        raise ValueError(f"{during}: holds no .xyz cloud; download it again")
    return dict(sorted(pairs.items()))


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that holds preoperative and intraoperative"
        )
    return file_checks.visible(folder.iterdir())


def _read_pair(pair: PairId, files: PairFiles) -> Case:
    mesh = meshes.read_mesh(files.surface)
    cloud = read_xyz(files.cloud)
    some = cloud.points[:: max(1, len(cloud.points) // 2000)]
    distance = float(np.median(distance_to_mesh(some, mesh.vertices, mesh.faces)[0]))
    if distance > MAX_CLOUD_DISTANCE_MM:
        raise ValueError(
            f"{files.cloud}: lies {distance:.0f} mm off {files.surface.name}; bring both into one "
            "coordinate system, mm"
        )
    camera = estimate_camera(mesh, cloud.points)
    points = cloud.points @ camera[:3, :3].T + camera[:3, 3]
    return make_case(
        cloud._replace(points=points),
        id=pair.case_id,
        model={pair.level: mesh},
        truth={pair.level: poses.from_matrix(camera, str(files.cloud))},
        source=pair.specimen,
    )


def read_xyz(path: PathLike) -> ScenePoints:
    """Reads a text file of rows x y z, perhaps r g b, as a cloud; without colours it is grey.

    Args:
      path: the file; mm, colours from 0 to 255.

    Raises:
      ValueError: no table of three or six finite columns, too few rows, or in metres.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        rows = file_checks.parse_table(text.replace(",", " ").splitlines())
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:99]
        raise ValueError(f"{path}: is no table of numbers ({reason}); download it again") from None
    if rows.size and rows.shape[1] not in (3, 6):
        raise ValueError(f"{path}: has rows of {rows.shape[1]} values; use x y z, or x y z r g b")
    if len(rows) < MIN_POINTS:
        raise ValueError(f"{path}: holds {len(rows)} points; a scene needs at least {MIN_POINTS}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: holds values that are not finite; leave such points out")
    extent = float(np.ptp(rows[:, :3], axis=0).max())
    if extent < 1.0:
        raise ValueError(f"{path}: is {extent:.3g} mm large, so in metres; multiply x y z by 1000")
    colors = rows[:, 3:] / 255.0 if rows.shape[1] == 6 else np.full((len(rows), 3), 0.5)
    if colors.min() < 0 or colors.max() > 1:
        raise ValueError(f"{path}: columns 4 to 6 are not colours from 0 to 255; leave them out")
    return ScenePoints(rows[:, :3], colors)


def estimate_camera(
    mesh: trimesh.Trimesh, points: Float[np.ndarray, "m 3"]
) -> Float[np.ndarray, "4 4"]:
    """Estimates a camera pose, camera from model, that faces the visible part of a surface.

    The camera looks at the centre of the points, against the mean normal of the nearest triangles.

    Args:
      mesh: the surface, mm, model frame.
      points: on the surface, mm, model frame.
    """
    _, triangles = distance_to_mesh(points, mesh.vertices, mesh.faces)
    normal = np.asarray(mesh.face_normals)[triangles].mean(0)
    if np.linalg.norm(normal) < 1e-6:  # seen from all around: any side will do
        normal = np.array([0.0, 0.0, 1.0])
    z = -normal / np.linalg.norm(normal)
    x = np.cross(np.eye(3)[np.argmin(np.abs(z))], z)
    x = x / np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = [x, np.cross(z, x), z]
    pose[:3, 3] = [0.0, 0.0, CAMERA_DISTANCE_MM] - pose[:3, :3] @ points.mean(0)
    return pose
