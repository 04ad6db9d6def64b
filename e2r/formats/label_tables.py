"""Tables of label names: in a NIfTI header, or in a text or JSON file beside the label map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike

SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Of label maps."""
TABLE_ENDINGS = (".txt", ".label", ".lbl", ".json", ".tsv", ".ctbl", "_ColorTable.ctbl")
"""Of a table beside a label map, after the map's name without its suffix."""
BACKGROUND = ("background", "clear label", "unlabeled", "unlabelled")
MAX_BYTES = 1_000_000
"""A larger file is no table of names."""


def read_extensions(contents: Sequence[bytes]) -> dict[int, str]:
    """Label names from a NIfTI header's extensions.

    TotalSegmentator and Connectome Workbench write an XML ``LabelTable``.

    Args:
      contents: of the extensions.

    Returns:
      label -> name; empty if no extension holds a table.
    """
    for content in contents:
        text = content.strip(b"\0 \t\r\n")
        if b"<LabelTable" not in text or b"<!ENTITY" in text:
            continue
        try:
            root = ElementTree.fromstring(text)
            rows = [(int(row.attrib["Key"]), row.text or "") for row in root.iter("Label")]
        except (ElementTree.ParseError, KeyError, ValueError):
            continue
        return _without_background(dict(rows))
    return {}


def stem_of(path: PathLike) -> str:
    """The name of a label map without its suffix.

    Args:
      path: of the label map.
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def read_beside(path: PathLike) -> dict[int, str]:
    """Label names from a table that lies beside a label map and has its name.

    Args:
      path: of the label map.

    Returns:
      label -> name; empty if there is no table, or the file is something else.
    """
    path = Path(path)
    places = [path.with_name(stem_of(path) + ending) for ending in TABLE_ENDINGS]
    for place in [*places, path.with_name("dataset.json")]:
        if place.is_file() and place.stat().st_size <= MAX_BYTES:
            try:
                return read_table(place)
            except ValueError:  # another file that has this name by chance
                continue
    return {}


def read_table(path: PathLike) -> dict[int, str]:
    """Reads a table of label names.

    Args:
      path: of ITK-SNAP (``0 0 0 0 0 0 0 "name"``), of 3D Slicer (``1 name 255 0 0 255``), of BIDS
        (columns ``index`` and ``name``), of nnU-Net (``dataset.json``), or a JSON object from
        number to name or from name to number.

    Returns:
      label -> name, without the background.

    Raises:
      ValueError: the file is none of these.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        text = path.read_text(encoding="utf-8-sig")
        names = _from_json(text) if text.lstrip()[:1] in "{[" else _from_lines(text)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: is no table of label names ({file_checks.one_line(error)}); give ITK-SNAP's "
            'label descriptions, or JSON such as {"22": "L3"}'
        ) from None
    return names


def _from_json(text: str) -> dict[int, str]:
    """A JSON object in one of its two directions, at its top or under ``labels``."""
    value = file_checks.parse_json(text)
    if isinstance(value, dict) and isinstance(value.get("labels"), dict):
        value = value["labels"]
    if not isinstance(value, dict) or not value:
        raise ValueError("it is no object")
    if all(re.fullmatch(r"\d{1,5}", key) and isinstance(name, str) for key, name in value.items()):
        return _without_background({int(key): name for key, name in value.items()})
    if all(type(number) is int and number >= 0 for number in value.values()):
        names = {number: name for name, number in value.items()}
        if len(names) == len(value):
            return _without_background(names)
    raise ValueError("its entries are no numbers and names")


def _from_lines(text: str) -> dict[int, str]:
    """Rows of ITK-SNAP, 3D Slicer or BIDS; lines that begin with # are comments."""
    rows = [line.strip() for line in text.splitlines()]
    rows = [line for line in rows if line and not line.startswith("#")]
    names: dict[int, str] = {}
    column = None
    if rows and re.match(r"index\s", rows[0]):
        header = rows.pop(0).split("\t")
        column = header.index("name") if "name" in header else None
        if column is None:
            raise ValueError("it has no column `name`")
    for row in rows:
        snap = re.fullmatch(r'(\d+)(?:\s+[\d.]+){6}\s+"([^"]*)"', row)
        slicer = re.fullmatch(r"(\d+)\s+(\S*[A-Za-z].*?)(?:\s+\d{1,3}){3,4}", row)
        cells = row.split("\t")
        if column is not None and len(cells) > column and cells[0].isdecimal():
            names[int(cells[0])] = cells[column]
        elif found := snap or slicer:
            names[int(found[1])] = found[2].replace("_", " ")
        else:
            raise ValueError(f"the line {row[:40]!r} is no label")
    if not names:
        raise ValueError("it is empty")
    return _without_background(names)


def _without_background(names: dict[int, str]) -> dict[int, str]:
    return {
        number: name.strip()
        for number, name in names.items()
        if number > 0 and name.strip() and name.strip().lower() not in BACKGROUND
    }
