"""Checks of the bytes of a surface file, before they are parsed."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from e2r.formats import file_checks, mesh_obj

ARCHIVES = (".gz", ".zip", ".7z", ".rar", ".tar", ".bz2", ".xz")
OTHER_SUFFIXES = (
    *(".vtk", ".vtp", ".vtu", ".vtm", ".off", ".3mf", ".amf", ".dae", ".wrl", ".x3d", ".ctm"),
    *(".step", ".stp", ".igs", ".iges", ".fbx", ".gii", ".byu", ".g", ".ucd", ".meta", ".blend"),
    *(".usd", ".usdz", ".3ds", ".3dm", ".dxf", ".mesh", ".msh", ".smesh", ".poly", ".stlb"),
)
"""Formats of surfaces that are not read."""
SIGNATURES = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the surface; run git lfs pull"),
    (rb"(?i)<(!doctype\s+html|html|head|body)", "a web page; download the surface itself"),
    (rb"#\s*vtk DataFile", "a VTK file; export it as STL, PLY or OBJ"),
    (rb"(?s)(<\?xml.{0,200})?<VTKFile", "a VTK file; export it as STL, PLY or OBJ"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive; unpack it"),
    (rb"(\xff\xfe[\x09-\x7e]\0|\xfe\xff\0[\x09-\x7e])", "text in UTF-16; save it as UTF-8"),
    (rb"%PDF|\x89PNG|\xff\xd8\xff", "no surface; export the level as STL, PLY or OBJ"),
)
"""How files begin that are often saved under a surface's name, and what they are."""


COMMAS = "writes its numbers with commas; export it with decimal points"


class Checked(NamedTuple):
    """A file's bytes that its parser may see."""

    content: bytes
    notes: tuple[str, ...] = ()  # sentences for the user


def check_content(content: bytes, suffix: str) -> Checked:
    """Refuses bytes that no surface has, or not all of one.

    Args:
      content: of the file.
      suffix: in lower case; bytes of other formats than STL and OBJ are only looked at.

    Raises:
      ValueError: the file is empty, cut short, or of another kind; the message lacks its path.
    """
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if suffix in OTHER_SUFFIXES:
        raise ValueError(f"is of the format {suffix[1:].upper()}; export it as STL, PLY or OBJ")
    if suffix in ARCHIVES:
        raise ValueError("is an archive; unpack it")
    if not content.strip(b"\0 \t\r\n"):
        raise ValueError("is empty; export it again")
    for pattern, what in SIGNATURES:
        if re.match(pattern, head):
            raise ValueError(f"is {what}")
    if re.match(rb"ply\r?\n", content) and suffix != ".ply":
        raise ValueError("is a PLY file; name it .ply")
    if content.startswith(b"glTF") and suffix not in (".glb", ".gltf"):
        raise ValueError("is a GLB file; name it .glb, or export it as STL, PLY or OBJ")
    check = {".stl": _check_stl, ".obj": _check_obj}.get(suffix)
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
    if re.fullmatch(rb"[\t\r\n\x20-\x7e]*", content[:4096]):
        raise ValueError("is text, but no STL; export the level's surface as STL")
    if len(content) < 84:
        raise ValueError(f"is cut short: it holds {len(content)} bytes; export it again")
    whole = (len(content) - 84) // 50
    if not count:
        raise ValueError("holds no triangle by its own count; export it again")
    file_checks.check_binary(content[84:])
    if count > whole:
        raise ValueError(
            f"is cut short: of {count} triangles it holds {whole}; copy or export it again"
        )
    more = len(content) - 84 - 50 * count
    if more % 50 == 0 and _go_on(content, count):
        raise ValueError(
            f"holds {whole} triangles, but {count} by its own count; copy or export it again"
        )
    note = f"has {more} bytes after its {count} triangles; they were left out"
    return Checked(content[: 84 + 50 * count], (note,))


def _go_on(content: bytes, count: int) -> bool:
    """Whether the bytes after the last triangle are triangles near the others."""
    rows = np.frombuffer(content, np.dtype([("p", "<f4", 12), ("more", "<u2")]), offset=84)
    points = rows["p"][:, 3:].reshape(len(rows), 3, 3).astype(np.float64)
    low, high = points[:count].min(axis=(0, 1)), points[:count].max(axis=(0, 1))
    rest = points[count:]
    near = np.abs(rest - 0.5 * (low + high)) <= 3.0 * (high - low).max()
    return bool(near.all() and (rest != rest[:, [1, 2, 0]]).any(axis=2).all())


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
    if re.search(rb"(?m)^\s*vertex[^\n]*,", text):
        raise ValueError(COMMAS)
    if vertices > 3 * facets:
        raise ValueError("has facets of more than three vertices; export it again")


# OBJ ----------------------------------------------------------------------------------------------


def _check_obj(content: bytes) -> Checked:
    lines = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n")
    count, highest, faces, polygons = 0, 0, 0, 0
    for line in lines:
        if line.startswith((b"v ", b"v\t")):
            count += 1
            if b"," in line:
                raise ValueError(COMMAS)
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
            polygons += len(corners) > 3
    if highest > count:
        raise ValueError(f"a face names vertex {highest}, but it holds {count}; export it again")
    if not faces and count:
        raise ValueError("has vertices but no triangle, or is cut short; export it again")
    if not faces:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    return Checked(mesh_obj.turn_polygons(lines) if polygons else content)
