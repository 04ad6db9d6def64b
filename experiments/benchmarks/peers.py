"""The field's ways to register without a start, on the same cases: who is nearer, who is quicker?

Command:  python -m experiments.benchmarks.peers --output runs/base
Time:     about ten minutes on two cores for 48 cases
Expect:   see the README for what was measured

Needs the extra `peers` (pip install -e '.[peers]'). The peers match descriptors of geometry, then
refine by point-to-plane ICP from wide to narrow:

- Open3D: FPFH, RANSAC with mutual matches (100,000 draws, 0.999), ICP;
- KISS-Matcher: its own features, ROBIN, graduated non-convexity, then Open3D's ICP.

They have no mask of their own. Each is given all points of the scene, and then the points that the
learnt and the oracle mask keep; their model is the half of the surface that faces backwards, which
a camera can see. The voxel of each is the one of several that registers validation cases best. The
time of a frame counts all that depends on it, and nothing that depends on the model alone; ours is
taken before and after each peer's, in the same run.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
import tyro
from tqdm import tqdm

from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case, scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.predictions import Registered
from e2r.evaluation.programs import compile_programs
from e2r.geometry import anatomical_frame, poses, surfaces
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Params

Register = Callable[[np.ndarray], np.ndarray]
"""Scene points (N, 3) mm, camera frame -> camera from model, 4x4."""
SAMPLES = 40_000
"""Samples of a model."""
ICP_MM = (8.0, 3.0, 1.5)
"""Farthest correspondences of the refinement's rounds."""
TIMED = 8
"""Frames on which ours is timed, before each peer and after it."""
NEEDED = ("open3d", "kiss_matcher")


@dataclass(frozen=True)
class Peers:
    """The field's ways to register without a start, on the same cases."""

    output: Path
    """folder for peers.json"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    specimens: int = 24
    """simulated specimens, two scenes each"""
    validation: int = 6
    """specimens on which the peers' voxels are chosen, two scenes each"""
    voxels: tuple[float, ...] = (2.0, 3.0, 4.5)
    """mm, to choose among"""
    cases: Path | None = None
    """a folder of simulated cases (with truth.json and bone.png) instead"""
    seed: int = 0
    """of specimens"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.validation < 1 or not self.voxels or min(self.voxels) <= 0:
            raise ValueError("--specimens and --validation are 1 or more, --voxels above 0")


class Model:
    """What a peer knows of a model beforehand: samples of what a camera may see."""

    def __init__(self, meshes: Mapping[str, trimesh.Trimesh]) -> None:
        whole = trimesh.util.concatenate(list(meshes.values()))
        points, faces = trimesh.sample.sample_surface(whole, SAMPLES, seed=4)
        normals = whole.face_normals[faces]
        behind = normals @ anatomical_frame.estimate_frame(meshes).rotation[1] > 0.0
        self.points, self.normals = points[behind], normals[behind]


def open3d_ransac(model: Model, voxel: float) -> Register:
    """FPFH, RANSAC, ICP by Open3D."""
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration

    def describe(cloud: Any) -> tuple[Any, Any]:
        search = open3d.geometry.KDTreeSearchParamHybrid
        down = cloud.voxel_down_sample(voxel)
        if not down.has_normals():
            down.estimate_normals(search(2.0 * voxel, 30))
            down.orient_normals_towards_camera_location(np.zeros(3))
        return down, registration.compute_fpfh_feature(down, search(5.0 * voxel, 100))

    target = _cloud(model.points, model.normals)
    target_down, target_features = describe(target)
    refine = open3d_icp(model)

    def register(points: np.ndarray) -> np.ndarray:
        down, features = describe(_cloud(points))
        open3d.utility.random.seed(0)
        reach = 1.5 * voxel
        found = registration.registration_ransac_based_on_feature_matching(
            down,
            target_down,
            features,
            target_features,
            True,
            reach,
            registration.TransformationEstimationPointToPoint(False),
            3,
            [
                registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                registration.CorrespondenceCheckerBasedOnDistance(reach),
            ],
            registration.RANSACConvergenceCriteria(100_000, 0.999),
        )
        return refine(points, found.transformation)

    return register


def kiss_matcher(model: Model, voxel: float) -> Register:
    """KISS-Matcher, then ICP by Open3D."""
    import kiss_matcher as kiss  # noqa: PLC0415

    target = np.ascontiguousarray(model.points, np.float32)
    refine = open3d_icp(model)

    def register(points: np.ndarray) -> np.ndarray:
        config = kiss.KISSMatcherConfig(voxel, enable_noise_bound_clamping=False)  # for metres
        matcher = kiss.KISSMatcher(config)
        found = matcher.estimate(np.ascontiguousarray(points, np.float32), target)
        start = np.eye(4)
        start[:3, :3], start[:3, 3] = found.rotation, np.ravel(found.translation)
        return refine(points, start)

    return register


def open3d_icp(model: Model) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(scene points, model from camera) -> camera from model, by point-to-plane ICP."""
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration
    target = _cloud(model.points, model.normals)
    plane = registration.TransformationEstimationPointToPlane()

    def refine(points: np.ndarray, start: np.ndarray) -> np.ndarray:
        source, pose = _cloud(points), start
        for reach in ICP_MM:
            pose = registration.registration_icp(source, target, reach, pose, plane).transformation
        back: np.ndarray = np.linalg.inv(pose)
        return back

    return refine


def _cloud(points: np.ndarray, normals: np.ndarray | None = None) -> Any:
    import open3d  # noqa: PLC0415

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    if normals is not None:
        cloud.normals = open3d.utility.Vector3dVector(normals)
    return cloud


PEERS: dict[str, Callable[[Model, float], Register]] = {
    "Open3D FPFH + RANSAC + ICP": open3d_ransac,
    "KISS-Matcher + ICP": kiss_matcher,
}


def scenes(result: Registered) -> dict[str, np.ndarray]:
    """What a peer is given of a case: all points, and those the masks keep; mask -> (N, 3) mm."""
    points = np.asarray(result.cloud.points, np.float64)
    return {
        "all": result.case.points.astype(np.float64),
        "learnt": points[result.weights["learnt"] > 0.5],
        "oracle": points[result.weights["oracle"] > 0.5],
    }


def run_peer(
    make: Callable[[Model, float], Register], voxel: float, mask: str, done: Sequence[Registered]
) -> tuple[list[dict[str, Any]], list[float]]:
    """Errors and seconds of a peer over cases; a case it cannot register counts as 1 m off."""
    prepared: dict[str, Register] = {}
    errors, seconds = [], []
    for result in done:
        case, points = result.case, scenes(result)[mask]
        key = surfaces.fingerprint(case.model)
        if key not in prepared:
            prepared[key] = make(Model(case.model), voxel)
        began = time.perf_counter()
        try:
            matrix = prepared[key](points) if len(points) >= 10 else np.full((4, 4), np.nan)
        except RuntimeError:
            matrix = np.full((4, 4), np.nan)
        seconds.append(time.perf_counter() - began)
        if not np.isfinite(matrix).all():
            matrix = np.eye(4)
            matrix[:3, 3] = 1000.0
        pose = poses.from_matrix(matrix, "peer")
        errors.append(
            metrics.case_errors(
                dict.fromkeys(case.model, pose),
                case.truth,  # type: ignore[arg-type]
                scored_targets(case),
                case.model,
            )
        )
    return errors, seconds


def register_ours(
    source: Sequence[Case], config: TrainingConfig, params: Params
) -> list[Registered]:
    """Our results, under the learnt mask and under the true bone."""
    both = EvaluationConfig(masks=("learnt", "oracle"))
    return [r for r in runner.run(source, config, params, both) if isinstance(r, Registered)]


def time_ours(source: Sequence[Case], config: TrainingConfig, params: Params) -> list[float]:
    """Our seconds of each frame: alone, warm, with the learnt mask."""
    single = EvaluationConfig(batch=1)
    programs = compile_programs(config.network, single)
    return [
        r.seconds
        for case in source
        for r in runner.run([case], config, params, single, programs)
        if isinstance(r, Registered)
    ]


def compare(options: Peers) -> int:
    """Runs the comparison."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} not installed; run: python -m pip install -e '.[peers]'"
        )
    config, params = load_trained(options.checkpoint)

    def draw(specimens: int, kind: int) -> list[Case]:
        return list(
            simulator.held_out_cases(
                config.scenes.simulation,
                specimens=specimens,
                frames=2,
                seed=options.seed,
                kind=kind,
            )
        )

    if options.cases is None:
        source = draw(options.specimens, simulator.HELD_OUT)
    else:
        source = [case_folder.read_case(path) for path in case_folder.find_cases(options.cases)]
    done = register_ours(source, config, params)
    tuned = register_ours(draw(options.validation, simulator.CALIBRATION), config, params)
    some = source[:TIMED]
    time_ours(some[:1], config, params)  # compiled
    ours: list[float] = []
    groups = [r.case.source or r.case.id for r in done]
    rows = []

    def add(
        name: str, mask: str, errors: list[dict[str, Any]], seconds: list[float], **more: Any
    ) -> None:
        figures = metrics.summarise(errors, groups, seed=options.seed)
        spent = 1e3 * float(np.median(seconds))
        rows.append({"name": name, "mask": mask, "ms": spent, **more, **figures})

    plan = [(name, mask) for name in PEERS for mask in ("all", "learnt", "oracle")]
    for name, mask in tqdm(plan, desc="peers"):
        trials = {}
        for voxel in options.voxels:
            errors, _ = run_peer(PEERS[name], voxel, mask, tuned)
            trials[voxel] = float(np.mean([np.log1p(e["tre_mm"]) for e in errors]))
        voxel = min(trials, key=lambda v: trials[v])
        beside = time_ours(some, config, params)  # in turn: a machine's speed wanders
        errors, seconds = run_peer(PEERS[name], voxel, mask, done)
        beside += time_ours(some, config, params)
        add(name, mask, errors, seconds, voxel_mm=voxel, ours_ms=1e3 * float(np.median(beside)))
        ours += beside
    add("e2r", "learnt", [r.errors["learnt"] for r in done], ours)
    rows.insert(0, rows.pop())
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "peers.json"
    path.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1))
    print(table(rows))
    print(path)
    return 0


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text; errors against the first, times against ours beside that peer."""
    first = rows[0]
    lines = [
        f"{'':28s} {'points':8s} voxel  median TRE     <2 mm  <5 mm    ms/frame   TRE, time vs e2r"
    ]
    for row in rows:
        voxel = f"{row['voxel_mm']:g} mm" if "voxel_mm" in row else ""
        tre = row["tre_mm"]["median"]
        slower = row["ms"] / row.get("ours_ms", row["ms"])
        lines.append(
            f"{row['name']:28s} {row['mask']:8s} {voxel:6s} {tre:8.2f} mm   "
            f"{row['success']['2mm']:6.1%} {row['success']['5mm']:6.1%} {row['ms']:10.0f}   "
            f"{tre / first['tre_mm']['median']:8.1f} x {slower:6.1f} x"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    options = tyro.cli(
        Peers, args=arguments, prog="python -m experiments.benchmarks.peers", description=__doc__
    )
    return run_command(lambda: compare(options))


if __name__ == "__main__":
    sys.exit(main())
