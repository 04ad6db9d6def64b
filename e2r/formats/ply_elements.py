"""The elements of a PLY file, which are its vertices, faces and others, as NumPy arrays.

Three libraries were tried, and none of them is used. trimesh 5.2.0 reads binary faces only where
all have equally many corners. It reads text faces of several sizes only where nothing follows the
corners. It knows ``x`` and not ``X``. It builds a path of the edges: one wrong vertex number in
them takes gigabytes. libigl 2.6.3 aborts the process where faces have several sizes. plyfile 1.1.5
reads all of these, but its licence, GPL 3, does not fit this one's: only tests use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from e2r.formats import file_checks

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
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
LENGTH_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4")
MANY = 8
"""After so many rows alike, the next ones are looked at together."""
HEADER_END = re.compile(rb"\nend_header[ \t]*\r?\n")


class Column(NamedTuple):
    """One property of an element; a list, if it has a type of its length."""

    name: str
    kind: str
    length: str | None = None


class Element(NamedTuple):
    """One kind of rows of a PLY file."""

    name: str
    rows: int
    columns: list[Column]

    @property
    def short(self) -> ValueError:
        """The error of a file that ends within these rows."""
        return ValueError(
            f"is cut short: the rows of its {self.rows} {self.name} entries end early; "
            "copy or export it again"
        )


class Ply(NamedTuple):
    """A PLY file. Rows whose lists are equally long are one structured array."""

    elements: dict[str, list[np.ndarray]]
    comments: str
    left: int  # bytes after the last element


def read(content: bytes, last: str = "") -> Ply:
    """Reads text, or binary of either byte order. All names become lower case.

    Args:
      content: of the file.
      last: an element after which nothing is read; all are if there is no such element.

    Raises:
      ValueError: the file is no PLY, broken or cut short; the message lacks its path.
    """
    if not content.startswith(b"ply"):
        raise ValueError("is no PLY file: it does not begin with ply; export it again")
    end = HEADER_END.search(content)
    if end is None:
        raise ValueError("is cut short: its header has no end; copy or export it again")
    lines = content[: end.start()].decode("latin-1").lower().splitlines()
    order, elements = _parse_header([line.split() for line in lines])
    body, at, found = content[end.end() :], 0, dict[str, list[np.ndarray]]()
    if order and end[0].endswith(b"\r\n"):
        file_checks.check_binary(body)
    text = "" if order else body.decode("latin-1")
    rows = [row for row in text.split("\n") if row.strip()]
    for element in elements:
        if order:
            at, found[element.name] = _read_binary(body, at, element=element, order=order)
        else:
            found[element.name] = _read_text(rows[at : at + element.rows], element)
            at += element.rows
        if element.name == last:
            break
    comments = "\n".join(line for line in lines if line.startswith("comment"))
    return Ply(found, comments, len(body) - at if order else 0)


def _parse_header(lines: Sequence[list[str]]) -> tuple[str, list[Element]]:
    kind, elements = "", list[Element]()
    try:
        for words in lines:
            if words[:1] == ["format"]:
                kind = words[1]
            elif words[:1] == ["element"]:
                elements.append(Element(words[1], int(words[2]), []))
            elif words[:2] == ["property", "list"]:
                column = Column(words[4], PLY_TYPES[words[3]], PLY_TYPES[words[2]])
                elements[-1].columns.append(column)
                if column.length not in LENGTH_TYPES:
                    raise ValueError
            elif words[:1] == ["property"]:
                elements[-1].columns.append(Column(words[2], PLY_TYPES[words[1]]))
        for _, rows, columns in elements:
            if rows < 0 or (rows and not columns) or len({*_names(columns)}) < len(columns):
                raise ValueError
    except (KeyError, IndexError, ValueError):
        raise ValueError("has a broken PLY header; export it again") from None
    if kind not in ORDERS:
        raise ValueError(f"has the PLY format {kind!r}, which is unknown; export it again")
    return ORDERS[kind], elements


def _names(columns: list[Column]) -> list[str]:
    return [one.name for one in columns]


# Text ---------------------------------------------------------------------------------------------


def _read_text(rows: list[str], element: Element) -> list[np.ndarray]:
    if len(rows) < element.rows:
        raise element.short
    found = dict[tuple[int, ...], list[str]]()
    for row in rows:
        words = row.split()
        lengths, end = _list_lengths(words, element)
        if len(words) < end:
            raise element.short
        found.setdefault(lengths, []).append(row)
    return [_to_table(some, lengths, element) for lengths, some in found.items()]


def _list_lengths(words: list[str], element: Element) -> tuple[tuple[int, ...], int]:
    """The lengths of a row's lists, and the number of words that it needs."""
    lengths, at = list[int](), 0
    for one in element.columns:
        if one.length is not None:
            if at >= len(words):
                raise element.short
            if not words[at].isdecimal():
                raise ValueError("has a list of no sensible length; export it again")
            lengths.append(int(words[at]))
            at += lengths[-1]
        at += 1
    return tuple(lengths), at


def _to_table(rows: list[str], lengths: tuple[int, ...], element: Element) -> np.ndarray:
    """Rows of one form as numbers of the types that the header names."""
    words = range(len(element.columns) + sum(lengths))
    try:
        numbers = np.loadtxt(rows, np.float64, comments=None, usecols=words, ndmin=2)
    except ValueError as error:
        raise ValueError(f"has words in place of numbers ({error}); export it again") from None
    table = np.zeros(len(rows), _row_type(element, lengths, "="))
    at, left = 0, list(lengths)
    for one in element.columns:
        many = 1
        if one.length is not None:
            many, at = left.pop(0), at + 1
        given = numbers[:, at : at + many]
        with np.errstate(all="ignore"):
            table[one.name] = given if one.length is not None else given[:, 0]
        if one.kind[0] != "f" and (table[one.name].reshape(given.shape) != given).any():
            raise ValueError(f"has {one.name} that is no {one.kind[1]}-byte integer; export again")
        at += many
    return table


# Binary -------------------------------------------------------------------------------------------


def _read_binary(
    body: bytes, at: int, *, element: Element, order: str
) -> tuple[int, list[np.ndarray]]:
    """The place after an element, and its rows."""
    if element.rows > len(body) - at:  # each row takes at least a byte
        raise element.short
    found, sizes = dict[tuple[int, ...], list[bytes]](), dict[tuple[int, ...], int]()
    left, alike, before = element.rows, 0, None
    while left:
        lengths = _lengths_at(body, at, element=element, order=order)
        if lengths not in sizes:
            sizes[lengths] = _row_type(element, lengths, order).itemsize
        alike = alike + 1 if lengths == before else 1
        many, before = 1, lengths
        if alike >= MANY or not lengths:
            row = _row_type(element, lengths, order)
            many = _count_alike(body, at, row=row, most=left, element=element)
        end = at + many * sizes[lengths]
        found.setdefault(lengths, []).append(body[at:end])
        at, left = end, left - many
    return at, [
        np.frombuffer(b"".join(some), _row_type(element, lengths, order))
        for lengths, some in found.items()
    ]


def _row_type(element: Element, lengths: Sequence[int], order: str) -> np.dtype:
    """The form of a row: its columns by name, and before each list its length as ``#0``..."""
    fields, left = list[tuple[str, str] | tuple[str, str, tuple[int]]](), list(lengths)
    for one in element.columns:
        if one.length is None:
            fields.append((one.name, order + one.kind))
        else:
            fields.append((f"#{len(left)}", order + one.length))
            fields.append((one.name, order + one.kind, (left.pop(0),)))
    return np.dtype(fields)


def _lengths_at(body: bytes, at: int, *, element: Element, order: str) -> tuple[int, ...]:
    """The lengths of the lists of the row at a place."""
    lengths = list[int]()
    byte_order: Literal["big", "little"] = "big" if order == ">" else "little"
    for _, kind, length in element.columns:
        many = 1
        if length is not None:
            end = at + int(length[1])
            if end > len(body):
                raise element.short
            many = int.from_bytes(body[at:end], byte_order, signed=length[0] == "i")
            if not 0 <= many <= len(body):
                raise ValueError("has a list of no sensible length; export it again")
            lengths.append(many)
            at = end
        at += many * int(kind[1])
    if at > len(body):
        raise element.short
    return tuple(lengths)


def _count_alike(body: bytes, at: int, *, row: np.dtype, most: int, element: Element) -> int:
    """So many rows from a place on have lists as long as those of the first one."""
    lengths = [name for name in row.names or () if name.startswith("#")]
    for alike in _growing(min(most, (len(body) - at) // row.itemsize)):
        table = np.frombuffer(body, row, alike, at)
        same = np.ones(alike, bool)
        for name in lengths:
            same &= table[name] == table[name][0]
        if not same.all():
            return int(same.argmin())
    if alike < most and (not lengths or at + alike * row.itemsize >= len(body)):
        raise element.short
    return alike


def _growing(most: int) -> Iterator[int]:
    """Growing numbers up to the largest: rows of mixed sizes change soon."""
    number = 8
    while number < most:
        yield number
        number *= 8
    yield most
