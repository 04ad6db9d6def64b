"""A study's folder goes on with the same settings and code only."""

import pytest

from e2r.evaluation.study_folder import open_study, plain, run_parts
from e2r.runtime import cluster
from e2r.runtime.cluster import ClusterConfig
from e2r.runtime.single_writer import single_writer

WEIGHT = 1.0


def compute():
    return 2.0 * WEIGHT


def begin(folder, settings=(("steps", 3),), *, again=False):
    with open_study(
        folder / "settings.json",
        dict(settings),
        study=compute,
        again=again,
        results=[folder / "errors.json", folder / "runs"],
        first=[folder / "errors.json"],
    ) as code:
        return code


def test_figures_of_other_code_are_refused_and_deleted_on_request(tmp_path, monkeypatch):
    code = begin(tmp_path)
    assert len(code["e2r sources"]) == 20 and code["jax"]
    (tmp_path / "errors.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    assert begin(tmp_path) == code and (tmp_path / "errors.json").exists()
    monkeypatch.setitem(globals(), "WEIGHT", 2.0)
    with pytest.raises(ValueError, match=r"study were computed by other code \(study .*--again"):
        begin(tmp_path)
    assert (tmp_path / "errors.json").exists()
    assert begin(tmp_path, again=True)["study"] != code["study"]
    assert not (tmp_path / "errors.json").exists() and not (tmp_path / "runs").exists()
    begin(tmp_path)


def test_other_settings_and_figures_of_unknown_ones_are_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(ValueError, match="holds a study with other settings"):
        begin(tmp_path, {"steps": 4})
    (tmp_path / "errors.json").write_text("{}")
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"belongs to a study without settings\.json"):
        begin(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    with single_writer(tmp_path, "study"), pytest.raises(ValueError, match="writes this study"):
        begin(tmp_path)
    begin(tmp_path)


def test_a_part_that_is_given_up_is_told_after_the_others_are_done(monkeypatch):
    done = []

    def stream(serve, parts, *, give_up, name, **_):
        for part in parts:
            if part == 1:
                yield give_up(part, "part1: its worker died")
            else:
                done.append(part)
                yield from (outcome for _, outcome in serve(iter([part])))

    monkeypatch.setattr(cluster, "stream", stream)
    with pytest.raises(ValueError, match="part1: its worker died"):
        run_parts(lambda part: part, [0, 1, 2], config=ClusterConfig(), name="part{}".format)
    assert done == [0, 2]
    assert run_parts(lambda p: 10 * p, [2, 0], config=ClusterConfig(), name=str) == [20, 0]


def test_settings_are_kept_as_json_without_those_that_change_nothing(tmp_path):
    assert plain({"steps": 3, "errors": (1.0, 2.0), "output": tmp_path}, without=["output"]) == {
        "steps": 3,
        "errors": [1.0, 2.0],
    }
