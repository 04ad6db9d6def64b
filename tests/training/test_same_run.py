"""Which run goes on with which settings, and what a refusal says."""

import dataclasses
import json

import jax
import made_up_run
import numpy as np
import pytest
from conftest import TINY

from e2r.cli import train as command
from e2r.config import config_to_json
from e2r.training import loop
from e2r.training.metrics_log import read_log
from e2r.training.same_run import continued_settings, filled


@pytest.fixture
def run(monkeypatch):
    return made_up_run.install(monkeypatch)


def changed(section=None, **values):
    """The tiny configuration with some fields changed."""
    if section is None:
        return dataclasses.replace(TINY, **values)
    part = dataclasses.replace(getattr(TINY, section), **values)
    return dataclasses.replace(TINY, **{section: part})


def stored(config=TINY, source="simulated"):
    return json.loads(json.dumps({**config_to_json(config), "source": source}))


def rates(folder):
    return [line["learning_rate"] for line in read_log(folder)]


@pytest.mark.parametrize("stop", [5, 8])
def test_a_run_is_lengthened_and_its_schedule_is_that_of_the_new_length(run, tmp_path, stop):
    """From the resumed step on; the steps before it keep what they had."""
    run(tmp_path / "short")
    run(tmp_path / "long", changed("optimisation", steps=12))
    run(tmp_path / "run", stop_after=stop)
    state = run(tmp_path / "run", changed("optimisation", steps=12))
    assert int(state.step) == 12
    short, whole, found = (rates(tmp_path / name) for name in ("short", "long", "run"))
    assert found == short[:stop] + whole[stop:]
    assert short[stop - 1] != whole[stop - 1]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["optimisation"]["steps"] == 12
    assert record["lengthened"] == [{"after": stop, "from": 8, "to": 12}]


def test_a_run_is_lengthened_again_and_shortened_to_what_it_has_done(run, tmp_path):
    run(tmp_path, stop_after=4)
    run(tmp_path, changed("optimisation", steps=10), stop_after=6)
    run(tmp_path, changed("optimisation", steps=10), stop_after=7)  # no change: nothing is noted
    run(tmp_path, changed("optimisation", steps=9))
    record = json.loads((tmp_path / "config.json").read_text())
    assert [(one["after"], one["to"]) for one in record["lengthened"]] == [(4, 10), (7, 9)]
    assert len(read_log(tmp_path)) == 9
    assert loop.steps_done(changed("optimisation", steps=9), tmp_path) == 9
    sentence = r"optimisation\.steps is 8, but the run has done 9 steps; give 9 or more"
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        loop.steps_done(TINY, tmp_path)
    assert len(read_log(tmp_path)) == 9


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            changed("optimisation", learning_rate=0.001),
            ["optimisation.learning_rate is 0.001, the run in RUN was begun with 0.002"],
        ),
        (changed(seed=3), ["seed is 3, the run in RUN was begun with 0"]),
        (
            changed("network", widths=(8, 32)),
            ["network.widths is [8, 32], the run in RUN was begun with [8, 16]"],
        ),
        (
            changed("schedule", kernel="tukey", steps=4),
            [
                'schedule.kernel is "tukey", the run in RUN was begun with "welsch"',
                "schedule.steps is 4, the run in RUN was begun with 3",
            ],
        ),
        (
            changed("optimisation", steps=12, batch=4),
            ["optimisation.batch is 4, the run in RUN was begun with 2"],
        ),
    ],
)
def test_a_refusal_names_the_fields_that_differ_and_both_values(run, tmp_path, other, words):
    run(tmp_path, stop_after=3)
    with pytest.raises(ValueError, match="holds a run with other settings") as caught:
        run(tmp_path, other)
    sentence = str(caught.value)
    for some in words:
        assert some.replace("RUN", str(tmp_path)) in sentence
    assert sentence.count("was begun with") == len(words)  # and no other field
    assert "\n" not in sentence and "name another output folder" in sentence


def test_other_examples_are_other_settings(run, tmp_path):
    run(tmp_path, source="/here/cases", stop_after=3)
    with pytest.raises(ValueError, match=r'source is "simulated", the run in .*"/here/cases"'):
        run(tmp_path)


def earlier():
    """The settings of a run that was begun before some fields existed."""
    found = stored()
    for section, name in (
        ("optimisation", "skip_not_finite"),
        ("optimisation", "accumulate"),
        ("schedule", "tolerance_mm"),
        ("network", "precision"),
    ):
        del found[section][name]
    return found


def test_a_field_that_came_later_has_its_default(run, tmp_path, monkeypatch):
    """A run that was begun before a field existed goes on; unless the field has another value."""
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as past:
        past.setattr(loop, "run_settings", lambda config, source: earlier())
        run(tmp_path / "parts", stop_after=3)
    other = changed("optimisation", accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate is 2, the run in .* was begun with 1"):
        loop.steps_done(other, tmp_path / "parts")
    assert loop.steps_done(TINY, tmp_path / "parts") == 3
    parts = run(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert filled(earlier()) == stored()
    assert continued_settings(earlier(), stored(), output=tmp_path, done=3) == stored()


def test_fields_without_end_are_counted(tmp_path):
    other = stored()
    other["network"] = {name: 77 for name in other["network"]}
    with pytest.raises(ValueError, match=r"and \d+ more differ"):
        continued_settings(stored(), other, output=tmp_path, done=0)


def test_an_exported_model_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"an exported model.*--begin"):
        continued_settings({**stored(), "exported": True}, stored(), output=tmp_path, done=8)


def test_a_relative_and_an_absolute_path_are_the_same_run(tmp_path, monkeypatch):
    (tmp_path / "cases").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    sources = []

    def note(config, output, *, source):
        sources.append(source)
        raise ValueError("enough")

    monkeypatch.setattr(loop, "steps_done", note)
    for cases in ("cases", "./cases", "other/../cases", tmp_path / "cases"):
        options = command.Options(TINY, tmp_path / "run", cases=type(tmp_path)(cases))
        with pytest.raises(ValueError, match="enough"):
            command.run(options)
    assert set(sources) == {str((tmp_path / "cases").resolve())} and len(sources) == 4
    assert np.all([not source.startswith(".") for source in sources])
