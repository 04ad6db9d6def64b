"""``python -m e2r convert``: other formats in, each to case folders or to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro

if TYPE_CHECKING:
    from e2r.datasets.cases import Case


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


Convert: TypeAlias = (
    Annotated[ConvertCt, tyro.conf.subcommand("ct")]
    | Annotated[ConvertSpinedepth, tyro.conf.subcommand("spinedepth")]
    | Annotated[ConvertPairs, tyro.conf.subcommand("pairs")]
)


@dataclass(frozen=True)
class Conversion:
    """Bring other formats in: CT label maps, data sets."""

    what: tyro.conf.OmitSubcommandPrefixes[Convert]
    """what comes in"""


def write_cases(found: Iterable[Case], output: Path) -> int:
    """Writes cases as folders below ``output``, and says how many there are."""
    from e2r.datasets import cases

    written = 0
    for case in found:
        cases.write(case, output / case.id)
        written += 1
    print(f"{written} cases in {output}")
    return 0


def convert_spinedepth(options: ConvertSpinedepth) -> int:
    """Runs ``convert spinedepth``."""
    from e2r.datasets import spinedepth

    if options.every < 1:
        raise ValueError(f"--every is {options.every}; use 1 or more")
    found = spinedepth.convert(
        options.source, specimens=options.specimens, cameras=options.cameras,
        frames=options.frames, every=options.every,
    )  # fmt: skip
    return write_cases(found, options.output)


def convert_pairs(options: ConvertPairs) -> int:
    """Runs ``convert pairs``."""
    from e2r.datasets import pairs

    found = pairs.convert(options.source, specimens=options.specimens, cameras=options.cameras)
    return write_cases(found, options.output)


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
}


def run(conversion: Conversion) -> int:
    """Runs the conversion that was asked for."""
    return COMMANDS[type(conversion.what)](conversion.what)
