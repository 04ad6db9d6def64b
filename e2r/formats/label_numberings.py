"""The label numbers that programs and data sets give to levels."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from e2r.formats.level_names import SACRUM

Numbering: TypeAlias = Literal[
    "verse",
    "totalsegmentator-v1",
    "totalsegmentator-v2",
    "totalsegmentator-v3",
    "totalsegmentator-mr",
]
UPWARDS = (
    *(f"L{i}" for i in range(5, 0, -1)),
    *(f"T{i}" for i in range(12, 0, -1)),
    *(f"C{i}" for i in range(7, 0, -1)),
)
"""TotalSegmentator's order of the levels, from tail to head."""
VERSE: dict[int, str] = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{7 + i: f"T{i}" for i in range(1, 13)},
    **{19 + i: f"L{i}" for i in range(1, 7)},
    26: "S1",
    28: "T13",
}
"""VerSe's label numbers (Sekuboyina et al., Medical Image Analysis 2021); 26 is the sacrum.

TotalSegmentator's task ``vertebrae_pp`` has the same numbers from C1 to L5.
"""
TOTALSEGMENTATOR_V1 = {**{18 + i: level for i, level in enumerate(UPWARDS)}, 92: SACRUM}
"""``total`` of TotalSegmentator 1.5.7, ``total_v1`` of 2.18.0: 18 is L5, 41 is C1."""
TOTALSEGMENTATOR_V2 = {25: SACRUM, 26: "S1", **{27 + i: level for i, level in enumerate(UPWARDS)}}
"""``total`` of TotalSegmentator 2.18.0: 27 is L5, 50 is C1."""
TOTALSEGMENTATOR_V3 = {**TOTALSEGMENTATOR_V2, 26: "L6"}
"""``total_v3`` of TotalSegmentator 2.18.0: as v2, but 26 is L6."""
TOTALSEGMENTATOR_MR = {1: SACRUM, **{2 + i: level for i, level in enumerate(UPWARDS)}}
"""``vertebrae_mr`` of TotalSegmentator 2.18.0: 2 is L5, 25 is C1.

Its task ``total_mr`` gives no levels: 18 is the sacrum, and 19 is all vertebrae together.
"""
NUMBERINGS: dict[Numbering, dict[int, str]] = dict(
    zip(
        get_args(Numbering),
        (VERSE, TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2, TOTALSEGMENTATOR_V3, TOTALSEGMENTATOR_MR),
        strict=True,
    )
)
LAST_LABELS: dict[Numbering, int] = {
    "verse": 28,
    "totalsegmentator-v1": 104,
    "totalsegmentator-v2": 117,
    "totalsegmentator-v3": 117,
    "totalsegmentator-mr": 25,
}
"""Largest number of each. A map with a larger one is of another kind.

VerSe's numbers are also those of SPINEPS, which adds discs and endplates from 100 on.
"""


def allows(numbering: Numbering, label: int) -> bool:
    """Whether a map of this numbering may hold a label.

    Args:
      numbering: its name.
      label: the number.
    """
    return label <= LAST_LABELS[numbering] or (numbering == "verse" and label >= 100)
