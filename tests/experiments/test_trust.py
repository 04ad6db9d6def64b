"""The study of what a prediction's own word is worth counts what it says it counts."""

from dataclasses import replace

import pytest
from small_cases import small_case

from e2r.datasets import case_folder
from experiments.studies import trust


def row(set_, arm, accepted, levels, probability=0.9):
    return {
        "set": set_,
        "arm": arm,
        "accepted": accepted,
        "probability": probability,
        "levels": {
            f"L{n}": {"tre_mm": tre, "expected_tre_mm": expected, "bound95_mm": bound}
            for n, (tre, expected, bound) in enumerate(levels)
        },
    }


ROWS = [
    row("a", "as they are", True, [(1.0, 1.5, 3.0), (4.0, 1.5, 3.0)]),
    row("a", "as they are", False, [(30.0, 2.0, 60.0)], probability=0.3),
    row("b", "as they are", True, [(1.0, 1.0, 2.0), (6.0, 2.0, 8.0), (2.0, 2.0, 4.0)], 0.99),
    row("a", "half covered", True, [(2.0, None, None)], probability=0.99),
    row("a", "another's model", True, [], probability=0.7),
    row("a", "another's model", False, [], probability=0.1),
]


def test_accepted_frames_wrong_levels_and_bounds_are_counted():
    columns, table = trust.tabulate(ROWS)
    found = {tuple(line[:2]): dict(zip(columns, line, strict=True)) for line in table}
    first = found["a", "as they are"]
    assert (first["frames"], first["accepted (%)"], first["levels of these"]) == (2, 50.0, 2)
    assert first["every level below 5 mm (%)"] == 50.0
    assert first["a level 5 mm off, of these (%)"] == 0.0
    assert first["bound holds (%)"] == 50.0
    assert first["expected within a factor of 2 (%)"] == 50.0
    assert found["b", "as they are"]["a level 5 mm off, of these (%)"] == 100.0
    assert found["a", "half covered"]["bound holds (%)"] is None
    own, others = found["all", "its own model"], found["all", "another's model"]
    assert (own["frames"], own["accepted (%)"]) == (4, 75.0)
    assert own["every level below 5 mm (%)"] == 50.0
    assert others["every level below 5 mm (%)"] is None
    assert own["a level 5 mm off, of these (%)"] == pytest.approx(33.3)
    assert (others["frames"], others["accepted (%)"]) == (2, 50.0)


def test_poses_are_right_by_their_middle_level():
    columns, table = trust.reliability(ROWS)
    found = {line[0]: dict(zip(columns, line, strict=True)) for line in table}
    assert found["0 to 0.5"]["right (%)"] == 0.0
    assert found["0.98 to 1"]["poses"] == 2 and found["0.98 to 1"]["right (%)"] == 100.0
    assert found["0.5 to 0.8"]["right (%)"] == 0.0  # another's model
    assert found["0.9 to 0.95"]["mean probability (%)"] == 90.0


def test_the_arms_change_the_cases(simulated_cases, tmp_path):
    whole = simulated_cases[0]
    fewer = replace(
        whole,
        id="fewer",
        source="fewer",
        model={name: mesh for name, mesh in whole.model.items() if name != "L5"},
        truth={name: pose for name, pose in whole.truth.items() if name != "L5"},
        targets=None,
    )
    for case in (fewer, whole):
        case_folder.write_case(case, tmp_path / case.id)
    folders = case_folder.find_cases(tmp_path)
    plain, covered, strange = (list(trust.changed(folders, arm, seed=0)) for arm in trust.ARMS)
    for case, hidden, other in zip(plain, covered, strange, strict=True):
        assert hidden.bone.sum() == pytest.approx(0.5 * case.bone.sum(), rel=0.1)
        assert other.id == case.id and other.truth is None
        assert hidden.folder is None and case.folder is not None
        assert ("L5" in other.model) != ("L5" in case.model)


def test_one_specimen_has_no_stranger(tmp_path, capsys):
    case = small_case()
    for name in ("a", "b"):
        case_folder.write_case(replace(case, id=name), tmp_path / "cases" / name)
    arguments = ["--cases", str(tmp_path / "cases"), "--output", str(tmp_path / "out")]
    assert trust.main(arguments) == 2
    assert "has one specimen only; leave out --arms" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_arm_is_named(tmp_path, capsys):
    arguments = ["--cases", str(tmp_path), "--output", str(tmp_path / "out"), "--arms", "none"]
    assert trust.main(arguments) == 2
    assert "--arms 'none': use some of as they are" in capsys.readouterr().err
