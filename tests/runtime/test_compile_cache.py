"""Traces are kept, found again, and made again where they are broken; seconds count once."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.config import EvaluationConfig, InitialPose, TrainingConfig
from e2r.evaluation.programs import compile_programs
from e2r.geometry import poses
from e2r.pipeline import case_key
from e2r.runtime.compile_cache import CachedProgram
from e2r.runtime.timing import collect_timings, timed, timing_table
from e2r.types import Pose


@pytest.fixture
def cache(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


def program(traced, factor=2.0, **options):
    """A program that notes when it is traced."""

    def function(key, pose, points):
        traced.append(points.shape)
        return poses.apply(pose, factor * points) + jax.random.normal(key, points.shape)

    return CachedProgram(function, factor, **options)


def test_a_program_is_traced_once_a_machine(cache):
    key, points = jax.random.key(3), jnp.arange(6.0).reshape(2, 3)
    pose = Pose(np.eye(3, dtype=np.float32), np.ones(3, np.float32))
    traced: list = []
    first = program(traced)(key, pose, points)
    expected = 2.0 * points + 1.0 + jax.random.normal(key, points.shape)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    assert len(traced) == 1 and len(list(cache.iterdir())) == 1
    again = program(traced)  # as another process would
    np.testing.assert_array_equal(again(key, pose, points), first)
    assert len(traced) == 1
    # Other shapes or settings are another trace; one that is broken is made again.
    again(key, pose, jnp.zeros((5, 3)))
    np.testing.assert_allclose(
        program(traced, factor=3.0)(key, pose, points), expected + points, rtol=1e-6
    )
    assert len(traced) == 3 and len(list(cache.iterdir())) == 3
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    sooner = program(traced, fast_compile=True)(key, pose, points)
    np.testing.assert_allclose(sooner, first, rtol=1e-6)  # its options may round otherwise
    assert len(traced) == 4
    np.testing.assert_array_equal(program(traced, fast_compile=True)(key, pose, points), sooner)
    np.testing.assert_array_equal(program(traced)(key, pose, points), first)
    assert len(traced) == 4


@pytest.mark.parametrize("folder", [None, ""])  # "": JAX_COMPILATION_CACHE_DIR= in a shell
def test_without_a_cache_it_is_jit(cache, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", folder)
    traced: list = []
    pose = poses.identity()
    one = program(traced)
    for _ in range(2):
        one(jax.random.key(0), pose, jnp.zeros((2, 3)))
    assert len(traced) == 1 and not cache.exists()


def test_each_second_counts_once():
    def elsewhere():
        with timed("thread"):
            time.sleep(0.05)

    with collect_timings() as found, timed("outer"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        with timed("inner"):
            time.sleep(0.1)
        thread.join()
    assert list(found) == ["thread", "inner", "outer"]
    assert found["inner"] >= 0.1 and found["thread"] >= 0.05
    assert found["outer"] < found["inner"]  # the inner block's seconds are not its own
    with timed("nobody asks"):
        pass
    assert "nobody asks" not in found
    rows = timing_table(found).splitlines()
    assert [row.split()[0] for row in rows] == ["thread", "inner", "outer", "in"]


def test_what_does_not_change_the_programs_compiles_nothing_anew(tmp_path):
    """Seeds, and from where each case begins; whether it has a start does."""
    network = TrainingConfig().network
    first = compile_programs(network, EvaluationConfig())
    assert compile_programs(network, EvaluationConfig(seed=3)) is first
    assert compile_programs(network, EvaluationConfig(points=512)) is not first
    truth = compile_programs(network, EvaluationConfig(start=InitialPose("truth")))
    assert truth is not first
    given = EvaluationConfig(start=InitialPose(str(tmp_path / "start.json"), degrees=1.0))
    assert compile_programs(network, given) is truth


def test_the_seeds_of_job_and_case_make_the_key():
    seeds = np.array([5, 7], np.uint32)
    expected = jax.random.fold_in(jax.random.key(5), 7)
    assert jax.jit(case_key)(seeds) == expected
    assert case_key(seeds[::-1]) != expected
