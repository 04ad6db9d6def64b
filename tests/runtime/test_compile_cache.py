"""Traces are kept, found by later processes, and replaced where they are broken."""

import functools
import gc
import subprocess
import sys
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.geometry import poses
from e2r.registration import iterate
from e2r.registration.schedule import Schedule
from e2r.runtime import code_digest
from e2r.runtime.compile_cache import CachedProgram, HonestJit
from e2r.runtime.timing import collect_timings
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

    return CachedProgram(function, **options)


def test_a_program_is_traced_once_a_machine(cache):
    key, points = jax.random.key(3), jnp.arange(6.0).reshape(2, 3)
    pose = Pose(np.eye(3, dtype=np.float32), np.ones(3, np.float32))
    traced = deque()  # what it holds is no constant of the program
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


def test_threads_that_ask_together_wait_for_one_trace(cache):
    def ask(_):
        together.wait()
        return np.asarray(asked(jax.random.key(3), pose, np.ones((7, 3), np.float32)))

    traced, together = deque(), Barrier(4)
    pose, asked = Pose(np.eye(3, dtype=np.float32), np.ones(3, np.float32)), program(traced)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(traced) == 1
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


@pytest.mark.parametrize("folder", [None, ""])  # "": JAX_COMPILATION_CACHE_DIR= in a shell
def test_without_a_cache_it_is_jit(cache, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", folder)
    traced = deque()  # what it holds is no constant of the program
    pose = poses.identity()
    one = program(traced)
    for _ in range(2):
        one(jax.random.key(0), pose, jnp.zeros((2, 3)))
    assert len(traced) == 1 and not cache.exists()


@pytest.mark.parametrize("kept", [True, False])
def test_a_program_is_compiled_before_it_runs(cache, kept):
    """With and without a folder for traces; for each shape by itself."""
    jax.config.update("jax_compilation_cache_dir", str(cache.parent) if kept else None)
    traced: list = []
    one, key, pose = program(traced), jax.random.key(0), poses.identity()
    few, many = jnp.zeros((2, 3)), jnp.zeros((5, 3))
    assert not one.is_ready(key, pose, few)
    one.prepare(key, pose, few)
    assert one.is_ready(key, pose, few) and not one.is_ready(key, pose, many)
    assert len(traced) == 1
    with collect_timings() as seconds:
        one(key, pose, few)
    assert seconds == {} and len(traced) == 1
    with collect_timings() as seconds:
        one(key, pose, many)
    assert seconds["compiling programs"] > 0 and len(traced) == 2


SCRIPT = """
import sys

import jax
import numpy as np

from e2r.geometry import poses
from e2r.runtime.compile_cache import CachedProgram

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
traces = []


def function(shift):
    traces.append(shift)
    return {"pose": poses.identity()._replace(translation=shift), "list": [shift + 1.0]}


found = CachedProgram(function)(np.arange(3.0, dtype=np.float32))
print(len(traces), type(found["pose"]).__name__, np.asarray(found["list"][0]).tolist())
"""


def test_another_process_knows_the_types_of_a_kept_trace(tmp_path):
    """The named tuples of a result are read from the trace's file, before any was made."""
    calls = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert calls == ["1 Pose [1.0, 2.0, 3.0]\n", "0 Pose [1.0, 2.0, 3.0]\n"]


def test_a_traces_name_covers_the_sources_of_the_whole_package(monkeypatch):
    """An edit of any room that makes figures makes new traces."""
    read: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read.append(path.parent.name) or real(path)
    )
    code_digest.package_digest.__wrapped__()
    assert {"e2r", "runtime", "registration", "networks", "geometry"} <= set(read)
    assert not {"cli", "visualisation"} & set(read)


CONSTANT = 2.0


def scaled(x):
    return CONSTANT * x


@pytest.mark.parametrize("kind", ["with a cache", "without one"])
def test_a_constant_that_changes_while_a_program_is_warm_changes_its_figures(
    cache, kind, monkeypatch
):
    if kind == "without one":
        jax.config.update("jax_compilation_cache_dir", None)
    program = CachedProgram(jax.vmap(functools.partial(scaled)))
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(program(x), 2.0 * x)
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 3.0)
    np.testing.assert_array_equal(program(x), 3.0 * x)
    monkeypatch.undo()
    np.testing.assert_array_equal(program(x), 2.0 * x)


def test_programs_of_old_code_are_let_go(monkeypatch):
    """A notebook's function is written again a hundred times."""
    program = CachedProgram(scaled)
    old = weakref.ref(program.prepare(jnp.ones(2)))
    assert program.prepare(jnp.ones(2)) is old()
    program.prepare(jnp.ones(3))
    assert old() is not None  # other shapes, the same code
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 7.0)
    np.testing.assert_array_equal(program(jnp.ones(2)), [7.0, 7.0])
    gc.collect()
    assert old() is None


def test_a_jitted_function_inside_a_program_changes_too(monkeypatch):
    inner = jax.jit(scaled)
    program = HonestJit(lambda x: inner(x) + 1.0)
    np.testing.assert_array_equal(program(jnp.ones(2)), [3.0, 3.0])
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 4.0)
    np.testing.assert_array_equal(program(jnp.ones(2)), [5.0, 5.0])


def test_a_changed_constant_of_e2r_changes_a_warm_programs_figures(cache, monkeypatch, sphere):
    """The damping of the implicit derivative, which only the reverse pass reads."""
    schedule = Schedule(steps=2, mode="implicit")
    normals = np.asarray(sphere.normals[:50])
    points = np.asarray(sphere.points[:50]) + 1.5 * normals

    def loss(points, surface):
        cloud = iterate.MaskedCloud(points, normals, np.ones(50, np.float32))
        run = functools.partial(iterate.run_unrolled, step=schedule.bound_step(), mode="implicit")
        pose = run(cloud, surface, poses.identity(), schedule.scales()).pose
        return jnp.sum(jnp.square(pose.translation))

    program = CachedProgram(jax.grad(loss))
    before = program(points, sphere)
    monkeypatch.setattr(iterate, "IMPLICIT_DAMPING", 100.0)
    after = program(points, sphere)
    assert np.max(np.abs(after)) < 0.5 * np.max(np.abs(before))
    monkeypatch.undo()
    np.testing.assert_array_equal(program(points, sphere), before)
