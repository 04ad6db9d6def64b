"""The pictures of README and docs."""

import numpy as np
import pytest
from PIL import Image

from experiments import figures


def test_the_scene_has_one_column_for_each_specimen(checkpoint, tmp_path):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert figures.main(["scene", *arguments, "--specimens", "1", "--scale", "1"]) == 0
    with Image.open(tmp_path / "scene.png") as image:
        assert image.size == (96, 3 * 72)
        assert np.asarray(image).std() > 10


@pytest.mark.slow
def test_the_registration_moves_the_model(tmp_path, capsys):
    assert figures.main(["registration", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    errors = [float(word) for word in out.split("TRE after each step: ")[1].split(" mm")[0].split()]
    assert len(errors) == figures.STEPS + 1
    assert errors[0] > 10.0 and errors[-1] < 1.0
    with Image.open(tmp_path / "registration.webp") as image:
        assert image.n_frames == figures.STEPS + 1


def test_an_unknown_picture_is_refused_in_one_sentence(tmp_path, capsys):
    assert figures.main(["scenes", "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "scenes: is no picture; use some of scene, registration, report" in err
    assert err.count("\n") == 1
