"""Checks of PLY surfaces, which are brought into the form that trimesh reads well.

trimesh 5.2.0 reads binary faces only where all have equally many corners. It makes a path of the
edges, which takes as much memory as the largest number of a vertex asks for; so they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from e2r.types import Int

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
CORNERS = ("vertex_indices", "vertex_index")
"""Names of the list of a face's vertices."""
READ = ("vertex", "face")
"""The elements that a surface needs."""


class _Property(NamedTuple):
    """One column of an element; a list, if it has a type of its length."""

    name: str
    kind: str
    length: str | None = None


class _Element(NamedTuple):
    """One kind of rows of a PLY file."""

    name: str
    rows: int
    properties: list[_Property]


def check_content(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Refuses a PLY file that is not whole.

    Args:
      content: of the file.

    Returns:
      The bytes for trimesh, and what is to be said about them.

    Raises:
      ValueError: the file is cut short or broken; the message lacks its path.
    """
    end = re.search(rb"\nend_header[ \t]*\r?\n", content)
    if not content.startswith(b"ply"):
        raise ValueError("is no PLY file: it does not begin with ply; export it again")
    if end is None:
        raise ValueError("is cut short: its header has no end; copy or export it again")
    lines = content[: end.start()].decode("latin-1").splitlines()
    kind, elements = _parse_header([line.split() for line in lines])
    if kind == "ascii":
        return _check_ascii(content, end.end(), elements), ()
    return _check_binary(content, end.end(), elements=elements, order="<>"["big" in kind])


def _parse_header(lines: Iterable[list[str]]) -> tuple[str, list[_Element]]:
    kind, elements = "", list[_Element]()
    try:
        for words in lines:
            if words[:1] == ["format"]:
                kind = words[1]
            elif words[:1] == ["element"]:
                elements.append(_Element(words[1], int(words[2]), []))
            elif words[:2] == ["property", "list"]:
                found = _Property(words[4], PLY_TYPES[words[3]], PLY_TYPES[words[2]])
                elements[-1].properties.append(found)
            elif words[:1] == ["property"]:
                elements[-1].properties.append(_Property(words[2], PLY_TYPES[words[1]]))
    except (KeyError, IndexError, ValueError):
        raise ValueError("has a broken PLY header; export it again") from None
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"has the PLY format {kind!r}, which is unknown; export it again")
    return kind, elements


# Text ---------------------------------------------------------------------------------------------


def _check_ascii(content: bytes, start: int, elements: list[_Element]) -> bytes:
    rows = [line for line in content[start:].split(b"\n") if line.strip()]
    needed = sum(element.rows for element in elements)
    if len(rows) < needed:
        raise ValueError(
            f"is cut short: of {needed} rows it holds {len(rows)}; copy or export it again"
        )
    last = next((element for element in reversed(elements) if element.rows), None)
    if last is not None and len(last.properties) == 1 and last.properties[0].length is not None:
        words = rows[needed - 1].split()
        if not words[0].isdigit() or len(words) < 1 + int(words[0]):
            raise ValueError("is cut short: its last row is not whole; copy or export it again")
    header, at, kept = content[:start], 0, list[bytes]()
    for element in elements:
        if element.name in READ:
            kept += rows[at : at + element.rows]
        else:
            header = _replace(header, element.name)
        at += element.rows
    return content if header == content[:start] else header + b"\n".join([*kept, b""])


# Binary -------------------------------------------------------------------------------------------


def _check_binary(
    content: bytes, start: int, *, elements: list[_Element], order: str
) -> tuple[bytes, tuple[str, ...]]:
    header, body, at, notes = content[:start], content[start:], 0, list[str]()
    kept = list[bytes]()
    for element in elements:
        if all(one.length is None for one in element.properties):
            end = at + element.rows * sum(np.dtype(one.kind).itemsize for one in element.properties)
            if end > len(body):
                raise _short(element)
            if element.name not in READ:
                header, at = _replace(header, element.name), end
                continue
        elif element.name != "face":
            raise ValueError(f"has lists in its {element.name} rows; export it as triangles")
        else:
            end, polygons = _read_polygons(body, at, element=element, order=order)
            if polygons and (len(element.properties), len(polygons)) != (1, 1):
                faces = [_cut(corners) for corners in polygons]
                if len(polygons) > 1:
                    notes.append("has polygons of several sizes; they were cut into triangles")
                header, packed = _pack(header, np.concatenate(faces), order)
                kept.append(packed)
                at = end
                continue
        kept.append(body[at:end])
        at = end
    if at < len(body):
        notes.append(f"has {len(body) - at} bytes after its last element; they were left out")
    elif not notes and header == content[:start]:
        return content, ()
    return header + b"".join(kept), tuple(notes)


def _short(element: _Element) -> ValueError:
    return ValueError(
        f"is cut short: the rows of its {element.rows} {element.name} entries end early; "
        "copy or export it again"
    )


def _read_polygons(
    body: bytes, start: int, *, element: _Element, order: str
) -> tuple[int, list[Int[np.ndarray, "_ _"]]]:
    """The place after the faces, and their corners: one array for each number of corners."""
    names = [one.name for one in element.properties]
    corners = next((names.index(name) for name in CORNERS if name in names), None)
    if corners is None:
        raise ValueError("has faces without a list vertex_indices; export it as triangles")
    if element.rows > len(body) - start:  # each row takes at least a byte
        raise _short(element)
    at, found = start, dict[int, list[Int[np.ndarray, "_ _"]]]()
    left = element.rows
    while left:
        row = _row_type(body, at, element=element, order=order)
        alike = _count_alike(body, at, row=row, most=left, element=element)
        table = np.frombuffer(body, row, alike, at)
        chosen = np.asarray(table[f"p{corners}"].reshape(alike, -1), np.int64)
        found.setdefault(chosen.shape[1], []).append(chosen)
        at, left = at + alike * row.itemsize, left - alike
    return at, [np.concatenate(some) for some in found.values()]


def _row_type(body: bytes, at: int, *, element: _Element, order: str) -> np.dtype:
    """The form of the row at a place: lengths n0, n1 and values p0, p1 of its properties."""
    fields = list[tuple[str, str, tuple[int, ...]]]()
    end = at
    for i, one in enumerate(element.properties):
        many = 1
        if one.length is not None:
            length = np.dtype(order + one.length)
            if end + length.itemsize > len(body):
                raise _short(element)
            many = int(np.frombuffer(body, length, 1, end)[0])
            if not 0 <= many <= len(body):
                raise ValueError("has a list of no sensible length; export it again")
            fields.append((f"n{i}", length.str, ()))
            end += length.itemsize
        fields.append((f"p{i}", order + one.kind, (many,)))
        end += many * np.dtype(one.kind).itemsize
    if end > len(body):
        raise _short(element)
    return np.dtype(fields)


def _count_alike(body: bytes, at: int, *, row: np.dtype, most: int, element: _Element) -> int:
    """So many rows from a place on have lists as long as those of the first one."""
    lengths = [name for name in row.names or () if name.startswith("n")]
    for alike in _growing(min(most, (len(body) - at) // row.itemsize)):
        table = np.frombuffer(body, row, alike, at)
        same = np.ones(alike, bool)
        for name in lengths:
            same &= table[name] == table[name][0]
        if not same.all():
            return int(same.argmin())
    if alike < most and at + alike * row.itemsize >= len(body):
        raise _short(element)
    return alike


def _growing(most: int) -> Iterator[int]:
    """Growing numbers up to the largest: rows of mixed sizes change soon."""
    number = 8
    while number < most:
        yield number
        number *= 8
    yield most


def _cut(corners: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "m 3"]:
    """Polygons as fans of triangles; those of one or two corners are dropped."""
    fans = [corners[:, [0, i, i + 1]] for i in range(1, corners.shape[1] - 1)]
    return np.stack(fans, 1).reshape(-1, 3) if fans else np.zeros((0, 3), np.int64)


def _pack(header: bytes, faces: Int[np.ndarray, "m 3"], order: str) -> tuple[bytes, bytes]:
    """Header and rows of a file whose faces are triangles without other properties."""
    if len(faces) and not -(2**31) <= faces.min() <= faces.max() < 2**31:
        raise ValueError("has triangles of vertices that are not there; export it again")
    table = np.zeros(len(faces), [("n", "u1"), ("p", order + "i4", (3,))])
    table["n"], table["p"] = 3, faces
    lines = [b"element face %d" % len(faces), b"property list uchar int vertex_indices"]
    return _replace(header, "face", *lines), table.tobytes()


def _replace(header: bytes, name: str, *instead: bytes) -> bytes:
    """A header with other lines in place of those of one element."""
    lines, inside = list[bytes](), False
    for line in header.splitlines():
        words = line.split()
        if words[:1] == [b"element"]:
            inside = words[1] == name.encode("latin-1")
            if inside:
                lines += instead
        if not (inside and words[:1] in ([b"element"], [b"property"])):
            lines.append(line)
    return b"\n".join([*lines, b""])
