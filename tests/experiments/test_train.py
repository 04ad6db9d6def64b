"""Training from its command line; what it refuses, and when."""

from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import TINY

from e2r.cli import simulate
from e2r.cli import train as command
from e2r.datasets import case_folder
from e2r.formats import meshes
from e2r.simulation import simulator
from e2r.training import checkpoints, loop
from e2r.training.trained_model import PACKAGED, load_trained
from experiments import train


def test_train_and_simulate_from_the_command_line(tmp_path, capsys):
    scenes = simulator.SimulationConfig(wound_fraction=(0.3, 0.8))
    options = simulate.Options(tmp_path / "cases", count=4, seed=5, simulation=scenes)
    assert simulate.run(options) == 0
    found = case_folder.find_cases(tmp_path / "cases")
    assert len(found) == 4
    network = asdict(TINY.network) | {"widths": "8 16"}  # its program is compiled already
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


def test_cases_of_another_seed_are_not_replaced(simulated_cases, tmp_path):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "ann")
    place = tmp_path / "cases" / "ann_000"
    place.mkdir(parents=True)
    (place / "case.json").write_text("{}")
    with pytest.raises(ValueError, match="ann_000: is not empty"):
        simulate.run(simulate.Options(tmp_path / "cases", anatomy=tmp_path / "ann"))
    assert (place / "case.json").read_text() == "{}"


def test_a_run_may_begin_with_the_parameters_of_another(
    checkpoint, data_set, tmp_path, monkeypatch
):
    def stop(inputs, *_, **__):
        given.update(begin=inputs.initial_params, source=inputs.source)
        raise ValueError("enough")

    given: dict[str, Any] = {}
    monkeypatch.setattr(loop, "train", stop)
    options = command.Options(TINY, tmp_path / "run", cases=data_set, begin=checkpoint)
    with pytest.raises(ValueError, match="enough"):
        command.run(options)
    params = load_trained(checkpoint)[1]
    jax.tree.map(np.testing.assert_array_equal, given["begin"], params)
    assert checkpoints.digest(params)[:12] in given["source"]  # no other run goes on with it
    wider = replace(TINY, network=replace(TINY.network, coarse_width=128))
    with pytest.raises(ValueError, match=r"run.*other sizes"):
        command.run(replace(options, config=wider))


def test_a_run_that_is_done_or_refused_makes_no_scenes(
    checkpoint, data_set, tmp_path, monkeypatch, capsys
):

    def make(*_, **__):
        raise AssertionError("scenes were made")

    monkeypatch.setattr(command.sources, "simulated", make)
    monkeypatch.setattr(command.sources, "from_folder", make)
    options = command.Options(TINY, checkpoint)
    for same in (options, replace(options, stop_after=9)):  # no run goes on past its schedule
        assert command.run(same) == 0
        assert "8 steps done" in capsys.readouterr().out
    for other in (
        replace(options, config=replace(TINY, seed=1)),
        replace(options, cases=data_set),
        replace(options, output=PACKAGED),
    ):
        with pytest.raises(ValueError, match="holds a run with other settings"):
            command.run(other)
    with pytest.raises(AssertionError, match="scenes were made"):
        command.run(replace(options, output=tmp_path / "new"))
    with pytest.raises(ValueError, match="--seed is -1; use 0 to 4294967295"):
        replace(TINY, seed=-1)
    for wrong, words in (
        ({"stop_after": 0}, "--stop-after is 0"),
        ({"stream": True}, "--stream reads the folders of --cases"),
        ({"workers": 2, "cases": data_set}, "--workers reads for --stream"),
        ({"workers": -1, "cases": data_set, "stream": True}, "--workers is -1"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(options, **wrong)


def test_a_run_from_memory_does_not_go_on_from_disk(data_set, tmp_path):
    options = command.Options(TINY, tmp_path, cases=data_set, stop_after=2)
    assert command.run(options) == 0
    with pytest.raises(ValueError, match="other settings"):
        command.run(replace(options, stream=True, stop_after=None))
