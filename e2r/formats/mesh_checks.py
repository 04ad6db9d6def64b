"""Checks of surface files: their bytes, before they are parsed, and the model's size and places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from e2r.formats.file_checks import PathLike
from e2r.geometry.anatomical_frame import LEVEL_ORDER

OTHER_SUFFIXES = (".vtk", ".vtp", ".vtu", ".off", ".3mf", ".dae", ".wrl", ".step", ".stp", ".igs")
"""Formats of surfaces that are not read."""
MIN_LEVEL_MM, MAX_LEVEL_MM, MAX_SPINE_MM = 15.0, 200.0, 1000.0
"""mm: extents that a vertebra, or a surface of several, can have."""
MM_PER_LEVEL = 100.0
"""mm: no two neighbouring levels are as far apart."""
SAME_PLACE_MM = 5.0
"""mm: the middles of two levels are farther apart."""
LEVEL_PATTERN = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(LEVEL_ORDER)})(?![a-z0-9])")
SIGNATURES = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the surface; run git lfs pull"),
    (rb"(?i)<(!doctype\s+html|html|head|body)", "a web page; download the surface itself"),
    (rb"#\s*vtk DataFile", "a VTK file; export it as STL, PLY or OBJ"),
    (rb"(?s)(<\?xml.{0,200})?<VTKFile", "a VTK file; export it as STL, PLY or OBJ"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive; unpack it"),
    (rb"%PDF|\x89PNG|\xff\xd8\xff", "no surface; export the level as STL, PLY or OBJ"),
)
"""How files begin that are often saved under a surface's name, and what they are."""


class Checked(NamedTuple):
    """A file's bytes that its parser may see."""

    content: bytes
    notes: tuple[str, ...] = ()  # sentences for the user


def check_content(content: bytes, suffix: str) -> Checked:
    """Refuses bytes that no surface has, or not all of one.

    Args:
      content: of the file.
      suffix: in lower case; bytes of other formats than STL, PLY and OBJ are only looked at.

    Raises:
      ValueError: the file is empty, cut short, or of another kind; the message lacks its path.
    """
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if suffix in OTHER_SUFFIXES:
        raise ValueError(f"is a {suffix[1:].upper()} file; export it as STL, PLY or OBJ")
    if not content.strip(b"\0 \t\r\n"):
        raise ValueError("is empty; export it again")
    for pattern, what in SIGNATURES:
        if re.match(pattern, head):
            raise ValueError(f"is {what}")
    if re.match(rb"ply\r?\n", content) and suffix != ".ply":
        raise ValueError("is a PLY file; name it .ply")
    if content.startswith(b"glTF") and suffix != ".glb":
        raise ValueError("is a GLB file; name it .glb, or export it as STL, PLY or OBJ")
    check = {".stl": _check_stl, ".ply": _check_ply, ".obj": _check_obj}.get(suffix)
    return Checked(content) if check is None else check(content)


# STL ----------------------------------------------------------------------------------------------


def _check_stl(content: bytes) -> Checked:
    count = int.from_bytes(content[80:84], "little")
    if len(content) >= 84 and len(content) == 84 + 50 * count:  # its header may say "solid"
        if not count:
            raise ValueError("holds no triangle; export the level's surface as triangles")
        return Checked(content)
    head = content[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"solid") and b"\0" not in head:
        _check_ascii_stl(content)
        return Checked(content)
    if len(content) < 84:
        raise ValueError(f"is cut short: it holds {len(content)} bytes; export it again")
    whole = (len(content) - 84) // 50
    if not count:
        raise ValueError("holds no triangle by its own count; export it again")
    if count > whole:
        raise ValueError(
            f"is cut short: of {count} triangles it holds {whole}; copy or export it again"
        )
    more = len(content) - 84 - 50 * count
    note = f"has {more} bytes after its {count} triangles; they were left out"
    return Checked(content[: 84 + 50 * count], (note,))


def _check_ascii_stl(content: bytes) -> None:
    text = content.lower()
    facets, ends, vertices = (text.count(word) for word in (b"facet", b"endfacet", b"vertex"))
    facets -= ends
    if facets != ends or vertices != 3 * facets:  # names of solids may hold these words: slowly
        facets = len(re.findall(rb"(?m)^\s*facet\b", text))
        ends = len(re.findall(rb"(?m)^\s*endfacet\b", text))
        vertices = len(re.findall(rb"(?m)^\s*vertex(?:\s+[-+.0-9a-z]+){3}(?=\s)", text))
    if not facets and b"endsolid" in text:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    if vertices < 3:
        raise ValueError("is cut short: it holds no triangle; copy or export it again")
    solids, endsolids = len(re.findall(rb"(?m)^\s*solid\b", text)), text.count(b"endsolid")
    if not endsolids or endsolids < solids or ends < facets or vertices < 3 * facets:
        raise ValueError(
            f"is cut short: it has {facets} facets, {vertices} whole vertices and "
            f"{endsolids} of {max(solids, 1)} endsolid; copy or export it again"
        )
    if vertices > 3 * facets:
        raise ValueError("has facets of more than three vertices; export it again")


# PLY ----------------------------------------------------------------------------------------------

PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
"""Names of numbers in a PLY's header, as NumPy names them."""


class _Element(NamedTuple):
    """One kind of rows of a PLY file."""

    name: str
    rows: int
    properties: list[tuple[str | None, str]]  # type of the length of a list, type of the values


def _check_ply(content: bytes) -> Checked:
    end = re.search(rb"\nend_header[ \t]*\r?\n", content)
    if not content.startswith(b"ply"):
        raise ValueError("is no PLY file: it does not begin with ply; export it again")
    if end is None:
        raise ValueError("is cut short: its header has no end; copy or export it again")
    lines = content[: end.start()].decode("latin-1").splitlines()
    kind, elements = _parse_header([line.split() for line in lines])
    body = content[end.end() :]
    if kind == "ascii":
        _check_ascii_ply(body, elements)
        return Checked(content)
    used, order = 0, ">" if kind == "binary_big_endian" else "<"
    for element in elements:
        used = _skip(body, used, element=element, order=order)
    if used == len(body):
        return Checked(content)
    note = f"has {len(body) - used} bytes after its last element; they were left out"
    return Checked(content[: end.end() + used], (note,))


def _parse_header(lines: Iterable[list[str]]) -> tuple[str, list[_Element]]:
    kind, elements = "", list[_Element]()
    try:
        for words in lines:
            if words[:1] == ["format"]:
                kind = words[1]
            elif words[:1] == ["element"]:
                elements.append(_Element(words[1], int(words[2]), []))
            elif words[:2] == ["property", "list"]:
                types = PLY_TYPES[words[2]], PLY_TYPES[words[3]]
                elements[-1].properties.append(types)
            elif words[:1] == ["property"]:
                elements[-1].properties.append((None, PLY_TYPES[words[1]]))
    except (KeyError, IndexError, ValueError):
        raise ValueError("has a broken PLY header; export it again") from None
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"has the PLY format {kind!r}, which is unknown; export it again")
    return kind, elements


def _skip(body: bytes, start: int, *, element: _Element, order: str) -> int:
    """The place after an element's rows."""
    short = ValueError(
        f"is cut short: the rows of its {element.rows} {element.name} entries end early; "
        "copy or export it again"
    )
    sizes = [(length, np.dtype(value).itemsize) for length, value in element.properties]
    fixed = sum(size for length, size in sizes if length is None)
    if len(sizes) == sum(length is None for length, _ in sizes):
        if start + element.rows * fixed > len(body):
            raise short
        return start + element.rows * fixed
    if element.rows > len(body) - start:  # each row takes at least a byte
        raise short

    def number(at: int, length: str) -> int:
        kind = np.dtype(order + length)
        if at + kind.itemsize > len(body):
            raise short
        value = np.frombuffer(body, kind, 1, at)[0]
        if not 0 <= value <= len(body):
            raise ValueError("has a list of no sensible length; export it again")
        return int(value)

    def row(at: int) -> int:
        for length, size in sizes:
            many = 1 if length is None else number(at, length)
            at += many * size + (0 if length is None else np.dtype(length).itemsize)
        return at

    if element.rows and sizes[0][0] is not None and len(sizes) == 1:  # faces of one kind: at once
        step = row(start) - start
        length = np.dtype(order + sizes[0][0])
        if start + step * element.rows <= len(body):
            rows = np.frombuffer(body, np.uint8, step * element.rows, start).reshape(-1, step)
            lengths = np.ascontiguousarray(rows[:, : length.itemsize]).view(length)
            if (lengths == lengths[0]).all():
                return start + step * element.rows
    for _ in range(element.rows):
        start = row(start)
    if start > len(body):
        raise short
    raise ValueError(f"has {element.name} entries of several lengths; export it as triangles")


def _check_ascii_ply(body: bytes, elements: list[_Element]) -> None:
    rows = [line for line in body.split(b"\n") if line.strip()]
    needed = sum(element.rows for element in elements)
    if len(rows) < needed:
        raise ValueError(
            f"is cut short: of {needed} rows it holds {len(rows)}; copy or export it again"
        )
    last = next((element for element in reversed(elements) if element.rows), None)
    if last is not None and len(last.properties) == 1 and last.properties[0][0] is not None:
        words = rows[needed - 1].split()
        if not words[0].isdigit() or len(words) < 1 + int(words[0]):
            raise ValueError("is cut short: its last row is not whole; copy or export it again")


# OBJ ----------------------------------------------------------------------------------------------


def _check_obj(content: bytes) -> Checked:
    lines = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n")
    count, highest, faces = 0, 0, 0
    for line in lines:
        if line.startswith((b"v ", b"v\t")):
            count += 1
            if len(line.split()) < 4:
                raise ValueError(f"is cut short: vertex {count} is not whole; export it again")
        elif line.startswith((b"f ", b"f\t")):
            faces += 1
            try:
                corners = [int(word.split(b"/", 1)[0]) for word in line.split()[1:]]
            except ValueError:
                raise ValueError(f"face {faces} is no list of vertices; export it again") from None
            if len(corners) < 3:
                raise ValueError(f"is cut short: face {faces} is not whole; export it again")
            if 0 in corners or min(corners) < -count:
                raise ValueError(f"face {faces} names a vertex that is not there; export it again")
            highest = max(highest, *corners)
    if highest > count:
        raise ValueError(f"a face names vertex {highest}, but it holds {count}; export it again")
    if not faces:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    return Checked(content)


# The model ----------------------------------------------------------------------------------------


def check_extent(mesh: trimesh.Trimesh, name: str) -> None:
    """Refuses a surface that is no vertebra in mm, by its size.

    Args:
      mesh: the surface.
      name: of its file. One that names one level, such as L3, allows one vertebra only.

    Raises:
      ValueError: the surface is too small or too large; the message lacks its path.
    """
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    levels = {found.upper() for found in LEVEL_PATTERN.findall(name)}
    if extent < 1.0:
        raise ValueError(f"is {extent:.3g} mm large, so it is in metres; multiply it by 1000")
    if extent < MIN_LEVEL_MM:
        raise ValueError(
            f"is {extent:.3g} mm large, so it is in centimetres; multiply it by 10 "
            "(or by 25.4, if it is in inches)"
        )
    if extent > MAX_SPINE_MM:
        raise ValueError(f"is {extent:.4g} mm large, which no spine is; export it again, in mm")
    if len(levels) == 1 and extent > MAX_LEVEL_MM:
        raise ValueError(
            f"is {extent:.4g} mm large, which no vertebra is; export {levels.pop()} alone, in mm"
        )


def check_model(model: Mapping[str, trimesh.Trimesh], path: PathLike) -> None:
    """Refuses levels that cannot be parts of one spine, by their places.

    Args:
      model: level -> surface, mm, one frame.
      path: their folder, for the message.

    Raises:
      ValueError: two levels lie at one place, or too far apart.
    """
    middles = {name: np.mean(mesh.bounds, axis=0) for name, mesh in model.items()}
    rank = {name: i for i, name in enumerate(LEVEL_ORDER)}
    for a, b in combinations(model, 2):
        apart = float(np.linalg.norm(middles[a] - middles[b]))
        if apart < SAME_PLACE_MM:
            raise ValueError(
                f"{path}: {a} and {b} lie at one place, so one is a copy of the other or has a "
                "frame of its own; export each level once, all in one frame"
            )
        limit = MAX_SPINE_MM
        if a.upper() in rank and b.upper() in rank:
            steps = abs(rank[a.upper()] - rank[b.upper()])
            limit = min(limit, MM_PER_LEVEL * (steps + 1))
        if apart > limit:
            raise ValueError(
                f"{path}: {a} and {b} lie {apart:.4g} mm apart, which no spine allows; "
                "export all levels in one frame"
            )


def check_folder(paths: Iterable[Path], suffixes: tuple[str, ...]) -> None:
    """Refuses surfaces of formats that are not read, which would be left out silently.

    Args:
      paths: the content of a folder of surfaces.
      suffixes: of the formats that are read.

    Raises:
      ValueError: a level is there in another format only.
    """
    paths = list(paths)
    read = {path.stem for path in paths if path.suffix.lower() in suffixes}
    for path in paths:
        if path.suffix.lower() in OTHER_SUFFIXES and path.stem not in read:
            raise ValueError(
                f"{path}: is a {path.suffix[1:].upper()} file; export it as STL, PLY or OBJ"
            )
