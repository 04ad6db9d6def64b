"""Shared fixtures: one small simulated specimen, and tiny settings for everything."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Most of a test's time is compilation: LLVM at level 0 takes half of it, and has half as much to
# read without the emitters of fused loops. The workers fill the cores, so one thread compiles.
# Before jax is imported.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
).strip()

import jax
from jaxtyping import install_import_hook

# Shapes and types of every function of e2r are checked, and no promotion goes unseen.
install_import_hook("e2r", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from e2r.cli import main
from e2r.config import NAMED_CONFIGS
from e2r.datasets import case_folder
from e2r.datasets.case import Case, true_pose
from e2r.evaluation.fitted_cases import load_cases, save_cases
from e2r.geometry import correspondences, poses, surfaces
from e2r.simulation import simulator
from e2r.training import batches, loop, sources
from e2r.training.step import TrainState, init_state
from e2r.training.trained_model import PACKAGED
from e2r.types import Cloud, Example, MaskedCloud, Pose

_CACHE = Path(os.environ.get("E2R_CACHE", Path.home() / ".cache" / "e2r"))
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

ANATOMY = Path(__file__).resolve().parents[2] / "shared" / "data" / "anatomy"
TINY = NAMED_CONFIGS["tiny"][1]


def first_state() -> TrainState:
    """Of the tiny run."""
    return jax.jit(partial(init_state, TINY))()


def first_example(bank: sources.ExampleSource) -> Example:
    """The first example of a source, with its surface."""
    return jax.tree.map(lambda leaf: leaf[0], sources.read_batch(bank, [0]))


def distances_from_surface(example: Example) -> jax.Array:
    """Distance of each scene point from the model at its true pose, mm."""
    queries = poses.apply_inverse(example.pose, example.cloud.points)
    nearest = correspondences.project(example.surface, queries).points
    return jnp.linalg.norm(queries - nearest, axis=1)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, made by one of the session's workers; the others wait and read it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    kept = base / f"{name}.pickle"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make()))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def simulated_cases(tmp_path_factory) -> list[Case]:
    """Four frames of one procedural specimen."""

    def make() -> list[Case]:
        scenes = TINY.scenes
        (group,) = simulator.simulate_specimens(
            jax.random.key(11), scenes.simulation, specimens=1, frames=scenes.frames, workers=1
        )
        return group

    return once(tmp_path_factory, "cases", make)


@pytest.fixture(scope="session")
def bank(simulated_cases) -> sources.ExampleSource:
    return sources.from_cases(simulated_cases, TINY)


@pytest.fixture(scope="session")
def checkpoint(bank, tmp_path_factory):
    """The folder of a run of eight steps: it knows nothing, but all of it works."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("run")
        loop.train(loop.RunInputs(TINY, batches.uniform_batches(TINY, bank)), folder)
        return folder

    return once(tmp_path_factory, "run", make)


@pytest.fixture(scope="session")
def calibrated(checkpoint, tmp_path_factory):
    """The same run with the packaged model's calibration cases, as an adaptation needs them."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(checkpoint, folder)
    save_cases(load_cases(PACKAGED), folder)
    return folder


@pytest.fixture(scope="session")
def data_set(simulated_cases, tmp_path_factory):
    """A folder of three cases."""
    folder = tmp_path_factory.mktemp("set")
    for case in simulated_cases[:3]:
        case_folder.write_case(case, folder / case.id)
    return folder


@pytest.fixture(scope="session")
def fine_surface(simulated_cases):
    return surfaces.build_surface(simulated_cases[0].model, seed=0, nodes=2**20)


@pytest.fixture(scope="session")
def ball():
    """A mesh of a sphere of radius 30 mm."""
    return trimesh.creation.icosphere(subdivisions=4, radius=30.0)


@pytest.fixture(scope="session")
def sphere(ball):
    """The surface of that sphere."""
    return surfaces.build_surface({"L1": ball}, seed=0, nodes=2**18, samples=8192)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def anatomy() -> Path:
    """The real spines; they lie beside the project, not in it."""
    if not ANATOMY.is_dir():
        pytest.skip(f"no real anatomy at {ANATOMY}")
    return ANATOMY


@pytest.fixture(scope="session")
def surface(simulated_cases):
    return surfaces.build_surface(simulated_cases[0].model, seed=0, nodes=2**15)


@pytest.fixture(scope="session")
def truth(simulated_cases):
    return true_pose(simulated_cases[0])


def crossed(first, second, *, plain) -> list:
    """All pairs, for ``parametrize``; slow are those with neither the first of ``first`` nor
    ``plain`` of ``second``: each of both is seen in every run of the tests, each pair in some."""
    usual, *_ = first
    return [
        pytest.param(a, b, marks=[] if a == usual or b == plain else pytest.mark.slow)
        for a in first
        for b in second
    ]


def refused(capsys, words: str, *arguments: object) -> None:
    """The command line says one sentence with these words, and exits with 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2, words
    err = capsys.readouterr().err
    assert words in err, (words, err)
    assert err.startswith("e2r: ") and err.count("\n") == 1 and "Traceback" not in err, err


def random_rotation(key) -> jax.Array:
    """A uniformly distributed rotation matrix, by a normalised Gaussian quaternion."""
    q = jax.random.normal(key, (4,))
    w, x, y, z = q / jnp.linalg.norm(q)
    k = poses.hat(jnp.stack([x, y, z]))
    return jnp.eye(3) + 2.0 * w * k + 2.0 * k @ k


def points_around(mesh, rng, count, margin=10.0) -> np.ndarray:
    """Random points in the bounding box of a mesh and a margin around it, mm."""
    low, high = mesh.bounds
    return rng.uniform(low - margin, high + margin, (count, 3)).astype(np.float32)


def padded_cloud(rng, valid, count) -> Cloud:
    """A cloud half a metre from the camera, with garbage in its padded rows."""
    points = np.zeros((count, 3), np.float32)
    points[:valid] = rng.normal(size=(valid, 3)) * 40 + [0, 0, 500]
    other = np.zeros((count, 3), np.float32)
    other[:valid] = rng.uniform(size=(valid, 3))
    points[valid:], other[valid:] = 1e3, 0.7
    return Cloud(points, other, other, np.arange(count) < valid)


def scene_on(surface, pose, rng, count=300, noise=0.0, weights=None) -> MaskedCloud:
    """Scene points on the model's samples, with their normals."""
    rows = rng.choice(len(surface.points), count, replace=False)
    points = np.asarray(poses.apply(pose, surface.points[rows]))
    points = (points + noise * rng.normal(size=points.shape)).astype(np.float32)
    normals = np.asarray(poses.rotate(pose, surface.normals[rows]))
    return MaskedCloud(points, normals, np.ones(count, np.float32) if weights is None else weights)


def start_near(truth, points, degrees=4.0, mm=4.0, seed=3) -> Pose:
    """The true pose, perturbed about the centroid of the points."""
    centre = jnp.mean(points, axis=0)
    return poses.perturb(jax.random.key(seed), truth, centre, degrees=degrees, mm=mm)


def farthest(surface, a, b) -> float:
    """The largest distance between two poses of the model's samples, mm."""
    apart = poses.apply(a, surface.points) - poses.apply(b, surface.points)
    return float(jnp.max(jnp.linalg.norm(apart, axis=1)))


def in_x64(tree):
    """The same pytree in double precision; call it where x64 is on."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else leaf, tree
    )


def numeric_gradient(function, x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function of a float64 array."""
    x = np.asarray(x, np.float64)
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = eps
        result[index] = (float(function(x + step)) - float(function(x - step))) / (2 * eps)
    return result
