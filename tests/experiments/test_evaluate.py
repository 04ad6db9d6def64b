"""An evaluation from its command line to summary and report; interruptions and bad input."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from e2r.cli import evaluate as command
from e2r.datasets import case_folder
from e2r.evaluation import metrics, runner, work_units
from e2r.geometry import poses
from e2r.visualisation import snapshots
from experiments import evaluate


def quick_job(cases, checkpoint, output):
    """The words of a job from perturbed true poses: two cases at a time, twelve steps."""
    folders = f"--cases {cases} --checkpoint {checkpoint} --output {output}"
    return f"{folders} --start truth --batch 2 --num-samples 2 --schedule.steps 12".split()


def test_a_job_from_cases_to_report(checkpoint, data_set, tmp_path):
    noise = "--start-noise-deg 2 --start-noise-mm 2"
    arguments = quick_job(data_set, checkpoint, tmp_path)
    arguments += f"--masks all learnt oracle {noise}".split()
    assert evaluate.main(arguments) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cases"] == summary["predicted"] == 3
    assert summary["failed"] == 0
    for mask in ("all", "learnt", "oracle"):
        figures = summary["masks"][mask]
        assert set(figures["tre_mm"]) == {"median", "mean", "p95", "interval95"}
        assert set(figures["success"]) == {"2mm", "3mm", "5mm"}
        assert figures["count"] == 3
    assert summary["tre_mm"] == summary["masks"]["learnt"]["tre_mm"]
    for field in (
        "rmse_mm",
        "rotation_deg",
        "translation_mm",
        "seconds_per_frame",
        "by_level",
        "by_specimen",
        "settings",
        "seed",
        "versions",
        "device",
        "accepted",
    ):
        assert field in summary
    assert summary["masks"]["oracle"]["tre_mm"]["median"] < 2.0
    lines = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted(p.name for p in data_set.iterdir())
    for line in lines:
        assert set(line) == {
            "id",
            "case_digest",
            "T_camera_model",
            "accepted",
            "expected_tre_mm",
            "bound95_mm",
            "levels",
            "hypotheses",
            "seconds",
            "error",
        }
        for matrix in line["T_camera_model"].values():
            poses.from_matrix(matrix, "prediction")
    # Each mask has its predictions; the errors in the files are those of their poses.
    errors = [json.loads(x) for x in (tmp_path / "errors.jsonl").read_text().splitlines()]
    with (tmp_path / "errors.csv").open(newline="") as file:
        table = {(row["id"], row["mask"]): row for row in csv.DictReader(file)}
    assert len(table) == 9
    by_mask = {"learnt": lines}
    for mask in ("all", "oracle"):
        path = tmp_path / f"predictions_{mask}.jsonl"
        by_mask[mask] = [json.loads(x) for x in path.read_text().splitlines()]
    assert not (tmp_path / "predictions_learnt.jsonl").exists()
    for mask, found in by_mask.items():
        for line, row in zip(found, errors, strict=True):
            case = case_folder.read_case(data_set / line["id"])
            predicted = {k: poses.from_matrix(m, k) for k, m in line["T_camera_model"].items()}
            again = metrics.case_errors(predicted, case.truth, case.targets, model=case.model)
            assert again.tre_mm == pytest.approx(row[mask]["tre_mm"], rel=1e-3)
            cells = table[line["id"], mask]
            assert float(cells["tre_mm"]) == row[mask]["tre_mm"]
            assert cells["accepted"] == str(line["accepted"]).lower()
            assert float(cells["keep_share"]) == row["keep"][mask]
    page = (tmp_path / "report.html").read_text()
    assert f"{summary['masks']['oracle']['tre_mm']['median']:.2f}" in page
    assert "initial pose" in page  # the training curve
    shown = snapshots.read_worst_of_job(tmp_path)  # for python -m e2r view
    tre = sorted((e["learnt"]["tre_mm"] for e in errors), reverse=True)
    assert [view.tre_mm for view in shown] == pytest.approx(tre)
    # Nothing is fetched: no element points outside the page.
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_broken_cases_do_not_stop_a_job(checkpoint, data_set, tmp_path, capsys):
    broken = shutil.copytree(data_set, tmp_path / "set")
    victim = sorted(broken.iterdir())[1]
    depth = (victim / "depth.png").read_bytes()
    (victim / "depth.png").write_bytes(b"not a picture")
    arguments = quick_job(broken, checkpoint, tmp_path / "out")
    assert evaluate.main(arguments) == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    by_id = {line["id"]: line for line in map(json.loads, lines)}
    assert len(by_id) == 3
    assert "depth.png" in by_id[victim.name]["error"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == 1
    assert "depth.png" in (tmp_path / "out" / "report.html").read_text()
    with (tmp_path / "out" / "errors.jsonl").open("a") as file:  # a killed process's
        first = json.loads((tmp_path / "out" / "errors.jsonl").read_text().splitlines()[0])
        file.write(json.dumps(first | {"id": victim.name}) + "\n")
    assert evaluate.main(arguments) == 3
    table = (tmp_path / "out" / "errors.csv").read_text()
    assert re.search(rf"^{victim.name},.*depth.png", table, re.MULTILINE), table
    (victim / "depth.png").write_bytes(depth)
    assert evaluate.main(arguments) == 0  # it alone is tried again
    again = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert again[:2] == [line for line in lines if json.loads(line)["error"] is None]
    assert len(again) == 3 and json.loads(again[2])["id"] == victim.name


def test_a_job_goes_on_with_the_same_initial_poses_only(
    checkpoint, data_set, tmp_path, monkeypatch, capsys
):
    def stop(*_, **__):
        raise ValueError("enough")

    monkeypatch.setattr(command.work_units, "refuse_changed_cases", stop)
    start = tmp_path / "start.json"
    words = f"--cases {data_set} --checkpoint {checkpoint} --output {tmp_path / 'out'}".split()
    for shift, said in ((400.0, "enough"), (400.0, "enough"), (401.0, "other settings")):
        pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, shift], [0, 0, 0, 1]]
        start.write_text(json.dumps({"T_camera_model": pose}))
        assert evaluate.main([*words, "--start", str(start)]) == 2
        assert said in capsys.readouterr().err


def test_an_interrupted_job_is_continued(checkpoint, data_set, tmp_path, monkeypatch, capsys):
    """No case is registered twice, none is lost, and other settings are refused."""
    arguments = quick_job(data_set, checkpoint, tmp_path / "out")
    real, read = runner.run, []

    def dies(source, *rest, **options):
        for number, item in enumerate(real(source, *rest, **options)):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    def noted(path):
        read.append(path.name)
        return once(path)

    once = case_folder.read_case
    monkeypatch.setattr(runner, "run", dies)
    assert evaluate.main(arguments) == 130
    assert "training, adaptation, evaluation and long studies resume" in capsys.readouterr().err
    path = tmp_path / "out" / "predictions.jsonl"
    first = path.read_text()
    assert first.count("\n") == 1
    assert not (tmp_path / "out" / "summary.json").exists()
    with path.open("a") as file:  # as a process that was killed while writing leaves it
        file.write('{"id": "half')
    monkeypatch.setattr(runner, "run", real)
    monkeypatch.setattr(case_folder, "read_case", noted)
    assert evaluate.main(arguments) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text().startswith(first)
    names = sorted(case.name for case in data_set.iterdir())
    assert [line["id"] for line in lines] == names
    assert read == names[1:]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["predicted"] == 3
    # All is done: only the table is printed again.
    assert evaluate.main(arguments) == 0
    assert len(read) == 2 and len(path.read_text().splitlines()) == 3
    # A relative path of the same places is the same job, and so it is in an older job.json.
    monkeypatch.chdir(tmp_path)
    settings = json.loads((tmp_path / "out" / "job.json").read_text())
    relative = quick_job(os.path.relpath(data_set), os.path.relpath(checkpoint), "out")
    for stored in (settings, {**settings, "cases": os.path.relpath(data_set)}):
        (tmp_path / "out" / "job.json").write_text(json.dumps(stored, indent=1))
        for words in (relative, arguments):
            assert evaluate.main(words) == 0
    assert len(read) == 2 and len(path.read_text().splitlines()) == 3
    assert evaluate.main([*arguments, "--seed", "1"]) == 2
    assert "job.json: holds a job with other settings" in capsys.readouterr().err
    (tmp_path / "out" / "job.json").unlink()
    assert evaluate.main(arguments) == 2
    assert "without job.json" in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 3


def test_two_cases_with_one_id_are_told_apart(data_set, tmp_path):
    twins = Path(shutil.copytree(data_set, tmp_path / "set"))
    first, second, _ = sorted(twins.iterdir())
    about = json.loads((second / "case.json").read_text())
    (second / "case.json").write_text(json.dumps({**about, "id": case_folder.read_id(first)}))
    units = work_units.of_folder(twins)
    assert len({name for unit in units for name in unit.ids}) == 3
    (failed,) = units[1].load()
    assert second.name in failed.id and "give it its own" in failed.message


def test_bad_input_is_refused_before_results_are_overwritten(checkpoint, data_set, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("precious")
    bad = tmp_path / "start.json"
    bad.write_text("[[1, 0], [0, 1]]")
    arguments = quick_job(data_set, checkpoint, tmp_path)
    for wrong in (("--start", str(bad)), ("--start-noise-mm", "nan"), ("--seed", "-1")):
        assert evaluate.main([*arguments, *wrong]) == 2
    assert (tmp_path / "predictions.jsonl").read_text() == "precious"
