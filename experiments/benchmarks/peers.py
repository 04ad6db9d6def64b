"""Comparison with global registration methods on the same cases: who is nearer, who is faster?

Command:  python -m experiments.benchmarks.peers --output runs/peers
Time:     about 20 minutes on two cores for 28 cases (--specimens 14 --validation 3)
Expect:   median TRE 0.42 mm for e2r; 51 to 99 mm for Open3D and 94 to 101 mm for KISS-Matcher,
          depending on the points; 310 to 390 ms a frame for e2r on busy cores, 130 to 3,500 ms for
          the others

Needs the extra `peers` (python -m pip install -e '.[peers]'). The peers match descriptors of the
geometry, then refine by point-to-plane ICP, from wide to narrow:

- Open3D: FPFH, RANSAC with mutual matches (100,000 draws, confidence 0.999), ICP;
- KISS-Matcher: its own features, ROBIN, graduated non-convexity, then ICP by Open3D.

They have no mask of their own. Each is given all points of the scene, then the points that the
learnt and the oracle mask keep. Their model is the half of the surface that faces backwards, which
a camera can see. Each peer uses the voxel size that registers validation cases best. KISS-Matcher
gives another result each run: its row is the median of five runs, with their range. The time of a
frame leaves out what depends on the model alone. e2r is timed before and after each peer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case, scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.models import Model
from e2r.evaluation.open3d_icp import PeerModel, open3d_cloud, open3d_icp, sample_model
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.results import Registered
from e2r.evaluation.text_table import text_table, with_range
from e2r.geometry import poses, surface_cache
from e2r.pipeline import ProgramConfig
from e2r.runtime import outputs
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Params

Register = Callable[[np.ndarray], np.ndarray]
"""Scene points (N, 3) mm, camera frame -> camera from model, 4x4."""
Errors = list[metrics.TargetErrors]
ICP_DISTANCES_MM = (8.0, 3.0, 1.5)
"""Farthest correspondence of each round of the refinement."""
MIN_POINTS = 10
"""A peer is given no fewer points than these."""
FAILURE_MM = 1000.0
"""Error of a case that a peer cannot register."""
TIMED_FRAMES = 8
"""Frames on which e2r is timed, before each peer and after it."""
PACKAGES = ("open3d", "kiss_matcher")


@dataclass(frozen=True)
class Peers:
    """Comparison with global registration methods on the same cases."""

    output: Path
    """folder for peers.json"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; by default the packaged model"""
    specimens: int = 24
    """simulated specimens, two scenes each"""
    validation: int = 6
    """specimens on which the voxel sizes are chosen, two scenes each"""
    voxels: tuple[float, ...] = (2.0, 3.0, 4.5)
    """candidate voxel sizes, mm"""
    cases: Path | None = None
    """a folder of simulated cases (with truth.json and bone.png) instead"""
    seed: int = 0
    """seed of the specimens"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.validation < 1 or not self.voxels or min(self.voxels) <= 0:
            raise ValueError("--specimens and --validation are 1 or more, --voxels above 0")


def open3d_ransac(model: PeerModel, voxel: float) -> Register:
    """FPFH, RANSAC and ICP by Open3D."""
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration

    def describe(cloud: Any) -> tuple[Any, Any]:
        search = open3d.geometry.KDTreeSearchParamHybrid
        down = cloud.voxel_down_sample(voxel)
        if down.has_normals():
            down.normalize_normals()  # the mean of a voxel's normals is shorter than unit
        else:
            down.estimate_normals(search(2.0 * voxel, 30))
            down.orient_normals_towards_camera_location(np.zeros(3))
        return down, registration.compute_fpfh_feature(down, search(5.0 * voxel, 100))

    target = open3d_cloud(model.points, model.normals)
    target_down, target_features = describe(target)
    refine = open3d_icp(model, ICP_DISTANCES_MM)

    def register(points: np.ndarray) -> np.ndarray:
        down, features = describe(open3d_cloud(points))
        open3d.utility.random.seed(0)
        reach = 1.5 * voxel
        checks = [
            registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            registration.CorrespondenceCheckerBasedOnDistance(reach),
        ]
        found = registration.registration_ransac_based_on_feature_matching(
            *(down, target_down, features, target_features),
            *(True, reach, registration.TransformationEstimationPointToPoint(False), 3, checks),
            registration.RANSACConvergenceCriteria(100_000, 0.999),
        )
        return refine(points, found.transformation)

    return register


def kiss_matcher(model: PeerModel, voxel: float) -> Register:
    """KISS-Matcher, then ICP by Open3D."""
    import kiss_matcher as kiss  # noqa: PLC0415

    target = np.ascontiguousarray(model.points, np.float32)
    refine = open3d_icp(model, ICP_DISTANCES_MM)

    def register(points: np.ndarray) -> np.ndarray:
        config = kiss.KISSMatcherConfig(voxel, enable_noise_bound_clamping=False)  # for metres
        matcher = kiss.KISSMatcher(config)
        found = matcher.estimate(np.ascontiguousarray(points, np.float32), target)
        start = np.eye(4)
        start[:3, :3], start[:3, 3] = found.rotation, np.ravel(found.translation)
        return refine(points, start)

    return register


PEERS: dict[str, Callable[[PeerModel, float], Register]] = {
    "Open3D FPFH + RANSAC + ICP": open3d_ransac,
    "KISS-Matcher + ICP": kiss_matcher,
}
RUNS = {"KISS-Matcher + ICP": 5}
"""Runs of a peer whose result differs from run to run; the row is that of the median run."""


def scene_points(result: Registered) -> dict[str, np.ndarray]:
    """The points that a peer is given of a case: mask -> (N, 3) mm, camera frame.

    Args:
      result: of our registration, with its masks.
    """
    points = np.asarray(result.cloud.points, np.float64)
    return {
        "all": result.case.points.astype(np.float64),
        "learnt": points[result.weights["learnt"] > 0.5],
        "oracle": points[result.weights["oracle"] > 0.5],
    }


def run_peer(
    make: Callable[[PeerModel, float], Register],
    results: Sequence[Registered],
    *,
    voxel: float,
    mask: str,
) -> tuple[Errors, list[float]]:
    """Errors and seconds of a peer over cases; one that it cannot register is 1 m off.

    Args:
      make: prepares the peer for a model.
      results: of our registration.
      voxel: size of a voxel, mm.
      mask: of the points that the peer is given.
    """
    prepared: dict[str, Register] = {}
    errors: Errors = []
    seconds: list[float] = []
    for result in results:
        case, points = result.case, scene_points(result)[mask]
        key = surface_cache.fingerprint(case.model)
        if key not in prepared:
            prepared[key] = make(sample_model(case.model), voxel)
        matrix = np.full((4, 4), np.nan)
        began = time.perf_counter()
        if len(points) >= MIN_POINTS:
            with contextlib.suppress(RuntimeError):
                matrix = prepared[key](points)
        seconds.append(time.perf_counter() - began)
        if not np.isfinite(matrix).all():
            matrix = np.eye(4)
            matrix[:3, 3] = FAILURE_MM
        predicted = dict.fromkeys(case.model, poses.from_matrix(matrix, "peer"))
        truth, targets = case.truth or {}, scored_targets(case)
        errors.append(metrics.case_errors(predicted, truth, targets, model=case.model))
    return errors, seconds


def choose_voxel(options: Peers, peer: str, mask: str, validation: Sequence[Registered]) -> float:
    """The voxel size that registers validation cases with the least mean log(1 + TRE).

    Args:
      options: of the command line.
      peer: its name.
      mask: of the points that the peer is given.
      validation: our results on the validation cases.
    """

    def mean_loss(voxel: float) -> float:
        errors, _ = run_peer(PEERS[peer], validation, voxel=voxel, mask=mask)
        return float(np.mean([np.log1p(error.tre_mm) for error in errors]))

    return min(options.voxels, key=mean_loss)


def register_cases(
    cases: Sequence[Case], config: TrainingConfig, params: Params
) -> list[Registered]:
    """Our results under the learnt and the oracle mask."""
    job = EvaluationConfig(ProgramConfig(masks=("learnt", "oracle")))
    return list(runner.raise_failures(runner.run(cases, Model(config, params), job=job)))


def time_frames(cases: Sequence[Case], config: TrainingConfig, params: Params) -> list[float]:
    """Our seconds of each frame by itself, with the learnt mask."""
    job = EvaluationConfig(batch=1)
    programs = compile_programs(config.network, job.program, batch=job.batch)
    return [
        result.seconds
        for case in cases
        for result in runner.run([case], Model(config, params), job=job, programs=programs)
        if isinstance(result, Registered)
    ]


def draw_cases(options: Peers, config: TrainingConfig, *, validation: bool) -> list[Case]:
    """Simulated cases that no training sees.

    Args:
      options: of the command line.
      config: of the trained network.
      validation: whether voxel sizes are chosen on them.
    """
    kind = simulator.CALIBRATION if validation else simulator.HELD_OUT
    specimens = options.validation if validation else options.specimens
    settings: dict[str, Any] = {
        "specimens": specimens,
        "frames": 2,
        "seed": options.seed,
        "kind": kind,
    }
    return list(simulator.held_out_cases(config.scenes.simulation, **settings))


def compare(options: Peers) -> int:
    """Registers all cases by all methods, and writes the figures.

    Raises:
      ValueError: a peer is not installed.
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is not installed; run: python -m pip install -e '.[peers]'")
    outputs.require_folder(options.output)
    config, params = load_trained(options.checkpoint)
    if options.cases is None:
        cases = draw_cases(options, config, validation=False)
    else:
        cases = [case_folder.read_case(path) for path in case_folder.find_cases(options.cases)]
    results = register_cases(cases, config, params)
    validation = register_cases(draw_cases(options, config, validation=True), config, params)
    time_some = partial(time_frames, cases[:TIMED_FRAMES], config, params)
    time_frames(cases[:1], config, params)  # compiles
    specimens = [result.case.source or result.case.id for result in results]

    def row(name: str, mask: str, errors: Errors, seconds: list[float]) -> dict[str, Any]:
        figures = metrics.summary_to_json(metrics.summarise(errors, specimens, seed=options.seed))
        return {"name": name, "mask": mask, "ms": 1e3 * float(np.median(seconds)), **figures}

    rows, all_seconds = [], []
    pairs = [(name, mask) for name in PEERS for mask in ("all", "learnt", "oracle")]
    for name, mask in tqdm(pairs, desc="peers"):
        voxel = choose_voxel(options, name, mask, validation)
        before = time_some()  # before and after, since the speed of a machine drifts
        runs = [
            row(name, mask, *run_peer(PEERS[name], results, voxel=voxel, mask=mask))
            for _ in range(RUNS.get(name, 1))
        ]
        ours = [*before, *time_some()]
        runs.sort(key=lambda run: run["tre_mm"]["median"])
        beside: dict[str, Any] = {"voxel_mm": voxel, "ours_ms": 1e3 * float(np.median(ours))}
        beside["median_runs_mm"] = [run["tre_mm"]["median"] for run in runs]
        rows.append(runs[len(runs) // 2] | beside)
        all_seconds += ours
    ours_errors: Errors = [result.errors["learnt"] for result in results]
    rows.insert(0, row("e2r", "learnt", ours_errors, all_seconds))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "peers.json"
    path.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1))
    print(f"{results_table(rows)}\n{path}")
    return 0


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text: errors against the first row, times against ours beside the peer.

    Args:
      rows: ours first.
    """
    cells = []
    for row in rows:
        tre = row["tre_mm"]["median"]
        cells.append(
            [
                row["name"],
                row["mask"],
                f"{row['voxel_mm']:g} mm" if "voxel_mm" in row else "",
                with_range(tre, row.get("median_runs_mm", [])),
                f"{row['success']['2mm']:.1%}",
                f"{row['success']['5mm']:.1%}",
                f"{row['ms']:.0f} ms",
                f"{tre / rows[0]['tre_mm']['median']:.1f} x",
                f"{row['ms'] / row.get('ours_ms', row['ms']):.1f} x",
            ]
        )
    columns = ["method", "points", "voxel", "median TRE", "<2 mm", "<5 mm", "a frame"]
    return text_table([*columns, "TRE / e2r", "time / e2r"], cells)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    words: dict[str, Any] = {
        "prog": "python -m experiments.benchmarks.peers",
        "description": __doc__,
    }
    return run_command(lambda: compare(parse_options(Peers, arguments, **words)))


if __name__ == "__main__":
    sys.exit(main())
