"""Levels by names and codes."""

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from e2r.formats import level_names
from e2r.geometry.anatomical_frame import LEVEL_ORDER

NAMES = {
    "vertebrae_L3": "L3",
    "L3 vertebra": "L3",
    "Third lumbar vertebra": "L3",
    "Third lumbar vertebra (body structure)": "L3",
    "3rd lumbar vertebra": "L3",
    "lumbar vertebra 3": "L3",
    "Lumbar3": "L3",
    "vertebraL3": "L3",
    "L3vertebra": "L3",
    "l03": "L3",
    "LWK3": "L3",
    "vertebrae_T12": "T12",
    "Th12": "T12",
    "twelfth thoracic vertebra": "T12",
    "T13": "T13",
    "L6": "L6",
    "vertebrae_C1": "C1",
    "vertebrae_S1": "S1",
    "sacrum": level_names.SACRUM,
    "Sacrum bone": level_names.SACRUM,
}
NO_LEVELS = (
    "disc_L3",
    "L3-L4",
    "L3/L4",
    "vertebrae",
    "vertebrae_body",
    "rib_left_3",
    "liver",
    "L7",
    "T14",
    "C8",
    "Segment_3",
    "sacrum_and_L5",
    "3",
    "nerve_root_L5",
    "L3 pedicle screw",
    "lumbar spine",
    "L3 vertebral body",
    "third rib",
    "thoracic vertebra L3",
    "Label 22",
    "",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_its_level(name):
    assert level_names.level_of_name(name) == NAMES[name]


@pytest.mark.parametrize("name", NO_LEVELS)
def test_another_structure_gives_none(name):
    assert level_names.level_of_name(name) is None


@pytest.mark.parametrize(
    ("stem", "level"),
    [
        ("vertebrae_L3", "L3"),
        ("L3", "L3"),
        ("patient12_vertebrae_L3_final", "L3"),
        ("vertebrae_T1", "T1"),
        ("T1", None),
        ("sub-01_T1_seg", None),
        ("patient12_L3_screw", None),
        ("vertebra_L3_disc", None),
        ("vertebrae_L3_vertebrae_L4", None),
        ("seg", None),
    ],
)
def test_a_file_name_gives_its_level(stem, level):
    assert level_names.level_of_file(stem) == level


def test_the_codes_are_those_that_pydicom_knows():
    """Both code systems; pydicom holds DICOM's own dictionaries."""
    for level in LEVEL_ORDER:
        if level in ("T13", "L6", "S1"):
            continue
        concept = getattr(codes.SCT, f"{level}Vertebra")
        assert level_names.level_of_code("SCT", concept.value, "") == level
        (old,) = [code for code, of in level_names.SNOMED_RT.items() if of == level]
        assert Code(old, "SRT", "any") == concept
        assert level_names.level_of_code("SRT", old, "") == level
    assert level_names.level_of_code("SCT", "11994002", "L3 vertebra") == "L4"  # the code counts
    assert level_names.level_of_code("FMA", "13074", "Third lumbar vertebra") == "L3"
    assert level_names.level_of_code("SCT", "10200004", "Liver") is None


def test_a_region_counts_for_a_general_kind_only():
    lumbar = ["SCT", "36470004", "L3 vertebra"]
    assert level_names.level_of_concepts(["SCT", "272673000", "Bone"], lumbar) == "L3"
    assert level_names.level_of_concepts(["SCT", "78972004", "Pedicle"], lumbar) is None
    assert level_names.level_of_concepts(lumbar, []) == "L3"
    assert level_names.level_of_concepts([], lumbar) is None
