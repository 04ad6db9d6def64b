"""How long the parts take, beside the peers on the same inputs in the same run.

Command:  python -m experiments.benchmarks.speed
Time:     four minutes on two cores, eight with the peers
Expect:   more than 10 simulated scenes a second; rotations 16 times faster than the SVD, 12 times
          than roma; a registration 6 times faster than small_gicp, 12 than Open3D, at a better end

The peers (Open3D, small_gicp, roma) are compared with where they are installed:
    pip install -e ".[peers]"
and, for Open3D on Debian, libusb-1.0-0 libgl1 libgomp1 libx11-6 libegl1.

Prints tables and writes them as JSON, a list of {name, ours_ms, peer, peer_ms, ratio, ours_tre_mm,
peer_tre_mm}; what has no peer, or no TRE, has null there. Times are medians of alternating runs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
import tyro

from e2r.analysis import training_probe
from e2r.cli.errors import run_command
from e2r.config import NAMED_CONFIGS
from e2r.datasets.meshes import read_meshes
from e2r.geometry import poses, procrustes, surfaces
from e2r.registration import iterate
from e2r.registration.schedule import STEPS, Schedule, run_schedule
from e2r.simulation import rendering, simulator
from e2r.training import examples
from e2r.training.step import init_state, train_step
from e2r.types import Array, MaskedCloud, Pose, Surface

LEVELS = ("L1", "L2", "L3", "L4", "L5")
POINTS = 2048
NOISE = 0.3
BATCH = 64
QUICK = Schedule(
    step="point_to_plane",
    steps=20,
    hold_steps=10,
    first_scale_mm=8.0,
    last_scale_mm=1.5,
    early_steps=10,
    tolerance_mm=2e-3,
)
"""The registration that is timed: it anneals on 256 points and settles on all of them."""


@dataclass(frozen=True)
class Benchmark:
    """Time the parts on this machine."""

    output: Path = Path("runs/benchmark.json")
    """JSON file to write"""
    repeats: int = 15
    """each figure is the median of so many runs"""
    anatomy: Path = Path("../shared/data/anatomy/verse004")
    """folder of real surfaces to register; a procedural spine where it does not exist"""
    parts: tuple[str, ...] = ("parts", "rotation", "registration", "batch", "modes")
    """what to measure"""

    def __post_init__(self) -> None:
        known = ("parts", "rotation", "registration", "batch", "modes")
        for name in self.parts:
            if name not in known:
                raise ValueError(f"--parts {name}: use some of {', '.join(known)}")
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; use 1 or more")


def medians(calls: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Median wall time in ms of each call, alternating; each gets the number of the run.

    Before each timed call comes one of its own that is not timed: nobody pays for the caches that
    another has emptied, nor for another's threads that still wait for work.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call(run))
            began = time.perf_counter()
            jax.block_until_ready(call(run))
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in times.items()}


def row(
    name: str,
    ours: float,
    peer: str | None = None,
    theirs: float | None = None,
    ours_tre: float | None = None,
    peer_tre: float | None = None,
) -> dict[str, Any]:
    """One line of the table, printed."""
    ratio = theirs / ours if theirs is not None else None
    tail = "" if ratio is None else f"   {peer:34s} {theirs:8.2f} ms   {ratio:6.1f} x"
    if ours_tre is not None:
        tail += f"   TRE {ours_tre:.3f}"
    if peer_tre is not None:
        tail += f" / {peer_tre:.3f} mm"
    print(f"{name:44s} {ours:9.2f} ms{tail}", flush=True)
    return {
        "name": name,
        "ours_ms": ours,
        "peer": peer,
        "peer_ms": theirs,
        "ratio": ratio,
        "ours_tre_mm": ours_tre,
        "peer_tre_mm": peer_tre,
    }


def time_parts(repeats: int) -> list[dict[str, Any]]:
    """Simulation, model, training step: what has no peer."""
    config = NAMED_CONFIGS["demo"][1]
    key = jax.random.key(0)
    specimen = simulator.procedural_specimen(key, "benchmark")
    render = jax.jit(
        jax.vmap(
            lambda k, bones: rendering.photograph(
                k, bones, width=96, height=72, wound_fraction=(0.05, 0.8)
            ),
            (0, None),
        )
    )
    keys = jax.random.split(key, 16)
    group = simulator.simulate_frames(key, specimen, config.scenes.simulation, count=8)
    bank = examples.make_bank([group], config)
    batch = jax.tree.map(
        jnp.asarray, examples.draw_examples(bank, np.arange(config.optimisation.batch))
    )
    state = jax.jit(partial(init_state, config))()
    step = jax.jit(lambda s, b, k: train_step(s, b, k, config=config))
    probe = training_probe.make_probe(config)
    calls: dict[str, tuple[int, Callable[[int], Any]]] = {
        "a simulated scene, 96x72": (16, lambda _: render(keys, specimen.bones)),
        "specimen: signed distance grids": (
            1,
            lambda _: simulator.procedural_specimen(key, "b").bones,
        ),
        "model, for projection": (
            1,
            lambda _: (
                surfaces.build(specimen.model, seed=0, nodes=surfaces.COARSE, exact=False).nodes
            ),
        ),
        "training step, a scene of 8": (
            config.optimisation.batch,
            lambda _: step(state, batch, key),
        ),
        "a probe of the gradient": (1, lambda _: probe(state.params, batch, key, jnp.int32(0))),
    }
    found = medians({name: call for name, (_, call) in calls.items()}, min(repeats, 5))
    rows = [row(name, found[name] / count) for name, (count, _) in calls.items()]
    slower = found["a probe of the gradient"] / (50 * found["training step, a scene of 8"])
    print(f"with a probe every 50 steps, training takes {slower:.1%} longer")
    return rows


# Rotations ----------------------------------------------------------------------------------------


def _svd_rotation(h: Array) -> Array:
    u, _, vt = jnp.linalg.svd(h)
    last = jnp.linalg.det(u @ vt)
    return (u * jnp.stack([jnp.ones_like(last), jnp.ones_like(last), last])) @ vt


def time_rotations(repeats: int) -> list[dict[str, Any]]:
    """8,192 rotations from covariances, forward and with gradient."""
    rng = np.random.default_rng(0)
    h, c = (jnp.asarray(rng.normal(size=(8192, 3, 3)), jnp.float32) for _ in range(2))

    def with_gradient(solve: Callable[[Array], Array]) -> Callable[[Array], Any]:
        def both(x: Array) -> tuple[Array, Array]:
            value, pull = jax.vjp(jax.vmap(solve), x)
            return value, pull(c)[0]

        return jax.jit(both)

    ours = jax.jit(jax.vmap(procrustes.rotation_from_covariance))
    ours_g = with_gradient(procrustes.rotation_from_covariance)
    svd, svd_g = jax.jit(jax.vmap(_svd_rotation)), with_gradient(_svd_rotation)
    calls: dict[str, Callable[[int], Any]] = {
        "ours": lambda _: ours(h),
        "jnp.linalg.svd": lambda _: svd(h),
        "ours, gradient": lambda _: ours_g(h),
        "jnp.linalg.svd, gradient": lambda _: svd_g(h),
    }
    peers = ["jnp.linalg.svd"]
    if importlib.util.find_spec("roma") is None:
        print("roma is not installed: not compared with")
    else:
        import roma  # noqa: PLC0415
        import torch  # noqa: PLC0415

        th, tc = torch.from_numpy(np.array(h)), torch.from_numpy(np.array(c))

        def roma_gradient(_: int) -> None:
            x = th.clone().requires_grad_(True)
            roma.special_procrustes(x).backward(tc)

        calls["roma"] = lambda _: roma.special_procrustes(th)
        calls["roma, gradient"] = roma_gradient
        peers.append("roma")
    found = medians(calls, 3 * repeats)
    return [
        row(f"8,192 rotations{end}", found[f"ours{end}"], peer, found[f"{peer}{end}"])
        for end in ("", ", gradient")
        for peer in peers
    ]


# Registrations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Scene points on a model, with noise, and starts some degrees and millimetres off."""

    meshes: dict[str, trimesh.Trimesh]
    surface: Surface
    scene: MaskedCloud  # at the true pose, which is the identity
    starts: Pose  # leading axis BATCH

    def tre(self, rotation: np.ndarray, translation: np.ndarray) -> float:
        """Mean distance of the model's samples from where they belong, mm."""
        points = np.asarray(self.surface.points, np.float64)
        return float(np.linalg.norm(points @ rotation.T + translation - points, axis=1).mean())


def make_problem(anatomy: Path) -> Problem:
    """2,048 points, 0.3 mm of noise, a five-level model; starts 1.5 degrees and mm an axis off."""
    if anatomy.is_dir():
        found = read_meshes(anatomy)
        meshes = {name: found[name] for name in LEVELS if name in found} or dict(found)
    else:
        meshes = dict(simulator.procedural_specimen(jax.random.key(0), "benchmark").model)
    surface = jax.tree.map(jnp.asarray, surfaces.build(meshes, seed=0, nodes=surfaces.COARSE))
    whole = trimesh.util.concatenate(list(meshes.values()))
    points, faces = trimesh.sample.sample_surface(whole, POINTS, seed=1)
    points = points + np.random.default_rng(2).normal(size=points.shape) * NOISE
    scene = MaskedCloud(
        jnp.asarray(points, jnp.float32),
        jnp.asarray(whole.face_normals[faces], jnp.float32),
        jnp.ones(POINTS),
    )
    still, centre = poses.identity(), jnp.mean(scene.points, axis=0)
    starts = jax.vmap(lambda k: poses.perturb(k, still, centre, degrees=1.5, mm=1.5))(
        jax.random.split(jax.random.key(3), BATCH)
    )
    return Problem(meshes, surface, scene, starts)


def _matrix(starts: Pose, i: int) -> np.ndarray:
    return poses.to_matrix(jax.tree.map(lambda leaf: leaf[i], starts))


Peer = Callable[[np.ndarray], np.ndarray]
"""A start (4x4, model to scene) -> the result."""


def make_peers(problem: Problem) -> dict[str, Peer]:
    """Every set-up of the installed peers; they register the scene to the model, so invert.

    Their targets are samples of the model with its true normals, at three densities; at most 20
    iterations, their own stopping rules, correspondences up to 8 mm.
    """
    whole = trimesh.util.concatenate(list(problem.meshes.values()))
    points = np.asarray(problem.scene.points, np.float64)
    makers = {"open3d": _open3d_peers, "small_gicp": _small_gicp_peers}
    peers: dict[str, Peer] = {}
    for name, make in makers.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: not compared with")
            continue
        for count in (2500, 8192, 32768):
            target, faces = trimesh.sample.sample_surface(whole, count, seed=4)
            peers |= make(points, target, whole.face_normals[faces])
    return peers


def _open3d_peers(points: np.ndarray, target: np.ndarray, normals: np.ndarray) -> dict[str, Peer]:
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration
    source, model = (
        open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x)) for x in (points, target)
    )
    model.normals = open3d.utility.Vector3dVector(normals)
    plane = registration.TransformationEstimationPointToPlane()

    def align(start: np.ndarray, tolerance_mm: float) -> np.ndarray:
        criteria = registration.ICPConvergenceCriteria(tolerance_mm, tolerance_mm, 20)
        found = registration.registration_icp(
            source, model, 8.0, np.linalg.inv(start), plane, criteria
        )
        back: np.ndarray = np.linalg.inv(found.transformation)
        return back

    return {
        f"Open3D plane {len(target)} {tolerance:g}": partial(align, tolerance_mm=tolerance)
        for tolerance in (1e-6, 1e-4)
    }


def _small_gicp_peers(
    points: np.ndarray, target: np.ndarray, normals: np.ndarray
) -> dict[str, Peer]:
    import small_gicp  # noqa: PLC0415

    model = small_gicp.PointCloud(target)  # it estimates its own normals
    tree = small_gicp.KdTree(model, num_threads=2)
    small_gicp.estimate_normals_covariances(model, tree, 10, num_threads=2)

    def align(start: np.ndarray, kind: str, threads: int) -> np.ndarray:
        cloud = small_gicp.PointCloud(points)
        if kind == "GICP":
            own = small_gicp.KdTree(cloud, num_threads=threads)
            small_gicp.estimate_normals_covariances(cloud, own, 10, num_threads=threads)
        found = small_gicp.align(
            model,
            cloud,
            tree,
            init_T_target_source=np.linalg.inv(start),
            registration_type=kind,
            max_correspondence_distance=8.0,
            num_threads=threads,
            max_iterations=20,
        )
        back: np.ndarray = np.linalg.inv(found.T_target_source)
        return back

    return {
        f"small_gicp {kind} {len(target)} x{threads}": partial(align, kind=kind, threads=threads)
        for kind in ("PLANE_ICP", "GICP")
        for threads in (1, 2)
    }


def loss_of(problem: Problem, schedule: Schedule) -> Callable[..., Any]:
    """Pose error and its gradient with respect to all weights."""

    def loss(weights: Array, start: Pose) -> tuple[Array, Pose]:
        scene = problem.scene._replace(weights=weights)
        pose = run_schedule(scene, problem.surface, start, schedule).pose
        apart = poses.apply(pose, problem.surface.points[:64]) - problem.surface.points[:64]
        return jnp.mean(jnp.sum(apart * apart, axis=1)), pose

    return jax.value_and_grad(loss, has_aux=True)


def _with_gradient(derive: Any, weights: Array, starts: list[Pose], run: int) -> Any:
    return derive(weights, starts[run])


def _aligned(peer: Peer, matrices: list[np.ndarray], run: int) -> np.ndarray:
    return peer(matrices[run])


def _all_aligned(peer: Peer, matrices: list[np.ndarray], _: int) -> list[np.ndarray]:
    return [peer(matrix) for matrix in matrices]


def fixed(**options: Any) -> Schedule:
    """The timed schedule without its early stop, which only forward mode could differentiate."""
    return dataclasses.replace(QUICK, tolerance_mm=0.0, **options)


def rivals(
    peers: dict[str, Peer], found: dict[str, float], tres: dict[str, float], ours: float
) -> list[str]:
    """Of each peer the fastest set-up that ends as near as ours, or as near as it ever does.

    And the fastest set-up of all, however far off it ends.
    """
    best = []
    for family in ("Open3D", "small_gicp"):
        names = [name for name in peers if name.startswith(family)]
        if names:
            enough = max(ours, 1.05 * min(tres[name] for name in names))
            best.append(min((n for n in names if tres[n] <= enough), key=found.__getitem__))
    if peers:
        best.append(min(peers, key=found.__getitem__))
    return best


def time_registration(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """One registration, 2,048 points, five levels, at most 20 steps."""
    one = jax.jit(lambda scene, surface, start: run_schedule(scene, surface, start, QUICK).pose)
    modes: tuple[iterate.GradientMode, ...] = iterate.GRADIENT_MODES
    gradients = {mode: jax.jit(loss_of(problem, fixed(mode=mode))) for mode in modes}
    starts = [jax.tree.map(lambda leaf, i=i: leaf[i], problem.starts) for i in range(repeats)]
    peers = make_peers(problem)
    matrices = [_matrix(problem.starts, i) for i in range(repeats)]
    calls: dict[str, Callable[[int], Any]] = {
        "ours": lambda i: one(problem.scene, problem.surface, starts[i])
    }
    for mode in modes:
        calls[mode] = partial(_with_gradient, gradients[mode], problem.scene.weights, starts)
    for name, peer in peers.items():
        calls[name] = partial(_aligned, peer, matrices)
    found = medians(calls, repeats)

    def mean_tre(results: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([problem.tre(r, t) for r, t in results]))

    def ours_tre(run: Callable[[int], Pose]) -> float:
        return mean_tre(
            [
                (np.asarray(p.rotation, np.float64), np.asarray(p.translation, np.float64))
                for p in map(run, range(repeats))
            ]
        )

    tres = {
        name: mean_tre([(t[:3, :3], t[:3, 3]) for t in map(peer, matrices)])
        for name, peer in peers.items()
    }
    tre = ours_tre(lambda i: one(problem.scene, problem.surface, starts[i]))
    for name in peers:
        print(f"    {name:40s} {found[name]:8.2f} ms   TRE {tres[name]:.3f} mm")
    best = rivals(peers, found, tres, tre)
    name = "registration, 2,048 points, up to 20 steps"
    rows = [row(name, found["ours"], peer, found[peer], tre, tres[peer]) for peer in best]
    if not best:
        rows.append(row(name, found["ours"], ours_tre=tre))
    for mode in modes:
        run = partial(_with_gradient, gradients[mode], problem.scene.weights, starts)
        end = ours_tre(lambda i, run=run: run(i)[0][1])  # type: ignore[misc]
        label = f"... with gradient, {mode}"
        rows += [row(label, found[mode], peer, found[peer], end, tres[peer]) for peer in best]
        if not best:
            rows.append(row(label, found[mode], ours_tre=end))
    return rows


def time_batch(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """64 registrations at a time; the peers one after the other, on both cores."""
    many = jax.jit(
        jax.vmap(
            lambda scene, surface, start: run_schedule(scene, surface, start, QUICK).pose,
            (None, None, 0),
        )
    )
    peers = make_peers(problem)
    matrices = [_matrix(problem.starts, i) for i in range(BATCH)]
    calls: dict[str, Callable[[int], Any]] = {
        "ours": lambda _: many(problem.scene, problem.surface, problem.starts)
    }
    for name, peer in peers.items():
        calls[name] = partial(_all_aligned, peer, matrices)
    found = medians(calls, max(3, repeats // 3))
    pose = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64),
        many(problem.scene, problem.surface, problem.starts),
    )
    tre = float(np.mean([problem.tre(r, t) for r, t in zip(*pose, strict=True)]))
    tres = {
        name: float(np.mean([problem.tre(t[:3, :3], t[:3, 3]) for t in map(peer, matrices)]))
        for name, peer in peers.items()
    }
    best = rivals(peers, found, tres, tre)
    name = f"... a batch of {BATCH}"
    rows = [row(name, found["ours"], peer, found[peer], tre, tres[peer]) for peer in best]
    return rows or [row(name, found["ours"], ours_tre=tre)]


def compare_modes(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """How the modes' gradients agree with the unrolled one, step by step: cosine and norm."""
    rows = []
    start = jax.tree.map(lambda leaf: leaf[0], problem.starts)
    for step in STEPS:
        found = {}
        for mode in iterate.GRADIENT_MODES:
            schedule = Schedule(
                step=step, steps=40, hold_steps=30, first_scale_mm=4.0, last_scale_mm=1.5, mode=mode
            )
            derive = jax.jit(loss_of(problem, schedule))
            call = partial(_with_gradient, derive, problem.scene.weights, [start] * 3)
            ms = medians({"ours": call}, 3)["ours"]
            found[mode] = np.asarray(derive(problem.scene.weights, start)[1], np.float64), ms
        whole = found["unrolled"][0]
        for mode, (gradient, ms) in found.items():
            size = np.linalg.norm(gradient)
            cosine = float(gradient @ whole / (size * np.linalg.norm(whole) + 1e-30))
            ratio = float(size / (np.linalg.norm(whole) + 1e-30))
            name = f"gradient, {step}, {mode}, 40 steps"
            print(f"{name:52s} {ms:8.2f} ms   cosine {cosine:6.3f}   norm {ratio:6.3f}")
            rows.append(
                {
                    "name": name,
                    "ours_ms": ms,
                    "peer": None,
                    "peer_ms": None,
                    "ratio": None,
                    "ours_tre_mm": None,
                    "peer_tre_mm": None,
                    "cosine_to_unrolled": cosine,
                    "norm_to_unrolled": ratio,
                }
            )
    return rows


def benchmark(options: Benchmark) -> int:
    """Runs the benchmark."""
    rows: list[dict[str, Any]] = []
    if "parts" in options.parts:
        rows += time_parts(options.repeats)
    if "rotation" in options.parts:
        rows += time_rotations(options.repeats)
    if {"registration", "batch", "modes"} & set(options.parts):
        problem = make_problem(options.anatomy)
        for name, measure in (
            ("registration", time_registration),
            ("batch", time_batch),
            ("modes", compare_modes),
        ):
            if name in options.parts:
                rows += partial(measure, problem)(options.repeats)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and measures."""
    options = tyro.cli(
        Benchmark,
        args=arguments,
        prog="python -m experiments.benchmarks.speed",
        description=__doc__,
    )
    return run_command(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
