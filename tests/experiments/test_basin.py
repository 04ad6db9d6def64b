"""The basin of convergence, mapped at its smallest."""

import json

import pytest

from experiments.studies import basin

SMALL = ["--degrees", "0", "30", "--mm", "0", "60", "--frames", "2", "--starts", "2"]
SMALL += ["--points", "200", "--count", "20"]


def test_the_true_pose_succeeds_and_half_a_spine_away_fails(tmp_path):
    chosen = ["--steps", "symmetric", "--kernels", "welsch"]
    assert basin.main(["--output", str(tmp_path), *chosen, *SMALL]) == 0
    rates = json.loads((tmp_path / "basin.json").read_text())["rates"]["symmetric"]["welsch"]
    assert rates[0][0] == 1.0
    assert rates[1][1] <= 0.25
    page = (tmp_path / "basin.html").read_text()
    assert "symmetric, welsch" in page
    assert "cdn.plot" not in page.split("<body>")[1][:2000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "tuckey"], "--kernels: use some of welsch"),
        (["--frames", "0"], "--frames is 0"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(tmp_path, capsys, arguments, message):
    assert basin.main(["--output", str(tmp_path), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
