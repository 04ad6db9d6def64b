"""``e2r convert``: other formats to case folders, or to a preoperative model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

if TYPE_CHECKING:
    from e2r.datasets.case import Case


@dataclass(frozen=True)
class Ct:
    """Convert a label map to a preoperative model: one STL a level, mm.

    Names in the file count first, then the file's own name. Without either, the numbers must lie
    as VerSe or TotalSegmentator has them.

    Example: e2r convert ct spine_seg.nii.gz cases/mine/model --levels L2 L3 L4
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the label map (NIfTI, NRRD, MetaImage, DICOM SEG), or a folder of one file a level"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the surfaces"""
    levels: tuple[str, ...] = ()
    """levels to write; all of the map by default"""
    labels: tuple[int, ...] = ()
    """label number of each of --levels"""
    numbering: (
        Literal[
            "verse",
            "totalsegmentator-v1",
            "totalsegmentator-v2",
            "totalsegmentator-v3",
            "totalsegmentator-mr",
        ]
        | None
    ) = None
    """whose numbers the labels are, where the file does not say it"""
    table: Path | None = None
    """file of label names: ITK-SNAP, 3D Slicer, BIDS or nnU-Net, or JSON"""


@dataclass(frozen=True)
class Spinedepth:
    """Convert SpineDepth to case folders: extracted images, labelled clouds, or SVO videos.

    Example: e2r convert spinedepth SpineDepth cases --specimens 2 3 --cameras 0
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that holds Specimen_1 and so on"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    specimens: tuple[int, ...] = ()
    """specimens to convert; all by default"""
    cameras: tuple[int, ...] = (0, 1)
    """0, 1 or both"""
    frames: tuple[int, ...] = ()
    """frames to convert; by default, all extracted ones, or every n-th one of a video"""
    every: int = 100
    """n, for videos without --frames"""


@dataclass(frozen=True)
class Pairs:
    """Convert SpineDepth in pairs to case folders: one level's surface and its cloud by a camera.

    Example: e2r convert pairs PAIRS cases
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that holds preoperative/ and intraoperative/"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    specimens: tuple[str, ...] = ()
    """specimens to convert; all by default"""
    cameras: tuple[int, ...] = (0, 1)
    """0, 1 or both"""


@dataclass(frozen=True)
class Spinealign:
    """Convert SpineAlign to case folders: frames of an Azure Kinect, in vivo.

    Example: e2r convert spinealign SpineAlign cases
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that holds the index, closest points, surfaces and clouds, at any depth"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    sequences: tuple[str, ...] = ()
    """sequences to convert; all by default"""
    every: int = 1
    """convert every n-th frame of each sequence"""


@dataclass(frozen=True)
class Rgbd:
    """Convert a frame of any RGB-D camera, and a model, to a case folder.

    The frame is a folder of color.png, depth.png (or .npy) and intrinsics.json, or a PLY or PCD
    cloud. Lens distortion is removed. A depth that is not aligned to the colour needs
    depth_intrinsics.json and depth_to_color.json beside it.

    Example: e2r convert rgbd FRAME cases/mine --model STLS --unit m
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the frame"""
    output: Annotated[Path, tyro.conf.Positional]
    """the case folder; its name becomes the case's id"""
    model: Path
    """folder of surfaces, one a level, mm"""
    unit: Literal["mm", "m"] = "mm"
    """unit of the frame"""
    unchecked: bool = False
    """use a frame although its cameras could not be checked, or look wrong"""
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """of several frames, the last path is the folder for their case folders"""


Conversion: TypeAlias = (
    Annotated[Ct, tyro.conf.subcommand("ct")]
    | Annotated[Spinedepth, tyro.conf.subcommand("spinedepth")]
    | Annotated[Pairs, tyro.conf.subcommand("pairs")]
    | Annotated[Spinealign, tyro.conf.subcommand("spinealign")]
    | Annotated[Rgbd, tyro.conf.subcommand("rgbd")]
)


@dataclass(frozen=True)
class Options:
    """Convert other formats: CT label maps, data sets, frames of any RGB-D camera."""

    conversion: tyro.conf.OmitSubcommandPrefixes[Conversion]


def run(options: Options) -> int:
    """Runs ``e2r convert``."""
    from e2r.runtime import outputs

    conversion = options.conversion
    more = conversion.more if isinstance(conversion, Rgbd) else ()
    outputs.require_folder((conversion.output, *more)[-1])
    return CONVERSIONS[type(conversion)](conversion)


def _convert_ct(options: Ct) -> int:
    from e2r.datasets import ct
    from e2r.formats import file_checks, meshes
    from e2r.geometry.anatomical_frame import LEVEL_ORDER

    levels = [name.upper() if name.upper() in LEVEL_ORDER else name for name in options.levels]
    file_checks.check_names(levels, "--levels", "the list")
    if options.labels and len(options.labels) != len(levels):
        raise ValueError("--labels: give one number for each of --levels")
    if len(set(options.labels)) < len(options.labels) or min(options.labels, default=1) < 1:
        raise ValueError("--labels: give each number once, from 1 on")
    if sum(map(bool, (options.labels, options.numbering, options.table))) > 1:
        raise ValueError("--labels, --numbering and --table each name the labels; give one of them")
    model = ct.read_labels(
        options.source,
        dict(zip(options.labels, levels, strict=True)) if options.labels else None,
        levels=levels,
        numbering=options.numbering,
        table=options.table,
    )
    for path in meshes.write_meshes(model, options.output):
        print(path)
    return 0


def _convert_spinedepth(options: Spinedepth) -> int:
    from e2r.datasets import spinedepth

    _check_every(options.every)
    cases = spinedepth.convert(
        options.source,
        specimens=options.specimens,
        cameras=options.cameras,
        frames=options.frames,
        every=options.every,
    )
    return _write_cases(cases, options.output, options.source)


def _convert_pairs(options: Pairs) -> int:
    from e2r.datasets import spinedepth_pairs

    cases = spinedepth_pairs.convert(
        options.source, specimens=options.specimens, cameras=options.cameras
    )
    return _write_cases(cases, options.output, options.source)


def _convert_spinealign(options: Spinealign) -> int:
    from e2r.datasets import spinealign

    _check_every(options.every)
    label_errors = []

    def cases() -> Iterator[Case]:
        for case, label in spinealign.convert(
            options.source, sequences=options.sequences, every=options.every
        ):
            label_errors.append(label.rmse_mm)
            yield case

    code = _write_cases(cases(), options.output, options.source)
    if label_errors:
        mean = sum(label_errors) / len(label_errors)
        print(f"mean RMSE of the labels themselves: {mean:.2f} mm")
    return code


def _convert_rgbd(options: Rgbd) -> int:
    from e2r.cli import named_cases

    paths = [options.source, options.output, *options.more]
    sources, output = named_cases.find_named(paths[:-1]), paths[-1]
    places = named_cases.case_folders_below(output, sources)
    return named_cases.for_each(
        sources, lambda source: _convert_frame(options, source, places[source])
    )


def _convert_frame(options: Rgbd, source: Path, output: Path) -> None:
    from e2r.datasets import case_folder, rgbd

    name = output.resolve().name
    case = rgbd.convert(source, options.model, name, unit=options.unit, unchecked=options.unchecked)
    case_folder.write_case(case, output)
    print(f"{len(case.points)} points, levels {', '.join(case.model)}, in {output}")


CONVERSIONS: dict[type, Callable[[Any], int]] = {
    Ct: _convert_ct,
    Spinedepth: _convert_spinedepth,
    Pairs: _convert_pairs,
    Spinealign: _convert_spinealign,
    Rgbd: _convert_rgbd,
}


def _check_every(every: int) -> None:
    if every < 1:
        raise ValueError(f"--every is {every}; use 1 or more")


def _write_cases(cases: Iterable[Case], folder: Path, source: Path) -> int:
    from e2r.datasets import case_folder

    count = case_folder.write_cases(cases, folder)
    if not count:
        raise ValueError(f"{source}: holds no frame of this selection; name other ones")
    print(f"{count} cases in {folder}")
    return 0
