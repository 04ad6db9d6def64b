"""Which files of a folder belong to a case, and where a case may be written."""

from __future__ import annotations

from pathlib import Path

from e2r.formats import file_checks, meshes

CASE_FILES = (
    "case.json",
    "color.png",
    "depth.png",
    "camera.json",
    "scene.ply",
    "truth.json",
    "bone.png",
)
"""The files that a case may hold, beside the surfaces of its levels."""


def cases_below(folder: Path) -> list[Path]:
    """The cases of a data set, sorted by name; what a killed command left beside is none.

    Args:
      folder: of the data set.
    """
    return file_checks.visible(path.parent for path in folder.glob("*/case.json"))


def old_parts(folder: Path) -> set[str]:
    """The files of the case that a folder holds, relative to it; other files are the user's.

    Args:
      folder: to which a case will be written; it need not be there.

    Raises:
      ValueError: the folder holds files of a case without case.json, or several cases.
    """
    if not (folder / "case.json").exists():
        cases = cases_below(folder)
        if cases:
            raise ValueError(
                f"{folder}: is a folder of cases, such as {cases[0].name}; name a folder in it"
            )
        there = [name for name in CASE_FILES[1:] if (folder / name).exists()]
        if there:
            raise ValueError(
                f"{folder}: holds {there[0]} but no case.json, so it is no case that could be "
                "replaced; name another folder, or move this file away"
            )
        return set()
    try:
        levels = file_checks.read_json(folder / "case.json").get("levels")
    except ValueError:
        levels = None
    suffixes = [*meshes.MESH_SUFFIXES, *map(str.upper, meshes.MESH_SUFFIXES)]
    surfaces = {
        f"model/{name}{suffix}"
        for name in (levels if isinstance(levels, list) else [])
        for suffix in suffixes
    }
    return {*CASE_FILES, "model/surface.npz", *surfaces}


def require_data_set(folder: Path) -> None:
    """Refuses a case as a folder for several: cases within a case are not found.

    Args:
      folder: for cases; it need not be there.

    Raises:
      ValueError: the folder is a case.
    """
    if (folder / "case.json").exists():
        raise ValueError(f"{folder}: is a case; name a folder that holds cases, or a new one")
