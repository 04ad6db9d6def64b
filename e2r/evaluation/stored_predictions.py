"""Predictions in a file, each found by the digest of its case: an id names a case only at home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from e2r.datasets.case import Case, case_digest
from e2r.formats import file_checks
from e2r.geometry import poses
from e2r.types import Pose

Line: TypeAlias = dict[str, Any]
"""A line of a file of predictions, as JSON values."""


MAX_EXPECTED_MM = 1e6
"""A larger expected TRE is none that e2r wrote."""


class StoredPrediction(NamedTuple):
    """What a file of predictions says of one case."""

    poses: dict[str, Pose]  # level -> camera from model
    case_digest: str  # of the case that was registered
    accepted: bool  # whether the poses may be used
    expected_tre_mm: float | None  # None without a calibration
    bound95_mm: float | None = None  # None as before
    levels: Mapping[str, Mapping[str, Any]] = MappingProxyType({})  # as in the file; maybe empty

    @property
    def unseen(self) -> tuple[str, ...]:
        """The levels that no point holds: acceptance says nothing of them."""
        if self.expected_tre_mm is None:
            return ()
        known = {name: one.get("expected_tre_mm") for name, one in self.levels.items()}
        return tuple(name for name in self.poses if name in known and known[name] is None)

    @property
    def verdict(self) -> str:
        """Whether the poses may be used, and their expected error, in a few words."""
        words = "accepted" if self.accepted else "not accepted"
        if self.expected_tre_mm is not None:
            words += f", expected TRE {self.expected_tre_mm:.1f} mm"
        return f"{words}, without {', '.join(self.unseen)}" if self.unseen else words


def read_prediction(path: Path, case: Case) -> StoredPrediction:
    """Reads the last prediction of a case.

    Args:
      path: a ``predictions.jsonl``.
      case: the case; the line must hold its digest.

    Raises:
      ValueError: no such file, a broken line, or no prediction of this very case.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run e2r register first")
    line = find_line(read_lines(path), case, path)
    matrices = line["T_camera_model"]
    levels = line.get("levels")
    levels = levels if isinstance(levels, dict) else {}
    return StoredPrediction(
        poses={
            str(name): poses.from_matrix(matrix, f"{path}: {case.id}: {name}")
            for name, matrix in matrices.items()
        },
        case_digest=line["case_digest"],
        accepted=line.get("accepted") is True,
        expected_tre_mm=_millimetres(line.get("expected_tre_mm")),
        bound95_mm=_millimetres(line.get("bound95_mm")),
        levels={str(name): one for name, one in levels.items() if isinstance(one, dict)},
    )


def _millimetres(value: Any) -> float | None:
    """A number that e2r may have written, or None."""
    known = isinstance(value, int | float) and abs(value) < MAX_EXPECTED_MM
    return float(value) if known else None


def read_lines(path: Path) -> list[Line]:
    """Reads the lines of a file of predictions; empty ones are skipped.

    Args:
      path: the file.

    Raises:
      ValueError: a line is not a JSON object.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = []
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            value = file_checks.parse_json(row)
        except ValueError:
            raise ValueError(f"{path}: line {number} is not JSON; delete it") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; delete it")
        lines.append(value)
    return lines


def require_appendable(path: Path) -> None:
    """Refuses a file to which predictions cannot be appended: its first line is none.

    The last line is not asked: a process that was killed may have left half of it.

    Args:
      path: the file; it need not be there.

    Raises:
      ValueError: the file holds something else.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((row for row in file if row.strip()), None)
    if first is None:
        return
    try:
        value = file_checks.parse_json(first)
    except ValueError:
        value = None
    if not (isinstance(value, dict) and {"id", "T_camera_model"} <= value.keys()):
        raise ValueError(
            f"{path}: holds no predictions, so none is appended; name another file with --output"
        )


def find_line(lines: Sequence[Line], case: Case, path: Path) -> Line:
    """Finds the last line with poses of a case.

    A line counts for a case if it holds the case's digest. A line of the same id is refused if it
    holds another digest, and if it holds none: another patient's case may have the same id.

    Args:
      lines: of the file.
      case: the case.
      path: the file, for the message.

    Raises:
      ValueError: there is no such line.
    """
    digest = case_digest(case)
    own = [line for line in lines if line.get("case_digest") == digest and _has_poses(line)]
    if own:
        return own[-1]
    named = [line for line in lines if line.get("id") == case.id]
    if not named:
        raise ValueError(f"{path}: has no prediction of {case.id}; register it first")
    last = named[-1]
    if not _has_poses(last):
        raise ValueError(f"{path}: {case.id} has no poses ({last.get('error')}); register it again")
    if not isinstance(last.get("case_digest"), str):
        raise ValueError(
            f"{path}: the prediction of {case.id} does not say of which model and frame it is "
            "(an older e2r wrote it); register it again"
        )
    raise ValueError(
        f"{path}: the prediction of {case.id} is of another case of this id, with another model "
        "or frame; register this one"
    )


def _has_poses(line: Line) -> bool:
    matrices = line.get("T_camera_model")
    return isinstance(matrices, dict) and bool(matrices)
