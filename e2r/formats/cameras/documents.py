"""Files of camera parameters as nested dictionaries: JSON, YAML, OpenCV's XML, and INI."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml  # type: ignore[import-untyped]

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike

MAX_BYTES = 4_000_000
"""A file of camera parameters is small; a larger one is something else."""

OTHERS = (
    (rb'\s*(Intrinsic of |"?Width:\s+\d+\s+"?Height:)', "is what rs-enumerate-devices prints"),
    (rb"PK\x03\x04|\x93NUMPY", "is of NumPy"),
)
"""How files begin that people have in place of a camera file."""


def read_document(path: PathLike) -> dict[str, Any]:
    """Reads a file by its suffix: ``.yaml``, ``.yml``, ``.xml``, ``.conf``, ``.ini``; or JSON.

    Args:
      path: the file.

    Returns:
      Names and values; matrices of OpenCV are dictionaries with rows, cols and data.

    Raises:
      ValueError: the file is missing or broken; the message names it and the remedy.
    """
    readers = {
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
        ".xml": _read_xml,
        ".conf": _read_ini,
        ".ini": _read_ini,
    }
    path = Path(path)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: is too large for camera parameters; give the right file")
    head = path.read_bytes()[:200] if path.is_file() else b""
    for pattern, what in OTHERS:
        if re.match(pattern, head):
            raise ValueError(f"{path}: {what}; write its fx, fy, cx, cy and distortion as JSON")
    reader = readers.get(path.suffix.lower())
    return file_checks.read_json(path) if reader is None else reader(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a frame needs it") from None
    except (UnicodeDecodeError, OSError) as error:
        reason = file_checks.one_line(error)
        raise ValueError(f"{path}: is no text ({reason}); write it again") from None


# YAML ---------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain YAML, OpenCV's matrices, and numbers such as 1e-5, which are text in YAML 1.1."""


_Loader.add_constructor(
    "tag:yaml.org,2002:opencv-matrix",
    lambda loader, node: loader.construct_mapping(node, deep=True),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


_ODD_VALUES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What PyYAML lets through, for a date of month 13 for example."""


def parse_yaml(text: str) -> Any:
    """The first document of a text; ``%YAML:1.0`` of OpenCV before version 5 is no YAML.

    Args:
      text: of a file.

    Raises:
      ValueError: it is no YAML; the message is the reason alone.
    """
    plain_text = re.sub(r"\A\s*%YAML:[^\n]*\n", "", text)
    try:
        return next(iter(yaml.load_all(plain_text, _Loader)), None)
    except (yaml.YAMLError, *_ODD_VALUES) as error:
        raise ValueError(file_checks.one_line(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(_read_text(path))
    except ValueError as error:
        raise _broken(path, "plain YAML", error) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold names and values, not a {type(value).__name__}")
    return value


# XML and INI --------------------------------------------------------------------------------------


def _read_xml(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ValueError(f"{path}: defines entities; save it by OpenCV's FileStorage")
    try:
        root = ElementTree.fromstring(re.sub(r"\A\s*<\?xml[^>]*\?>", "", text))
        value = _element(root)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise _broken(path, "XML", error) from None
    if root.tag != "opencv_storage" or not isinstance(value, dict):
        raise ValueError(f"{path}: is not XML of OpenCV; give fx, fy, cx and cy as JSON")
    return value


def _element(element: ElementTree.Element) -> Any:
    """An element as a dictionary, a list of numbers, a number, or a text."""
    if len(element):
        found: dict[str, Any] = {}
        for index, child in enumerate(element):
            name = child.tag if child.tag not in found else f"{child.tag}_{index}"
            found[name] = _element(child)
        return found
    text = (element.text or "").strip()
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return text.strip('"')
    if element.tag == "data" or len(numbers) != 1:
        return numbers
    return numbers[0]


def _read_ini(path: Path) -> dict[str, Any]:
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#", ";"), default_section="\0"
    )
    try:
        parser.read_string(_read_text(path))
    except configparser.Error as error:
        raise _broken(path, "INI text", error) from None
    return {name: {k: _number(v) for k, v in parser[name].items()} for name in parser.sections()}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _broken(path: Path, kind: str, error: BaseException) -> ValueError:
    reason = file_checks.one_line(error)
    return ValueError(f"{path}: is not {kind} ({reason}); write it again")
