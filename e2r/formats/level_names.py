"""Levels by the names and the codes that people and programs give them."""

from __future__ import annotations

import re
from itertools import pairwise

from e2r.geometry.anatomical_frame import LEVEL_ORDER

SACRUM = "sacrum"
"""The whole sacrum. It becomes S1 where no other structure is S1."""
ORDINALS = re.findall(
    r"\w+",
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth",
)
REGIONS = {"cervical": "C", "thoracic": "T", "dorsal": "T", "lumbar": "L", "sacral": "S"}
PREFIXES = {"hwk": "C", "bwk": "T", "lwk": "L", "th": "T", **{r: r.upper() for r in "ctls"}}
"""Letters before a number, German ones as well."""
BONES = {"vertebra", "vertebrae", "vertebral", "vert"}
NEUTRAL = (
    BONES
    | set(REGIONS)
    | set(
        re.findall(
            r"\w+",
            "bone level segment segmentation seg mask msk label spine ct preop the of entire",
        )
    )
)
"""Words that leave a name's meaning as it is. Any other word makes it another structure."""
PARTS = set(
    re.findall(
        r"\w+",
        "disc discs disk disks ivd body endplate pedicle lamina process facet joint screw implant "
        "rod cage nerve root rib ribs cord canal artery vein muscle lesion tumor tumour fracture",
    )
)
"""Words beside a level in a file's name that say: this is not the vertebra."""
CONCEPTS = """
C1 14806007   C2 39976000   C3 113205007  C4 5329002    C5 36978003   C6 36054005   C7 87391001
T1 64864005   T2 53733008   T3 1626008    T4 73071006   T5 56401006   T6 45296009   T7 62487009
T8 11068009   T9 82687006   T10 7610001   T11 12989004  T12 23215003
L1 66794005   L2 14293000   L3 36470004   L4 11994002   L5 49668003   S1 65985001
sacrum 54735007
"""
SNOMED = {code: level for level, code in re.findall(r"(\w+) (\d+)", CONCEPTS)}
"""SNOMED CT code -> level (CID 7603 of DICOM PS3.16; S1 as TotalSegmentator 2.18 writes it)."""
SNOMED_RT = {
    f"T-11{digit}{i:X}0": f"{region}{i}"
    for region, digit, count in (("C", 6, 7), ("T", 7, 12), ("L", 9, 5))
    for i in range(1, count + 1)
}
"""The older codes (SRT) of the same concepts."""
GENERAL_CONCEPTS = (
    "272673000",
    "51282000",
    "85756007",
    "123037004",
    "T-D016E",
    "T-11500",
    "T-D0050",
)
"""Bone, vertebra, tissue, anatomical structure: of such a kind, the region names the level."""


def level_of_name(name: str) -> str | None:
    """The level that a structure's name means, or None.

    ``vertebrae_L3``, ``L3 vertebra``, ``Third lumbar vertebra``, ``lumbar 3`` and ``LWK3`` are L3.
    ``disc_L3`` and ``L3-L4`` are none.

    Args:
      name: of a segment or label.

    Returns:
      A name of `LEVEL_ORDER`, `SACRUM`, or None.
    """
    words = _words(name)
    levels = {level for word in words if (level := _level(word))}
    rest = [word for word in words if not _level(word)]
    regions = {REGIONS[word] for word in rest if word in REGIONS}
    numbers = {number for word in rest if (number := _number(word))}
    rest = [word for word in rest if not _number(word)]
    if "sacrum" in rest and not (levels or numbers or regions):
        return SACRUM if set(rest) <= NEUTRAL | {"sacrum"} else None
    if not set(rest) <= NEUTRAL:
        return None
    if numbers:
        levels |= {f"{region}{number}" for region in regions for number in numbers}
    if len(levels) != 1 or (numbers and not regions):
        return None
    (level,) = levels
    if level not in LEVEL_ORDER or (regions and regions != {level[0]}):
        return None
    return level


def level_of_file(stem: str) -> str | None:
    """The level that a file's name means, or None.

    A word such as ``vertebrae`` right before the level lets other words stand beside it. T1 and T2
    alone are kinds of MR pictures.

    Args:
      stem: the file's name without its suffix.
    """
    level = level_of_name(stem)
    words = _words(stem)
    if level in ("T1", "T2") and not BONES & set(words):
        return None
    if level is not None or PARTS & set(words):
        return level
    named = {
        following
        for word, after in pairwise(words)
        if word in BONES and (following := level_of_name(after))
    }
    all_levels = {found for word in words if (found := _level(word))}
    return named.pop() if len(named) == 1 and len(all_levels) == 1 else None


def may_be_a_subject(stem: str) -> bool:
    """Whether the S1 of a file's name may be the first subject: no bone's word stands before it.

    Args:
      stem: the file's name without its suffix.
    """
    words = _words(stem)
    named = any(word in BONES and after == "s1" for word, after in pairwise(words))
    return "s1" in words and not named and not {"sacral", "sacrum"} & set(words)


def level_of_code(scheme: str, value: str, meaning: str) -> str | None:
    """The level of a coded concept, or None.

    Args:
      scheme: its coding scheme: SCT, SRT, SNM3, FMA, ...
      value: its code.
      meaning: its text, which counts where the scheme is another one.
    """
    if scheme == "SCT" and value in SNOMED:
        return SNOMED[value]
    if scheme in ("SRT", "SNM3", "99SDM") and value in SNOMED_RT:
        return SNOMED_RT[value]
    return level_of_name(meaning)


def level_of_concepts(kind: list[str], region: list[str]) -> str | None:
    """The level of a structure by its coded kind, or by its region if the kind is general.

    Args:
      kind: scheme, code and meaning of what the structure is.
      region: the same of where it lies.
    """
    if len(kind) >= 3 and (level := level_of_code(kind[0], kind[1], kind[2])):
        return level
    if len(kind) >= 3 and kind[1] in GENERAL_CONCEPTS and len(region) >= 3:
        return level_of_code(region[0], region[1], region[2])
    return None


def _words(name: str) -> list[str]:
    """Lower-case words: split at signs, before capitals, and between a number and a long word."""
    name = re.sub(r"\(body structure\)", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    name = re.sub(r"(?<=\d)(?=[A-Za-z]{3,})", " ", name)
    return re.findall(r"[a-z0-9]+", name.lower())


def _level(word: str) -> str | None:
    """The level that one word such as ``l3``, ``th12`` or ``lumbar3`` means."""
    match = re.fullmatch(r"([a-z]+)0?(\d{1,2})", word)
    if match is None:
        return None
    region = REGIONS.get(match[1]) or PREFIXES.get(match[1])
    level = f"{region}{match[2]}"
    return level if region and level in LEVEL_ORDER else None


def _number(word: str) -> int | None:
    """The number that ``3``, ``3rd`` or ``third`` means."""
    if word in ORDINALS:
        return ORDINALS.index(word) + 1
    match = re.fullmatch(r"0?([1-9]\d?)(st|nd|rd|th)?", word)
    return int(match[1]) if match else None
