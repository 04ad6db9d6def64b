"""Tables of label names, in a header and beside a label map; the numberings themselves."""

import json
from typing import get_args, get_type_hints

import made_up_spines
import numpy as np
import pytest

from e2r.cli import convert
from e2r.formats import label_numberings, label_tables, label_volumes

NAMES = {20: "L1", 21: "L2"}
TABLES = {
    "a.txt": "# ITK-SnAP Label Description File\n"
    '    0     0    0    0        0  0  0    "Clear Label"\n'
    '   20   255    0    0        1  1  1    "L1"\n   21     0  255    0      0.5  1  1    "L2"\n',
    "a_ColorTable.ctbl": "# 3D Slicer\n0 background 0 0 0 0\n20 L1 255 0 0 255\n21 L2 0 1 2 255\n",
    "a.tsv": "index\tname\tabbreviation\n0\tbackground\tx\n20\tL1\tx\n21\tL2\tx\n",
    "a.json": json.dumps({"20": "L1", "21": "L2"}),
    "dataset.json": json.dumps({"labels": {"background": 0, "L1": 20, "L2": 21}, "x": 1}),
    "a.label": '20 1 2 3 1 1 1 "L1"\n21 1 2 3 1 1 1 "L2"\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_alone_and_beside_its_map(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name])
    assert label_tables.read_table(tmp_path / name) == NAMES
    assert label_tables.read_beside(tmp_path / "a.nii.gz") == NAMES
    assert label_tables.read_beside(tmp_path / "b.nii.gz") == (NAMES if "data" in name else {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{}",
        '{"Modality": "CT", "EchoTime": 3}',
        '{"L1": 1, "L2": 1}',
        "one line of prose",
        "index\tlabel\n1\tL1\n",
        "\x00\x01",
    ],
)
def test_another_file_is_refused_or_passed_by(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no table of label names") as caught:
        label_tables.read_table(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert label_tables.read_beside(tmp_path / "a.nrrd") == {}


def test_the_table_in_a_nifti_header_is_read(tmp_path):
    labels = made_up_spines.stack({"L1": 3, "L2": 5})
    names = {1: "spleen", 3: "vertebrae_L1", 5: "vertebrae_L2"}
    path = made_up_spines.write_nifti(tmp_path / "a.nii.gz", labels, names=names)
    (volume,) = label_volumes.read(path)
    assert volume.names == names
    np.testing.assert_array_equal(volume.labels, labels)
    for broken in (b"<LabelTable><Label Key='x'>a</Label></LabelTable>", b"<LabelTable", b"text"):
        assert label_tables.read_extensions([broken]) == {}


def test_the_numberings_are_those_of_the_programs():
    """Class maps of TotalSegmentator 1.5.7 and 2.18.0; VerSe's paper."""
    of = label_numberings.NUMBERINGS
    v1, v2, mr = of["totalsegmentator-v1"], of["totalsegmentator-v2"], of["totalsegmentator-mr"]
    assert (v1[18], v1[22], v1[23], v1[34], v1[35], v1[41]) == ("L5", "L1", "T12", "T1", "C7", "C1")
    assert (v2[26], v2[27], v2[31], v2[32], v2[43], v2[50]) == ("S1", "L5", "L1", "T12", "T1", "C1")
    assert (mr[2], mr[6], mr[7], mr[18], mr[19], mr[25]) == ("L5", "L1", "T12", "T1", "C7", "C1")
    assert of["totalsegmentator-v3"][26] == "L6" and of["verse"][20] == "L1"
    assert v1[92] == v2[25] == mr[1] == "sacrum"
    assert len(v1) == len(v2) - 1 == len(mr) == 25
    assert 17 not in v1 and 42 not in v1 and 24 not in v2 and 51 not in v2 and 26 not in mr
    offered = get_args(get_args(get_type_hints(convert.Ct)["numbering"])[0])
    assert offered == get_args(label_numberings.Numbering)
