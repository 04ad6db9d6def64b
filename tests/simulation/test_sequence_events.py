"""What can happen in a recording: light, tools, a fast camera, long hands, a level that moves."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from e2r.geometry import poses
from e2r.simulation import intruders, sequence_paths, sequences, specimens
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.types import Pose

STILL = SequenceConfig(
    frames=8,
    rate=2.0,
    width=128,
    height=96,
    path="static",
    wound_fraction=(0.3, 0.3),
    breathing_mm=0.0,
    hands=0,
)
TIMES = np.arange(300) / 30.0
MIDDLE = np.float32([3.0, 10.0, -5.0])


@pytest.fixture(scope="module")
def specimen():
    return specimens.procedural_specimen(jax.random.key(5), "spine")


@pytest.fixture(scope="module")
def record(specimen):
    def frames(**options):
        config = dataclasses.replace(STILL, **options)
        sequence = sequences.simulate_sequence(jax.random.key(11), specimen, config)
        return sequence.focal, list(sequence.frames)

    return frames


@pytest.fixture(scope="module")
def still(record):
    return record()


def test_exposure_changes_the_colours_and_not_the_depth(record, still):
    gains = []
    for bright, plain in zip(record(exposure=0.5)[1], still[1], strict=True):
        np.testing.assert_array_equal(bright.depth, plain.depth)
        unclipped = (plain.color > 20) & (plain.color < 130)
        ratio = bright.color[unclipped] / plain.color[unclipped].astype(np.float32)
        assert np.quantile(ratio, 0.9) - np.quantile(ratio, 0.1) < 0.08  # one gain for all pixels
        gains.append(np.median(ratio))
    assert max(gains) - min(gains) > 0.1 and max(np.abs(np.log(gains))) < 0.55


def test_brightness_changes_slowly_and_only_if_asked():
    plain = sequence_paths.brightness_path(np.random.default_rng(1), TIMES, STILL)
    np.testing.assert_array_equal(plain, 1.0)
    config = dataclasses.replace(STILL, exposure=0.5)
    gain = np.log(sequence_paths.brightness_path(np.random.default_rng(1), TIMES, config))
    assert 0.1 < np.abs(gain).max() <= 0.5
    assert np.abs(np.diff(gain)).max() < 0.5 * 2 * np.pi * 0.3 / 30


def test_a_tool_covers_the_bone_and_blinds_the_sensor(record, still):
    there, blind, covered = 0, [], []
    for held, plain in zip(record(tools=1)[1], still[1], strict=True):
        painted = np.any(held.color != plain.color, axis=-1)
        there += painted.any()
        assert held.visible <= plain.visible
        seen = painted & (plain.depth > 0)
        if seen.any():
            blind.append(np.mean(held.depth[seen] == 0))
            nearer = plain.depth[seen] - held.depth[seen]
            assert np.mean(nearer[held.depth[seen] > 0] > 0.0) > 0.6
            covered.append(plain.visible - held.visible)
    assert 2 <= there < STILL.frames  # it comes and goes
    assert max(blind) > 0.3 and max(covered) > 0.01


@pytest.mark.parametrize("path", ["hand", "robot"])
def test_a_camera_of_twice_the_speed_moves_twice_as_fast(path):
    def speed(factor):
        config = dataclasses.replace(STILL, path=path, speed=factor)
        base = Pose(np.eye(3, dtype=np.float32), np.float32([0.0, 0.0, 450.0]))
        fast = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            views = sequence_paths.camera_path(
                rng, TIMES, np.zeros(300, int), base=base, look_at=np.zeros(3), config=config
            )
            step = np.linalg.norm(np.diff(views.translation, axis=0), axis=1)
            fast.append(30.0 * np.quantile(step, 0.95))
        return np.mean(fast)

    assert speed(2.0) / speed(1.0) == pytest.approx(2.0, rel=0.25)  # a hand's tremor stays


def test_a_hand_stays_as_long_as_it_is_told():
    config = dataclasses.replace(STILL, hands=1, hand_seconds=(4.0, 4.5))
    hand = intruders.hand_path(np.random.default_rng(0), TIMES, MIDDLE, config)
    arrived = hand.present & (np.abs(hand.pose.translation[:, 0] - MIDDLE[0]) < 1e-3)
    assert 4.0 <= arrived.sum() / 30.0 <= 4.6
    assert hand.present.sum() / 30.0 <= 4.5 + 2 * intruders.COMING_SECONDS + 0.1


def test_a_tool_stays_one_to_three_seconds_with_its_tip_over_the_bone():
    config = dataclasses.replace(STILL, tools=1)
    for seed in range(8):
        tool = intruders.tool_path(np.random.default_rng(seed), TIMES, MIDDLE, config)
        arrived = np.linalg.norm(tool.pose.translation - MIDDLE, axis=1) < 50.0
        arrived &= tool.present
        assert 1.0 <= arrived.sum() / 30.0 <= 3.0 + 2 * intruders.COMING_SECONDS
        tips = tool.pose.translation[arrived]
        assert np.ptp(tips, axis=0).max() > 0.5 and tips[:, 1].min() > MIDDLE[1]
        shaft = tool.pose.rotation[tool.present][0]
        np.testing.assert_allclose(shaft @ shaft.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(shaft) > 0 and shaft[1, 2] > 0.5  # it comes from above


def test_the_surgeon_moves_one_level_and_its_bone(record, still, specimen):
    (focal, moved), (_, still) = record(moved_level=True), still
    halfway = 0.5 * moved[-1].seconds
    changed = set()
    for now, before in zip(moved, still, strict=True):
        for level, name in enumerate(specimen.model):
            new, old = sequences._pick(now.pose, level), sequences._pick(before.pose, level)
            turn = np.degrees(poses.rotation_angle(new.rotation @ old.rotation.T))
            middle = poses.apply_inverse(specimen.canonical, specimen.bones.centre[level])
            shift = np.linalg.norm(poses.apply(new, middle) - poses.apply(old, middle))
            if turn < 1e-3 and shift < 1e-3:
                continue
            changed.add(name)
            assert now.seconds > halfway
            if now.seconds >= halfway + sequence_paths.MOVED_SECONDS:
                assert turn == pytest.approx(sequence_paths.MOVED_DEGREES, abs=0.01)
                assert shift == pytest.approx(sequence_paths.MOVED_MM, abs=0.01)
    assert len(changed) == 1
    np.testing.assert_array_equal(moved[0].depth, still[0].depth)
    name = changed.pop()
    level, depth = list(specimen.model).index(name), moved[-1].depth
    row, column = np.nonzero((depth != still[-1].depth) & (depth > 0))
    assert 20 < len(row) < 0.2 * depth.size
    rays = np.stack([(column - 63.5) / focal, (row - 47.5) / focal, np.ones(len(row))], 1)
    points = rays * depth[row, column][:, None]
    pose = sequences._pick(moved[-1].pose, level)
    own = poses.apply_inverse(pose, points.astype(np.float32))
    apart = specimen.model[name].nearest.on_surface(own)[1]
    assert np.median(apart) < 1.0 and np.quantile(apart, 0.9) < 15.0  # it is the level's bone


def test_bone_and_truth_of_a_level_move_together():
    rng = np.random.default_rng(0)
    points = rng.normal(0.0, 30.0, (40, 3)).astype(np.float32)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    owner = np.arange(40, dtype=np.int32) % 4 - 1
    backdrop = sequences._Backdrop(points, normals, np.zeros_like(points), owner >= 0, owner)
    levels = Pose(np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)), np.zeros((3, 3), np.float32))
    motions = sequence_paths.level_path(rng, TIMES, MIDDLE)
    move = jax.jit(partial(sequences._move_level, level=1))
    for number, size in ((0, 0.0), (-1, sequence_paths.MOVED_MM)):
        scene = sequences._Scene(backdrop, levels)
        motion = sequences._pick(motions, number)
        now = move(scene, motion)
        assert np.linalg.norm(poses.apply(motion, MIDDLE) - MIDDLE) == pytest.approx(size, abs=1e-4)
        for level in (-1, 0, 1, 2):
            rows = owner == level
            pose = sequences._pick(now.levels, level) if level >= 0 else poses.identity()
            for new, old, back in (
                (now.backdrop.points, points, poses.apply_inverse(pose, now.backdrop.points)),
                (now.backdrop.normals, normals, now.backdrop.normals @ pose.rotation),
            ):
                np.testing.assert_allclose(back[rows], old[rows], atol=1e-4)
                assert (level == 1 and size > 0) != np.allclose(new[rows], old[rows], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": -1}, "recording.tools is -1; use 0 or more"),
        ({"speed": 0.0}, "recording.speed is 0.0; use more than 0"),
        ({"hand_seconds": (2.0, 1.0)}, "hand_seconds is .*; use a range above 0"),
        ({"wound_fraction": (0.0, 0.2)}, "wound_fraction is .*; use two shares"),
        ({"posture_mm": -1.0}, "recording.posture_mm is -1.0; use 0 to 15"),
        ({"exposure": 3.0}, "recording.exposure is 3.0; use 0 to 2"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(STILL, **options)
