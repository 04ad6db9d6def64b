"""Data sets give the figures of plain case folders; the protocols run all their folds."""

import json
from dataclasses import replace

import layouts
import numpy as np
import pytest
from conftest import TINY

from e2r.cli import main
from e2r.cli.errors import run_command
from e2r.datasets import case_folder, spinealign, spinedepth, spinedepth_pairs
from e2r.datasets.case import make_case, true_pose
from e2r.geometry import poses
from e2r.training import checkpoints, loop
from experiments import evaluate, protocol

pytestmark = pytest.mark.slow


def bone_only(case):
    """The case without soft tissue: depth in whole mm, in an image as large as a ZED's VGA."""
    image = case.image
    bone = np.zeros(image.depth.shape, bool)
    bone[image.depth > 0] = case.bone
    height, width = bone.shape
    color, depth = np.zeros((376, 672, 3), np.uint8), np.zeros((376, 672), np.float32)
    color[100 : 100 + height, 200 : 200 + width] = image.color
    depth[100 : 100 + height, 200 : 200 + width] = np.where(bone, np.round(image.depth), 0.0)
    moved = image._replace(color=color, depth=depth, cx=image.cx + 200.0, cy=image.cy + 100.0)
    return make_case(
        moved, id=case.id, model=case.model, truth=case.truth, source=case.source, bone=depth > 0
    )


@pytest.fixture(scope="module")
def scenes(simulated_cases):
    return [bone_only(case) for case in simulated_cases[:2]]


def as_spinedepth(scenes, root):
    given = {spinedepth.FrameId(1 + i, 0, 0, 2): case for i, case in enumerate(scenes)}
    layouts.write_spinedepth(root, given)
    return [replace(case, id=source.id) for source, case in given.items()]


def as_pairs(scenes, root):
    """The level that both scenes show best, seen by the cameras that the reader estimates."""
    level = max(scenes[0].model, key=lambda name: min(shown(case, name) for case in scenes))
    given, plain = {}, []
    for i, case in enumerate(scenes):
        one = layouts.one_level(case, level)
        given[spinedepth_pairs.PairId(f"spec{i}", level, i)] = case
        model = np.asarray(poses.apply_inverse(one.truth[level], one.points.astype(np.float32)))
        pose = spinedepth_pairs.estimate_camera(one.model[level], model)
        points = model @ pose[:3, :3].T + pose[:3, 3]
        truth = {level: poses.from_matrix(pose, "")}
        plain.append(replace(one, id=f"spec{i}_{level}_camera{i}", points=points, truth=truth))
    layouts.write_pairs(root, given)
    return plain


def shown(case, level):
    try:
        return len(layouts.one_level(case, level).points)
    except ValueError:
        return 0


def as_spinealign(scenes, root):
    layouts.write_spinealign(root, {(f"seq{i}", 7): case for i, case in enumerate(scenes)})
    plain = []
    for i, case in enumerate(scenes):
        mesh = layouts.merge_levels(case.model)
        (row,) = [
            entry.vertices for entry in spinealign.read_index(root) if entry.sequence == f"seq{i}"
        ]
        plain.append(
            replace(
                case,
                id=f"seq{i}_frame00007",
                image=None,
                bone=None,
                model={"spine": mesh},
                truth={"spine": true_pose(case)},
                targets={"spine": np.asarray(mesh.vertices)[row]},
            )
        )
    return plain


LAYOUTS = {"spinedepth": as_spinedepth, "pairs": as_pairs, "spinealign": as_spinealign}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_figures_are_those_of_plain_case_folders(layout, scenes, checkpoint, tmp_path, capsys):
    """Scenes written and converted have the errors of the same scenes written as cases."""
    plain = LAYOUTS[layout](scenes, tmp_path / "set")
    for case in plain:
        case_folder.write_case(case, tmp_path / "plain" / case.id)
    assert main(["convert", layout, str(tmp_path / "set"), str(tmp_path / "converted")]) == 0
    found = []
    for name in ("plain", "converted"):
        arguments = ["--checkpoint", str(checkpoint), "--cases", str(tmp_path / name)]
        arguments += ["--output", str(tmp_path / f"{name}_out"), "--start", "truth"]
        arguments += ["--batch", "2", "--start-noise-deg", "2", "--start-noise-mm", "2"]
        assert evaluate.main(arguments) == 0
        lines = (tmp_path / f"{name}_out" / "errors.jsonl").read_text().splitlines()
        found.append({row["id"]: row["learnt"] for row in map(json.loads, lines)})
    assert list(found[0]) == list(found[1]) == sorted(case.id for case in plain)
    for a, b in zip(found[0].values(), found[1].values(), strict=True):
        assert a["tre_mm"] < 1.5  # bone alone, from near the truth
        for figure, unit in (("tre_mm", 0.05), ("rmse_mm", 0.05), ("rotation_deg", 0.1)):
            assert a[figure] == pytest.approx(b[figure], abs=unit)
        assert list(a["by_level"]) == list(b["by_level"])


@pytest.fixture
def tiny(simulated_cases, tmp_path):
    """The protocol of SpineDepth on two specimens of four labelled clouds, with a tiny network."""
    given = {
        spinedepth.FrameId(1 + specimen, 0, 0, frame): case
        for specimen in range(2)
        for frame, case in enumerate(simulated_cases)
    }
    layouts.write_spinedepth(tmp_path / "set", given, clouds=True)
    return protocol.Protocol(
        "spinedepth",
        tmp_path / "set",
        tmp_path / "out",
        config=TINY,
        start="truth",
        batch=2,
        start_noise_deg=2.0,
        start_noise_mm=2.0,
    )


def test_an_interrupted_protocol_resumes_in_its_fold(tiny, monkeypatch, capsys):
    """Killed in the second fold after three steps, the run resumes there and keeps the first."""
    real, trained = loop.train, []

    def train(inputs, output, **more):
        trained.append((output.parent.name, checkpoints.latest_step(output)))
        if len(trained) == 2:
            real(inputs, output, stop_after=3, **more)
            raise KeyboardInterrupt
        return real(inputs, output, **more)

    monkeypatch.setattr(loop, "train", train)
    assert run_command(lambda: protocol.run(tiny)) == 130
    folds = tiny.output / "folds"
    kept = (folds / "specimen01" / "result.json").stat().st_mtime_ns
    assert not (folds / "specimen02" / "result.json").exists()
    assert run_command(lambda: protocol.run(tiny)) == 0
    assert trained == [("specimen01", None), ("specimen02", None), ("specimen02", 3)]
    assert checkpoints.latest_step(folds / "specimen02" / "run") == TINY.optimisation.steps
    assert (folds / "specimen01" / "result.json").stat().st_mtime_ns == kept
    out = capsys.readouterr().out
    assert "Pettinari et al. 2025, median TRE 1.83 mm" in out and "TRE 2.73 mm" in out
    assert "labels themselves are 1.50 mm off" in out
    found = json.loads((tiny.output / "summary.json").read_text())
    assert found["all"]["count"] == 8
    assert list(found["by_source"]) == ["specimen01", "specimen02"]
    assert list(found["by_level"]) == ["L1", "L2", "L3", "L4", "L5"]
    rows = json.loads((folds / "specimen02" / "result.json").read_text())["rows"]
    assert {row["source"] for row in rows} == {"specimen02"}
    page = (tiny.output / "report.html").read_text()
    assert "label floor 1.50 mm" in page and "median TRE 1.83 mm" in page
    # A finished protocol trains nothing again, and refuses other settings.
    assert run_command(lambda: protocol.run(replace(tiny, label_floor=0.7))) == 0
    assert len(trained) == 3
    assert "labels themselves are 0.70 mm off" in capsys.readouterr().out
    assert run_command(lambda: protocol.run(replace(tiny, seed=1))) == 2
    assert "protocol.json: holds a study with other settings" in capsys.readouterr().err


def test_pairs_are_registered_from_ten_starts(scenes, checkpoint, tmp_path, capsys):
    as_pairs(scenes, tmp_path / "set")
    arguments = ["pairs", "--root", str(tmp_path / "set"), "--output", str(tmp_path / "out")]
    arguments += ["--checkpoint", str(checkpoint), "--batch", "2"]
    arguments += ["--start-noise-deg", "2", "--start-noise-mm", "2"]
    assert protocol.main(arguments) == 0
    out = capsys.readouterr().out
    assert "label floor: not known" in out and "<4 mm, 5°" in out
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["all"]["count"] == 2 * spinedepth_pairs.STARTS
    for name, value in found["by_source"].items():
        result = json.loads((tmp_path / "out" / "folds" / name / "result.json").read_text())
        rows = result["rows"]
        assert len({row["tre_mm"] for row in rows}) == spinedepth_pairs.STARTS  # all different
        good = [row["translation_mm"] < 4 and row["rotation_deg"] < 5 for row in rows]
        assert value["registered"] == pytest.approx(np.mean(good))


def test_impossible_folds_and_bad_options_are_refused(scenes, tmp_path, capsys):
    as_spinealign(scenes, tmp_path / "set")
    options = protocol.Protocol("spinealign", tmp_path / "set", tmp_path / "out", config=TINY)
    about = protocol.convert(options)
    assert about["sources"] == ["seq0", "seq1"]
    assert about["label_rmse_mm"] < 0.01
    assert [fold.name for fold in protocol.folds(options, about["sources"])] == ["seq0", "seq1"]
    (split,) = protocol.folds(replace(options, train_last=1), about["sources"])
    assert split.held_out == {"seq0"}
    for changed, words in (
        (replace(options, train_last=2), "use fewer"),
        (replace(options, data_set="pairs", train_last=1), "is for spinealign"),
    ):
        with pytest.raises(ValueError, match=words):
            protocol.folds(changed, about["sources"])
    with pytest.raises(ValueError, match="holds 1 specimen"):
        protocol.folds(options, ["seq0"])
    for arguments, words in (
        (["spinedepth", "--only", "a"], "spinedepth's specimens are numbers"),
        (["pairs", "--label-floor", "-1"], "--label-floor is -1"),
        (["pairs", "--start", "here"], "use auto or truth"),
    ):
        places = ["--root", str(tmp_path), "--output", str(tmp_path / "x")]
        assert protocol.main([*arguments, *places]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    arguments = ["pairs", "--root", str(tmp_path / "none"), "--output", str(tmp_path / "y")]
    assert protocol.main(arguments) == 2
    assert "preoperative: no such folder" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "other")  # nothing was written, so other settings may be
    assert protocol.main(arguments) == 2
    assert "other/preoperative: no such folder" in capsys.readouterr().err
