"""Figures against closed forms; a job from checkpoint to report; the command line."""

import gc
import json
import re
import shutil
import subprocess
import sys
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import trimesh
from conftest import TINY
from PIL import Image
from scipy.spatial.transform import Rotation
from test_cases import BROKEN

from e2r.cli import commands
from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig, InitialPose
from e2r.datasets import case_folder
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import Calibration
from e2r.evaluation.predictions import LEAST_EVIDENCE, Registered, prediction_line
from e2r.evaluation.preparation import STRICTER, prepare
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.summary import risk_coverage
from e2r.geometry import poses, surfaces
from e2r.networks.build import apply_mask_network
from e2r.registration.schedule import Schedule
from e2r.training import checkpoints, loop
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Pose
from e2r.visualisation import snapshots, viewer
from experiments import evaluate, figures, train


def cube(middle):
    mesh = trimesh.creation.box(extents=[20.0, 20.0, 20.0])
    mesh.apply_translation(middle)
    return mesh


def test_errors_of_known_motions():
    model = {"L1": cube([0, 0, 0]), "L2": cube([0, 0, 40])}
    targets = {
        "L1": np.array([[10.0, 0, 0], [0, 0, 0]]),  # on the surface, deep
        "L2": np.array([[0.0, 0, 50], [0, 3, 40]]),
    }
    still = Pose(np.eye(3), np.zeros(3))
    shifted = Pose(np.eye(3), np.array([3.0, 4.0, 0.0]))
    found = metrics.case_errors(
        {"L1": shifted, "L2": still}, {"L1": still, "L2": still}, targets, model
    )
    assert found["tre_mm"] == pytest.approx(2.5)
    assert found["rmse_mm"] == pytest.approx(np.sqrt(12.5))
    assert found["tre_surface_mm"] == pytest.approx(2.5)
    assert found["tre_deep_mm"] == pytest.approx(2.5)
    assert found["by_level"]["L1"]["tre_mm"] == pytest.approx(5.0)
    assert found["by_level"]["L2"]["tre_mm"] == 0
    assert found["translation_mm"] == pytest.approx(2.5)
    assert found["rotation_deg"] == 0
    turned = Pose(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.zeros(3))
    found = metrics.case_errors({"L1": turned}, {"L1": still}, {"L1": targets["L1"]}, model)
    assert found["rotation_deg"] == pytest.approx(90)
    assert found["tre_surface_mm"] == pytest.approx(10 * np.sqrt(2))
    assert found["tre_deep_mm"] == pytest.approx(0)
    assert found["translation_mm"] == pytest.approx(0, abs=1e-9)


def test_the_bootstrap_redraws_specimens_not_frames():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 50)  # frames of a specimen are all alike
    groups = [str(i) for i in np.repeat(np.arange(20), 50)]
    low, high = metrics.bootstrap(values, groups, lambda v: float(v.mean()), seed=0)
    assert 0.6 < (high - low) / (2 * 1.96 * values.std() / np.sqrt(20)) < 1.4
    assert low < values.mean() < high


def test_summary_figures():
    rows = [
        {
            "tre_mm": t,
            "tre_surface_mm": t,
            "tre_deep_mm": None,
            "rmse_mm": t,
            "rotation_deg": 1.0,
            "translation_mm": 2.0,
        }
        for t in (0.5, 1.0, 1.5, 2.5, 4.0)
    ]
    found = metrics.summarise(rows, list("aabbc"), seed=0)
    assert found["count"] == 5
    assert found["tre_mm"]["median"] == 1.5
    assert found["tre_mm"]["mean"] == pytest.approx(1.9)
    assert found["success"] == {"2mm": 0.6, "3mm": 0.8, "5mm": 1.0}
    assert found["tre_deep_mm"]["median"] is None
    assert metrics.summarise([], [], seed=0) == {"count": 0}


def test_a_job_from_cases_to_report(checkpoint, data_set, tmp_path):
    arguments = [
        "--cases",
        str(data_set),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path),
        "--masks",
        "all",
        "learnt",
        "oracle",
        "--start",
        "truth",
        "--start-degrees",
        "2",
        "--start-mm",
        "2",
        "--batch",
        "2",
        "--num-samples",
        "2",
        "--schedule.steps",
        "12",
    ]
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
            "T_camera_model",
            "accepted",
            "expected_tre_mm",
            "hypotheses",
            "seconds",
            "error",
        }
        for matrix in line["T_camera_model"].values():
            poses.from_matrix(matrix, "prediction")
    # The errors in the file are those of the poses in the file.
    errors = [json.loads(x) for x in (tmp_path / "errors.jsonl").read_text().splitlines()]
    case = case_folder.read_case(data_set / lines[0]["id"])
    predicted = {k: poses.from_matrix(m, k) for k, m in lines[0]["T_camera_model"].items()}
    again = metrics.case_errors(predicted, case.truth, case.targets, case.model)
    assert again["tre_mm"] == pytest.approx(errors[0]["learnt"]["tre_mm"], rel=1e-3)
    page = (tmp_path / "report.html").read_text()
    assert f"{summary['masks']['oracle']['tre_mm']['median']:.2f}" in page
    assert "where they start" in page  # the training curve
    shown = viewer.read_worst_snapshots(tmp_path)  # for python -m e2r view
    tre = sorted((e["learnt"]["tre_mm"] for e in errors), reverse=True)
    assert [view.tre_mm for view in shown] == pytest.approx(tre)
    # Nothing is fetched: no element points outside the page.
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_the_prediction_does_not_read_the_truth(checkpoint, simulated_cases):
    """Another truth, the same automatic pose."""
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(start=InitialPose("auto"), batch=1, num_samples=1)
    case = simulated_cases[0]
    moved = {k: p._replace(translation=p.translation + 50) for k, p in case.truth.items()}
    variants = [case, replace(case, truth=moved), replace(case, truth=None, targets=None)]
    found = [next(iter(runner.run([v], config, params, job))) for v in variants]
    for other in found[1:]:
        np.testing.assert_array_equal(
            found[0].registrations["learnt"].pose.translation,
            other.registrations["learnt"].pose.translation,
        )
    assert found[2].errors == {}


def test_masks_do_not_change_one_another(checkpoint, simulated_cases):
    """The learnt mask alone, and after the others: the same weights and the same pose.

    And a mask that would keep nothing keeps a tenth.
    """
    config, params = load_trained(checkpoint)
    case, lower, job = simulated_cases[0], params, EvaluationConfig(batch=1, num_samples=1)

    def lowered(shift):
        def one(leaf):  # the last layer's bias is the only leaf of two numbers
            return leaf - np.array([shift, 0.0], np.float32) if leaf.shape == (2,) else leaf

        return {**params, "mask": jax.tree.map(one, params["mask"])}

    starved = next(iter(runner.run([case], config, lowered(50.0), job)))
    kept, valid = starved.weights["learnt"].sum(), starved.cloud.valid.sum()
    assert abs(kept - 0.1 * valid) < 2

    for shift in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):  # until the untrained mask drops some points
        lower = lowered(shift)
        alone = next(iter(runner.run([case], config, lower, job)))
        if 20 < alone.weights["learnt"].sum() < 0.9 * len(alone.weights["learnt"]):
            break
    else:
        pytest.fail("no shift of the bias splits the points")
    job = replace(job, masks=("all", "oracle", "learnt"))
    after = next(iter(runner.run([case], config, lower, job)))
    np.testing.assert_array_equal(alone.weights["learnt"], after.weights["learnt"])
    np.testing.assert_allclose(
        alone.registrations["learnt"].pose.translation,
        after.registrations["learnt"].pose.translation,
        atol=0.05,
    )


def test_an_unsure_case_is_tried_again_and_the_better_result_stays(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(InitialPose("auto"), batch=2, num_samples=1, retry_below=0.0)
    source = [simulated_cases[0], ("broken", ValueError("broken")), *simulated_cases[1:3]]

    def results(job):
        found = list(runner.run(source, config, params, job))
        assert ("broken", "broken") in found
        found = [one for one in found if isinstance(one, Registered)]
        assert len(found) == 3
        return {one.case.id: one for one in found}

    once, twice = results(job), results(replace(job, retry_below=1.0))
    assert all(twice[name].share("learnt") >= once[name].share("learnt") for name in once)
    other = [name for name in once if not np.array_equal(twice[name].rows, once[name].rows)]
    assert other  # of three cases of an untrained network, in other samples
    assert all(twice[name].share("learnt") > once[name].share("learnt") for name in other)
    least = min(one.share("learnt") for one in once.values())
    same = results(replace(job, retry_below=least))  # none is below
    for name, one in same.items():
        np.testing.assert_array_equal(one.rows, once[name].rows)


def test_the_mask_of_a_second_try_keeps_surer_points(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    case = simulated_cases[0]
    job = EvaluationConfig(
        InitialPose("truth"), Schedule(steps=12), batch=1, num_samples=2, min_keep_ratio=0.02
    )
    surface = surfaces.build(case.model, seed=0, nodes=surfaces.COARSE)
    tries = [
        prepare(
            case, config.network, surface=surface, job=job, given=None, within=None, number=number
        )
        for number in (0, 1)
    ]
    assert tries[0].threshold == 0.0
    assert not np.array_equal(tries[0].rows, tries[1].rows)
    predict = compile_programs(config.network, job).predict
    # An untrained network's logits lie close together: the middle one is the first threshold.
    logits = apply_mask_network(config.network, params, tries[0].cloud, tries[0].pyramid).logits
    middle = float(np.median(logits))
    spread = float(np.std(logits))

    def kept(threshold):
        one = tries[0]._replace(threshold=np.float32(threshold))
        weights = predict(params, jax.tree.map(lambda leaf: np.asarray(leaf)[None], one)).weights
        return np.asarray(weights["learnt"][0])

    lax, strict = kept(middle), kept(middle + spread)
    valid = tries[0].cloud.valid.sum()
    assert 0.02 * valid < strict.sum() < lax.sum() < 0.6 * valid
    assert np.all(lax[strict > 0] > 0)
    assert tries[1].threshold == STRICTER > 0


def test_where_the_start_is_given_nothing_is_tried_again(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(
        InitialPose("truth"), Schedule(steps=12), batch=2, num_samples=2, retry_below=1.0
    )
    never = replace(job, retry_below=0.0)
    (one,), (other,) = (
        runner.run(simulated_cases[:1], config, params, some) for some in (job, never)
    )
    np.testing.assert_array_equal(one.rows, other.rows)


def test_broken_cases_do_not_stop_a_job(checkpoint, data_set, tmp_path, capsys):
    broken = shutil.copytree(data_set, tmp_path / "set")
    victim = sorted(broken.iterdir())[1]
    (victim / "depth.png").write_bytes(b"not a picture")
    arguments = [
        "--cases",
        str(broken),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path / "out"),
        "--start",
        "truth",
        "--batch",
        "2",
        "--num-samples",
        "2",
        "--schedule.steps",
        "12",
    ]
    assert evaluate.main(arguments) == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    by_id = {line["id"]: line for line in map(json.loads, lines)}
    assert len(by_id) == 3
    assert "depth.png" in by_id[victim.name]["error"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == 1
    assert "depth.png" in (tmp_path / "out" / "report.html").read_text()


def test_the_meshes_of_a_long_job_do_not_pile_up(checkpoint, data_set, monkeypatch):
    monkeypatch.setattr(case_folder, "SWEEP", 4)
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(InitialPose("truth"), Schedule(steps=12), batch=2)
    paths, read = case_folder.find_cases(data_set), []

    def source():
        for number in range(24):
            case = case_folder.read_case(paths[number % len(paths)])
            read.append(weakref.ref(next(iter(case.model.values()))))
            yield case

    gc.collect()
    gc.disable()  # as good as what Python does by itself, with all of jax's objects about
    try:
        alive = [
            sum(mesh() is not None for mesh in read)
            for _ in runner.run(source(), config, params, job)
        ]
    finally:
        gc.enable()
    assert len(alive) == 24 and max(alive) <= 16


def test_an_interrupted_job_goes_on(checkpoint, data_set, tmp_path, monkeypatch, capsys):
    """No case twice, none lost, whatever the moment; and other settings are refused."""
    arguments = [
        "--cases",
        str(data_set),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path / "out"),
        "--start",
        "truth",
        "--batch",
        "2",
        "--num-samples",
        "2",
        "--schedule.steps",
        "12",
    ]
    real, read = runner.run, []

    def dies(source, *rest):
        for number, item in enumerate(real(source, *rest)):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    def noted(path):
        read.append(path.name)
        return once(path)

    once = case_folder.read_case
    monkeypatch.setattr(runner, "run", dies)
    assert evaluate.main(arguments) == 130
    assert "goes on where it was" in capsys.readouterr().err
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
    assert evaluate.main([*arguments, "--seed", "1"]) == 2
    assert "job.json: holds a job with other settings" in capsys.readouterr().err
    (tmp_path / "out" / "job.json").unlink()
    assert evaluate.main(arguments) == 2
    assert "without job.json" in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 3


def test_two_cases_of_one_name_are_not_taken_for_one(checkpoint, data_set, tmp_path, capsys):
    twins = Path(shutil.copytree(data_set, tmp_path / "set"))
    first, second, _ = sorted(twins.iterdir())
    about = json.loads((second / "case.json").read_text())
    (second / "case.json").write_text(json.dumps({**about, "id": case_folder.read_id(first)}))
    options = evaluate.Evaluate(tmp_path / "out", checkpoint, twins)
    work = evaluate.units(options, None)
    assert len({name for unit in work for name in unit.ids}) == 3
    ((name, error),) = work[1].make()
    assert second.name in name and "give it its own" in str(error)


def test_register_prints_poses_and_writes_one_line(checkpoint, data_set, tmp_path, capsys):
    path = sorted(data_set.iterdir())[0]
    output = tmp_path / "p.jsonl"
    options = commands.Register(path, checkpoint, start="truth", output=output)
    assert commands.register(options) == 0
    shown = capsys.readouterr().out
    assert "L3  T_camera_model =" in shown
    assert "TRE against truth.json" in shown
    assert (path / "model" / "surface.npz").is_file()  # kept for the next frame of this patient
    (line,) = output.read_text().splitlines()
    assert json.loads(line)["id"] == path.name
    # The prediction file serves as the start of another.
    again = commands.Register(path, checkpoint, start=str(output), output=tmp_path / "q.jsonl")
    output.write_text(line)
    assert commands.register(again) == 0
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_view_registers_a_case(checkpoint, data_set, monkeypatch):
    shown = []
    monkeypatch.setattr(viewer, "serve", lambda found, **_: shown.extend(found))
    path = sorted(data_set.iterdir())[1]
    assert commands.view(commands.Look(path, checkpoint, port=0)) == 0
    (view,) = shown
    assert view.id == path.name and np.isfinite(view.tre_mm)
    ways = [float(step["L3"].translation[0]) for step in snapshots.snapshot_steps(view)]
    assert len(ways) == EvaluationConfig().schedule.steps + 1
    assert len(set(ways)) > 5  # the steps differ


@pytest.mark.parametrize(
    "name", ["mirrored", "scaled", "empty", "NaN", "cloud in metres", "no colour", "gone"]
)
def test_register_answers_broken_cases_in_one_sentence(
    name, checkpoint, data_set, tmp_path, capsys
):
    copy = Path(shutil.copytree(sorted(data_set.iterdir())[0], tmp_path / "copy"))
    spoil, words = BROKEN[name]
    spoil(copy)
    options = commands.Register(copy, checkpoint, output=tmp_path / "p.jsonl")
    assert run_command(lambda: commands.register(options)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line)
    assert not (tmp_path / "p.jsonl").exists()


def test_a_start_file_is_read_before_results_are_overwritten(checkpoint, data_set, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("precious")
    bad = tmp_path / "start.json"
    bad.write_text("[[1, 0], [0, 1]]")
    arguments = [
        "--cases",
        str(data_set),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path),
        "--start",
        str(bad),
    ]
    assert evaluate.main(arguments) == 2
    assert evaluate.main([*arguments[:-1], "truth", "--start-mm", "nan"]) == 2
    assert evaluate.main([*arguments[:-1], "truth", "--seed", "-1"]) == 2
    assert (tmp_path / "predictions.jsonl").read_text() == "precious"


def test_the_picture_is_drawn(checkpoint, tmp_path):
    path = tmp_path / "scene.png"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(path),
        "--specimens",
        "1",
        "--scale",
        "1",
    ]
    assert figures.main(arguments) == 0
    with Image.open(path) as image:
        assert image.size == (96, 3 * 72)
        assert np.asarray(image).std() > 10


def call(*arguments, cwd):
    root = str(loop.__file__).rsplit("/e2r/", 1)[0]
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("e2r", "register", "nowhere", "--checkpoint", "CKPT"), "nowhere: no such folder"),
        (("e2r", "register", "CASE", "--checkpoint", "nowhere"), "nowhere: no such folder"),
        (("e2r", "register", "CASE", "--checkpoint", "CASE"), "holds no checkpoint"),
        (("e2r", "register", "CASE", "--checkpoint", "CKPT", "--start", "up"), "--start up"),
        (("e2r", "simulate", "--output", "x", "--count", "0"), "--count"),
        (("e2r", "simulate", "--output", "x", "--width", "13"), "multiple of 4"),
        (("e2r", "simulate", "--output", "x", "--anatomy", "nowhere"), "nowhere: no such folder"),
        (
            ("experiments.evaluate", "--checkpoint", "CKPT", "--output", "x", "--masks", "bone"),
            "--masks bone",
        ),
        (("experiments.train", "demo", "--output", "x", "--cases", "nowhere"), "no such folder"),
    ],
)
def test_bad_calls_get_one_sentence_and_exit_code_2(
    arguments, words, checkpoint, data_set, tmp_path
):
    places = {"CKPT": str(checkpoint), "CASE": str(sorted(data_set.iterdir())[0])}
    done = call(*(places.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "predictions.jsonl").exists()


def test_train_and_simulate_from_the_command_line(tmp_path, capsys):
    made = commands.Simulate(output=tmp_path / "cases", count=4, seed=5, wound_fraction=(0.3, 0.8))
    assert commands.simulate(made) == 0
    found = case_folder.find_cases(tmp_path / "cases")
    assert len(found) == 4
    network = asdict(TINY.network) | {"widths": "8 16"}  # a program that is there
    flags = [f"--network.{name.replace('_', '-')} {value}" for name, value in network.items()]
    arguments = [
        "demo",
        "--cases",
        str(tmp_path / "cases"),
        "--output",
        str(tmp_path / "run"),
        *" ".join(flags).split(),
        "--schedule.steps",
        "3",
        "--schedule.last-scale-mm",
        "2",
        "--optimisation.steps",
        "8",
        "--optimisation.batch",
        "2",
        "--scenes.nodes",
        "32768",
    ]
    assert train.main(arguments) == 0
    config, _ = load_trained(tmp_path / "run")
    assert config.network.widths == (8, 16)
    (found[0] / "truth.json").unlink()
    arguments[4] = str(tmp_path / "other")
    assert train.main(arguments) == 2
    assert "no truth.json" in capsys.readouterr().err


def test_a_run_may_begin_with_the_parameters_of_another(
    checkpoint, data_set, tmp_path, monkeypatch
):
    def stop(*_, begin, source, **__):
        given.update(begin=begin, source=source)
        raise ValueError("enough")

    given: dict[str, Any] = {}
    monkeypatch.setattr(loop, "train", stop)
    options = train.Train(TINY, tmp_path / "run", cases=data_set, begin=checkpoint)
    with pytest.raises(ValueError, match="enough"):
        train.train(options)
    params = load_trained(checkpoint)[1]
    jax.tree.map(np.testing.assert_array_equal, given["begin"], params)
    assert checkpoints.digest(params)[:12] in given["source"]  # no other run goes on with it
    wider = replace(TINY, network=replace(TINY.network, coarse_width=128))
    with pytest.raises(ValueError, match=r"run.*other sizes"):
        train.train(replace(options, config=wider))


def test_a_run_that_cannot_go_on_or_need_not_makes_no_scenes(
    checkpoint, data_set, tmp_path, monkeypatch, capsys
):
    """They take minutes, and were made before anybody looked into the output folder."""

    def make(*_, **__):
        raise AssertionError("scenes were made")

    monkeypatch.setattr(train.examples, "simulated_bank", make)
    monkeypatch.setattr(train.examples, "bank_from_folder", make)
    options = train.Train(TINY, checkpoint)
    assert train.train(options) == 0
    assert "8 steps done" in capsys.readouterr().out
    for other in (
        replace(options, config=replace(TINY, seed=1)),
        replace(options, cases=data_set),
        replace(options, output=PACKAGED),
    ):
        with pytest.raises(ValueError, match="holds a run with other settings"):
            train.train(other)
    for longer in (replace(options, stop_after=9), replace(options, output=tmp_path / "new")):
        with pytest.raises(AssertionError, match="scenes were made"):
            train.train(longer)
    with pytest.raises(ValueError, match="--stop-after is 0"):
        replace(options, stop_after=0)


def test_a_calibration_gives_every_hypothesis_a_chance(checkpoint, simulated_cases):
    """Nothing but the words change: the pose is the same with and without one."""
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(start=InitialPose("auto"), batch=1, num_samples=1)
    (result,) = runner.run(simulated_cases[:1], config, params, job)
    plain = prediction_line(result, "learnt")
    assert plain["expected_tre_mm"] is None
    assert {h["probability"] for h in plain["hypotheses"]} == {None}
    told = Calibration((-2.0, 3.0, 3.0, 0.0), (1.0, 0.0, 0.0, -0.1), 30.0, 0.9, 1)
    line = prediction_line(result, "learnt", told)
    chances = [h["probability"] for h in line["hypotheses"]]
    assert len(chances) == int(result.hypotheses["learnt"].distinct.sum())
    assert 0.0 < sum(chances) <= 1.0 + 1e-9
    assert 0.0 < line["expected_tre_mm"] <= 30.0
    assert line["T_camera_model"] == plain["T_camera_model"]
    first = poses.from_matrix(line["hypotheses"][0]["T_camera_model"], "hypothesis")
    np.testing.assert_allclose(
        first.translation, result.registrations["learnt"].pose.translation, atol=1e-4
    )
    sure = Calibration((9.0, 0.0, 0.0, 0.0), told.error, 30.0, 0.0, 1)
    enough = float(np.sum(result.levels["learnt"].inlier_weight)) >= LEAST_EVIDENCE
    assert prediction_line(result, "learnt", sure)["accepted"] == enough


def test_a_surgeons_word_reaches_the_search(checkpoint, simulated_cases):
    config, _ = load_trained(checkpoint)
    said = replace(simulated_cases[0], exposed=("L2", "L3"))
    for case, expected in ((said, "-##--#"), (simulated_cases[0], "######")):
        ready = prepare(
            case,
            config.network,
            surface=None,
            job=EvaluationConfig(batch=1, num_samples=1),
            given=None,
            within=None,
        )
        assert "".join("-#"[int(v)] for v in ready.exposed) == expected


def test_trust_is_measured_against_the_truth():
    lines = [
        {"accepted": a, "expected_tre_mm": e}
        for a, e in ((True, 0.5), (True, 0.7), (False, 9.0), (True, 2.0))
    ]
    found = risk_coverage(lines, np.array([0.4, 0.6, 40.0, 12.0]))
    assert found["coverage"] == 0.75
    assert found["wrong"] == pytest.approx(1 / 3)
    assert found["curve"]["coverage"] == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(found["curve"]["wrong"], [0, 0, 1 / 3, 0.5], atol=1e-4)
    lines[0]["expected_tre_mm"] = None
    assert risk_coverage(lines, np.zeros(4))["curve"] is None
    assert risk_coverage([], np.zeros(0)) is None
