"""The probe of one case: its table, its figures, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from e2r.datasets import case_folder
from experiments.studies import probe


@pytest.mark.slow
def test_the_command_writes_its_figures(checkpoint, data_set, tmp_path, capsys):
    path = tmp_path / "probe.json"
    folder = shutil.copytree(case_folder.find_cases(data_set)[0], tmp_path / "case")
    arguments = [
        "--case",
        str(folder),
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(path),
        "--parts",
        "paths",
        "landscape",
        "--grid",
        "3",
    ]
    assert probe.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "refinement" in shown and "end below 2 mm" in shown
    figures = json.loads(path.read_text())["figures"]
    by = figures["paths"]
    seen = np.array(by["errors"]) > 0
    assert seen.sum() >= 2
    assert (np.array(by["norms"])[seen] > 0).all()
    # Each share's length along the whole, of all paths, is the whole.
    parts = np.sum(np.array(by["norms"]) * np.array(by["cosines"]), axis=1)
    np.testing.assert_allclose(parts[seen], np.array(by["whole"])[seen], rtol=1e-6)
    assert np.shape(figures["landscape"]) == (3, 3)
    (folder / "truth.json").unlink()
    assert probe.main(arguments) == 2
    assert "has no truth.json" in capsys.readouterr().err
    for bad in (["--grid", "1"], ["--parts", "gradients"]):
        assert probe.main([*arguments, *bad]) == 2
        assert bad[0] in capsys.readouterr().err
