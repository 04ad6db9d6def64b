"""Probabilities are calibrated, and the threshold bounds the risk."""

import json

import numpy as np
import pytest

from e2r.evaluation.calibration import (
    CALIBRATION_FILE,
    Calibration,
    expected_tre,
    fit_calibration,
    hypothesis_features,
    hypothesis_probabilities,
    load_calibration,
    save_calibration,
    success_probability,
)


def draw_hypotheses(count, seed=0):
    """Hypotheses whose probability is known: a logistic function of share and margin."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.0, 1.0, count)
    margin = rng.uniform(-0.3, 0.5, count)
    points = np.log1p(rng.uniform(5.0, 800.0, count))
    features = np.stack([share, margin, points], 1)
    probability = 1.0 / (1.0 + np.exp(-(-5.0 + 8.0 * share + 6.0 * margin)))
    right = rng.uniform(size=count) < probability
    tre = np.where(right, np.exp(1.0 - 0.4 * points) * rng.lognormal(0, 0.2, count), 35.0)
    return features, np.minimum(tre, np.where(right, 4.9, 35.0)), probability


def test_probabilities_match_frequencies():
    features, tre, _ = draw_hypotheses(4000)
    best = np.ones(4000, bool)
    calibration = fit_calibration(features, tre, best)
    fresh, fresh_tre, fresh_probability = draw_hypotheses(4000, seed=1)
    predicted = success_probability(calibration, fresh)
    assert np.abs(predicted - fresh_probability).mean() < 0.02
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (predicted >= low) & (predicted < low + 0.25)
        assert np.mean(fresh_tre[inside] < 5.0) == pytest.approx(predicted[inside].mean(), abs=0.05)
    accepted = predicted >= calibration.threshold
    assert accepted.sum() > 100
    assert np.mean(fresh_tre[accepted] >= 5.0) < 0.015
    expected = [expected_tre(calibration, f, p) for f, p in zip(fresh, predicted, strict=True)]
    assert np.mean(expected) == pytest.approx(fresh_tre.mean(), rel=0.1)
    sure = predicted > 0.99
    assert np.median(np.array(expected)[sure]) < 3.0


def test_features_of_hypotheses():
    score, distinct = np.array([90.0, 88.0, 40.0]), np.array([True, False, True])
    features = hypothesis_features(score, distinct, 100.0)
    np.testing.assert_allclose(features[:, 0], [0.9, 0.88, 0.4])
    np.testing.assert_allclose(features[[0, 2], 1], [0.5, -0.5])  # the second repeats the first
    alone = hypothesis_features(np.array([30.0]), np.array([True]), 60.0)
    np.testing.assert_allclose(alone, [[0.5, 0.5, np.log(31.0)]])
    assert np.isfinite(hypothesis_features(np.zeros(2), distinct[:2], 0.0)).all()


def test_two_equal_hypotheses_share_the_probability():
    calibration = Calibration((0.0, 9.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), 40.0, 0.5, 1)
    distinct = np.array([True, False, True])
    features = hypothesis_features(np.full(3, 80.0), distinct, 100.0)
    both = hypothesis_probabilities(calibration, features, distinct)
    np.testing.assert_allclose(both, [0.5, 0.0, 0.5], atol=1e-6)
    assert both[0] <= 0.5


def test_nothing_is_accepted_where_no_threshold_is_safe():
    features = np.ones((20, 3))
    tre = np.where(np.arange(20) % 2, 1.0, 30.0)
    assert fit_calibration(features, tre, np.ones(20, bool)).threshold == 1.0
    with pytest.raises(ValueError, match="no hypothesis"):
        fit_calibration(features, np.full(20, 30.0), np.ones(20, bool))


def test_calibration_is_read_back(tmp_path):
    assert load_calibration(tmp_path) is None
    features, tre, _ = draw_hypotheses(200)
    calibration = fit_calibration(features, tre, np.ones(200, bool))
    save_calibration(calibration, tmp_path)
    assert load_calibration(tmp_path) == calibration


def broken(**changes):
    whole = {"right": [1] * 4, "error": [0] * 4, "wrong_mm": 1, "threshold": 1, "cases": 1}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "{",
        '{"right": 3}',
        "null",
        '"x"',
        broken(right=[1, 2, 3]),
        broken(right=["a"] * 4),
        broken(right=[1e999] * 4),
        broken(more=1),
    ],
)
def test_a_broken_calibration_file_is_named(tmp_path, text):
    path = tmp_path / CALIBRATION_FILE
    path.write_text(text)
    with pytest.raises(ValueError, match=r"calibration\.json: is no calibration"):
        load_calibration(tmp_path)
