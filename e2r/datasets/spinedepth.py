"""SpineDepth: ex vivo spines under two ZED Mini cameras, with tracked poses of every level.

Liebmann et al., "SpineDepth: A Multi-Modal Data Collection Approach for Automatic Labelling and
Intraoperative Spinal Shape Reconstruction Based on RGB-D Data", J. Imaging 2021. The data are under
their owners' terms and not part of e2r; this module reads their layout, and writes small copies of
it from simulated scenes (:func:`write`) for tests::

    Specimen_N/STL/L1.stl ... L5.stl                       mm, each level in a frame of its own
    Specimen_N/Calib/SN10027879.conf, SN10028650.conf      lenses of cameras 0 and 1
    Specimen_N/Recordings/RecordingR/Poses_C.txt           five rows a frame: 4x4, camera from STL
    Specimen_N/Recordings/RecordingR/Video_C.svo           and, or in place of it, one of
    Specimen_N/recording_R/cam_C/frame_F/image.png, depth.png
    Specimen_N_recording_R_cam_C_frame_F.npz               arr_0: x y z r g b label; anywhere below

Each level's surface comes in a frame of its own, and no scan says how the levels lay to each other:
the preoperative model is put together as the levels lie in one frame of the recordings, the
reference, and its origin is put on the bone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.datasets import case_folder, spinedepth_files
from e2r.datasets.case import Case, RgbdImage, case_from_image
from e2r.datasets.spinedepth_files import LEVELS, RESOLUTIONS, SERIALS
from e2r.geometry import poses
from e2r.types import Pose


class Source(NamedTuple):
    """One frame of the data set."""

    specimen: int
    recording: int
    camera: int
    frame: int

    @property
    def id(self) -> str:
        """The name of its case."""
        return (
            f"specimen{self.specimen:02d}_recording{self.recording:02d}_cam{self.camera}"
            f"_frame{self.frame:05d}"
        )


class Assembly(NamedTuple):
    """A preoperative model, and how each level's own frame lies in it."""

    model: dict[str, trimesh.Trimesh]
    frames: dict[str, np.ndarray]  # (4, 4), model from STL


def assemble(own: Mapping[str, trimesh.Trimesh], reference: np.ndarray) -> Assembly:
    """The levels as they lie to each other in a reference frame, about their middle.

    Args:
      own: level -> surface in its own frame.
      reference: (5, 4, 4), camera from STL, in the order of :data:`LEVELS`.
    """
    base = np.linalg.inv(reference[len(LEVELS) // 2])
    frames = {name: base @ reference[i] for i, name in enumerate(LEVELS)}
    model = {name: own[name].copy().apply_transform(frames[name]) for name in LEVELS}
    middle = np.mean([mesh.bounds.mean(0) for mesh in model.values()], axis=0)
    shift = np.eye(4)
    shift[:3, 3] = -middle
    for mesh in model.values():
        mesh.apply_transform(shift)
    return Assembly(model, {name: shift @ frame for name, frame in frames.items()})


def truth_of(assembly: Assembly, matrices: np.ndarray) -> dict[str, Pose]:
    """Level -> camera-from-model pose of a frame whose camera-from-STL matrices are (5, 4, 4)."""
    truth = {}
    for i, name in enumerate(LEVELS):
        matrix = matrices[i] @ np.linalg.inv(assembly.frames[name])
        truth[name] = poses.from_matrix(matrix, name)
    return truth


def convert(
    root: Path,
    *,
    specimens: Sequence[int] = (),
    cameras: Sequence[int] = (0, 1),
    frames: Sequence[int] = (),
    every: int = 100,
) -> Iterator[Case]:
    """Cases of a data set: extracted pictures where there are any, else clouds, else the videos.

    Args:
      root: the folder that holds ``Specimen_1`` and so on.
      specimens: which, all without it.
      cameras: 0, 1 or both.
      frames: which; of pictures and clouds all that are there without it, of videos every so many.
      every: see ``frames``.

    Raises:
      ValueError: something is missing or broken; the message names it.
    """
    there = spinedepth_files.numbered(root, "specimen")
    lost = [number for number in specimens if number not in there]
    if lost or not there:
        raise ValueError(f"{root}: has no Specimen_{lost[0] if lost else 1}; give the right folder")
    if set(cameras) - set(SERIALS) or not cameras:
        raise ValueError(f"--cameras {tuple(cameras)}: use 0, 1 or both")
    for number, folder in there.items():
        if not specimens or number in specimens:
            yield from _specimen(root, number, folder, cameras, frames, every)


def _specimen(
    root: Path, number: int, folder: Path, cameras: Sequence[int], frames: Sequence[int], every: int
) -> Iterator[Case]:
    own = spinedepth_files.read_surfaces(folder)
    assembly = None
    for recording, place in spinedepth_files.recordings(folder).items():
        for camera in cameras:
            has = {path.name.lower() for path in place.iterdir()}
            names = (f"Poses_{camera}.txt", f"Video_{camera}.svo")
            if not has & {*map(str.lower, names)} and not spinedepth_files.extracted(
                folder, recording, camera
            ):
                continue  # this camera did not record
            matrices = spinedepth_files.read_poses(spinedepth_files.child(place, names[0]))
            if assembly is None:
                assembly = assemble(own, matrices[0])
            scenes = _scenes(
                root,
                Source(number, recording, camera, 0),
                folder,
                place,
                frames,
                every,
                len(matrices),
            )
            for frame, fields in scenes:
                about: dict[str, Any] = {
                    "id": Source(number, recording, camera, frame).id,
                    "model": assembly.model,
                    "truth": truth_of(assembly, matrices[frame]),
                    "source": f"specimen{number:02d}",
                }
                if isinstance(fields, RgbdImage):
                    yield case_from_image(fields, **about)
                else:
                    yield Case(points=fields[0], colors=fields[1], **about)


def _scenes(
    root: Path,
    source: Source,
    folder: Path,
    place: Path,
    frames: Sequence[int],
    every: int,
    count: int,
) -> Iterator[tuple[int, RgbdImage | tuple[np.ndarray, np.ndarray]]]:
    """Scenes of a recording that have a pose: frame -> picture, or points and colours."""
    number, recording, camera, _ = source
    pictures = spinedepth_files.extracted(folder, recording, camera)
    clouds = {} if pictures else spinedepth_files.labelled(root, number, recording, camera)
    there = pictures or clouds
    if there and max(there) >= count:
        print(
            f"specimen {number}, recording {recording}, camera {camera}: poses end at frame "
            f"{count - 1}, pictures at {max(there)}; what has no pose is left out"
        )
    wanted = [f for f in frames or (there or range(0, count, every)) if 0 <= f < count]
    if pictures:
        calibration = spinedepth_files.calibration_folder(folder, number, recording)
        for frame in wanted:
            if frame in pictures:
                yield frame, spinedepth_files.read_picture(pictures[frame], calibration, camera)
    elif clouds:
        for frame in wanted:
            if frame in clouds:
                yield frame, spinedepth_files.read_cloud(clouds[frame])
    else:
        yield from spinedepth_files.svo_frames(
            spinedepth_files.child(place, f"Video_{camera}.svo"), wanted
        )


def write(root: Path, given: Mapping[Source, Case], *, clouds: bool = False) -> None:
    """Writes simulated cases of five levels in this layout, as extracted pictures or as clouds.

    Cases of one specimen share a model. Own frames of the levels lie off the bone, as in the
    original; what the layout cannot say (targets, bone) is lost.

    Args:
      root: the data set's folder.
      given: where each case goes; frames of a recording count from 0.
      clouds: write labelled clouds in place of pictures.

    Raises:
      ValueError: a case has other levels than L1 to L5, no truth, or no picture.
    """
    rows: dict[tuple[int, int, int], dict[int, np.ndarray]] = {}
    for source, case in given.items():
        if list(case.model) != list(LEVELS) or case.truth is None or case.image is None:
            raise ValueError(f"{case.id}: needs a picture, a truth, and levels L1 to L5")
        folder = root / f"Specimen_{source.specimen}"
        (folder / "STL").mkdir(parents=True, exist_ok=True)
        (folder / "Calib").mkdir(exist_ok=True)
        matrices = []
        for i, name in enumerate(LEVELS):
            offset = np.eye(4)  # own from model: off the bone, and turned
            offset[:3, :3] = trimesh.transformations.rotation_matrix(0.4 * i, [1, i, 2])[:3, :3]
            offset[:3, 3] = [90.0 + 10.0 * i, -100.0, 120.0]
            case.model[name].copy().apply_transform(offset).export(folder / "STL" / f"{name}.stl")
            matrices.append(poses.to_matrix(case.truth[name]) @ np.linalg.inv(offset))
        key = (source.specimen, source.recording, source.camera)
        rows.setdefault(key, {})[source.frame] = np.stack(matrices)
        _write_scene(root, folder, source, case, clouds=clouds)
    for (specimen, recording, camera), frames in rows.items():
        place = root / f"Specimen_{specimen}" / "Recordings" / f"Recording{recording}"
        place.mkdir(parents=True, exist_ok=True)
        last = next(iter(frames.values()))
        table = []
        for frame in range(max(frames) + 1):  # frames without a scene keep the pose before
            last = frames.get(frame, last)
            table.append(last.reshape(len(LEVELS), 16))
        np.savetxt(place / f"Poses_{camera}.txt", np.concatenate(table), delimiter=",", fmt="%.9g")


def _write_scene(root: Path, folder: Path, source: Source, case: Case, *, clouds: bool) -> None:
    if clouds:
        label = np.zeros(len(case.points)) if case.bone is None else case.bone
        rows = np.column_stack([case.points, np.round(255 * case.colors), label])
        name = (
            f"Specimen_{source.specimen}_recording_{source.recording}_cam_{source.camera}"
            f"_frame_{source.frame}.npz"
        )
        np.savez_compressed(root / name, rows.astype(np.float32))
        return
    picture = case.image
    assert picture is not None
    height, width = picture.depth.shape
    size = RESOLUTIONS.get((width, height))
    if size is None:
        raise ValueError(f"{case.id}: is {width}x{height}; simulate it at 672x376 or larger")
    place = folder / f"recording_{source.recording}" / f"cam_{source.camera}"
    place = place / f"frame_{source.frame}"
    place.mkdir(parents=True, exist_ok=True)
    case_folder.write_images(picture, place / "image.png", place / "depth.png", depth_scale=1.0)
    lens = {"fx": picture.fx, "fy": picture.fy, "cx": picture.cx, "cy": picture.cy}
    lines = [f"[LEFT_CAM_{size}]", *(f"{key}={value:.9g}" for key, value in lens.items())]
    lines += ["k1=0", "k2=0", "p1=0", "p2=0", "k3=0", "[STEREO]", "BaseLine=63"]
    path, text = folder / "Calib" / f"{SERIALS[source.camera]}.conf", "\n".join(lines) + "\n"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{case.id}: is of another lens than this camera's; simulate one lens")
    path.write_text(text)
