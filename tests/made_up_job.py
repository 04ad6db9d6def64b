"""Made-up results of cases, and the job that they make: what the report and the viewer show."""

from dataclasses import replace

import numpy as np
import trimesh
from conftest import TINY

from e2r.config import EvaluationConfig
from e2r.datasets.case import make_case
from e2r.evaluation import metrics
from e2r.evaluation.frame_scale import FrameScale
from e2r.evaluation.precision import LevelPrecision
from e2r.evaluation.predictions import failed_prediction, make_prediction, score_case
from e2r.evaluation.results import Failed, Registered, level_poses
from e2r.evaluation.summary import summarise_job
from e2r.formats.scenes import RgbdImage
from e2r.pipeline import ProgramConfig
from e2r.runtime.provenance import code_record
from e2r.types import Cloud, Hypotheses, LevelPoses, Pose, Registration
from e2r.visualisation import figures, snapshots

SCRIPT_ID = """<script>alert("a")</script> 'b' & <img src=x onerror=alert(1)>"""
"""A case's id that must never run as a program."""
JOB = EvaluationConfig(ProgramConfig(masks=("learnt", "oracle")))
MASKS = JOB.program.masks
BALL = trimesh.creation.icosphere(subdivisions=2, radius=20.0)
TARGETS = np.array([[20.0, 0, 0], [0, 20.0, 0], [0, 0, 0]])
ORIGIN = {"cases": "made up", "checkpoint": "nowhere"}


def translation(x, y, z):
    return Pose(np.eye(3, dtype=np.float32), np.array([x, y, z], np.float32))


def made_up_result(number, offset_mm, *, case_id=None, truth=True, color=90):
    """The result of a ball, 400 mm before the camera, found ``offset_mm`` to the right."""
    height, width = 24, 32
    v, u = np.mgrid[:height, :width] + 0.0
    depth = np.where(np.hypot(u - 16, v - 12) < 8, 380.0, 430.0)
    image = RgbdImage(np.full((height, width, 3), color, np.uint8), depth, 80.0, 80.0, 16.0, 12.0)
    model = {"L1": BALL, "L2": BALL.copy().apply_translation([0, 45, 0])}
    true_poses = {name: translation(0, 0, 400) for name in model}
    case = make_case(
        image,
        id=case_id or f"case{number}",
        model=model,
        source=f"specimen {number % 5}",
        truth=true_poses if truth else None,
        targets={"L1": TARGETS} if truth else None,
    )
    rows = np.append(np.random.default_rng(number).permutation(len(case.points)), [-1] * 8)
    cloud = Cloud(case.points[rows], case.colors[rows], case.colors[rows], rows >= 0)
    weights = ((case.points[rows, 2] < 400) & (rows >= 0)).astype(np.float32)
    trajectory = Pose(
        np.stack([np.eye(3, dtype=np.float32)] * 4),
        np.array([[offset_mm + k, 0, 400] for k in (9, 6, 3, 0)], np.float32),
    )
    registration = Registration(
        translation(offset_mm, 0, 400),
        trajectory,
        np.float32(0.1),
        weights.sum(),
        np.float32(6.0),
        np.int32(4),
    )
    found = Pose(
        np.stack([np.eye(3, dtype=np.float32)] * 6),
        np.tile(np.array([offset_mm, 0, 400], np.float32), (6, 1)),
    )
    levels = LevelPoses(found, np.full(6, weights.sum() / 6, np.float32), np.zeros(6, np.float32))
    hypotheses = Hypotheses(
        Pose(found.rotation[:2], found.translation[:2]),
        np.ones(2, np.float32),
        np.ones(2, np.float32),
        np.array([True, False]),
    )
    errors = {}
    if truth:
        predicted = level_poses(case, levels)
        one = metrics.case_errors(predicted, true_poses, case.targets, model=model)
        errors = dict.fromkeys(MASKS, one)
    return Registered(
        case,
        cloud,
        rows,
        dict.fromkeys(MASKS, registration),
        dict.fromkeys(MASKS, levels),
        dict.fromkeys(MASKS, hypotheses),
        dict.fromkeys(MASKS, weights),
        errors,
        dict.fromkeys(MASKS, FrameScale(1.0, 1.0, 0.01, 0.01)),
        1.0,
        0,
        0.25,
        dict.fromkeys(MASKS, LevelPrecision(*np.ones((4, len(model))))),
        dict.fromkeys(MASKS, np.zeros(2)),
    )


def made_up_job(results, failures=()):
    """What ``experiments.evaluate`` hands to the report: summary, predictions, scores."""
    predictions = [
        replace(
            make_prediction(result, "learnt"),
            expected_tre_mm=result.errors["learnt"].tre_mm / 2 if result.errors else None,
        )
        for result in results
    ]
    predictions += [failed_prediction(Failed(*failure)) for failure in failures]
    scores = [score_case(result) for result in results]
    summary = summarise_job(
        predictions, scores, job=JOB, config=TINY, origin=ORIGIN, code=code_record()
    )
    return summary, predictions, scores


def largest_snapshot(rng):
    """As much as a snapshot may hold."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=20.0)
    names = [f"L{i}" for i in range(7)]
    poses = dict.fromkeys(names, translation(0, 0, 400))
    points = rng.normal(size=(snapshots.MAX_POINTS, 3)).astype(np.float32)
    side = snapshots.MAX_IMAGE_SIDE
    return snapshots.Snapshot(
        id=SCRIPT_ID,
        points=points,
        colors=rng.uniform(size=points.shape),
        weights=rng.uniform(size=len(points)),
        surfaces={name: figures.simplify_mesh(ball, snapshots.MAX_FACES) for name in names},
        trajectory=Pose(np.stack([np.eye(3)] * 60), np.zeros((60, 3))),
        poses=poses,
        truth=poses,
        targets=dict.fromkeys(names, rng.normal(size=(snapshots.MAX_TARGETS, 3))),
        overlay=rng.integers(0, 255, (3 * side // 4, side, 3)).astype(np.uint8),
        tre_mm=61.0,
        error_or_disagreement=61.0,
    )
