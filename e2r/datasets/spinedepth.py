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

import configparser
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.datasets import cases
from e2r.geometry import poses
from e2r.types import Pose

LEVELS = ("L1", "L2", "L3", "L4", "L5")
SERIALS = {0: "SN10027879", 1: "SN10028650"}
"""Camera number -> serial number, which names its calibration file."""
SWITCH = {2: 32, 5: 8, 7: 12, 9: 12}
"""Specimen -> first recording with the second calibration, where no CamParams_<a>_<b> tells."""
RESOLUTIONS = {(2208, 1242): "2K", (1920, 1080): "FHD", (1280, 720): "HD", (672, 376): "VGA"}


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


class Lens(NamedTuple):
    """Raw intrinsics of a left camera; what the SDK rectifies has others."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]  # k1, k2, p1, p2, k3


def numbered(folder: Path, word: str) -> dict[int, Path]:
    """Folders called ``word`` and a number, in any case: number -> path, by number."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that holds Specimen_1 and so on"
        )
    pattern = re.compile(rf"{word}_?(\d+)", re.IGNORECASE)
    found = {int(m[1]): p for p in folder.iterdir() if (m := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def child(folder: Path, *names: str) -> Path:
    """A file or folder below ``folder``, by names in any case.

    Raises:
      ValueError: it is not there.
    """
    for name in names:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        found = next((p for p in inside if p.name.lower() == name.lower()), None)
        if found is None:
            raise ValueError(
                f"{folder / name}: no such file or folder; download this specimen again"
            )
        folder = found
    return folder


def recordings(specimen: Path) -> dict[int, Path]:
    """Recordings of a specimen, by number."""
    return numbered(child(specimen, "Recordings"), "recording")


def calibration_folder(specimen: Path, number: int, recording: int) -> Path:
    """The calibration that holds for a recording: cameras were calibrated again half-way.

    Args:
      specimen: its folder.
      number: its number.
      recording: the recording's number.
    """
    marks = sorted(
        (int(m[1]), int(m[2]))
        for p in specimen.iterdir()
        if (m := re.match(r"CamParams_(\d+)_(\d+)", p.name, re.IGNORECASE))
    )
    if marks:
        return child(specimen, "Calib_b" if recording > marks[0][1] else "Calib_a")
    if number in SWITCH and recording >= SWITCH[number]:
        return child(specimen, "Calib_b")
    return child(specimen, "Calib")


def read_lens(path: Path, width: int, height: int) -> Lens:
    """The left camera of a ZED calibration file (INI, keys in any case) at a picture size.

    Raises:
      ValueError: no calibration file, or not for this size.
    """
    size = RESOLUTIONS.get((width, height))
    if size is None:
        known = ", ".join(f"{w}x{h}" for w, h in RESOLUTIONS)
        raise ValueError(f"{path}: knows no picture of {width}x{height}; use {known}")
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download this specimen again") from None
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: is no calibration file ({first}); download it again") from None
    name = next((s for s in parser.sections() if s.upper() == f"LEFT_CAM_{size}"), None)
    if name is None:
        raise ValueError(f"{path}: has no section LEFT_CAM_{size}; download it again")
    section = {key.lower(): value for key, value in parser[name].items()}

    def number(key: str, default: float | None = None) -> float:
        try:
            value = float(section[key]) if key in section or default is None else default
        except (KeyError, ValueError):
            raise ValueError(f"{path}: {name} has no number {key}; download it again") from None
        if not np.isfinite(value) or (key in ("fx", "fy") and value <= 0):
            raise ValueError(f"{path}: {name} has {key} = {value}; download it again")
        return value

    distortion = tuple(number(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3"))
    return Lens(number("fx"), number("fy"), number("cx"), number("cy"), distortion)


def read_poses(path: Path) -> np.ndarray:
    """Camera-from-STL matrices (F, 5, 4, 4) mm of a pose file: five rows a frame, 16 values each.

    Raises:
      ValueError: no such file, or not of this form.
    """
    try:
        rows = cases.numbers(path.read_text(encoding="utf-8").splitlines(), ",")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download this recording again") from None
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise ValueError(
            f"{path}: is no table of numbers ({str(error).splitlines()[0][:99]}); download it again"
        ) from None
    if rows.shape[1:] != (16,) or not len(rows):
        raise ValueError(f"{path}: has rows of {rows.shape[1]} values; each has 16, a 4x4 matrix")
    if len(rows) % len(LEVELS):
        raise ValueError(f"{path}: has {len(rows)} rows, not five a frame; download it again")
    matrices = rows.reshape(-1, len(LEVELS), 4, 4)
    for index, matrix in enumerate(matrices.reshape(-1, 4, 4)):
        frame, level = divmod(index, len(LEVELS))
        poses.from_matrix(matrix, f"{path}: frame {frame}, {LEVELS[level]}")
    return matrices


def read_surfaces(specimen: Path) -> dict[str, trimesh.Trimesh]:
    """Each level's surface in its own frame, mm."""
    folder = child(specimen, "STL")
    return {name: cases.read_mesh(child(folder, f"{name}.stl")) for name in LEVELS}


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


# Scenes -------------------------------------------------------------------------------------------


def extracted(specimen: Path, recording: int, camera: int) -> dict[int, Path]:
    """Frames extracted as pictures, by number: ``recording_N/cam_C/frame_F/``."""
    folder = numbered(specimen, "recording").get(recording)
    inside = folder and numbered(folder, "cam").get(camera)
    return numbered(inside, "frame") if inside else {}


def labelled(root: Path, specimen: int, recording: int, camera: int) -> dict[int, Path]:
    """Labelled clouds, by frame: ``Specimen_X_recording_N_cam_C_frame_F.npz`` anywhere below."""
    pattern = re.compile(
        rf"specimen_{specimen}_recording_{recording}_cam_{camera}_frame_(\d+)\.npz", re.IGNORECASE
    )
    found = {int(m[1]): p for p in root.rglob("*.npz") if (m := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def read_picture(folder: Path, calibration: Path, camera: int) -> cases.Picture:
    """An extracted frame: 8-bit ``image.png``, 16-bit ``depth.png`` in mm, lens of the camera."""
    color, depth = cases.read_image(folder / "image.png"), cases.read_image(folder / "depth.png")
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{folder / 'image.png'}: must be an 8-bit RGB picture")
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise ValueError(
            f"{folder / 'depth.png'}: must be one 16-bit channel, mm; extract it again"
        )
    if depth.shape != color.shape[:2]:
        raise ValueError(
            f"{folder / 'depth.png'}: is not as large as image.png; extract both again"
        )
    height, width = depth.shape
    lens = read_lens(child(calibration, f"{SERIALS[camera]}.conf"), width, height)
    return cases.Picture(
        color[..., :3], depth.astype(np.float32), lens.fx, lens.fy, lens.cx, lens.cy
    )


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) mm and colours (M, 3) of a labelled cloud; its labels are not read.

    Raises:
      ValueError: not such a file. Nothing in it is ever run.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            rows = archive["arr_0"]
    except Exception as error:  # numpy and zipfile raise whatever they meet
        raise ValueError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:100]}); download it again"
        ) from None
    if rows.ndim != 2 or rows.shape[1] != 7 or rows.dtype.kind not in "fiu":
        raise ValueError(f"{path}: arr_0 must have columns x y z r g b label; download it again")
    rows = rows[np.isfinite(rows[:, :3]).all(axis=1)]
    cases.check_scene(rows[:, :3], path)
    colors = rows[:, 3:6].astype(np.float64)
    colors = colors / 255.0 if colors.max(initial=0.0) > 1.0 else colors
    return rows[:, :3].astype(np.float64), np.clip(colors, 0.0, 1.0)


def svo_frames(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, cases.Picture]]:
    """Rectified left pictures with depth in mm, by the ZED SDK.

    Raises:
      ValueError: the SDK is not installed, or cannot open the file.
    """
    if importlib.util.find_spec("pyzed") is None:
        raise ValueError(
            f"{path}: needs the ZED SDK with pyzed; install it, or extract the frames elsewhere to "
            "Specimen_X/recording_N/cam_C/frame_F/image.png and depth.png"
        )
    from pyzed import sl  # noqa: PLC0415

    setup = sl.InitParameters()
    setup.set_from_svo_file(str(path))
    setup.svo_real_time_mode = False
    setup.coordinate_units = sl.UNIT.MILLIMETER
    zed = sl.Camera()
    if zed.open(setup) != sl.ERROR_CODE.SUCCESS:
        raise ValueError(f"{path}: the ZED SDK cannot open it; download it again")
    try:
        information = zed.get_camera_information().camera_configuration
        lens = information.calibration_parameters.left_cam
        image, depth = sl.Mat(), sl.Mat()
        for frame in wanted:
            zed.set_svo_position(frame)
            if zed.grab() != sl.ERROR_CODE.SUCCESS:
                return
            zed.retrieve_image(image, sl.VIEW.LEFT)
            zed.retrieve_measure(depth, sl.MEASURE.DEPTH)
            color = np.ascontiguousarray(image.get_data()[..., 2::-1])
            mm = np.nan_to_num(depth.get_data(), nan=0.0, posinf=0.0, neginf=0.0)
            yield frame, cases.Picture(color, mm, lens.fx, lens.fy, lens.cx, lens.cy)
    finally:
        zed.close()


# Conversion ---------------------------------------------------------------------------------------


def convert(
    root: Path,
    *,
    specimens: Sequence[int] = (),
    cameras: Sequence[int] = (0, 1),
    frames: Sequence[int] = (),
    every: int = 100,
) -> Iterator[cases.Case]:
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
    there = numbered(root, "specimen")
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
) -> Iterator[cases.Case]:
    own = read_surfaces(folder)
    assembly = None
    for recording, place in recordings(folder).items():
        for camera in cameras:
            has = {path.name.lower() for path in place.iterdir()}
            names = (f"Poses_{camera}.txt", f"Video_{camera}.svo")
            if not has & {*map(str.lower, names)} and not extracted(folder, recording, camera):
                continue  # this camera did not record
            matrices = read_poses(child(place, names[0]))
            if assembly is None:
                assembly = assemble(own, matrices[0])
            scenes = _scenes(
                root, Source(number, recording, camera, 0), folder, place, frames, every,
                len(matrices),
            )  # fmt: skip
            for frame, fields in scenes:
                about: dict[str, Any] = {
                    "id": Source(number, recording, camera, frame).id,
                    "model": assembly.model,
                    "truth": truth_of(assembly, matrices[frame]),
                    "source": f"specimen{number:02d}",
                }
                if isinstance(fields, cases.Picture):
                    yield cases.from_picture(fields, **about)
                else:
                    yield cases.Case(points=fields[0], colors=fields[1], **about)


def _scenes(
    root: Path,
    source: Source,
    folder: Path,
    place: Path,
    frames: Sequence[int],
    every: int,
    count: int,
) -> Iterator[tuple[int, cases.Picture | tuple[np.ndarray, np.ndarray]]]:
    """Scenes of a recording that have a pose: frame -> picture, or points and colours."""
    number, recording, camera, _ = source
    pictures = extracted(folder, recording, camera)
    clouds = {} if pictures else labelled(root, number, recording, camera)
    there = pictures or clouds
    if there and max(there) >= count:
        print(
            f"specimen {number}, recording {recording}, camera {camera}: poses end at frame "
            f"{count - 1}, pictures at {max(there)}; what has no pose is left out"
        )
    wanted = [f for f in frames or (there or range(0, count, every)) if 0 <= f < count]
    if pictures:
        calibration = calibration_folder(folder, number, recording)
        for frame in wanted:
            if frame in pictures:
                yield frame, read_picture(pictures[frame], calibration, camera)
    elif clouds:
        for frame in wanted:
            if frame in clouds:
                yield frame, read_cloud(clouds[frame])
    else:
        yield from svo_frames(child(place, f"Video_{camera}.svo"), wanted)


# A small copy of the layout -----------------------------------------------------------------------


def write(root: Path, given: Mapping[Source, cases.Case], *, clouds: bool = False) -> None:
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
        if list(case.model) != list(LEVELS) or case.truth is None or case.picture is None:
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


def _write_scene(
    root: Path, folder: Path, source: Source, case: cases.Case, *, clouds: bool
) -> None:
    if clouds:
        label = np.zeros(len(case.points)) if case.bone is None else case.bone
        rows = np.column_stack([case.points, np.round(255 * case.colors), label])
        name = (
            f"Specimen_{source.specimen}_recording_{source.recording}_cam_{source.camera}"
            f"_frame_{source.frame}.npz"
        )
        np.savez_compressed(root / name, rows.astype(np.float32))
        return
    picture = case.picture
    assert picture is not None
    height, width = picture.depth.shape
    size = RESOLUTIONS.get((width, height))
    if size is None:
        raise ValueError(f"{case.id}: is {width}x{height}; simulate it at 672x376 or larger")
    place = folder / f"recording_{source.recording}" / f"cam_{source.camera}"
    place = place / f"frame_{source.frame}"
    place.mkdir(parents=True, exist_ok=True)
    cases.write_images(picture, place / "image.png", place / "depth.png", depth_scale=1.0)
    lens = {"fx": picture.fx, "fy": picture.fy, "cx": picture.cx, "cy": picture.cy}
    lines = [f"[LEFT_CAM_{size}]", *(f"{key}={value:.9g}" for key, value in lens.items())]
    lines += ["k1=0", "k2=0", "p1=0", "p2=0", "k3=0", "[STEREO]", "BaseLine=63"]
    path, text = folder / "Calib" / f"{SERIALS[source.camera]}.conf", "\n".join(lines) + "\n"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{case.id}: is of another lens than this camera's; simulate one lens")
    path.write_text(text)
