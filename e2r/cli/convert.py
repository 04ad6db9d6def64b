"""``python -m e2r convert``: other formats in, each to case folders or to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

if TYPE_CHECKING:
    from e2r.datasets.case import Case


@dataclass(frozen=True)
class ConvertCt:
    """Make a preoperative model of a CT label map (NIfTI): one STL a level, mm.

    Example: python -m e2r convert ct spine_seg.nii.gz cases/mine/model --levels L2 L3 L4
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the label map, .nii or .nii.gz"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the surfaces"""
    levels: tuple[str, ...] = ()
    """levels to write, all that are there without it"""
    labels: tuple[int, ...] = ()
    """the number of each of --levels in the map, where it does not count as VerSe does"""


@dataclass(frozen=True)
class ConvertSpinedepth:
    """Make case folders of SpineDepth: extracted pictures, labelled clouds, or SVO videos.

    Example: python -m e2r convert spinedepth SpineDepth cases --specimens 2 3 --cameras 0
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that holds Specimen_1 and so on"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    specimens: tuple[int, ...] = ()
    """which, all without it"""
    cameras: tuple[int, ...] = (0, 1)
    """0, 1 or both"""
    frames: tuple[int, ...] = ()
    """which; without it all that are extracted, or every so many of a video"""
    every: int = 100
    """of videos without --frames"""


@dataclass(frozen=True)
class ConvertPairs:
    """Make case folders of SpineDepth in pairs: a level's surface, and its cloud by each camera.

    Example: python -m e2r convert pairs PAIRS cases
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that holds preoperative/ and intraoperative/"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    specimens: tuple[str, ...] = ()
    """which, all without it"""
    cameras: tuple[int, ...] = (0, 1)
    """0, 1 or both"""


@dataclass(frozen=True)
class ConvertSpinealign:
    """Make case folders of SpineAlign: frames of an Azure Kinect, in vivo.

    Example: python -m e2r convert spinealign SpineAlign cases
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the folder that its index, closest points, surfaces and clouds lie below"""
    output: Annotated[Path, tyro.conf.Positional]
    """folder for the case folders"""
    sequences: tuple[str, ...] = ()
    """which, all without it"""
    every: int = 1
    """one frame in so many of each sequence"""


@dataclass(frozen=True)
class ConvertRgbd:
    """Make a case folder of a frame of any RGB-D camera, and a model.

    The frame is a folder of color.png, depth.png (or .npy) and intrinsics.json, or a PLY or PCD
    cloud. Lens distortion is taken out.
    Example: python -m e2r convert rgbd FRAME cases/mine --model STLS --unit m
    """

    source: Annotated[Path, tyro.conf.Positional]
    """the frame"""
    output: Annotated[Path, tyro.conf.Positional]
    """the case folder; its name is the case's"""
    model: Path
    """folder of surfaces, one a level, mm"""
    unit: Literal["mm", "m"] = "mm"
    """of the frame"""


Convert: TypeAlias = (
    Annotated[ConvertCt, tyro.conf.subcommand("ct")]
    | Annotated[ConvertSpinedepth, tyro.conf.subcommand("spinedepth")]
    | Annotated[ConvertPairs, tyro.conf.subcommand("pairs")]
    | Annotated[ConvertSpinealign, tyro.conf.subcommand("spinealign")]
    | Annotated[ConvertRgbd, tyro.conf.subcommand("rgbd")]
)


@dataclass(frozen=True)
class Conversion:
    """Bring other formats in: CT label maps, data sets, frames of any RGB-D camera."""

    what: tyro.conf.OmitSubcommandPrefixes[Convert]
    """what comes in"""


def depth_scale(case: Case) -> float:
    """Steps of depth a mm: 50, or as many as let 16 bits reach the farthest pixel."""
    far = 1.0 if case.image is None else float(case.image.depth.max(initial=1.0))
    return max(1.0, min(50.0, 65535 // far))


def write_cases(found: Iterable[Case], output: Path) -> int:
    """Writes cases as folders below ``output``, and says how many there are."""
    from e2r.datasets import case_folder

    written = 0
    for case in found:
        case_folder.write_case(case, output / case.id, depth_scale=depth_scale(case))
        written += 1
    print(f"{written} cases in {output}")
    return 0


def convert_spinedepth(options: ConvertSpinedepth) -> int:
    """Runs ``convert spinedepth``."""
    from e2r.datasets import spinedepth

    if options.every < 1:
        raise ValueError(f"--every is {options.every}; use 1 or more")
    found = spinedepth.convert(
        options.source,
        specimens=options.specimens,
        cameras=options.cameras,
        frames=options.frames,
        every=options.every,
    )
    return write_cases(found, options.output)


def convert_pairs(options: ConvertPairs) -> int:
    """Runs ``convert pairs``."""
    from e2r.datasets import spinedepth_pairs

    found = spinedepth_pairs.convert(
        options.source, specimens=options.specimens, cameras=options.cameras
    )
    return write_cases(found, options.output)


def convert_spinealign(options: ConvertSpinealign) -> int:
    """Runs ``convert spinealign``."""
    from e2r.datasets import spinealign

    if options.every < 1:
        raise ValueError(f"--every is {options.every}; use 1 or more")
    labels = []

    def found() -> Iterator[Case]:
        for case, label in spinealign.convert(
            options.source, sequences=options.sequences, every=options.every
        ):
            labels.append(label.rmse_mm)
            yield case

    write_cases(found(), options.output)
    if labels:
        print(f"the labels themselves are {sum(labels) / len(labels):.2f} mm off (mean RMSE)")
    return 0


def convert_rgbd(options: ConvertRgbd) -> int:
    """Runs ``convert rgbd``."""
    from e2r.datasets import case_folder, rgbd

    name = options.output.resolve().name
    case = rgbd.convert(options.source, options.model, name, unit=options.unit)
    case_folder.write_case(case, options.output, depth_scale=depth_scale(case))
    print(f"{len(case.points)} points, levels {', '.join(case.model)}, in {options.output}")
    return 0


def convert_ct(options: ConvertCt) -> int:
    """Runs ``convert ct``."""
    from e2r.datasets import ct

    if options.labels and len(options.labels) != len(options.levels):
        raise ValueError("--labels: give one number for each of --levels")
    names = dict(zip(options.labels, options.levels, strict=True)) if options.labels else ct.VERSE
    meshes = ct.read_labels(options.source, names)
    lost = [name for name in options.levels if name not in meshes]
    if lost:
        raise ValueError(
            f"{options.source}: has no {', '.join(lost)} (but {', '.join(meshes)}); "
            "name other --levels, or their numbers with --labels"
        )
    chosen = {name: mesh for name, mesh in meshes.items() if name in (options.levels or meshes)}
    for path in ct.write(chosen, options.output):
        print(path)
    return 0


COMMANDS: dict[type, Callable[[Any], int]] = {
    ConvertCt: convert_ct,
    ConvertSpinedepth: convert_spinedepth,
    ConvertPairs: convert_pairs,
    ConvertSpinealign: convert_spinealign,
    ConvertRgbd: convert_rgbd,
}


def run(conversion: Conversion) -> int:
    """Runs the conversion that was asked for."""
    return COMMANDS[type(conversion.what)](conversion.what)
