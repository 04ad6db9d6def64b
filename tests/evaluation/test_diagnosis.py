"""Why a registration was not accepted: what trials, the fitted size and the networks tell."""

import numpy as np
import pytest
from made_up_job import made_up_result

from e2r.evaluation import diagnosis
from e2r.evaluation.frame_scale import FrameScale
from e2r.evaluation.predictions import make_prediction
from e2r.evaluation.results import Failed

PLAUSIBLE, LARGE = FrameScale(1.0, 1.0, 0.01, 0.01), FrameScale(1.1, 1.1, 0.01, 0.01)


def find(result, fits=lambda factor: False):
    """The cause, where the trials whose stretch of the first point ``fits`` are accepted."""
    first = result.case.points[0]

    def attempt(cases):
        for case in cases:
            with np.errstate(divide="ignore", invalid="ignore"):
                yield result._replace(case=case, scales={"learnt": PLAUSIBLE})

    def accepts(one):
        return bool(fits(one.case.points[0] / first))

    return diagnosis.find_cause(
        result, "learnt", attempt=attempt, accepts=accepts, min_keep_ratio=0.1
    )


@pytest.fixture
def result():
    return made_up_result(0, 1.0)._replace(scales={"learnt": PLAUSIBLE}, interest=2.0)


def test_a_trial_that_fits_names_the_cause(result):
    mirrored = find(result, lambda stretch: stretch[0] < 0)
    assert mirrored.name == "mirrored" and "mirror image" in mirrored.sentence
    small = find(result, lambda stretch: np.allclose(stretch, 0.8))
    assert small.name == "size" and "1.25 times as large" in small.sentence
    narrow = find(result, lambda stretch: np.allclose(stretch, [0.8, 0.8, 1.0]))
    assert narrow.name == "focal length" and "check fx" in narrow.sentence


def test_trials_draw_the_same_points_and_know_no_truth(result):
    for trial in diagnosis.trials(result.case):
        assert trial.case.id == result.case.id
        assert trial.case.truth is None and trial.case.image is None
        assert trial.case.points.shape == result.case.points.shape


def test_the_fitted_size_is_told_where_no_trial_fits(result):
    cause = find(result._replace(scales={"learnt": LARGE}))
    assert cause.name == "size" and "1.10 times as large" in cause.sentence


def test_a_mirror_image_that_fits_better_is_told_and_never_accepted(result):
    mirrored = result._replace(mirror_gains={"learnt": 0.2})
    assert make_prediction(result, "learnt").accepted
    assert not make_prediction(mirrored, "learnt").accepted
    assert find(mirrored).name == "mirrored"


def test_a_fit_that_holds_few_points_tells_no_cause(result):
    """A model that learnt nothing was said to be of another size."""
    loose = LARGE._replace(share=0.3)
    assert find(result._replace(scales={"learnt": loose})) is None
    mirrored = result._replace(scales={"learnt": loose}, mirror_gains={"learnt": 0.2})
    assert find(mirrored) is None
    cause = diagnosis.find_cause(
        result,
        "learnt",
        attempt=lambda cases: [
            result._replace(case=case, scales={"learnt": loose}) for case in cases
        ],
        accepts=lambda one: True,
        min_keep_ratio=0.1,
    )
    assert cause is None


def test_a_frame_without_a_wound_is_told_before_any_trial(result):
    """An empty drape fits a model of some size: 1.10 times as large, it was said."""

    def attempt(cases):
        raise AssertionError("nothing is tried")

    cause = diagnosis.find_cause(
        result._replace(interest=-0.5, scales={"learnt": LARGE}),
        "learnt",
        attempt=attempt,
        accepts=lambda one: True,
        min_keep_ratio=0.1,
    )
    assert cause.name == "no wound"


def test_little_bone_is_told_last(result):
    few = np.zeros_like(result.weights["learnt"])
    few[:2] = 1.0
    assert find(result._replace(weights={"learnt": few})).name == "little bone"
    assert find(result) is None


def test_a_trial_that_fails_is_no_cause(result):
    cause = diagnosis.find_cause(
        result,
        "learnt",
        attempt=lambda cases: [Failed(case.id, "no") for case in cases],
        accepts=lambda one: True,
        min_keep_ratio=0.1,
    )
    assert cause is None
