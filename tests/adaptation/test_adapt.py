"""A model is adapted to a patient: whose it is, what it holds, and how it goes on."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import e2r
from e2r.adaptation import adapt as adaptation
from e2r.adaptation import comparison
from e2r.adaptation.comparison import believed
from e2r.adaptation.report import REPORT_FILE, read_report, report_text, report_to_json
from e2r.adaptation.settings import AdaptationConfig, patient_scenes, training_config
from e2r.evaluation.models import read_model
from e2r.geometry.lens_distortion import Lens
from e2r.simulation.simulator import SimulationConfig
from e2r.training import checkpoints, held_out
from e2r.training.trained_model import load_trained

CONFIG = AdaptationConfig(steps=3, frames=4, specimens=1, held_out=4, batch=2, share=0.25)


@pytest.fixture(scope="module")
def base(calibrated):
    return read_model(calibrated)


@pytest.fixture(scope="module")
def surfaces(simulated_cases):
    return simulated_cases[0].model


@pytest.fixture(autouse=True)
def _an_untrained_network_is_right(monkeypatch):
    monkeypatch.setattr(comparison, "believed", lambda _: "both")


@pytest.fixture(scope="module")
def patient(base, surfaces, tmp_path_factory):
    """The folder of a finished adaptation."""
    folder = tmp_path_factory.mktemp("patient")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "believed", lambda _: "both")
        e2r.adapt(base, surfaces, output=folder, config=CONFIG)
    return folder


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_adapted_model_is_a_blend_and_keeps_its_base(patient, base):
    model = read_model(patient)
    trained = load_trained(patient / "run")[1]
    same(model.others, (base.params,))
    for first, last, found in zip(
        *map(jax.tree.leaves, (base.params, trained, model.params)), strict=True
    ):
        assert np.any(np.asarray(first) != np.asarray(last))
        np.testing.assert_allclose(found, 0.75 * first + 0.25 * last, rtol=1e-5, atol=1e-7)
    assert model.calibration.cases == len(model.fitted) == len(base.fitted) + CONFIG.held_out
    assert list(model.patient) == ["L1", "L2", "L3", "L4", "L5"]
    assert json.loads((patient / "patient.json").read_text())["steps"] == 3


def test_the_report_tells_each_alone_both_and_the_curve(patient):
    report = json.loads((patient / REPORT_FILE).read_text())
    assert [row["model"] for row in report["models"]] == ["base", "adapted", "both"]
    assert all(row["frames"] == CONFIG.held_out for row in report["models"])
    assert [point["step"] for point in report["curve"]] == [0, 1, 2, 3]
    for row in report["models"]:
        low, high = row["interval_mm"]
        assert len(row["tre_mm"]) == row["levels"] and low <= row["median_tre_mm"] <= high
    read = read_report(patient / REPORT_FILE)
    assert report_to_json(read) == report
    text = report_text(read)
    assert "shown to both" in text and "minutes" in text


@pytest.mark.parametrize(
    "change",
    [
        {"models": [{"model": "base", "median_tre_mm": 1.0}]},  # of an older build
        {"models": 3},
        {"curve": [{"step": 0}]},
        {"steps": None},
        {"believed": "me"},
    ],
)
def test_what_is_no_report_is_named(change, patient, tmp_path):
    text = (patient / REPORT_FILE).read_text()
    broken = json.dumps(json.loads(text) | change)
    for written in (broken, text[:-100], "[]", ""):
        (tmp_path / REPORT_FILE).write_text(written)
        with pytest.raises(ValueError, match=r"report\.json: is no report of this e2r"):
            read_report(tmp_path / REPORT_FILE)


def test_who_is_worse_is_told_by_errors_that_are_capped():
    def rows(base, both):
        return [{"model": "base", "tre_mm": base}, {"model": "both", "tre_mm": both}]

    assert believed(rows([1.0, 2.0], [1.0, 1.9])) == "both"
    assert believed(rows([1.0, 2.0], [1.0, 2.0])) == "both"
    assert believed(rows([1.0, 2.0], [1.0, 2.1])) == "base"
    # A level that is lost counts alike, however far it is off.
    assert believed(rows([1.0, 50.0], [0.9, 900.0])) == "both"


def test_an_adaptation_that_is_worse_leaves_the_base_alone(
    base, surfaces, tmp_path, monkeypatch, simulated_cases
):
    monkeypatch.setattr(comparison, "believed", lambda _: "base")
    model = e2r.adapt(base, surfaces, output=tmp_path, config=replace(CONFIG, steps=1))
    same(model.params, base.params)
    assert model.others == () and list(model.patient) == ["L1", "L2", "L3", "L4", "L5"]
    assert model.calibration.cases == len(model.fitted) == len(base.fitted) + CONFIG.held_out
    assert "the base alone will be asked" in report_text(read_report(tmp_path / REPORT_FILE))
    assert e2r.register(simulated_cases[1], model).tre_mm > 0


def test_a_case_of_the_patient_is_registered_and_anothers_is_refused(patient, simulated_cases):
    model, case = e2r.load_model(patient), simulated_cases[1]
    assert e2r.register(case, model).tre_mm > 0
    larger = {name: mesh.copy().apply_scale(1.05) for name, mesh in case.model.items()}
    with pytest.raises(ValueError, match="its L1 is not that of the patient"):
        e2r.register(replace(case, model=larger, folder=None), model)


def test_a_finished_adaptation_is_read_and_not_made_again(patient, base, surfaces, monkeypatch):
    monkeypatch.setattr(adaptation, "PatientCases", None)
    again = e2r.adapt(base, surfaces, output=patient, config=CONFIG)
    same(again.params, read_model(patient).params)
    fewer = replace(CONFIG, steps=2)
    same(e2r.adapt(base, surfaces, output=patient, config=fewer).params, again.params)


def test_an_interrupted_adaptation_ends_with_the_same_bits(
    patient, base, surfaces, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "compare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            e2r.adapt(base, surfaces, output=tmp_path, config=replace(CONFIG, steps=2))
    with pytest.raises(ValueError, match="its adaptation is not finished"):
        e2r.load_model(tmp_path)
    # More steps go on with those that are done: the learning rate is flat.
    same(
        e2r.adapt(base, surfaces, output=tmp_path, config=CONFIG).params, read_model(patient).params
    )


def test_the_steps_that_fit_are_measured_and_kept(base, surfaces, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "MEASURED_STEPS", 2)
    config = replace(CONFIG, steps=0, minutes=1e-3)  # no time is left after those two
    with monkeypatch.context() as patch:
        patch.setattr(held_out, "watch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            e2r.adapt(base, surfaces, output=tmp_path, config=config)
    # More minutes: two more steps are measured, after the two that are done.
    e2r.adapt(base, surfaces, output=tmp_path, config=replace(config, minutes=2e-3))
    assert json.loads((tmp_path / "patient.json").read_text())["steps"] == 4
    assert checkpoints.latest_step(tmp_path / "run") == 4


def test_other_surfaces_settings_and_bases_are_refused(patient, base, surfaces, tmp_path):
    fewer = {name: surfaces[name] for name in ("L1", "L2", "L3")}
    for given, config in ((fewer, CONFIG), (surfaces, replace(CONFIG, seed=1))):
        with pytest.raises(ValueError, match=r"patient\.json: is an adaptation with other"):
            e2r.adapt(base, given, output=patient, config=config)
    with pytest.raises(ValueError, match="adapted to a patient already"):
        e2r.adapt(e2r.load_model(patient), surfaces, output=tmp_path, config=CONFIG)
    with pytest.raises(ValueError, match="patient: has no L9 to expose; its levels are L1"):
        e2r.adapt(base, surfaces, output=tmp_path, config=replace(CONFIG, exposed=("L9",)))
    assert not any(tmp_path.iterdir())


def test_a_base_without_calibration_cases_is_refused(base, surfaces, tmp_path):
    with pytest.raises(ValueError, match="keeps no calibration case"):
        e2r.adapt(replace(base, fitted=()), surfaces, output=tmp_path, config=CONFIG)


def test_a_folder_with_a_model_of_its_own_is_refused(base, surfaces, checkpoint, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run)
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(ValueError, match="holds another model, which would be lost"):
        e2r.adapt(base, surfaces, output=run, config=CONFIG)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 3}, {"minutes": 0.0}, {"share": 0.0}, {"learning_rate": 1.0}, {"held_out": 0}],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    option = next(iter(wrong)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--{option} is"):
        AdaptationConfig(**wrong)


def test_time_decides_how_many_steps_are_taken(base, bank, tmp_path, monkeypatch):
    from e2r.training import batches, loop

    training = training_config(base.config, CONFIG)
    inputs = loop.RunInputs(training, batches.uniform_batches(training, bank))
    clock = iter([110.0, 111.0, 112.0, 114.0])  # after the step that compiled, and after others
    monkeypatch.setattr(adaptation, "MEASURED_STEPS", 4)
    monkeypatch.setattr(adaptation.time, "perf_counter", lambda: next(clock))

    def four_steps(inputs, run, *, stop_after, log_options):
        assert stop_after == 4 and log_options.log_every == 1
        for number in range(stop_after):
            log_options.on_log({"step": number + 1})

    monkeypatch.setattr(loop, "train", four_steps)
    settings = replace(CONFIG, minutes=3.0, held_out=10)
    steps = adaptation._steps_that_fit(inputs, tmp_path, settings, began=14.0)
    # 180 s less 100 s, a second a step, less 5 for each of 10 frames, beside the 4 that are done.
    assert steps == 4 + 80 - 50


def test_the_rooms_camera_sets_the_frame_and_its_zoom():
    scenes = SimulationConfig(width=256, height=192)
    lens = Lens(fx=600.0, fy=600.0, cx=320.0, cy=180.0, size=(640, 360))
    found = patient_scenes(scenes, replace(CONFIG, exposed=("L3",)), lens)
    assert (found.width, found.height, found.focal_to_width) == (256, 144, 600.0 / 640.0)
    assert found.exposed == ("L3",)
    assert patient_scenes(scenes, CONFIG) == scenes


def test_a_camera_that_is_unclear_is_refused(base, surfaces, tmp_path):
    path = tmp_path / "camera.json"
    fields = {"fx": 600, "fy": 600, "cx": 320, "cy": 180}
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"--camera: its file gives no width and height"):
        e2r.adapt(base, surfaces, config=CONFIG, camera=path)
    path.write_text(json.dumps(fields | {"cx": 240, "width": 640, "height": 360}))
    with pytest.raises(ValueError, match=r"camera\.json: the principal point .* whole one$"):
        e2r.adapt(base, surfaces, config=CONFIG, camera=path)  # it has no option unchecked
