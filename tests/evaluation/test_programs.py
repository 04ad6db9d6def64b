"""Jobs share compiled programs wherever these do not depend on what differs."""

from functools import partial

import jax
import numpy as np
from conftest import TINY, first_state

from e2r.config import EvaluationConfig
from e2r.datasets.sampling import sample_scene_points
from e2r.evaluation.preparation import initial_pose, prepare_case
from e2r.evaluation.programs import compile_programs
from e2r.pipeline import ProgramConfig, case_key, register_case


def test_programs_depend_on_program_settings_and_batch_only():
    first = compile_programs(TINY.network, EvaluationConfig().program, batch=8)
    for job in (EvaluationConfig(seed=3), EvaluationConfig(start="truth", retry_below=0.0)):
        assert compile_programs(TINY.network, job.program, batch=8) is first
    assert compile_programs(TINY.network, ProgramConfig(max_points=512), batch=8) is not first
    assert compile_programs(TINY.network, ProgramConfig(), batch=4) is not first


def test_only_a_case_without_an_initial_pose_is_searched(simulated_cases, surface):
    """The program of such a case contains the search, so it is larger."""
    case, program = simulated_cases[0], ProgramConfig(num_samples=1)
    sample = sample_scene_points(case, TINY.network, seed=0)
    params = jax.eval_shape(first_state).params

    def program_size(start):
        job = EvaluationConfig(program, start=start)
        pose = initial_pose(case, job, None)
        prepared = prepare_case(case, sample, surface, job=job, initial_pose=pose)
        assert (prepared.initial_pose is None) == (start == "auto")
        register = partial(register_case, network=TINY.network, program=program)
        return len(str(jax.make_jaxpr(register)(params, prepared)))

    sizes = {start: program_size(start) for start in ("auto", "truth")}
    assert sizes["truth"] < 0.8 * sizes["auto"]


def test_the_seeds_of_job_and_case_make_the_key():
    seeds = np.array([5, 7], np.uint32)
    expected = jax.random.fold_in(jax.random.key(5), 7)
    assert jax.jit(case_key)(seeds) == expected
    assert case_key(seeds[::-1]) != expected
