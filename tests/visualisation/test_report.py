"""The report of a job, of results made up: size, figures, names; views and their files."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from conftest import TINY

from e2r.config import EvaluationConfig
from e2r.datasets.case import RgbdImage, case_from_image
from e2r.evaluation import metrics
from e2r.evaluation.predictions import (
    Registered,
    error_line,
    failure_line,
    level_poses,
    prediction_line,
)
from e2r.evaluation.summary import summarise_job
from e2r.types import Cloud, Hypotheses, LevelPoses, Pose, Registration
from e2r.visualisation import figures, report, snapshots

NAME = """<script>alert("a")</script> 'b' & <img src=x onerror=alert(1)>"""
JOB = EvaluationConfig(masks=("learnt", "oracle"))
BALL = trimesh.creation.icosphere(subdivisions=2, radius=20.0)
TARGETS = np.array([[20.0, 0, 0], [0, 20.0, 0], [0, 0, 0]])


def still(*shift):
    return Pose(np.eye(3, dtype=np.float32), np.array(shift, np.float32))


def made_up(number, off, identity=None, truth=True, color=90):
    """A result of a ball, 400 mm before the camera, found ``off`` mm to the right."""
    height, width = 24, 32
    v, u = np.mgrid[:height, :width] + 0.0
    depth = np.where(np.hypot(u - 16, v - 12) < 8, 380.0, 430.0)
    picture = RgbdImage(np.full((height, width, 3), color, np.uint8), depth, 80.0, 80.0, 16.0, 12.0)
    model = {"L1": BALL, "L2": BALL.copy().apply_translation([0, 45, 0])}
    where = {name: still(0, 0, 400) for name in model}
    case = case_from_image(
        picture,
        id=identity or f"case{number}",
        model=model,
        source=f"specimen {number % 5}",
        truth=where if truth else None,
        targets={"L1": TARGETS} if truth else None,
    )
    rows = np.append(np.random.default_rng(number).permutation(len(case.points)), [-1] * 8)
    cloud = Cloud(case.points[rows], case.colors[rows], case.colors[rows], rows >= 0)
    weights = ((case.points[rows, 2] < 400) & (rows >= 0)).astype(np.float32)
    track = Pose(
        np.stack([np.eye(3, dtype=np.float32)] * 4),
        np.float32([[off + k, 0, 400] for k in (9, 6, 3, 0)]),
    )
    whole = Registration(still(off, 0, 400), track, 0.1, weights.sum(), 6.0, 4)
    placed = Pose(np.stack([np.eye(3)] * 6), np.tile([off, 0.0, 400], (6, 1)))
    levels = LevelPoses(placed, np.full(6, weights.sum() / 6), np.zeros(6))
    several = Hypotheses(
        Pose(placed.rotation[:2], placed.translation[:2]),
        np.ones(2),
        np.ones(2),
        np.array([1, 0]) > 0,
    )
    errors = {}
    if truth:
        found = level_poses(case, levels)
        one = metrics.case_errors(found, where, case.targets, model)
        errors = dict.fromkeys(JOB.masks, one)
    by_mask = dict.fromkeys(JOB.masks)
    return Registered(
        case,
        cloud,
        rows,
        {m: whole for m in by_mask},
        {m: levels for m in by_mask},
        {m: several for m in by_mask},
        {m: weights for m in by_mask},
        errors,
        0,
        0.25,
    )


def job(done, failures=()):
    """What experiments.evaluate hands to the report: figures, lines, errors."""
    lines = [prediction_line(r, "learnt") for r in done]
    for line, r in zip(lines, done, strict=True):
        line["expected_tre_mm"] = r.errors["learnt"]["tre_mm"] / 2 if r.errors else None
    lines += [failure_line(*failure) for failure in failures]
    errors = [error_line(r) for r in done]
    origin = {"cases": "made up", "checkpoint": "nowhere"}
    return summarise_job(lines, errors, JOB, TINY, origin), lines, errors


def biggest_view(rng):
    """As much as a view may hold."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=20.0)
    names = [f"L{i}" for i in range(7)]
    place = dict.fromkeys(names, still(0, 0, 400))
    return snapshots.Snapshot(
        NAME,
        rng.normal(size=(snapshots.POINTS, 3)).astype(np.float32),
        rng.uniform(size=(snapshots.POINTS, 3)),
        rng.uniform(size=snapshots.POINTS),
        {name: figures.thinned(ball, snapshots.FACES) for name in names},
        Pose(np.stack([np.eye(3)] * 60), np.zeros((60, 3))),
        place,
        place,
        dict.fromkeys(names, rng.normal(size=(snapshots.TARGETS, 3))),
        rng.integers(0, 255, (360, snapshots.SIDE, 3)).astype(np.uint8),
        61.0,
        61.0,
    )


def test_five_hundred_cases_make_a_small_page(rng, tmp_path):
    figures, few, one = job([made_up(i, 0.2 * (i + 1)) for i in range(5)])
    names = [f"{NAME} {i}" for i in range(500)]
    lines = [{**few[i % 5], "id": name} for i, name in enumerate(names)]
    lines += [failure_line(NAME, f"{NAME}: no scene")] * 150
    errors = [{**one[i % 5], "id": name} for i, name in enumerate(names)]
    figures["by_specimen"] = dict.fromkeys(names[:100], figures["by_specimen"]["specimen 0"])
    curve = [{"step": i, "loss": 1.0, "tre_mm": 1.0, "start_mm": 9.0} for i in range(3200)]
    path = tmp_path / "report.html"
    report.write_report(
        path, figures, lines, errors, [biggest_view(rng)] * snapshots.MAX_KEPT, curve
    )
    assert path.stat().st_size <= 20e6
    page = path.read_text()
    assert page.count("* plotly.js v") == 1
    named = page.count("&lt;script&gt;alert(&quot;a&quot;)")
    assert named == 500 + 100 + 2 * report.LISTED + snapshots.MAX_KEPT
    assert "and 50 more" in page
    body = re.sub(r"<script.*?</script>", "", page.split("<body>")[1], flags=re.S)
    assert "<img src=x" not in body and 'alert("a")' not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_the_page_says_what_the_summary_says(tmp_path):
    done = [made_up(i, off) for i, off in enumerate((0.5, 1.0, 9.0, 1.5))]
    figures, lines, errors = job(done)
    path = tmp_path / "report.html"
    report.write_report(path, figures, lines, errors, [snapshots.make_snapshot(done[2], "learnt")])
    page = path.read_text()
    assert figures["tre_mm"]["median"] == pytest.approx(1.25)
    for cell in ("<b>1.25 mm</b>", "<td>1.83</td>", "<td>2.73</td>", "<td>3.95</td>"):
        assert cell in page
    assert '<span class="far">TRE 9.00 mm</span>' in page
    order = re.findall(r"<tr><td>(case\d)</td>", page)
    assert order == ["case2", "case3", "case1", "case0"]  # the worst first
    assert set(re.findall(r"<td>(specimen \d)</td>", page)) == {f"specimen {i}" for i in range(4)}
    # Without any truth there is still a page.
    blind = [made_up(0, 1.0, truth=False)]
    figures, lines, errors = job(blind)
    report.write_report(path, figures, lines, errors, [snapshots.make_snapshot(blind[0], "learnt")])
    assert "no truth to compare with" in path.read_text()
    figures, lines, errors = job([], [("a", "a: no scene")])
    report.write_report(path, figures, lines, errors)
    assert "a: no scene" in path.read_text()


def test_statistics_need_no_scene():
    """What a job's files hold is enough: a job that goes on has nothing else."""
    figures, lines, rows = job([made_up(i, i + 0.5) for i in range(2)])
    lines, rows = json.loads(json.dumps([lines, rows]))
    again = summarise_job(lines, rows, JOB, TINY, {"cases": "made up", "checkpoint": "nowhere"})
    assert json.dumps(again) == json.dumps(figures)


def test_the_worst_are_kept_and_no_more(tmp_path):
    for i, off in enumerate((3.0, 1.0, 40.0, 2.0, 7.0)):
        snapshots.keep_worst(tmp_path, made_up(i, off), "learnt", most=3)
    assert [view.id for view in snapshots.read_worst(tmp_path)] == ["case2", "case4", "case0"]
    before = sorted(tmp_path.iterdir())
    snapshots.keep_worst(
        tmp_path, made_up(4, 7.0), "learnt", most=3
    )  # again, by a job that goes on
    assert sorted(tmp_path.iterdir()) == before
    assert snapshots.read_worst(tmp_path)[0].tre_mm == pytest.approx(40.0)
    whole = made_up(0, 1.0, truth=False)
    assert snapshots.error_or_disagreement(whole, "learnt") == pytest.approx(0.0, abs=1e-6)
    half = whole.levels["learnt"]._replace(inlier_weight=whole.levels["learnt"].inlier_weight / 2)
    assert snapshots.error_or_disagreement(
        whole._replace(levels={"learnt": half}), "learnt"
    ) == pytest.approx(0.5)


def test_a_view_comes_back_from_its_file(tmp_path):
    result = made_up(0, 4.0, identity=NAME)
    view = snapshots.make_snapshot(result, "learnt")
    assert len(view.points) == result.cloud.valid.sum()
    np.testing.assert_array_equal(view.weights > 0.5, view.points[:, 2] < 400)
    assert (view.image[12, 16] != 90).all() and (view.image[0, 0] == 90).all()
    path = tmp_path / "views" / "00.npz"
    snapshots.write_snapshot(view, path)
    again = snapshots.read_snapshot(path)
    assert again.id == NAME and again.tre_mm == pytest.approx(4.0)
    for name in ("points", "weights", "picture"):
        np.testing.assert_array_equal(getattr(again, name), getattr(view, name))
    np.testing.assert_allclose(again.colours, view.colours, atol=1 / 255)
    for name in ("L1", "L2"):
        np.testing.assert_allclose(again.surfaces[name].vertices, view.surfaces[name].vertices)
        np.testing.assert_array_equal(again.found[name].translation, [4, 0, 400])
        np.testing.assert_array_equal(again.truth[name].translation, [0, 0, 400])
    np.testing.assert_allclose(
        snapshots.true_targets(again), TARGETS + np.array([0, 0, 400]), atol=1e-4
    )
    blind = made_up(1, 4.0, truth=False)
    blind = blind._replace(case=replace(blind.case, image=None))
    snapshots.write_snapshot(snapshots.make_snapshot(blind, "learnt"), path)
    again = snapshots.read_snapshot(path)
    assert again.image is None and again.tre_mm is None and not again.truth and not again.targets
    path.write_bytes(b"not a view")
    with pytest.raises(ValueError, match=r"00\.npz: is not a view"):
        snapshots.read_snapshot(path)


def test_steps_and_distances_of_a_view():
    view = snapshots.make_snapshot(made_up(0, 4.0), "learnt")
    steps = snapshots.snapshot_steps(view)
    assert [float(step["L1"].translation[0]) for step in steps] == [13, 10, 7, 4, 4]
    at = np.array([[4.0, 0, 350], [4, 0, 400], [104, 0, 400]], np.float32)
    found = snapshots.distances(view._replace(points=at), steps[-1])
    np.testing.assert_allclose(found, [30, 20, 80], atol=1.0)  # of a ball of many facets
