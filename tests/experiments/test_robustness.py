"""The changes of the robustness study do what they say, and the study writes its figures."""

import json

import numpy as np
import pytest

from e2r.datasets.case import true_pose
from e2r.geometry import anatomical_frame, poses
from e2r.simulation.cloth import hide_bone
from e2r.simulation.depth_noise import add_noise
from experiments.studies import robustness


def test_a_cloth_hides_the_given_share_of_bone(simulated_cases, rng):
    case = simulated_cases[0]
    assert hide_bone(case, 0.0, rng) is case
    for share in (0.3, 0.7):
        hidden = hide_bone(case, share, rng)
        assert hidden.bone.sum() == pytest.approx((1 - share) * case.bone.sum(), rel=0.05)
        moved = np.any(hidden.points != case.points, axis=1)
        assert (case.bone & ~hidden.bone <= moved).all()
        nearer = case.points[moved, 2] - hidden.points[moved, 2]
        assert (nearer > 9.0).all() and (nearer < 21.0).all()
        np.testing.assert_allclose(  # along the rays
            hidden.points[:, :2] / hidden.points[:, 2:],
            case.points[:, :2] / case.points[:, 2:],
            rtol=1e-4,
            atol=1e-5,
        )


def test_noise_has_the_given_standard_deviation(simulated_cases, rng):
    case = simulated_cases[0]
    assert add_noise(case, 0.0, rng) is case
    shift = add_noise(case, 2.0, rng).points - case.points
    assert shift[:, 2].std() == pytest.approx(2.0, rel=0.05)


def test_a_roll_is_measured_from_upright_and_turns_the_truth(simulated_cases, rng):
    case = simulated_cases[0]
    cranial = anatomical_frame.estimate_frame(case.model).rotation[2]
    for degrees in (0.0, 90.0):
        turned = robustness.roll_camera(case, degrees, rng)
        up = true_pose(turned).rotation @ cranial
        found = np.rad2deg(np.arctan2(up[0], -up[1]))  # clockwise in the image, whose y is down
        assert found == pytest.approx(degrees, abs=0.5)
        name = next(iter(case.model))
        model = [
            poses.apply_inverse(c.truth[name], c.points.astype(np.float32)) for c in (case, turned)
        ]
        np.testing.assert_allclose(*model, atol=0.05)


@pytest.mark.slow
def test_the_study_writes_its_figures(checkpoint, data_set, tmp_path):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    arguments += ["--cases", str(data_set), "--change", "occlusion"]
    assert robustness.main([*arguments, "--amounts", "0", "0.5", "--masks", "learnt"]) == 0
    rows = json.loads((tmp_path / "occlusion.json").read_text())["rows"]
    assert [row["amount"] for row in rows] == [0.0, 0.5]
    assert all(row["masks"]["learnt"]["count"] == 3 for row in rows)
    assert rows[0]["masks"]["learnt"]["tre_mm"] != rows[1]["masks"]["learnt"]["tre_mm"]
    assert "share hidden" in (tmp_path / "occlusion.html").read_text()


@pytest.mark.parametrize(
    ("change", "amounts", "words"),
    [
        ("occlusion", "1.5", "--amounts"),
        ("noise", "-1", "--amounts"),
        ("fog", "1", "--change fog: use one of noise, occlusion, roll"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    checkpoint, tmp_path, capsys, change, amounts, words
):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert robustness.main([*arguments, "--change", change, "--amounts", amounts]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_every_change_has_amounts_within_its_limits():
    for change in robustness.CHANGES.values():
        low, high = change.limits
        assert change.amounts and all(low <= amount < high for amount in change.amounts)
