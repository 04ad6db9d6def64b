"""JSON whose brackets are too deep: one sentence from each reader, whatever Python makes of it."""

import struct

import pytest

from e2r.adaptation.report import read_report
from e2r.datasets import recordings
from e2r.evaluation.calibration import CALIBRATION_FILE, load_calibration
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.patient import PATIENT_FILE, read_patient
from e2r.evaluation.stored_predictions import read_lines
from e2r.formats import extrinsics, file_checks, glb, label_tables
from e2r.tracking.track_files import POSES_FILE, read_track

DEEP = "[" * 100_000
READERS = {
    "file.json": file_checks.read_json,
    "poses.json": lambda path: read_initial_poses(str(path)),
    "predictions.jsonl": read_lines,
    "labels.json": label_tables.read_table,
    "motion.json": extrinsics.read_color_from_depth,
    "motion.yaml": extrinsics.read_color_from_depth,
    "report.json": read_report,
    CALIBRATION_FILE: lambda path: load_calibration(path.parent),
    PATIENT_FILE: lambda path: read_patient(path.parent),
    POSES_FILE: lambda path: read_track(path.parent),
    recordings.TRUTH: lambda path: recordings.read_truth(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_brackets_that_are_too_deep_are_refused_in_one_sentence(name, tmp_path):
    path = tmp_path / name
    path.write_text(DEEP)
    with pytest.raises(ValueError, match=name) as refused:
        READERS[name](path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_gltf_whose_brackets_are_too_deep_is_broken():
    text = DEEP.encode()
    chunk = struct.pack("<II", len(text), 0x4E4F534A) + text
    content = struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk
    with pytest.raises(ValueError, match=r"too deep.*export it again"):
        glb.read_scene(content)
