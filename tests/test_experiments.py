"""The experiments that no other test runs, at their smallest, and what they say to bad input."""

import json

import pytest

from experiments import basin, benchmark

SMALL = ["--degrees", "0", "30", "--mm", "0", "60", "--frames", "2", "--starts", "2",
         "--points", "200", "--count", "20"]  # fmt: skip


def test_the_basin_is_mapped(tmp_path):
    """From the true pose it succeeds, from half a spine away it does not."""
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
def test_bad_basins_get_one_sentence(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        basin.main(["--output", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_benchmark_writes_its_table(tmp_path):
    """Rotations only; a short row has every key, and the ratio is what it says."""
    path = tmp_path / "bench.json"
    assert benchmark.main(["--parts", "rotation", "--repeats", "1", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert {"8,192 rotations", "8,192 rotations, gradient"} == {row["name"] for row in rows}
    for row in rows:
        assert {"ours_ms", "peer", "peer_ms", "ratio", "ours_tre_mm", "peer_tre_mm"} < set(row)
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])


def test_an_unknown_part_gets_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--parts", "rotations"])
    assert stopped.value.code == 2
    assert "--parts rotations: use some of" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )
