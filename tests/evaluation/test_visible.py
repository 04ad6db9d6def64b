"""A level is seen where its bone is, in the case's own truth."""

from dataclasses import replace

import numpy as np
import pytest

from e2r.evaluation.visible import visible_levels


def test_levels_are_visible_by_their_bone(simulated_cases):
    case = simulated_cases[0]
    seen = visible_levels(case)
    assert seen and seen <= set(case.model)
    assert visible_levels(replace(case, bone=np.zeros_like(case.bone))) == set()
    # A level that truly lies elsewhere has no bone in the frame.
    gone = min(seen)
    pose = case.truth[gone]
    away = pose._replace(translation=pose.translation + np.float32(500.0))
    elsewhere = visible_levels(replace(case, truth={**case.truth, gone: away}))
    assert elsewhere and gone not in elsewhere
    # Of a level without a truth nobody knows where it is.
    fewer = visible_levels(replace(case, truth={gone: pose}))
    assert fewer == {gone}


def test_without_truth_or_bone_nobody_knows(simulated_cases):
    for without in ({"truth": None}, {"bone": None}):
        with pytest.raises(ValueError, match="nobody knows"):
            visible_levels(replace(simulated_cases[0], **without))
