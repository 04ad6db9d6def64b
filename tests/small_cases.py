"""Cases that are made in a moment: balls for levels, and a picture or a cloud of a few points."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh

from e2r.datasets.case import Case, case_digest, make_case
from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.types import Pose


def small_case(
    id: str = "frame1",
    *,
    seed: int = 0,
    levels: tuple[str, ...] = ("L1", "L2"),
    cloud: bool = False,
    truth: bool = True,
) -> Case:
    """A case whose model and frame follow from the seed."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(15.0, 20.0)
    ball = trimesh.creation.icosphere(subdivisions=1, radius=radius)
    model = {
        name: ball.copy().apply_translation([0.0, 40.0 * number, 0.0])
        for number, name in enumerate(levels)
    }
    color = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    depth = np.round(rng.uniform(350.0, 450.0, (24, 32)) * 50.0) / np.float32(50.0)
    image = RgbdImage(color, depth.astype(np.float32), 40.0, 40.0, 15.5, 11.5)
    pose = Pose(np.eye(3, dtype=np.float32), np.array([seed, 0, 400], np.float32))
    case = make_case(
        image,
        id=id,
        model=model,
        truth=dict.fromkeys(levels, pose) if truth else None,
        targets={levels[0]: np.asarray(ball.vertices[:4])} if truth else None,
        bone=rng.uniform(size=depth.shape) > 0.5,
    )
    if not cloud:
        return case
    scene = ScenePoints(case.points, case.colors)
    return make_case(scene, id=id, model=model, truth=case.truth, targets=case.targets)


def prediction_line(
    case: Case, shift: float = 0.0, *, accepted: bool = True, error: str | None = None
) -> dict:
    """A line of predictions.jsonl: every level ``shift`` mm beside the camera's axis."""
    matrix = np.eye(4)
    matrix[:3, 3] = [shift, 0.0, 400.0]
    return {
        "id": case.id,
        "case_digest": case_digest(case),
        "T_camera_model": {} if error else {name: matrix.tolist() for name in case.model},
        "accepted": accepted,
        "expected_tre_mm": 0.8 if accepted else 31.0,
        "bound95_mm": 2.1 if accepted else 90.0,
        "levels": {
            name: {"points": 120.0, "expected_tre_mm": 0.8, "bound95_mm": 2.1}
            for name in ([] if error else case.model)
        },
        "hypotheses": [],
        "seconds": 0.1,
        "error": error,
    }


def write_lines(path: Path, *lines: dict, start: bytes = b"", end: str = "\n") -> Path:
    """Writes a file of predictions."""
    text = "".join(json.dumps(line) + end for line in lines)
    path.write_bytes(start + text.encode())
    return path
