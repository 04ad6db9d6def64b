"""How long does a registration take, with and without gradient, beside Open3D and small_gicp?

Command:  python -m experiments.benchmarks.registration --anatomy ANATOMY/verse004
Time:     three minutes on two cores, seven with the peers
Expect:   1.2 ms; 7 times faster than small_gicp and 14 times faster than Open3D, with TRE 0.018
          against 0.055 and 0.025 mm; with gradient 2.2 ms (one_step) to 8.5 ms (unrolled)

Peers are compared with where they are installed: python -m pip install -e '.[peers]'. On Debian,
Open3D also needs libusb-1.0-0 libgl1 libgomp1 libx11-6 libegl1. Times are medians of alternating
runs. Of each peer, the table shows the fastest set-up that ends as near to the truth as e2r, or as
near as any set-up of the peer. It also shows the fastest set-up of all. How the gradients of the
modes agree is a question of experiments.studies.probe.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh

from e2r.cli.errors import parse_options, run_command
from e2r.evaluation.benchmark import Timing, median_times, write_timings
from e2r.evaluation.text_table import text_table
from e2r.evaluation.timed_registration import (
    BATCH,
    MAX_STEPS,
    TIMED_SCHEDULE,
    Problem,
    loss_and_gradient,
    make_problem,
)
from e2r.geometry import poses
from e2r.registration import iterate
from e2r.registration.schedule import run_schedule
from e2r.runtime import outputs
from e2r.types import MaskedCloud, Pose, Surface

MODEL_SAMPLES = (2500, 8192, 32768)
"""Samples of the model that the peers register to: their set-ups."""
MAX_DISTANCE_MM = 8.0
"""The peers' farthest correspondence."""


Align = Callable[[np.ndarray], np.ndarray]
"""Initial pose (4x4, camera from model) -> the peer's result."""


@dataclass(frozen=True)
class RegistrationSpeed:
    """How long does a registration take, with and without gradient, beside other libraries?"""

    output: Path = Path("runs/registration.json")
    """JSON file to write"""
    repeats: int = 15
    """runs of which each figure is the median"""
    anatomy: Path | None = None
    """folder of real surfaces, one a level; by default a simulated spine"""
    parts: tuple[str, ...] = ("registration", "batch")
    """what to measure: registration (one, also with gradient), batch (64 at a time)"""

    def __post_init__(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                raise ValueError(f"--parts {name}: use some of {', '.join(PARTS)}")
        if not 1 <= self.repeats <= BATCH:
            raise ValueError(f"--repeats is {self.repeats}; use 1 to {BATCH}")


def make_peers(problem: Problem) -> dict[str, Align]:
    """Every set-up of the installed peers.

    They register the scene to samples of the model with its true normals, at three densities. They
    take at most 20 iterations, with correspondences up to 8 mm and their own stopping rules.

    Args:
      problem: the scene and the model.
    """
    spine = trimesh.util.concatenate(list(problem.meshes.values()))
    points = np.asarray(problem.scene.points, np.float64)
    makers = {"open3d": _open3d_peers, "small_gicp": _small_gicp_peers}
    peers: dict[str, Align] = {}
    for name, make in makers.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed; it is left out")
            continue
        for count in MODEL_SAMPLES:
            target, faces = trimesh.sample.sample_surface(spine, count, seed=4)
            peers |= make(points, target, spine.face_normals[faces])
    return peers


def _open3d_peers(points: np.ndarray, target: np.ndarray, normals: np.ndarray) -> dict[str, Align]:
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration
    source, model = (
        open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x)) for x in (points, target)
    )
    model.normals = open3d.utility.Vector3dVector(normals)
    plane = registration.TransformationEstimationPointToPlane()

    def align(start: np.ndarray, tolerance_mm: float) -> np.ndarray:
        criteria = registration.ICPConvergenceCriteria(tolerance_mm, tolerance_mm, MAX_STEPS)
        result = registration.registration_icp(
            source, model, MAX_DISTANCE_MM, np.linalg.inv(start), plane, criteria
        )
        camera_from_model: np.ndarray = np.linalg.inv(result.transformation)
        return camera_from_model

    return {
        f"Open3D plane {len(target)} {tolerance:g}": partial(align, tolerance_mm=tolerance)
        for tolerance in (1e-6, 1e-4)
    }


def _small_gicp_peers(
    points: np.ndarray, target: np.ndarray, normals: np.ndarray
) -> dict[str, Align]:
    import small_gicp  # noqa: PLC0415

    del normals  # it estimates its own
    model = small_gicp.PointCloud(target)
    tree = small_gicp.KdTree(model, num_threads=2)
    small_gicp.estimate_normals_covariances(model, tree, 10, num_threads=2)

    def align(start: np.ndarray, kind: str, threads: int) -> np.ndarray:
        cloud = small_gicp.PointCloud(points)
        if kind == "GICP":
            own_tree = small_gicp.KdTree(cloud, num_threads=threads)
            small_gicp.estimate_normals_covariances(cloud, own_tree, 10, num_threads=threads)
        result = small_gicp.align(
            model,
            cloud,
            tree,
            init_T_target_source=np.linalg.inv(start),
            registration_type=kind,
            max_correspondence_distance=MAX_DISTANCE_MM,
            num_threads=threads,
            max_iterations=MAX_STEPS,
        )
        camera_from_model: np.ndarray = np.linalg.inv(result.T_target_source)
        return camera_from_model

    return {
        f"small_gicp {kind} {len(target)} x{threads}": partial(align, kind=kind, threads=threads)
        for kind in ("PLANE_ICP", "GICP")
        for threads in (1, 2)
    }


def best_peers(times: dict[str, float], tres: dict[str, float], ours: float) -> list[str]:
    """Of each peer the fastest set-up that is accurate enough, and the fastest set-up of all.

    A set-up is accurate enough where it ends as near to the truth as ours, or, with 5 % to spare,
    as near as any set-up of the peer.

    Args:
      times: set-up -> ms.
      tres: set-up -> TRE, mm.
      ours: our TRE, mm.
    """
    best = []
    for family in ("Open3D", "small_gicp"):
        names = [name for name in tres if name.startswith(family)]
        if names:
            enough = max(ours, 1.05 * min(tres[name] for name in names))
            best.append(min((n for n in names if tres[n] <= enough), key=times.__getitem__))
    if tres:
        best.append(min(tres, key=times.__getitem__))
    return best


class Task(NamedTuple):
    """What is timed, and how its poses are read from its result."""

    call: Callable[[int], Any]  # the number of the run -> a result
    poses: Callable[[Any], list[Pose]]


def time_tasks(
    problem: Problem, tasks: dict[str, Task], peers: dict[str, Task], *, repeats: int, tre_runs: int
) -> list[Timing]:
    """A row for each task and best peer, or for each task where there is no peer.

    Args:
      problem: the scene and the model.
      tasks: ours; the TRE of the first one chooses the peers.
      peers: their set-ups.
      repeats: runs of which each time is the median.
      tre_runs: runs over which each TRE is averaged.
    """
    calls = {**tasks, **peers}
    times = median_times({name: task.call for name, task in calls.items()}, repeats)
    tres = {
        name: problem.mean_tre([p for i in range(tre_runs) for p in task.poses(task.call(i))])
        for name, task in calls.items()
    }
    if peers:
        setups = [[name, f"{times[name]:.2f} ms", f"{tres[name]:.3f} mm"] for name in peers]
        print(text_table(["set-up of a peer", "time", "TRE"], setups))
    peer_tres = {name: tres[name] for name in peers}
    best = best_peers(times, peer_tres, ours=tres[next(iter(tasks))])
    return [
        Timing(task, times[task], peer, times.get(peer), tres[task], tres.get(peer))
        for task in tasks
        for peer in (best or [""])
    ]


def register(scene: MaskedCloud, surface: Surface, start: Pose) -> Pose:
    """The pose that the timed schedule ends with."""
    return run_schedule(scene, surface, start, TIMED_SCHEDULE).pose


def as_pose(matrix: np.ndarray) -> Pose:
    """A 4x4 matrix as a pose in double precision."""
    return Pose(matrix[:3, :3], matrix[:3, 3])


def time_registration(problem: Problem, repeats: int) -> list[Timing]:
    """One registration of 2,048 points and five levels, with and without gradient.

    Args:
      problem: the scene and the model.
      repeats: runs of which each time is the median, and initial poses.
    """
    scene, surface, weights = problem.scene, problem.surface, problem.scene.weights
    starts = [problem.start(i) for i in range(repeats)]
    matrices = [poses.to_matrix(start) for start in starts]
    forward = jax.jit(register)
    tasks = {
        f"registration, up to {MAX_STEPS} steps": Task(
            lambda i: forward(scene, surface, starts[i]), lambda pose: [pose]
        )
    }
    for mode in iterate.GRADIENT_MODES:
        # Without the early stop, which only forward mode could differentiate.
        schedule = replace(TIMED_SCHEDULE, tolerance_mm=0.0, mode=mode)
        gradient = loss_and_gradient(problem, schedule)
        tasks[f"... with gradient, {mode}"] = Task(
            lambda i, gradient=gradient: gradient(weights, starts[i]),  # type: ignore[misc]
            lambda result: [result[0][1]],
        )
    peers = {
        name: Task(
            lambda i, align=align: align(matrices[i]),  # type: ignore[misc]
            lambda matrix: [as_pose(matrix)],
        )
        for name, align in make_peers(problem).items()
    }
    return time_tasks(problem, tasks, peers, repeats=repeats, tre_runs=repeats)


def time_batch(problem: Problem, repeats: int) -> list[Timing]:
    """64 registrations at a time; the peers register one after the other, on both cores.

    Args:
      problem: the scene and the model.
      repeats: three times the runs of which each time is the median.
    """
    matrices = [poses.to_matrix(problem.start(i)) for i in range(BATCH)]
    forward = jax.jit(jax.vmap(register, (None, None, 0)))

    def unstack(batch: Pose) -> list[Pose]:
        return [Pose(*pair) for pair in zip(*map(np.asarray, batch), strict=True)]

    tasks = {
        f"{BATCH} registrations": Task(
            lambda _: forward(problem.scene, problem.surface, problem.starts), unstack
        )
    }
    peers = {
        name: Task(
            lambda _, align=align: [align(matrix) for matrix in matrices],  # type: ignore[misc]
            lambda results: [*map(as_pose, results)],
        )
        for name, align in make_peers(problem).items()
    }
    return time_tasks(problem, tasks, peers, repeats=max(3, repeats // 3), tre_runs=1)


PARTS: dict[str, Callable[[Problem, int], list[Timing]]] = {
    "registration": time_registration,
    "batch": time_batch,
}
"""Name -> measurement: (problem, repeats) -> rows."""


def benchmark(options: RegistrationSpeed) -> int:
    """Measures the chosen parts and writes the table."""
    outputs.require_file(options.output)
    model = "simulated spine" if options.anatomy is None else str(options.anatomy)
    print(f"model: {model}")
    problem = make_problem(options.anatomy)
    measure = [PARTS[name] for name in PARTS if name in options.parts]
    rows = [row for part in measure for row in part(problem, options.repeats)]
    write_timings(options.output, rows, model=model)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    prog = "python -m experiments.benchmarks.registration"
    return run_command(
        lambda: benchmark(
            parse_options(RegistrationSpeed, arguments, prog=prog, description=__doc__)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
