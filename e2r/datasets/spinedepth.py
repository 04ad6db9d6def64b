"""SpineDepth: ex vivo spines under two ZED Mini cameras, with the tracked pose of every level.

Liebmann et al., "SpineDepth: A Multi-Modal Data Collection Approach for Automatic Labelling and
Intraoperative Spinal Shape Reconstruction Based on RGB-D Data", J. Imaging 2021. The data are under
their owners' terms and not part of e2r. This reader was never tried on them. It follows their
documented layout::

    Specimen_N/STL/L1.stl ... L5.stl                       mm, each level in coordinates of its own
    Specimen_N/Calib/SN10027879.conf, SN10028650.conf      lenses of cameras 0 and 1
    Specimen_N/Recordings/RecordingR/Poses_C.txt           five rows a frame: 4x4, camera from STL
    Specimen_N/Recordings/RecordingR/Video_C.svo           and, or in place of it, one of
    Specimen_N/recording_R/cam_C/frame_F/image.png, depth.png
    Specimen_N_recording_R_cam_C_frame_F.npz               arr_0: x y z r g b label; anywhere below

No file says how the levels of a specimen lie to each other. So the preoperative model is assembled
as the levels lie in one frame of the recordings, the first. Its origin is the centre of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import trimesh

from e2r.datasets import spinedepth_files as files
from e2r.datasets.case import Case, make_case
from e2r.datasets.spinedepth_files import LEVELS, SERIALS
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.geometry import poses
from e2r.types import Float, Pose


class FrameId(NamedTuple):
    """One frame of the data set."""

    specimen: int
    recording: int
    camera: int
    frame: int

    @property
    def case_id(self) -> str:
        """The id of its case."""
        return (
            f"specimen{self.specimen:02d}_recording{self.recording:02d}_cam{self.camera}"
            f"_frame{self.frame:05d}"
        )


class AssembledModel(NamedTuple):
    """A preoperative model, and where each level's own coordinates lie in it."""

    surfaces: dict[str, trimesh.Trimesh]  # mm, model frame
    model_from_stl: dict[str, Float[np.ndarray, "4 4"]]


Clouds: TypeAlias = Callable[[], Mapping[tuple[int, int, int], Mapping[int, Path]]]
"""Lists the data set's labelled clouds: once, and only if they are needed."""


class _CameraRecording(NamedTuple):
    """The frames of one camera in one recording of a specimen."""

    clouds: Clouds
    specimen_folder: Path
    recording_folder: Path
    specimen: int
    recording: int
    camera: int


class _Selection(NamedTuple):
    """The frames that the user asked for."""

    cameras: Sequence[int]
    frames: Sequence[int]  # none: all that are extracted, or every n-th one of a video
    every: int


def convert(
    root: PathLike,
    *,
    specimens: Sequence[int] = (),
    cameras: Sequence[int] = (0, 1),
    frames: Sequence[int] = (),
    every: int = 100,
) -> Iterator[Case]:
    """Yields the cases of the data set: of extracted images, or else clouds, or else videos.

    Args:
      root: the folder that holds ``Specimen_1`` and so on.
      specimens: specimens to convert; all by default.
      cameras: 0, 1 or both.
      frames: frames to convert; by default all images or clouds, or every n-th frame of a video.
      every: n.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    root = Path(root)
    folders = files.numbered_folders(root, "specimen")
    missing = [number for number in specimens if number not in folders]
    if missing or not folders:
        number = missing[0] if missing else 1
        raise ValueError(f"{root}: has no Specimen_{number}; give the right folder")
    if set(cameras) - set(SERIALS) or not cameras:
        raise ValueError(f"--cameras {tuple(cameras)}: use 0, 1 or both")
    selection = _Selection(cameras, frames, every)
    clouds = cache(lambda: files.labelled_clouds(root))
    for number, folder in folders.items():
        if not specimens or number in specimens:
            yield from _read_specimen(clouds, number, folder, selection=selection)


def _read_specimen(
    clouds: Clouds, number: int, folder: Path, *, selection: _Selection
) -> Iterator[Case]:
    surfaces = files.read_surfaces(folder)
    model = None
    for recording, recording_folder in files.recordings(folder).items():
        for camera in selection.cameras:
            taken = _CameraRecording(clouds, folder, recording_folder, number, recording, camera)
            if not _has_recorded(taken):
                continue
            matrices = files.read_poses(files.find_child(recording_folder, f"Poses_{camera}.txt"))
            if model is None:
                model = assemble_model(surfaces, matrices[0])
            for frame, scene in _read_scenes(taken, selection, num_poses=len(matrices)):
                yield make_case(
                    scene,
                    id=FrameId(number, recording, camera, frame).case_id,
                    model=model.surfaces,
                    truth=true_poses(model, matrices[frame]),
                    source=f"specimen{number:02d}",
                )


def _has_recorded(taken: _CameraRecording) -> bool:
    inside = {path.name.lower() for path in taken.recording_folder.iterdir()}
    return (
        f"poses_{taken.camera}.txt" in inside
        or f"video_{taken.camera}.svo" in inside
        or bool(files.extracted_frames(taken.specimen_folder, taken.recording, taken.camera))
    )


def _read_scenes(
    taken: _CameraRecording, selection: _Selection, *, num_poses: int
) -> Iterator[tuple[int, RgbdImage | ScenePoints]]:
    """Yields the wanted frames that have a pose, with their scenes."""
    folder, recording, camera = taken.specimen_folder, taken.recording, taken.camera
    images = files.extracted_frames(folder, recording, camera)
    clouds: Mapping[int, Path] = {}
    if not images:
        clouds = taken.clouds().get((taken.specimen, recording, camera), {})
    available = images or clouds
    if available and max(available) >= num_poses:
        print(
            f"specimen {taken.specimen}, recording {recording}, camera {camera}: poses end at "
            f"frame {num_poses - 1}, images at {max(available)}; frames without a pose are left out"
        )
    wanted = [
        frame
        for frame in selection.frames or available or range(0, num_poses, selection.every)
        if 0 <= frame < num_poses
    ]
    if not available:
        video = files.find_child(taken.recording_folder, f"Video_{camera}.svo")
        yield from files.read_video(video, wanted)
    for frame in wanted:
        if frame in images:
            calibration = files.calibration_folder(folder, taken.specimen, recording)
            yield frame, files.read_image(images[frame], calibration, camera)
        elif frame in clouds:
            yield frame, files.read_cloud(clouds[frame])


def assemble_model(
    surfaces: Mapping[str, trimesh.Trimesh], reference: Float[np.ndarray, "l 4 4"]
) -> AssembledModel:
    """Assembles the levels as they lie in a reference frame, about their centre.

    Args:
      surfaces: level -> surface in its own coordinates, mm.
      reference: camera from STL, in the order of :data:`LEVELS`.
    """
    middle_from_camera = np.linalg.inv(reference[len(LEVELS) // 2])
    placed = {name: middle_from_camera @ reference[i] for i, name in enumerate(LEVELS)}
    model = {name: surfaces[name].copy().apply_transform(placed[name]) for name in LEVELS}
    centre = np.mean([mesh.bounds.mean(0) for mesh in model.values()], axis=0)
    shift = np.eye(4)
    shift[:3, 3] = -centre
    for mesh in model.values():
        mesh.apply_transform(shift)
    return AssembledModel(model, {name: shift @ matrix for name, matrix in placed.items()})


def true_poses(model: AssembledModel, matrices: Float[np.ndarray, "l 4 4"]) -> dict[str, Pose]:
    """The true pose of each level, camera from model.

    Args:
      model: the assembled model.
      matrices: camera from STL of one frame, in the order of :data:`LEVELS`.
    """
    return {
        name: poses.from_matrix(matrices[i] @ np.linalg.inv(model.model_from_stl[name]), name)
        for i, name in enumerate(LEVELS)
    }
