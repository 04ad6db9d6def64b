"""The tracker's states: what it says of each frame, and when it registers anew."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from e2r.evaluation.predictions import LevelEstimate, Prediction
from e2r.geometry import surfaces
from e2r.registration import tracking as following
from e2r.tracking import past_frames, tracker
from e2r.tracking.finder import Found
from e2r.tracking.settings import TrackerConfig
from tests import ellipsoid_scene as scene
from tests.registration.test_tracking import seen_cloud

HERE = scene.level_poses(bend=0.05)
CONFIG = TrackerConfig(check_seconds=0.5, retry_seconds=0.1)


class FakeFinder:
    """Finds what a test tells it."""

    levels = scene.LEVELS
    surface = surfaces.build_surface(scene.model(), seed=0, nodes=2**17, exact=False)

    def __init__(self):
        self.answers, self.accepts = [HERE], [True]  # the last one of each for ever
        self.asked, self.wait = [], threading.Event()
        self.wait.set()

    def find(self, image, number):
        self.wait.wait(20)
        pick = lambda values: values.pop(0) if len(values) > 1 else values[0]  # noqa: E731
        pose, accepted = pick(self.answers), pick(self.accepts)
        self.asked.append(number)
        if isinstance(pose, str):
            return pose
        cloud = seen_cloud(scene.depth_image(pose))
        spread = np.random.default_rng(0).choice(len(cloud.weights), 600, replace=False)
        bone = following.remember_bone(
            jax.tree.map(lambda leaf: leaf[spread], cloud), self.surface, pose
        )
        levels = dict.fromkeys(scene.LEVELS, LevelEstimate(300.0, 0.5, 1.2))
        prediction = Prediction("f", {}, accepted, 0.5, (), 0.1, levels=levels)
        return Found(number, pose, bone, prediction, 1.0 if accepted else 0.5)


@pytest.fixture
def finder():
    return FakeFinder()


@pytest.fixture
def follow(finder):
    """A tracker, and a function that shows it depths at 30 frames a second."""
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        number = iter(range(10_000))
        yield lambda depth: one.update(scene.image(depth), next(number) / 30)


SEEN = scene.depth_image(HERE, moving_plane=True)
COVERED = np.full_like(SEEN, 300.0)
AWAY = scene.depth_image(scene.level_poses(shift=(900.0, 0.0, 0.0)))


def test_a_found_frame_is_tracked_and_accepted(follow, finder):
    frames = [follow(SEEN) for _ in range(20)]
    assert {frame.state for frame in frames} == {"tracking"}
    assert [frame.accepted for frame in frames] == [False] * 3 + [True] * 17  # a second one agrees
    assert [frame.number for frame in frames] == list(range(20))
    assert finder.asked == [0, 3, 18]  # then every half second
    last = frames[-1].levels["L2"]
    assert (last.expected_tre_mm, last.bound95_mm) == (0.5, 1.2)
    found = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(frames[-1].levels[name].pose for name in scene.LEVELS)
    )
    assert scene.apart(found, HERE).max() < 0.2


def test_it_searches_until_something_is_found(follow, finder):
    finder.answers = ["nothing", "nothing", HERE]
    states = [follow(SEEN).state for _ in range(12)]
    assert states[:4] == ["searching"] * 4 and states[-1] == "tracking"
    assert finder.asked[:3] == [0, 3, 6]


def test_what_was_not_accepted_is_tracked_but_not_accepted(follow, finder):
    finder.accepts = [False, False, True]
    frames = [follow(SEEN) for _ in range(10)]
    assert {frame.state for frame in frames} == {"tracking"}
    assert [frame.accepted for frame in frames] == [False] * 6 + [True] * 4


def test_a_covered_wound_is_occluded_and_comes_back(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    covered = [follow(COVERED) for _ in range(30)]
    assert {frame.state for frame in covered} == {"occluded"}
    assert not any(frame.accepted for frame in covered)
    finder.answers = ["sees nothing", HERE]
    again = [follow(SEEN) for _ in range(5)]
    assert {frame.state for frame in again} == {"tracking"}
    assert not again[0].accepted and again[-1].accepted  # a registration agrees once more
    states = [follow(COVERED).state for _ in range(100)]
    assert states[80] == "occluded" and states[-1] == "lost"  # after three seconds


def test_a_hand_is_no_wound(follow, finder):
    finder.accepts = [False]
    assert follow(SEEN).state == "tracking"
    finder.answers = [scene.level_poses(shift=(0.0, 0.0, -60.0), bend=0.05)]
    hand = scene.depth_image(finder.answers[0])
    hand[hand > 360.0] = 330.0
    assert {follow(hand).state for _ in range(20)} == {"occluded"}


def test_a_wound_that_is_gone_is_lost_and_found(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    finder.answers = ["nothing"]
    states = [follow(AWAY).state for _ in range(15)]
    assert states[-1] == "lost" and states[0] != "tracking"
    assert follow(AWAY).levels == {}
    finder.answers = [scene.level_poses(shift=(-30.0, 10.0, -20.0), bend=0.05)]
    moved = scene.depth_image(finder.answers[0], moving_plane=True)
    frames = [follow(moved) for _ in range(9)]
    assert frames[-1].state == "tracking" and frames[-1].accepted


def test_a_registration_elsewhere_moves_the_track_only_if_it_is_accepted(follow, finder):
    wrong = scene.level_poses(shift=(8.0, 0.0, 0.0), bend=0.05)
    finder.answers, finder.accepts = [HERE, HERE, wrong], [True, True, False]
    frames = [follow(SEEN) for _ in range(20)]
    assert finder.asked == [0, 3, 18] and frames[-1].accepted
    assert abs(float(frames[-1].levels["L1"].pose.translation[0])) < 0.3


def test_two_registrations_elsewhere_withdraw_the_confirmation(follow, finder):
    """None of them is accepted by itself; the next one that agrees confirms again."""
    wrong = scene.level_poses(shift=(8.0, 0.0, 0.0), bend=0.05)
    finder.answers = [HERE, HERE, wrong, wrong, HERE]
    finder.accepts = [True, True, False, False, True]
    accepted = [follow(SEEN).accepted for _ in range(30)]
    assert finder.asked[:5] == [0, 3, 18, 22, 25]  # what is in doubt is checked soon
    assert accepted[18:22] == [True] * 4 and accepted[22:25] == [False] * 3
    assert all(accepted[25:])


def test_a_level_that_is_covered_by_itself_is_not_accepted(follow):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    covered = np.array(SEEN)
    covered[:, 49:65] = 300.0  # most of L1
    frames = [follow(covered) for _ in range(5)]
    assert frames[-1].state == "tracking" and 0.1 < frames[-1].covered < 0.4
    assert [name for name, one in frames[-1].levels.items() if not one.accepted] == ["L1"]


def test_after_a_gap_a_registration_has_to_agree_once_more(finder):
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        times = [0.0, 0.1, 0.2, 0.3, 5.0]
        accepted = [one.update(scene.image(SEEN), time).accepted for time in times]
        assert accepted[3:] == [True, True] and finder.asked[-1] == 4  # it agreed at once
        finder.answers = ["sees nothing"]
        found = one.update(scene.image(SEEN), 10.0)
        assert found.state == "tracking" and not found.accepted


def test_a_short_gap_is_checked_at_once(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1] and finder.asked == [0, 3]
    assert {follow(COVERED).state for _ in range(5)} == {"occluded"}
    frames = [follow(SEEN) for _ in range(2)]
    assert frames[0].accepted and finder.asked[:3] == [0, 3, 9]  # not only at 18


def test_a_short_gap_without_any_depth_is_checked_at_once(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    [follow(np.zeros_like(SEEN)) for _ in range(4)]
    follow(SEEN)
    assert finder.asked[:3] == [0, 3, 8]


def test_a_failed_check_is_repeated_soon(follow, finder):
    finder.answers = [HERE, HERE, "sees nothing", HERE]
    assert all([follow(SEEN).accepted for _ in range(30)][3:])
    assert finder.asked[:4] == [0, 3, 18, 22]


def test_a_recalled_track_elsewhere_withdraws_the_confirmation(finder):
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        for number in range(5):
            accepted = one.update(scene.image(SEEN), number / 30).accepted
        assert accepted
        found = finder.find(None, 0)
        frame = past_frames.take_frame(scene.image(SEEN), 4, 4 / 30)
        for shift, share, believed in ((0.1, 0.9, True), (8.0, 0.2, True), (8.0, 0.9, False)):
            there = following.start_track(
                scene.level_poses(shift=(shift, 0.0, 0.0), bend=0.05), found.bone
            )
            one._take_recalled(tracker._Caught(found, frame, there, 0.9, share, 4, 4 / 30))
            assert one._trust.confirmed == believed


def test_a_depth_that_is_not_finite_is_unseen(follow, finder):
    far = np.where(SEEN > 419.0, np.inf, SEEN)
    far[:3, :3] = np.nan
    frame = [follow(far) for _ in range(5)][-1]
    assert frame.state == "tracking" and frame.accepted
    taken = past_frames.take_frame(scene.image(far), 0, 0.0).depth
    assert np.isfinite(taken).all() and (taken[~np.isfinite(far)] == 0).all()


def test_a_frame_keeps_nothing_of_the_callers_memory():
    image = scene.image(np.array(SEEN))
    frame = past_frames.take_frame(image, 0, 0.0)
    image.depth[:] = 0.0
    np.testing.assert_array_equal(frame.depth, SEEN)


def test_what_a_registration_raises_is_raised_once(finder):
    class Broken(FakeFinder):
        def find(self, image, number):
            if number == 0:
                raise ValueError("out of memory")
            return super().find(image, number)

    for beside in (False, True):
        with tracker.Tracker(Broken(), config=CONFIG, beside=beside) as one:
            raised, states = [], []
            for number in range(60):
                try:
                    states.append(one.update(scene.image(SEEN), number / 30).state)
                except ValueError as error:
                    raised.append(str(error))
                while beside and one._registering.busy and not one._registering._pending.done():
                    time.sleep(0.01)
            assert raised == ["out of memory"] and states[-1] == "tracking"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"color": np.zeros((9, 9, 3), np.uint8)}, r"the frame's colour is \(9, 9, 3\)"),
        ({"fx": np.nan}, r"the frame's fx, fy, cx, cy are \(nan"),
        ({"depth": SEEN / 1000.0}, r"half of the frame's depth is nearer than .*; give it in mm"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(finder, change, words):
    with (
        tracker.Tracker(finder, config=CONFIG, beside=False) as one,
        pytest.raises(ValueError, match=words),
    ):
        one.update(scene.image(SEEN)._replace(**change), 0.0)
    with pytest.raises(ValueError, match="the tracker is closed"):
        one.update(scene.image(SEEN), 0.0)


def test_the_latest_failure_is_known(follow, finder):
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        finder.answers = ["sees nothing", HERE]
        one.update(scene.image(SEEN), 0.0)
        assert one.failure == "sees nothing"
        one.update(scene.image(SEEN), 1.0)
        assert one.failure is None


def test_a_wrong_beginning_is_corrected(follow, finder):
    wrong = scene.level_poses(turn=(0.0, 0.0, 0.3), bend=0.05)
    finder.answers, finder.accepts = [wrong, HERE], [False, True]
    frames = [follow(SEEN) for _ in range(12)]
    assert frames[-1].state == "tracking" and frames[-1].accepted
    assert not frames[0].accepted
    found = frames[-1].levels["L3"].pose
    np.testing.assert_allclose(found.translation, HERE.translation[2], atol=1.0)


def test_frames_are_not_held_up_by_a_registration_beside(finder):
    finder.wait.clear()
    with tracker.Tracker(finder, config=CONFIG) as one:
        early = [one.update(scene.image(SEEN), number / 30) for number in range(5)]
        assert {frame.state for frame in early} == {"searching"}
        finder.wait.set()
        while not one._registering._pending.done():
            time.sleep(0.01)
        late = one.update(scene.image(SEEN), 6 / 30)
        assert late.state == "tracking" and finder.asked[0] == 0


def test_the_garbage_collector_spares_what_was_there_before(finder):
    """It would walk all objects of jax, and hold up a frame for longer than ten take."""
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        there = gc.get_freeze_count()
        one.update(scene.image(SEEN), 0.0)
        assert gc.get_freeze_count() >= there > 0
        assert len(gc.get_objects()) < there / 4
    assert gc.get_freeze_count() == 0


def test_frames_out_of_order_are_refused(finder):
    with tracker.Tracker(finder, config=CONFIG, beside=False) as one:
        one.update(scene.image(SEEN), 1.0)
        with pytest.raises(ValueError, match=r"taken at 1.0 s, and the frame before at 1.0 s"):
            one.update(scene.image(SEEN), 1.0)


@pytest.mark.parametrize(
    ("field", "value"), [("check_seconds", 0.0), ("accept_share", 1.5), ("points", 3)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"tracker\.{field} is {value}"):
        TrackerConfig(**{field: value})


def test_one_program_serves_all_frames(finder):
    answer = finder.find(None, 0)

    class Stored(FakeFinder):
        def find(self, image, number):
            return answer._replace(number=number)

    def track(count):
        with tracker.Tracker(Stored(), config=CONFIG, beside=False) as one:
            frames = [one.update(scene.image(SEEN), number / 30) for number in range(count)]
            frame = past_frames.take_frame(scene.image(SEEN), 0, 0.0)
            caught = tracker._Caught(answer, frame, one._track, 0.9, 0.9, count, 1.0)
            assert not one._take_recalled(caught)
            return frames

    track(1)  # compiles the program
    jax.clear_caches()  # of operations by themselves
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "compile_duration" in event else None
    )
    frames = track(8)
    assert frames[-1].accepted  # a second registration agreed
    assert not compiled


def test_a_level_that_a_registration_finds_elsewhere_is_not_accepted(follow, finder):
    bent = scene.level_poses(bend=0.05)
    bent.translation[0] += np.array([4.0, 0.0, 0.0], bent.translation.dtype)
    finder.answers = [HERE, HERE, bent, HERE]
    frames = [follow(SEEN) for _ in range(80)]
    accepted = [{k for k, level in frame.levels.items() if level.accepted} for frame in frames]
    assert accepted[10] == set(scene.LEVELS)
    assert accepted[20] == set(scene.LEVELS) - {"L1"} and frames[20].accepted
    assert frames[20].levels["L1"].expected_tre_mm == pytest.approx(4.0, abs=0.5)
    assert accepted[-1] == set(scene.LEVELS)  # three more agreed


def test_a_lost_track_is_recalled_by_the_scene_around_it(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    finder.answers = ["nothing"]  # no registration helps
    assert [follow(AWAY).state for _ in range(15)][-1] == "lost"
    there = scene.level_poses(turn=(0.1, 0.0, 0.6), shift=(-30.0, 10.0, -20.0), bend=0.05)
    frames = [follow(scene.depth_image(there, moving_plane=True)) for _ in range(8)]
    assert frames[4].state == frames[-1].state == "tracking"
    assert not frames[-1].accepted  # no second registration agreed
    found = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(frames[-1].levels[name].pose for name in scene.LEVELS)
    )
    assert scene.apart(found, there).max() < 0.5
    finder.answers = [there]
    assert [follow(scene.depth_image(there, moving_plane=True)) for _ in range(8)][-1].accepted


def test_a_hand_hides_a_move_and_the_track_is_recalled_before_it_is_lost(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    nearer = scene.level_poses(shift=(0.0, 0.0, -40.0), bend=0.05)  # covers the remembered place
    finder.answers = ["nothing"]
    states = [follow(COVERED).state for _ in range(3)]
    frame = [follow(scene.depth_image(nearer, moving_plane=True)) for _ in range(8)][-1]
    assert states[-1] == "occluded" and frame.state == "tracking"
    assert abs(float(frame.levels["L1"].pose.translation[2]) - 360.0) < 0.5


def test_a_wound_of_another_patient_is_not_recalled(follow, finder):
    assert [follow(SEEN).accepted for _ in range(4)][-1]
    finder.answers = ["nothing"]
    v, u = np.mgrid[: scene.HEIGHT, : scene.WIDTH]
    hump = np.exp(-((u - 60.0) ** 2 / 1500.0 + (v - 70.0) ** 2 / 400.0))
    other = np.float32(scene.PLANE_MM - 50.0 * hump)
    assert [follow(AWAY).state for _ in range(15)][-1] == "lost"
    assert {follow(other).state for _ in range(10)} == {"lost"}
