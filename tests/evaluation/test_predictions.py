"""Predictions: a calibration adds probabilities and never changes the pose."""

import json
from dataclasses import replace

import numpy as np

from e2r.config import EvaluationConfig
from e2r.evaluation import runner
from e2r.evaluation.calibration import MIN_LEVEL_INLIERS, Calibration
from e2r.evaluation.frame_scale import FrameScale
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import (
    MIN_INLIERS,
    CaseScores,
    Prediction,
    make_prediction,
    score_case,
)
from e2r.geometry import poses
from e2r.pipeline import ProgramConfig
from e2r.training.trained_model import load_trained


def test_calibration_gives_every_hypothesis_a_probability(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    job = EvaluationConfig(ProgramConfig(num_samples=1), batch=1)
    (result,) = runner.run(simulated_cases[:1], Model(config, params), job=job)
    plain = make_prediction(result, "learnt")
    assert plain.expected_tre_mm is None
    assert {hypothesis.probability for hypothesis in plain.hypotheses} == {None}
    calibration = Calibration(
        right=(-2.0, 3.0, 3.0, 0.0, -4.0),
        error=(1.0, 0.0, 0.0, -0.1, 0.0, 0.5),
        error_spread=0.4,
        wrong=(3.0, 0.5),
        threshold=0.9,
        cases=1,
        level=(0.5, 0.9, 0.3, -1.0, 0.0),
        level_spread=0.4,
    )
    prediction = make_prediction(result, "learnt", calibration)
    probabilities = [hypothesis.probability for hypothesis in prediction.hypotheses]
    assert len(probabilities) == int(result.hypotheses["learnt"].distinct.sum())
    assert 0.0 < sum(probabilities) <= 1.0 + 1e-9
    assert 0.0 < prediction.expected_tre_mm < prediction.bound95_mm < 100.0
    assert [*prediction.levels] == [*result.case.model]
    for level in prediction.levels.values():
        if level.points >= MIN_LEVEL_INLIERS:
            assert 0.0 < level.expected_tre_mm < level.bound95_mm
        else:
            assert level.expected_tre_mm is level.bound95_mm is None
    assert {level.expected_tre_mm for level in plain.levels.values()} == {None}
    line = prediction.to_json()
    assert line["T_camera_model"] == plain.to_json()["T_camera_model"]
    first = poses.from_matrix(line["hypotheses"][0]["T_camera_model"], "hypothesis")
    np.testing.assert_allclose(
        first.translation, result.registrations["learnt"].pose.translation, atol=1e-4
    )
    sure = replace(calibration, right=(9.0, 0.0, 0.0, 0.0, 0.0), threshold=0.0)
    enough = float(np.sum(result.levels["learnt"].inlier_weight)) >= MIN_INLIERS
    for scales, gain, fits in (
        (FrameScale(1.0, 1.0, 0.01, 0.01), -0.2, True),
        (FrameScale(1.1, 1.0, 0.01, 0.01), -0.2, False),  # another size
        (FrameScale(1.0, 1.0, 0.01, 0.01), 0.2, False),  # mirrored
    ):
        guarded = result._replace(scales={"learnt": scales}, mirror_gains={"learnt": gain})
        assert make_prediction(guarded, "learnt", sure).accepted == (enough and fits)
        # what is known of accepted poses counts for them, and for no other
        taken = replace(calibration, threshold=0.0, right=(0.0,) * 5)
        bounds = [
            make_prediction(guarded, "learnt", replace(taken, accepted_wrong=wrong)).bound95_mm
            for wrong in (1.0, 0.01)
        ]
        assert (bounds[1] < 0.9 * bounds[0]) if enough and fits else (bounds[1] == bounds[0])
    # The lines of a job's files are read back as they were written.
    for kind, written in ((Prediction, prediction), (CaseScores, score_case(result))):
        line = json.loads(json.dumps(written.to_json()))
        assert kind.from_json(line).to_json() == written.to_json() == line
