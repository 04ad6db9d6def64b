"""A published model is small, complete, and read where nothing can be written."""

import jax
import numpy as np

from e2r.training.trained_model import load_trained
from experiments import publish


def test_an_exported_run_is_small_and_the_same(checkpoint, data_set, tmp_path, capsys):
    output = tmp_path / "given"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output)]
    assert publish.main(arguments) == 0
    given, kept = (load_trained(folder) for folder in (output, checkpoint))
    assert given[0] == kept[0]
    jax.tree.map(np.testing.assert_array_equal, given[1], kept[1])
    size = [
        sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in (output, checkpoint)
    ]
    assert size[0] < 0.6 * size[1]
    for folder in [output, *(p for p in output.rglob("*") if p.is_dir())]:
        folder.chmod(0o555)  # as an installed package may be
    try:
        assert load_trained(output)[0] == kept[0]
    finally:
        for folder in [output, *(p for p in output.rglob("*") if p.is_dir())]:
            folder.chmod(0o755)
    assert publish.main(arguments) == 2
    assert "holds a checkpoint" in capsys.readouterr().err


def test_a_model_of_a_patient_is_not_published(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(publish, "read_patient", lambda _: {"sizes": {}})
    arguments = ["--checkpoint", str(tmp_path / "patient"), "--output", str(tmp_path / "given")]
    assert publish.main(arguments) == 2
    assert "is adapted to a patient" in capsys.readouterr().err
