"""A changed constant changes the figures, with warm caches, in one process and in two."""

import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, first_example
from plugged_in import CONSTANTS, PLUGINS

import e2r
from e2r.runtime.compile_cache import HonestJit
from e2r.training.objective import example_loss
from e2r.training.problems import draw_problem
from e2r.training.step import init_state

MODULE = "plugged_in_one_process"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The user's module, imported."""
    folder = tmp_path_factory.mktemp("user")
    (folder / f"{MODULE}.py").write_text(PLUGINS)
    sys.path.append(str(folder))
    yield importlib.import_module(MODULE)
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def loss(plugins, bank):
    """The loss of an example with every kind of plug-in, and a warm program that computes it."""
    config = replace(
        TINY,
        network=replace(
            TINY.network, mask_network=plugins.mask_network, coarse_network=plugins.coarse_network
        ),
        schedule=replace(
            TINY.schedule, kernel=plugins.cauchy, step=plugins.stiff, correspondence=plugins.pulled
        ),
        optimisation=replace(
            TINY.optimisation,
            estimator=plugins.steep,
            loss_terms=(plugins.sparse,),
            augmentations=("view_and_colours", plugins.bright),
        ),
    )

    def one(params, example, config):
        keys, problem = draw_problem(jax.random.key(3), example, config.optimisation)
        return example_loss(params, keys, problem, config=config)[0]

    program = HonestJit(partial(one, config=config))
    params, example = jax.jit(partial(init_state, config))().params, first_example(bank)
    first = float(program(params, example))
    assert float(program(params, example)) == first
    return first, lambda: float(program(params, example))


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_constant_of_a_plugin_counts_in_a_warm_process(loss, plugins, kind, monkeypatch):
    first, again = loss
    line, changed = CONSTANTS[kind]
    assert line in PLUGINS
    name, _, value = changed.partition(" = ")
    monkeypatch.setattr(plugins, name, float(value))
    assert abs(again() - first) > 1e-4 * abs(first)


SCRIPT = """
import sys

import jax
import numpy as np

import e2r
from e2r.registration.schedule import register_cloud
from e2r.runtime import compile_cache

(cloud, surface, start) = np.load(sys.argv[1], allow_pickle=True)["problem"]
schedule = e2r.Schedule(kernel="user_module:cauchy", step="user_module:stiff", steps=4)
traces = []


def run(cloud, surface, start):
    traces.append(1)
    found = register_cloud(cloud, np.ones(len(cloud.points), "f4"), surface, start, schedule)
    return found.pose.translation


compile_cache.enable_cache()
program = compile_cache.CachedProgram(run)
print(len(traces), np.asarray(program(cloud, surface, start)).tolist(), len(traces))
"""


def test_a_constant_counts_in_the_next_process(tmp_path, sphere):
    """Of a plug-in, and of e2r itself; unchanged code finds its trace."""
    package = Path(e2r.__file__).parent
    shutil.copytree(
        package, tmp_path / "e2r", ignore=shutil.ignore_patterns("__pycache__", "pretrained")
    )
    user = tmp_path / "user_module.py"
    user.write_text(PLUGINS)
    rows = np.arange(0, len(sphere.points), len(sphere.points) // 60)
    points = np.asarray(sphere.points)[rows]
    normals = np.asarray(sphere.normals)[rows]
    cloud = e2r.Cloud(points + np.float32(1.5), np.ones_like(points), normals, rows >= 0)
    cloud = jax.tree.map(lambda leaf: leaf.astype("f4") if leaf.dtype == "f8" else leaf, cloud)
    start = e2r.Pose(np.eye(3, dtype="f4"), np.zeros(3, "f4"))
    problem = np.empty(3, object)
    problem[:] = cloud, jax.tree.map(np.asarray, sphere), start
    np.savez(tmp_path / "problem.npz", problem=problem)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "E2R_CACHE": str(tmp_path / "cache"),
        "JAX_PLATFORMS": "cpu",
    }

    def answer() -> str:
        found = subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "problem.npz"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    def edit(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    first = answer()
    assert first.endswith(" 1\n")  # traced
    kept = answer()
    assert kept == first[:-2] + "0\n"  # the same figures, from the kept trace
    edit(user, *CONSTANTS["kernel"])
    second = answer()
    edit(tmp_path / "e2r" / "registration" / "steps.py", "LEVER = 30.0", "LEVER = 3.0")
    third = answer()
    assert len({text[: text.rindex(" ")] for text in (first, second, third)}) == 3
    assert second.endswith(" 1\n") and third.endswith(" 1\n")
