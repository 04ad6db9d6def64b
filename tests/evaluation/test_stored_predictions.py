"""A prediction serves its own case, whatever else has its id."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_cases import prediction_line, small_case, write_lines

from e2r.datasets import case_folder
from e2r.datasets.case import case_digest
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.predictions import Prediction
from e2r.evaluation.stored_predictions import read_prediction

BOM = b"\xef\xbb\xbf"


def x_of(pose):
    return float(pose.translation[0])


def exported_x(path, case):
    found = read_prediction(path, case)
    assert list(found.poses) == list(case.model)
    return {x_of(pose) for pose in found.poses.values()}


@pytest.fixture
def patients():
    """Two patients whose cases have one id."""
    return small_case("frame1", seed=1), small_case("frame1", seed=2)


# The digest ---------------------------------------------------------------------------------------


def moved_level(case):
    mesh = case.model["L2"].copy()
    mesh.vertices[3] += [0.0, 0.0, 0.01]
    return replace(case, model={**case.model, "L2": mesh})


def moved_point(case):
    points = np.array(case.points)
    points[7, 2] += 0.02
    return replace(case, points=points)


def other_colour(case):
    colors = np.array(case.colors)
    colors[5, 1] = 1.0 - colors[5, 1]
    return replace(case, colors=colors)


def turned_normals(case):
    return replace(case, normals=-case.points / np.linalg.norm(case.points, axis=1)[:, None])


OTHER_CASES = {
    "a vertex": moved_level,
    "a name": lambda case: replace(
        case, model={"L1": case.model["L1"], "L3": case.model["L2"]}, truth=None, targets=None
    ),
    "two levels' names": lambda case: replace(
        case, model={"L1": case.model["L2"], "L2": case.model["L1"]}
    ),
    "a level less": lambda case: replace(case, model={"L1": case.model["L1"]}),
    "a point": moved_point,
    "a point less": lambda case: replace(
        case, points=case.points[1:], colors=case.colors[1:], bone=None
    ),
    "a colour": other_colour,
    "normals": turned_normals,
}


@pytest.mark.parametrize("name", OTHER_CASES)
def test_another_model_or_frame_has_another_digest(name):
    case = small_case()
    assert case_digest(OTHER_CASES[name](case)) != case_digest(case)


@pytest.mark.parametrize("cloud", [False, True])
def test_a_case_keeps_its_digest_where_it_is_written_renamed_or_moved(cloud, tmp_path):
    case = small_case(seed=3, cloud=cloud)
    case_folder.write_case(case, tmp_path / "one")
    first = case_folder.read_case(tmp_path / "one")
    if not cloud:  # a PLY file keeps colours in 8 bits, and a digest is that of the file
        assert case_digest(first) == case_digest(case)
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    (tmp_path / "elsewhere" / "two" / "truth.json").unlink()
    second = replace(case_folder.read_case(tmp_path / "elsewhere" / "two"), id="b", source="c")
    backwards = replace(second, model=dict(reversed(second.model.items())))
    assert case_digest(first) == case_digest(second) == case_digest(backwards)


# Predictions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("start", [b"", BOM])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_two_patients_of_one_id_get_their_own_poses(patients, swapped, start, end, tmp_path):
    lines = [
        prediction_line(case, shift) for case, shift in zip(patients, (1.0, 144.0), strict=True)
    ]
    path = tmp_path / "p.jsonl"
    write_lines(path, *(reversed(lines) if swapped else lines), start=start, end=end)
    assert exported_x(path, patients[0]) == {1.0}
    assert exported_x(path, patients[1]) == {144.0}


def test_the_last_of_several_predictions_of_a_case_counts(patients, tmp_path):
    own, other = patients
    lines = (prediction_line(own, 1.0), prediction_line(own, 2.0), prediction_line(other, 3.0))
    path = write_lines(tmp_path / "p.jsonl", *lines)
    assert exported_x(path, own) == {2.0}
    failed = prediction_line(own, error="lost")
    write_lines(path, *lines, {**failed, "case_digest": None})
    assert exported_x(path, own) == {2.0}


def test_a_renamed_case_finds_its_prediction(patients, tmp_path):
    path = write_lines(tmp_path / "p.jsonl", prediction_line(patients[0], 5.0))
    assert exported_x(path, replace(patients[0], id="renamed")) == {5.0}


def without_digest(case):
    return {k: v for k, v in prediction_line(case).items() if k != "case_digest"}


REFUSED = {
    "of another patient": (lambda own, other: [prediction_line(other)], "of another case"),
    "without a digest": (lambda own, other: [without_digest(own)], "register it again"),
    "without a digest, twice": (
        lambda own, other: [without_digest(other), without_digest(own)],
        "register it again",
    ),
    "with a digest that is a number": (
        lambda own, other: [{**prediction_line(own), "case_digest": 3}],
        "register it again",
    ),
    "with an empty digest": (
        lambda own, other: [{**prediction_line(own), "case_digest": ""}],
        "of another case",
    ),
    "that failed": (
        lambda own, other: [{**prediction_line(own, error="lost"), "case_digest": None}],
        r"has no poses \(lost\)",
    ),
    "of others only": (
        lambda own, other: [prediction_line(replace(other, id="frame2"))],
        "no prediction of frame1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_prediction_is_refused(name, patients, tmp_path):
    lines, words = REFUSED[name]
    path = write_lines(tmp_path / "p.jsonl", *lines(*patients))
    with pytest.raises(ValueError, match=words) as caught:
        read_prediction(path, patients[0])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", '{"id": "a"}\n{"id": "b', "\x00"])
def test_a_file_that_holds_no_lines_of_json_is_refused(text, patients, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"line \d is"):
        read_prediction(path, patients[0])


def test_lines_of_an_older_e2r_are_read_for_summary_and_report(patients):
    old = Prediction.from_json(without_digest(patients[0]))
    assert old.case_digest is None and old.accepted
    without = {"bound95_mm", "levels"}
    plain = {k: v for k, v in prediction_line(patients[0]).items() if k not in without}
    older = Prediction.from_json(plain)
    assert older.bound95_mm is None and not older.levels
    new = Prediction.from_json(prediction_line(patients[0]))
    assert new.to_json() == prediction_line(patients[0])


# Initial poses ------------------------------------------------------------------------------------


def test_each_case_starts_at_its_own_prediction(patients, tmp_path):
    own, other = patients
    path = write_lines(tmp_path / "p.jsonl", prediction_line(own, 1.0), prediction_line(other, 2.0))
    given = read_initial_poses(str(path))
    assert x_of(given.of(own)) == 1.0  # the last line is of the other
    assert x_of(given.of(other)) == 2.0


@pytest.mark.parametrize("name", REFUSED)
def test_a_foreign_prediction_is_no_start(name, patients, tmp_path):
    lines, words = REFUSED[name]
    given = read_initial_poses(str(write_lines(tmp_path / "p.jsonl", *lines(*patients))))
    with pytest.raises(ValueError, match=words):
        given.of(patients[0])


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(
    "text",
    [
        "[[1,0,0,7],[0,1,0,0],[0,0,1,9],[0,0,0,1]]",
        '{"T_camera_model": [[1,0,0,7],[0,1,0,0],[0,0,1,9],[0,0,0,1]]}',
        '{"T_camera_model": {"L1": [[1,0,0,7],[0,1,0,0],[0,0,1,9],[0,0,0,1]]}}',
        "[[1,0,0,7],\n [0,1,0,0],\n [0,0,1,9],\n [0,0,0,1]]\n",
    ],
)
def test_a_bare_pose_is_the_start_of_every_case(text, start, patients, tmp_path):
    path = tmp_path / "start.json"
    path.write_text(start + text, encoding="utf-8")
    given = read_initial_poses(str(path))
    assert [x_of(given.of(case)) for case in patients] == [7.0, 7.0]


def test_no_file_gives_no_pose(patients):
    for word in ("auto", "truth"):
        assert read_initial_poses(word).of(patients[0]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "is not JSON"),
        (b"", "is not JSON"),
        (b"[[1, 0], [0, 1]]", "4x4"),
        (b'{"id": "a", "T_camera_model": {"L1": [[1]]}}', "4x4"),
        (b"null", "4x4"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_a_start_without_a_pose_is_refused_before_the_work(content, words, tmp_path):
    path = tmp_path / "start.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_initial_poses(str(path))
