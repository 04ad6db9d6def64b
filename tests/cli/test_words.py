"""A bad command line gets one sentence, which names options as they are typed."""

import pytest

from e2r.cli import main as e2r_main
from e2r.cli import words
from e2r.cli.errors import run_command
from experiments import evaluate, train

OPTIONS = {
    "--output",
    "--checkpoint",
    "--seed",
    "--optimisation.learning-rate",
    "--schedule.steps",
    "--schedule.hold-steps",
    "--scenes.simulation.min-bone-fraction",
}


def said(capsys, main, *arguments):
    """The one line that a command prints in place of its work; its exit code is 2."""
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("e2r: ") and err.count("\n") == 1, err
    return err.removeprefix("e2r: ").strip()


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--optimisation.learnin-rate", "--optimisation.learning-rate"),
        ("--optimization.learning_rate", "--optimisation.learning-rate"),
        ("--learning-rate", "--optimisation.learning-rate"),
        ("--schedule.step", "--schedule.steps"),
        ("--chekpoint", "--checkpoint"),
        ("--ouput=x", "--output"),
    ],
)
def test_a_misspelt_option_gets_the_near_one(typed, near):
    found = words.explain_words([typed, "0.1"], OPTIONS, words.UNKNOWN)
    assert found == f"{typed.split('=')[0].replace('_', '-')}: no such option; did you mean {near}?"


def test_a_word_like_no_option_is_said_to_be_none():
    found = words.explain_words(["--zzz"], OPTIONS, words.UNKNOWN)
    assert found == "--zzz: no such option; --help lists the options"
    assert words.explain_words(["--seed", "x"], OPTIONS, "garbage") is None


def test_fields_become_options_and_other_words_stay():
    for sentence, expected in (
        ("optimisation.learning_rate is -1; use", "--optimisation.learning-rate is -1; use"),
        ("simulation.min_bone_fraction is 1", "--scenes.simulation.min-bone-fraction is 1"),
        ("case.json: is none of schedule.other", "case.json: is none of schedule.other"),
        ("runs/schedule.steps: is a file", "runs/schedule.steps: is a file"),
        ("--schedule.steps is 0", "--schedule.steps is 0"),
        ("e2r.load_model is none", "e2r.load_model is none"),
    ):
        assert words.as_typed(sentence, OPTIONS) == expected
    assert words.as_typed("simulation.width is 5", {"--width", "--recording.width"}) == (
        "--width is 5"
    )


def test_a_command_line_is_refused_in_one_sentence(capsys, tmp_path):
    out = ("--output", tmp_path / "out")
    for main, arguments, expected in (
        (
            train.main,
            ("tiny", "--optimisation.learnin-rate", "0.1"),
            "did you mean --optimisation.learning-rate?",
        ),
        (
            train.main,
            ("tiny", "--optimisation.learning-rate", "-1"),
            "--optimisation.learning-rate is -1.0; use more than 0",
        ),
        (
            train.main,
            ("tiny", "--scenes.simulation.min-bone-fraction", "1"),
            "--scenes.simulation.min-bone-fraction is 1.0; use 0 to below 0.2",
        ),
        (
            train.main,
            ("tiny", "--network.coarse-width", "6"),
            "--network.coarse-width is 6; use a multiple of 4",
        ),
        (train.main, ("tyny",), "'tyny' is no named configuration; use one of demo, base, tiny"),
        (train.main, ("tiny", "--held-out-every", "-1"), "--held-out-every is -1; use 0 or more"),
        (train.main, ("tiny", "--log", "tensorbord"), "--log"),
        (
            evaluate.main,
            ("--chekpoint", "x"),
            "--chekpoint: no such option; did you mean --checkpoint?",
        ),
        (evaluate.main, ("--schedule.steps", "0"), "--schedule.steps is 0; use 1 or more"),
        (
            evaluate.main,
            ("--schedule.last-scale-mm", "9"),
            "at most --schedule.first-scale-mm, which is 6.0",
        ),
        (evaluate.main, ("--search.finalists", "0"), "--search.finalists is 0; use 1 or more"),
        (e2r_main, ("convert", "rgbd", "a", "b", "--modle", "x"), "did you mean --model?"),
        (e2r_main, ("register", "x", "--schedul.steps", "3"), "did you mean --schedule.steps?"),
        (evaluate.main, ("--schedule.steps", "abc"), "--schedule.steps: invalid literal"),
        (evaluate.main, ("--estimator", "nope"), "--estimator"),
        (e2r_main, ("simulate", "--width", "5"), "--width is 5; use a multiple of 4"),
        (
            e2r_main,
            ("simulate", "--sequence", "--recording.width", "5"),
            "--recording.width is 5; use a multiple of 4",
        ),
    ):
        assert expected in said(capsys, main, *arguments, *out)
    assert "--output is missing" in said(capsys, evaluate.main, "--seed", "1")
    assert not (tmp_path / "out").exists()


def test_help_is_still_printed(capsys):
    for main in (train.main, evaluate.main):
        with pytest.raises(SystemExit) as stop:
            main(["--help"])
        assert not stop.value.code
        assert "usage" in capsys.readouterr().out
    assert run_command(lambda: 0) == 0
