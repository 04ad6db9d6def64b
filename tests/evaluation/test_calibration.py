"""Probabilities and errors are calibrated, and the threshold bounds the risk."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from e2r.evaluation.calibration import (
    CALIBRATION_FILE,
    MIN_LEVEL_INLIERS,
    SUCCESS_THRESHOLD_MM,
    Calibration,
    hypothesis_features,
    hypothesis_probabilities,
    level_errors,
    load_calibration,
    pose_error,
    safe_probability,
    save_calibration,
    settled_probability,
    success_probability,
)
from e2r.evaluation.calibration_fit import FittedCase, best_probability, fit_calibration
from e2r.evaluation.precision import LevelPrecision

EVEN = Calibration(
    right=(0.0, 9.0, 0.0, 0.0, 0.0),
    error=(0.0,) * 6,
    error_spread=0.5,
    wrong=(np.log(40.0), 0.3),
    threshold=0.5,
    cases=1,
)


def draw_cases(count, seed=0, blurred=0.0):
    """Cases whose laws are known: a logistic probability, and log-normal errors.

    A share of them has one badly held level.
    """
    rng = np.random.default_rng(seed)
    cases, chances = [], []
    for _ in range(count):
        share, margin = rng.uniform(0.0, 1.0), rng.uniform(-0.3, 0.5)
        out = rng.uniform(0.0, 0.4)
        points = np.log1p(rng.uniform(5.0, 800.0))
        chance = 1.0 / (1.0 + np.exp(-(-2.0 + 8.0 * share + 6.0 * margin - 12.0 * out)))
        right = rng.uniform() < chance
        dilution = rng.lognormal(-2.0, 0.5, 3)
        if badly_held := rng.uniform() < blurred:
            dilution[0] = rng.uniform(0.5, 4.0)
        precision = LevelPrecision(dilution, np.full(3, 0.6), np.full(3, 0.8), np.full(3, 90.0))
        level = 2.0 * dilution * rng.lognormal(0.0, 0.3, 3) if right else rng.lognormal(3.4, 0.4, 3)
        if not right:
            level = np.maximum(level, 5.0)
        elif not badly_held:
            level = np.minimum(level, 4.9)
        features, middle = np.array([[share, margin, points, out]]), np.array([np.median(level)])
        cases.append(FittedCase(features, middle, precision, float(level.mean()), level))
        chances.append(chance)
    return cases, np.array(chances)


def test_probabilities_match_frequencies():
    calibration = fit_calibration(draw_cases(3000)[0])
    fresh, chances = draw_cases(3000, seed=1)
    predicted = success_probability(calibration, np.array([case.features[0] for case in fresh]))
    right = np.array([case.errors[0] < 5.0 for case in fresh])
    assert np.abs(predicted - chances).mean() < 0.02
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (predicted >= low) & (predicted < low + 0.25)
        assert np.mean(right[inside]) == pytest.approx(predicted[inside].mean(), abs=0.06)


def safe_chances(calibration, cases):
    """The probability of each case that all its levels are right."""
    return np.array(
        [
            safe_probability(calibration, case.precision, best_probability(calibration, case))
            for case in cases
        ]
    )


def test_a_right_pose_with_a_wrong_level_lowers_the_probability_of_both():
    calibration = fit_calibration(draw_cases(3000, blurred=0.2)[0], risk=0.02)
    fresh, _ = draw_cases(3000, seed=3, blurred=0.2)
    safe, chances = np.array([case.safe for case in fresh]), safe_chances(calibration, fresh)
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (chances >= low) & (chances < low + 0.25)
        assert np.mean(safe[inside]) == pytest.approx(chances[inside].mean(), abs=0.08)
    accepted = chances >= calibration.threshold
    assert accepted.sum() > 300
    assert np.mean(~safe[accepted]) < 0.04
    for case, chance in zip(fresh[:20], chances[:20], strict=True):
        held = case.precision._replace(dilution=case.precision.dilution * 0.2)
        best = best_probability(calibration, case)
        assert safe_probability(calibration, held, best) >= chance
        hidden = held._replace(inliers=held.inliers * 0.0)
        assert safe_probability(calibration, hidden, best) <= chance + 0.2


def test_a_case_is_safe_if_its_middle_and_its_worst_level_are_right():
    case = draw_cases(1)[0][0]._replace(errors=np.array([1.0]))
    for levels, safe in (([1.0, 4.9, np.nan], True), ([1.0, 5.1, np.nan], False)):
        assert case._replace(level_tre=np.array(levels)).safe == safe
    unseen = np.full(3, np.nan)
    assert case._replace(level_tre=unseen).safe
    assert not case._replace(level_tre=unseen, errors=np.array([np.inf])).safe
    assert SUCCESS_THRESHOLD_MM == 5.0


def test_a_calibration_without_levels_judges_by_the_pose_alone():
    precision = LevelPrecision(*np.ones((3, 2)), np.full(2, 99.0))
    assert safe_probability(EVEN, precision, 0.7) == 0.7


def test_errors_and_their_bounds_hold_as_often_as_they_say():
    calibration = fit_calibration(draw_cases(3000)[0])
    fresh, _ = draw_cases(3000, seed=2)
    chances = success_probability(calibration, np.array([case.features[0] for case in fresh]))
    below, bounded, level_below, level_bounded, near = [], [], [], [], []
    for case, chance in zip(fresh, chances, strict=True):
        whole = pose_error(calibration, case.features[0], case.precision, float(chance))
        bounded.append(case.tre < whole.bound95_mm)
        each = level_errors(calibration, case.precision, float(chance))
        level_bounded += [t < one.bound95_mm for t, one in zip(case.level_tre, each, strict=True)]
        if chance > 0.95:  # elsewhere the median may lie between right and wrong errors
            level_below += [
                t < one.expected_mm for t, one in zip(case.level_tre, each, strict=True)
            ]
            below.append(case.tre < whole.expected_mm)
            near.append(0.5 < case.tre / whole.expected_mm < 2.0)
    assert np.mean(below) == pytest.approx(0.5, abs=0.05)
    assert np.mean(level_below) == pytest.approx(0.5, abs=0.05)
    assert 0.93 < np.mean(bounded) < 0.99  # a wrong case's mean varies less than its levels
    assert np.mean(level_bounded) == pytest.approx(0.95, abs=0.02)
    assert np.mean(near) > 0.8


def test_bounds_of_accepted_poses_hold_and_are_as_narrow_as_these_are_right():
    cases, _ = draw_cases(400)
    calibration = fit_calibration(cases, risk=0.02)
    chances = safe_chances(calibration, cases)
    taken = chances >= calibration.threshold
    wrong = np.sum(~np.array([case.safe for case in cases])[taken])
    assert calibration.accepted_wrong == (wrong + 1) / (taken.sum() + 2)
    fresh, _ = draw_cases(3000, seed=4)
    held, narrower = [], []
    for case, chance in zip(fresh, safe_chances(calibration, fresh), strict=True):
        if chance < calibration.threshold:
            continue
        best = best_probability(calibration, case)
        settled = settled_probability(calibration, best)
        assert settled == max(best, 1.0 - calibration.accepted_wrong)
        for one, wide, tre in zip(
            level_errors(calibration, case.precision, settled),
            level_errors(calibration, case.precision, best),
            case.level_tre,
            strict=True,
        ):
            held.append(tre <= one.bound95_mm)
            narrower.append(one.bound95_mm <= wide.bound95_mm)
    assert len(held) > 1000
    assert 0.93 < np.mean(held) < 0.98
    assert all(narrower)


def test_an_older_file_says_nothing_of_accepted_poses():
    assert settled_probability(EVEN, 0.7) == 0.7
    assert settled_probability(replace(EVEN, accepted_wrong=0.01), 0.7) == 0.99


def test_cases_without_a_wrong_one_are_no_calibration():
    safe = [case for case in draw_cases(200)[0] if case.safe]
    with pytest.raises(ValueError, match="no calibration case has a wrong level"):
        fit_calibration(safe)


def test_a_foreign_model_lowers_the_probability_and_has_no_error():
    cases, _ = draw_cases(400)
    foreign = [
        case._replace(errors=np.array([np.inf]), tre=np.inf, level_tre=np.full(3, np.nan))
        for case in cases[::4]
    ]
    alone, both = fit_calibration(cases), fit_calibration(cases + foreign)
    features = np.array([case.features[0] for case in cases])
    assert success_probability(both, features).mean() < success_probability(alone, features).mean()
    assert both.wrong == alone.wrong
    assert both.cases == len(cases) + len(foreign)


def test_features_of_hypotheses():
    score, distinct = np.array([90.0, 88.0, 40.0]), np.array([True, False, True])
    out = np.array([0.0, 0.1, 0.5])
    features = hypothesis_features(score, distinct, 100.0, out)
    np.testing.assert_allclose(features[:, 0], [0.9, 0.88, 0.4])
    np.testing.assert_allclose(features[[0, 2], 1], [0.5, -0.5])  # the second repeats the first
    np.testing.assert_allclose(features[:, 3], out)
    alone = hypothesis_features(np.array([30.0]), np.array([True]), 60.0, np.zeros(1))
    np.testing.assert_allclose(alone, [[0.5, 0.5, np.log(31.0), 0.0]])
    empty = hypothesis_features(np.zeros(2), distinct[:2], 0.0, np.zeros(2))
    assert np.isfinite(empty).all()


def test_two_equal_hypotheses_share_the_probability():
    distinct = np.array([True, False, True])
    features = hypothesis_features(np.full(3, 80.0), distinct, 100.0, np.zeros(3))
    both = hypothesis_probabilities(EVEN, features, distinct)
    np.testing.assert_allclose(both, [0.5, 0.0, 0.5], atol=1e-6)
    assert both[0] <= 0.5


def test_an_unlikely_pose_has_a_wide_bound():
    precision = LevelPrecision(*np.ones((3, 1)), np.array([99.0]))
    sure, unsure = (pose_error(EVEN, np.zeros(4), precision, chance) for chance in (1.0, 0.7))
    assert sure.expected_mm == pytest.approx(1.0, rel=0.02)
    assert sure.bound95_mm == pytest.approx(np.exp(1.645 * 0.5), rel=0.02)
    assert unsure.bound95_mm > 40.0
    assert unsure.expected_mm < 3.0


def test_a_level_that_is_not_seen_has_no_expected_error():
    inliers = np.array([MIN_LEVEL_INLIERS + 1.0, MIN_LEVEL_INLIERS - 1.0])
    precision = LevelPrecision(*np.ones((3, 2)), inliers)
    seen, hidden = level_errors(fit_calibration(draw_cases(50)[0]), precision, 0.99)
    assert seen.expected_mm > 0 and hidden is None
    assert level_errors(EVEN, precision, 0.99) == [None, None]  # nothing was fitted


def test_nothing_is_accepted_where_no_threshold_is_safe():
    one, _ = draw_cases(1)
    same = [one[0]._replace(errors=np.array([1.0 if i % 2 else 30.0])) for i in range(20)]
    assert fit_calibration(same).threshold == 1.0
    with pytest.raises(ValueError, match="no hypothesis"):
        fit_calibration([case._replace(errors=np.array([30.0])) for case in same])


def test_calibration_is_read_back(tmp_path):
    assert load_calibration(tmp_path) is None
    calibration = fit_calibration(draw_cases(200)[0])
    save_calibration(calibration, tmp_path)
    assert load_calibration(tmp_path) == calibration


def test_a_file_of_an_older_version_gives_the_same_probability(tmp_path):
    older = {
        "right": [-11.3, 6.3, 12.8, 1.2],
        "error": [4.1, -2.2, -1.9, -0.4],
        "wrong_mm": 49.0,
        "threshold": 0.5,
        "cases": 160,
    }
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps(older))
    calibration = load_calibration(tmp_path)
    features = np.array([0.8, 0.4, 5.0, 0.3])
    log_odds = -11.3 + features[:3] @ [6.3, 12.8, 1.2]
    probability = success_probability(calibration, features[None])[0]
    assert probability == pytest.approx(1.0 / (1.0 + np.exp(-log_odds)))
    precision = LevelPrecision(*np.ones((3, 1)), np.array([99.0]))
    error = pose_error(calibration, features, precision, 1.0)
    assert error.expected_mm == pytest.approx(
        np.exp(4.1 + features[:3] @ [-2.2, -1.9, -0.4]), rel=0.02
    )
    assert level_errors(calibration, precision, 1.0) == [None]


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"right": 3}', "null", '"x"'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / CALIBRATION_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"calibration\.json: is no calibration; delete it"):
        load_calibration(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"right": (1.0,) * 4},
        {"right": (float("inf"),) * 5},
        {"level": (1.0, 2.0)},
        {"safe": (1.0, 2.0)},
        {"safe": (1.0, 2.0, 3.0), "level": ()},
        {"threshold": float("nan")},
        {"error_spread": 0.0},
        {"level": (1.0,) * 5, "level_spread": float("nan")},
        {"wrong": (1.0, 0.0)},
    ],
)
def test_fields_that_cannot_be_are_refused(tmp_path, changes):
    save_calibration(replace(EVEN, **changes), tmp_path)
    with pytest.raises(ValueError, match=r"calibration\.json: is no calibration"):
        load_calibration(tmp_path)


def test_unknown_fields_and_words_for_numbers_are_refused(tmp_path):
    whole = asdict(EVEN)
    for changed in (whole | {"more": 1}, whole | {"right": ["a"] * 5}):
        (tmp_path / CALIBRATION_FILE).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"calibration\.json: is no calibration"):
            load_calibration(tmp_path)
