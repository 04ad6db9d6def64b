"""Bad calls end with exit code 2 and one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

import e2r


def call_module(*arguments, cwd):
    root = str(Path(e2r.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("e2r", "register", "nowhere", "--checkpoint", "CKPT"), "nowhere: no such folder"),
        (("e2r", "register", "CASE", "--checkpoint", "nowhere"), "nowhere: no such folder"),
        (("e2r", "register", "CASE", "--checkpoint", "CASE"), "holds no checkpoint"),
        (("e2r", "register", "CASE", "--checkpoint", "CKPT", "--start", "up"), "--start up"),
        (("e2r", "simulate", "--output", "x", "--count", "0"), "--count"),
        (("e2r", "simulate", "--output", "x", "--width", "13"), "multiple of 4"),
        (("e2r", "simulate", "--output", "x", "--anatomy", "nowhere"), "nowhere: no such folder"),
        (("e2r", "simulate", "--output", "x", "--seed", "4294967296"), "use 0 to 4294967295"),
        (
            ("e2r", "simulate", "--output", "x", "--sequence", "--width", "128"),
            "--sequence takes the settings of --recording",
        ),
        (
            ("e2r", "simulate", "--output", "x", "--recording.frames", "5"),
            "--recording describes what --sequence writes",
        ),
        (
            ("experiments.evaluate", "--checkpoint", "CKPT", "--output", "x", "--masks", "bone"),
            "--masks 'bone'",
        ),
        (("experiments.train", "demo", "--output", "x", "--cases", "nowhere"), "no such folder"),
    ],
)
def test_bad_calls_get_one_sentence_and_exit_code_2(
    arguments, words, checkpoint, data_set, tmp_path
):
    places = {"CKPT": str(checkpoint), "CASE": str(sorted(data_set.iterdir())[0])}
    done = call_module(*(places.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "predictions.jsonl").exists()
