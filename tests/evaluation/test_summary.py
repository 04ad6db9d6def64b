"""Risk and coverage against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY
from made_up_job import JOB, ORIGIN, made_up_job, made_up_result

from e2r.evaluation.predictions import Prediction, failed_prediction
from e2r.evaluation.results import Failed
from e2r.evaluation.summary import risk_coverage, summarise_job


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


def test_a_case_that_failed_after_its_errors_were_written_has_none():
    summary, predictions, scores = made_up_job([made_up_result(1, 0.5), made_up_result(2, 3.0)])
    predictions[1] = failed_prediction(Failed(predictions[1].id, "its depth is broken now"))
    again = summarise_job(predictions, scores, job=JOB, config=TINY, origin=ORIGIN, code={})
    assert (summary.failed, again.failed) == (0, 1)
    assert again.masks["learnt"].count == 1
