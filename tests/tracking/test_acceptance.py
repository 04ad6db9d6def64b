"""What the registrations behind a track let be believed."""

import numpy as np
import pytest

from e2r.evaluation.predictions import LevelEstimate, Prediction
from e2r.registration.tracking import Evidence
from e2r.tracking.finder import Found
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.trust import Trust
from e2r.types import Pose

NAMES = ("L1", "L2")
POSE = Pose(np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)), np.zeros((2, 3), np.float32))


def registration(accepted=True, expected=(0.5, 0.6), bounds=(1.2, 1.4)):
    levels = {n: LevelEstimate(1.0, e, b) for n, e, b in zip(NAMES, expected, bounds, strict=True)}
    prediction = Prediction("f", {}, accepted, 0.5, (), 0.1, levels=levels)
    return Found(0, POSE, None, prediction, 1.0)


def evidence(agreeing=0.9, of_levels=(0.9, 0.9)):
    return Evidence(0.9, 0.0, agreeing, np.array(of_levels), 0.1, 0.0)


@pytest.fixture
def trust():
    found = Trust(NAMES, TrackerConfig())
    found.begin(registration(), 0.9)
    found.agree(registration(), np.array([0.1, 0.1]), 0.0)
    return found


def levels(trust, seconds=1.0, followed=True, **more):
    return trust.levels(POSE, evidence(**more), seconds=seconds, followed=followed)


def accepted(trust, **more):
    return [level.accepted for level in levels(trust, **more).values()]


def test_a_confirmed_track_is_accepted(trust):
    assert accepted(trust) == [True, True] and trust.calm(1.0)
    assert accepted(trust, agreeing=0.5) == [False, False]


def test_an_accepted_registration_elsewhere_withdraws_the_confirmation(trust):
    trust.disagree(registration())
    assert accepted(trust) == [False, False]
    trust.agree(registration(), np.zeros(2), 1.0)
    assert accepted(trust) == [True, True]


def test_one_doubtful_registration_elsewhere_only_calls_for_the_next(trust):
    trust.disagree(registration(accepted=False))
    assert accepted(trust) == [True, True] and not trust.calm(1.0)
    trust.disagree(registration(accepted=False))
    assert accepted(trust) == [False, False]


def test_a_frame_before_the_gap_confirms_nothing_after_it(trust):
    trust.withdraw(5.0)
    trust.agree(registration(), np.zeros(2), 4.9)
    assert accepted(trust) == [False, False]
    trust.agree(registration(), np.zeros(2), 5.0)
    assert accepted(trust) == [True, True]


def test_a_level_needs_bone_of_its_own(trust):
    assert accepted(trust, of_levels=(0.1, 0.9)) == [False, True]


def test_bounds_are_the_worst_of_three_and_no_less_than_what_is_expected(trust):
    trust.agree(registration(bounds=(2.0, 1.0)), np.array([0.1, 2.5]), 1.0)
    found = levels(trust).values()
    assert [level.expected_tre_mm for level in found] == [0.5, 2.5]
    assert [level.bound95_mm for level in found] == [2.0, 2.5]
    for second in (2.0, 3.0, 4.0):
        trust.agree(registration(), np.array([0.1, 0.1]), second)
    assert levels(trust)["L1"].bound95_mm == 1.2


def test_a_track_that_no_registration_confirms_any_more_expires(trust):
    assert accepted(trust, seconds=10.0) == [True, True]
    assert accepted(trust, seconds=10.1) == [False, False]
    trust.agree(registration(), np.zeros(2), 10.0)
    assert accepted(trust, seconds=10.1) == [True, True]


def test_what_happened_is_looked_at_soon_and_stays_accepted_until_then(trust):
    trust.shake(0.5)
    assert accepted(trust) == [True, True] and not trust.calm(1.0)
    trust.agree(registration(), np.zeros(2), 0.4)  # of a frame before it
    assert not trust.calm(1.0)
    trust.agree(registration(), np.zeros(2), 0.5)
    assert trust.calm(1.0) and not trust.calm(10.6)  # it has expired then


def test_a_frame_that_does_not_follow_the_levels_says_nothing_of_their_errors(trust):
    held = levels(trust, followed=False).values()
    assert [(one.expected_tre_mm, one.bound95_mm, one.accepted) for one in held] == [
        (None, None, False)
    ] * 2


def test_an_error_grows_as_the_bone_that_holds_a_level_falls(trust):
    found = levels(trust, of_levels=(0.45, 0.9))
    assert found["L1"].expected_tre_mm == pytest.approx(0.5 * np.sqrt(2.0))
    assert found["L1"].bound95_mm == pytest.approx(1.2 * np.sqrt(2.0))
    assert found["L2"].expected_tre_mm == 0.6 and found["L1"].accepted


def test_registrations_that_do_not_see_a_level_say_nothing_of_it():
    trust = Trust(NAMES, TrackerConfig())
    trust.begin(registration(expected=(4.0, 0.6), bounds=(12.0, 1.4)), 0.9)
    before = [(one.expected_tre_mm, one.bound95_mm) for one in levels(trust).values()]
    for _ in range(4):  # as many as are remembered, and one more
        blind = registration(accepted=False, expected=(None, 0.6), bounds=(None, 1.4))
        trust.agree(blind, np.array([0.2, 0.2]), 0.5)
    after = [(one.expected_tre_mm, one.bound95_mm) for one in levels(trust).values()]
    assert after == before
    assert accepted(trust) == [False, True]
