"""A preoperative model from a label map: one closed surface a level, in mm (RAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import trimesh

from e2r.datasets import label_bodies, label_levels, label_surfaces
from e2r.datasets.label_bodies import Body
from e2r.formats import label_numberings, label_tables, label_volumes, notices
from e2r.formats.file_checks import PathLike
from e2r.formats.label_numberings import NUMBERINGS, VERSE, Numbering
from e2r.formats.voxels import LabelVolume
from e2r.geometry import anatomical_frame

__all__ = ["VERSE", "read_labels"]


def read_labels(
    path: PathLike,
    names: Mapping[int, str] | None = None,
    *,
    levels: Sequence[str] = (),
    numbering: Numbering | None = None,
    table: PathLike | None = None,
) -> dict[str, trimesh.Trimesh]:
    """Reads a label map as surfaces.

    What the arguments say counts first, then names in the file, then its own name. Then the labels
    must lie as one known numbering has them, and no other.

    Args:
      path: NIfTI, NRRD, MetaImage or DICOM SEG, or a folder of one file a level.
      names: label number -> level.
      levels: levels to read; by default, all.
      numbering: whose numbers the labels are.
      table: file of label names, as ITK-SNAP, 3D Slicer, BIDS or nnU-Net write them.

    Returns:
      level -> closed surface with outward normals, sorted from head to foot. Coordinates are mm in
      the patient's axes: right, anterior, superior.

    Raises:
      ValueError: the file is no label map, its labels may be several levels, or what it calls a
        level is none.
    """
    volumes = label_volumes.read(path, numbers=names or ())
    if table is not None:
        names_of = label_tables.read_table(table)
        volumes = [volume._replace(names=names_of, codes={}) for volume in volumes]
    bodies = [label_bodies.find_bodies(volume) for volume in volumes]
    found = _find_levels(
        volumes, bodies, path=path, names=names, numbering=numbering, levels=levels
    )
    missing = [level for level in levels if level not in found]
    if missing:
        raise ValueError(
            f"{path}: has no {', '.join(missing)} (but {', '.join(found)}); "
            "name other --levels, or give their numbers by --labels"
        )
    chosen = {level: place for level, place in found.items() if level in (levels or found)}
    chosen = _check(chosen, bodies, path)
    return {
        level: label_surfaces.extract(volumes[i], number, level=level, path=path)
        for level, (i, number) in chosen.items()
    }


def _find_levels(
    volumes: Sequence[LabelVolume],
    bodies: Sequence[Mapping[int, Body]],
    *,
    path: PathLike,
    names: Mapping[int, str] | None,
    numbering: Numbering | None,
    levels: Sequence[str],
) -> dict[str, tuple[int, int]]:
    """level -> volume and label, sorted from head to foot."""
    if not any(bodies):
        raise ValueError(
            f"{path}: is empty, it labels no voxel; give a map with the level's voxels"
        )
    named: Sequence[Mapping[int, str]]
    if names is not None:
        named = [names for _ in volumes]
    elif numbering is not None:
        _refuse_other_labels(bodies, numbering, path)
        _refuse_other_names(volumes, bodies, numbering, path)
        named = [NUMBERINGS[numbering] for _ in volumes]
    else:
        named = _recognise(volumes, bodies, path=path, levels=levels)
    present = [
        {label: level for label, level in some.items() if label in here}
        for some, here in zip(named, bodies, strict=True)
    ]
    has_s1 = any("S1" in some.values() for some in present)
    found: dict[str, tuple[int, int]] = {}
    for i, some in enumerate(present):
        for label, level in label_levels.settle_sacrum(some).items():
            if has_s1 and level == "S1" and some[label] != "S1":
                continue
            if level in found:
                raise ValueError(
                    f"{path}: has {level} twice (labels {found[level][1]} and {label}); say which "
                    "with --labels and --levels"
                )
            found[level] = (i, label)
    if not found:
        expected = sorted({label for some in named for label in some})
        there = ", ".join(_describe(volumes, bodies)) or "none"
        raise ValueError(
            f"{path}: has none of the labels {expected} (but {there}); "
            "name the right ones with --labels and --levels"
        )
    return {level: found[level] for level in anatomical_frame.sort_levels(list(found))}


def _refuse_other_labels(
    bodies: Sequence[Mapping[int, Body]], numbering: Numbering, path: PathLike
) -> None:
    """Refuses labels that the named numbering does not have: the map is of another one."""
    others = [
        label for some in bodies for label in some if not label_numberings.allows(numbering, label)
    ]
    if others:
        raise ValueError(
            f"{path}: has label {others[0]}, but {numbering} has none above "
            f"{label_numberings.LAST_LABELS[numbering]}; name another --numbering, or --labels and "
            "--levels"
        )


def _refuse_other_names(
    volumes: Sequence[LabelVolume],
    bodies: Sequence[Mapping[int, Body]],
    numbering: Numbering,
    path: PathLike,
) -> None:
    """Refuses a numbering where the file's names say other levels, and one for a lone label 1."""
    for volume, here in zip(volumes, bodies, strict=True):
        named = label_levels.settle_sacrum(label_levels.by_names(volume, path) or {})
        numbered = label_levels.settle_sacrum(NUMBERINGS[numbering])
        for label in here:
            if label in named and named[label] != numbered.get(label):
                raise ValueError(
                    f"{path}: calls label {label} {named[label]}, but by {numbering} it is "
                    f"{numbered.get(label, 'no level')}; leave --numbering out"
                )
    if [label for some in bodies for label in some] == [1]:
        raise ValueError(
            f"{path}: has label 1 alone, as any mask has, so no numbering tells its level; name it "
            "with --labels 1 --levels"
        )


def _recognise(
    volumes: Sequence[LabelVolume],
    bodies: Sequence[Mapping[int, Body]],
    *,
    path: PathLike,
    levels: Sequence[str],
) -> list[dict[int, str]]:
    """label -> level of each volume, from the files alone."""
    named = [label_levels.by_names(volume, path) for volume in volumes]
    if any(some for some in named):
        return [some or {} for some in named]
    if any(some is not None for some in named) or len(volumes) != 1:
        there = ", ".join(_describe(volumes, bodies)) or "none"
        raise ValueError(
            f"{path}: none of its labels has a level's name (but {there}); "
            "name the right ones with --labels and --levels"
        )
    if Path(path).is_file():
        by_file = label_levels.by_names(label_volumes.name_by_file(volumes[0], path), path)
        if by_file:
            return [by_file]
    oriented = volumes[0].oriented
    return [label_levels.by_evidence(bodies[0], path, wanted=levels, oriented=oriented)]


def _describe(volumes: Sequence[LabelVolume], bodies: Sequence[Mapping[int, Body]]) -> list[str]:
    """The labels that are there, with their names."""
    texts = [
        f"{label} {volume.names.get(label, '')}".strip()
        for volume, some in zip(volumes, bodies, strict=True)
        for label in some
    ]
    return texts if len(texts) <= 12 else [*texts[:12], "..."]


def _check(
    chosen: Mapping[str, tuple[int, int]], bodies: Sequence[Mapping[int, Body]], path: PathLike
) -> dict[str, tuple[int, int]]:
    """Refuses what cannot be a spine; leaves out what the scan's edge cut off."""
    kept = {}
    for level, (i, label) in chosen.items():
        body = bodies[i][label]
        if len(chosen) > 1 and body.touches and label_bodies.is_small(level, body):
            notices.say(
                path, f"{level} was left out: {body.volume_cm3:.3g} cm3 at the volume's edge"
            )
        else:
            kept[level] = (i, label)
    complaint = label_bodies.complaint({k: bodies[i][label] for k, (i, label) in kept.items()})
    if complaint:
        raise ValueError(
            f"{path}: {complaint}; correct the map, leave the level out with --levels, or name the "
            "numbers with --numbering, or with --labels and --levels"
        )
    for level, remark in label_bodies.remarks({k: bodies[i][n] for k, (i, n) in kept.items()}):
        notices.say(path, f"{level} {remark}; look at it")
    return kept
