"""The stages of an evaluation: no leaks of the truth, between masks, or of memory; retries."""

import gc
import time
import weakref
from dataclasses import replace

import jax
import numpy as np
import pytest

from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.evaluation import runner
from e2r.evaluation.models import Model
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Failed, Registered
from e2r.formats import meshes
from e2r.pipeline import ProgramConfig
from e2r.registration.schedule import Schedule
from e2r.runtime.compile_cache import CachedProgram
from e2r.runtime.timing import collect_timings
from e2r.training.trained_model import load_trained


def test_prediction_does_not_depend_on_the_truth(checkpoint, simulated_cases):
    """Another truth, or none, gives the same pose."""
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=1)
    case = simulated_cases[0]
    moved = {k: p._replace(translation=p.translation + 50) for k, p in case.truth.items()}
    variants = [case, replace(case, truth=moved), replace(case, truth=None, targets=None)]
    found = [next(iter(runner.run([v], Model(config, params), job=job))) for v in variants]
    for other in found[1:]:
        np.testing.assert_array_equal(
            found[0].registrations["learnt"].pose.translation,
            other.registrations["learnt"].pose.translation,
        )
    assert found[2].errors == {}


def test_masks_do_not_affect_each_other(checkpoint, simulated_cases):
    """The learnt mask has the same weights and pose alone and beside other masks.

    A mask that would keep nothing keeps a tenth of the points.
    """
    config, params = load_trained(checkpoint)
    case, lower = simulated_cases[0], params
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=1)

    def lowered(shift):
        def one(leaf):  # the last layer's bias is the only leaf of two numbers
            return leaf - np.array([shift, 0.0], np.float32) if leaf.shape == (2,) else leaf

        return {**params, "mask": jax.tree.map(one, params["mask"])}

    starved = next(iter(runner.run([case], Model(config, lowered(50.0)), job=job)))
    kept, valid = (starved.weights["learnt"] >= 0.5).sum(), starved.cloud.valid.sum()
    assert abs(kept - 0.1 * valid) < 2

    for shift in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):  # until the untrained mask drops some points
        lower = lowered(shift)
        alone = next(iter(runner.run([case], Model(config, lower), job=job)))
        if 20 < alone.weights["learnt"].sum() < 0.9 * len(alone.weights["learnt"]):
            break
    else:
        pytest.fail("no shift of the bias splits the points")
    job = replace(job, program=ProgramConfig(masks=("all", "oracle", "learnt"), num_samples=1))
    after = next(iter(runner.run([case], Model(config, lower), job=job)))
    np.testing.assert_array_equal(alone.weights["learnt"], after.weights["learnt"])
    np.testing.assert_allclose(
        alone.registrations["learnt"].pose.translation,
        after.registrations["learnt"].pose.translation,
        atol=0.05,
    )


def test_retry_keeps_the_result_with_most_evidence(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=2, retry_below=0.0)
    source = [simulated_cases[0], Failed("broken", "a sentence"), *simulated_cases[1:3]]

    def results(job):
        found = list(runner.run(source, Model(config, params), job=job))
        assert Failed("broken", "a sentence") in found
        found = [one for one in found if isinstance(one, Registered)]
        assert len(found) == 3
        return {one.case.id: one for one in found}

    once = results(job)
    several = {tries: results(replace(job, retry_below=1.0, tries=tries)) for tries in (1, 2, 3)}
    evidence = {
        tries: np.array([found[name].evidence("learnt") for name in once])
        for tries, found in [(0, once), *several.items()]
    }
    np.testing.assert_array_equal(evidence[1], evidence[0])
    assert (evidence[2] >= evidence[1]).all() and (evidence[3] >= evidence[2]).all()
    other = [n for n in once if not np.array_equal(several[3][n].rows, once[n].rows)]
    assert other  # of three cases of an untrained network, in other samples
    assert all(several[3][n].evidence("learnt") > once[n].evidence("learnt") for n in other)
    assert all(several[2][name].seconds > 0 for name in once)
    same_twice = list(
        runner.run(
            [source[0]] * 2, Model(config, params), job=replace(job, retry_below=1.0, tries=2)
        )
    )
    assert [one.case.id for one in same_twice] == [source[0].id] * 2
    least = evidence[0].min()
    if least > 0:
        same = results(replace(job, retry_below=float(least)))  # none is below
        for name, one in same.items():
            np.testing.assert_array_equal(one.rows, once[name].rows)


def test_evidence_falls_by_what_sticks_out(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=1, retry_below=0.0)
    (one,) = runner.run(simulated_cases[:1], Model(config, params), job=job)
    out = one.sticking_out["learnt"].copy()
    out[0] = 0.25
    moved = one._replace(sticking_out={"learnt": out})
    share, lead = one.hypothesis_features("learnt")[0, :2]
    assert share == pytest.approx(one.inlier_share("learnt"))
    assert moved.evidence("learnt") == pytest.approx(share + 0.5 * lead - 0.25)


def test_given_initial_pose_is_never_retried(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    program = ProgramConfig(schedule=Schedule(steps=12), num_samples=2)
    job = EvaluationConfig(program, start="truth", batch=2, retry_below=1.0)
    never = replace(job, retry_below=0.0)
    (one,), (other,) = (
        runner.run(simulated_cases[:1], Model(config, params), job=some) for some in (job, never)
    )
    np.testing.assert_array_equal(one.rows, other.rows)


def test_no_cases_seconds_hold_the_compilation(checkpoint, simulated_cases, monkeypatch):
    """Each new program takes two seconds longer to compile; the cases' seconds do not notice."""
    config, params = load_trained(checkpoint)
    program = ProgramConfig(schedule=Schedule(steps=12), num_samples=2)
    job = EvaluationConfig(program, start="truth", batch=2)
    compiled, pause = CachedProgram.prepare, 2.0

    def slowly(self, *arguments):
        if not self.is_ready(*arguments):
            time.sleep(pause)
        return compiled(self, *arguments)

    monkeypatch.setattr(CachedProgram, "prepare", slowly)

    def seconds():
        return [one.seconds for one in runner.run(simulated_cases, Model(config, params), job=job)]

    compile_programs.cache_clear()
    with collect_timings() as spent:
        first = seconds()
    assert spent["tracing programs"] + spent["compiling programs"] > 0.5
    again = seconds()
    assert len(first) == len(again) == 4
    assert max(first) < max(pause / job.batch, 3 * max(again))


def test_a_long_job_frees_the_meshes(checkpoint, data_set, monkeypatch):
    monkeypatch.setattr(meshes, "COLLECT_EVERY", 4)
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(ProgramConfig(schedule=Schedule(steps=12)), start="truth", batch=2)
    paths, read = case_folder.find_cases(data_set), []

    def source():
        for number in range(24):
            case = case_folder.read_case(paths[number % len(paths)])
            read.append(weakref.ref(next(iter(case.model.values()))))
            yield case

    gc.collect()
    gc.disable()  # with all of JAX's objects, Python itself collects hardly ever
    try:
        alive = [
            sum(mesh() is not None for mesh in read)
            for _ in runner.run(source(), Model(config, params), job=job)
        ]
    finally:
        gc.enable()
    assert len(alive) == 24 and max(alive) <= 16


def test_each_network_is_asked_and_most_evidence_decides(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    other = jax.tree.map(lambda leaf: 1.3 * leaf, params)
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=2, retry_below=0.0)
    cases = simulated_cases[:3]

    def found(model):
        return {one.case.id: one for one in runner.run(cases, model, job=job)}

    alone = [found(Model(config, one)) for one in (params, other)]
    both = found(Model(config, params, others=(other,)))
    assert list(both) == [case.id for case in cases]
    for name, one in both.items():
        evidence = [single[name].evidence("learnt") for single in alone]
        assert one.evidence("learnt") == max(evidence)
        expected = alone[int(np.argmax(evidence))][name]
        jax.tree.map(np.testing.assert_array_equal, one.levels, expected.levels)
    given = replace(job, start="truth")  # a given pose needs no second opinion
    (first,) = runner.run(cases[:1], Model(config, params, others=(other,)), job=given)
    (same,) = runner.run(cases[:1], Model(config, params), job=given)
    jax.tree.map(np.testing.assert_array_equal, first.levels, same.levels)
