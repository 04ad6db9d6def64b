"""The axes that a surface file declares, RAS or LPS: the comment that 3D Slicer reads and writes.

3D Slicer takes STL, PLY, OBJ and VTK surfaces for LPS, unless their header says ``SPACE=RAS``. In
e2r, surfaces are RAS.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import trimesh

STL_HEADER_BYTES = 80
LONGEST_HEADER = 65536
"""Bytes at a file's beginning in which its header ends."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Maps LPS to RAS, and RAS to LPS."""
_SPACE = re.compile(rb"SPACE\s*=\s*(RAS|LPS)\b")
_OBJ_HEADER = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*")


def declared_space(content: bytes, suffix: str) -> Literal["RAS", "LPS"] | None:
    """The axes that the header of a file declares; None where it does not.

    Args:
      content: of the file.
      suffix: .stl, .ply or .obj; other formats declare nothing.
    """
    found = _SPACE.search(_header(content, suffix))
    if found is None:
        return None
    return "RAS" if found[1] == b"RAS" else "LPS"


def _header(content: bytes, suffix: str) -> bytes:
    """The part of a file in which a comment may stand."""
    if suffix == ".stl":
        first_line = content[:1000].split(b"\n", 1)[0]
        return first_line if content.startswith(b"solid") else content[:STL_HEADER_BYTES]
    if suffix == ".ply":
        return content[: max(content.find(b"end_header"), 0)]
    if suffix == ".obj":
        found = _OBJ_HEADER.match(content)
        return found[0] if found else b""
    return b""


def encode(mesh: trimesh.Trimesh, suffix: str, title: str) -> bytes:
    """A surface as a file whose header says ``SPACE=RAS``.

    Args:
      mesh: mm.
      suffix: .stl (binary) or .ply.
      title: what the surface is, and in which frame, for the header: ASCII, at most 60 letters.
    """
    content = bytes(mesh.export(file_type=suffix[1:]))
    note = f"e2r {title}. SPACE=RAS".encode("ascii")
    if suffix == ".stl":  # readers take a header that begins with "solid" for text
        return _with_header(content, note)
    kind, form, rest = content.split(b"\n", 2)
    return b"\n".join([kind, form, b"comment " + note, rest])


def warn_stl(content: bytes, warning: str) -> bytes:
    """A binary STL whose header begins with a warning. A declared space stays in it.

    Args:
      content: a binary STL.
      warning: a few words, ASCII.

    Raises:
      ValueError: the header has no room for them.
    """
    return _with_header(content, warning.encode() + b": " + content[:STL_HEADER_BYTES].rstrip())


def _with_header(content: bytes, header: bytes) -> bytes:
    """A binary STL with another header."""
    if len(header) > STL_HEADER_BYTES:
        raise ValueError(f"an STL's header holds 80 bytes, not {len(header)}: {header!r}")
    return header.ljust(STL_HEADER_BYTES) + content[STL_HEADER_BYTES:]
