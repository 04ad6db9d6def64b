"""Risk and coverage against closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from e2r.evaluation.predictions import Prediction
from e2r.evaluation.summary import risk_coverage


def test_risk_coverage_compares_confidence_with_the_truth():
    predictions = [
        Prediction("case", {}, accepted, expected, (), 0.0)
        for accepted, expected in ((True, 0.5), (True, 0.7), (False, 9.0), (True, 2.0))
    ]
    found = risk_coverage(predictions, np.array([0.4, 0.6, 40.0, 12.0]))
    assert found.coverage == 0.75
    assert found.wrong == pytest.approx(1 / 3)
    assert found.curve.coverage == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(found.curve.wrong, [0, 0, 1 / 3, 0.5], atol=1e-4)
    predictions[0] = replace(predictions[0], expected_tre_mm=None)
    assert risk_coverage(predictions, np.zeros(4)).curve is None
    assert risk_coverage([], np.zeros(0)) is None
