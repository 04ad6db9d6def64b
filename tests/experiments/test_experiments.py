"""The experiments that no other test runs, at their smallest, and what they say to bad input."""

import json
import shutil
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, first_state

from e2r.datasets.case import true_pose
from e2r.evaluation.calibration import load_calibration
from e2r.geometry import anatomical_frame, poses
from e2r.networks.build import build_mask_network
from e2r.training import batches, loop
from e2r.training.trained_model import load_trained
from experiments import calibrate, publish
from experiments.benchmarks import speed
from experiments.studies import ablation, basin, noise, occlusion, roll

SMALL = [
    "--degrees",
    "0",
    "30",
    "--mm",
    "0",
    "60",
    "--frames",
    "2",
    "--starts",
    "2",
    "--points",
    "200",
    "--count",
    "20",
]


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
    assert speed.main(["--parts", "rotation", "--repeats", "1", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert {"8,192 rotations", "8,192 rotations, gradient"} == {row["name"] for row in rows}
    for row in rows:
        assert {"ours_ms", "peer", "peer_ms", "ratio", "ours_tre_mm", "peer_tre_mm"} < set(row)
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])


def test_an_unknown_part_gets_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--parts", "rotations"])
    assert stopped.value.code == 2
    assert "--parts rotations: use some of" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


def test_a_cloth_hides_what_it_should(simulated_cases, rng):
    case = simulated_cases[0]
    assert occlusion.hide(case, 0.0, rng) is case
    for share in (0.3, 0.7):
        hidden = occlusion.hide(case, share, rng)
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


def test_noise_is_as_large_as_it_says(simulated_cases, rng):
    case = simulated_cases[0]
    assert noise.disturb(case, 0.0, rng) is case
    apart = noise.disturb(case, 2.0, rng).points - case.points
    assert apart[:, 2].std() == pytest.approx(2.0, rel=0.05)


def test_a_roll_starts_upright_and_moves_the_truth_along(simulated_cases, rng):
    case = simulated_cases[0]
    cranial = anatomical_frame.estimate_frame(case.model).rotation[2]
    for degrees in (0.0, 90.0):
        turned = roll.turn(case, degrees, rng)
        up = true_pose(turned).rotation @ cranial
        found = np.rad2deg(np.arctan2(up[0], -up[1]))  # clockwise in the picture, whose y is down
        assert found == pytest.approx(degrees, abs=0.5)
        name = next(iter(case.model))
        model = [
            poses.apply_inverse(c.truth[name], c.points.astype(np.float32)) for c in (case, turned)
        ]
        np.testing.assert_allclose(*model, atol=0.05)


@pytest.mark.slow
def test_a_sweep_writes_its_figures(checkpoint, data_set, tmp_path):
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path),
        "--cases",
        str(data_set),
        "--amounts",
        "0",
        "0.5",
        "--masks",
        "learnt",
    ]
    assert occlusion.main(arguments) == 0
    rows = json.loads((tmp_path / "occlusion.json").read_text())["rows"]
    assert [row["amount"] for row in rows] == [0.0, 0.5]
    assert all(row["masks"]["learnt"]["count"] == 3 for row in rows)
    assert rows[0]["masks"]["learnt"]["tre_mm"] != rows[1]["masks"]["learnt"]["tre_mm"]
    assert "share hidden" in (tmp_path / "occlusion.html").read_text()


def test_bad_sweeps_get_one_sentence(checkpoint, tmp_path, capsys):
    for command, amount in ((occlusion, "1.5"), (noise, "-1")):
        with pytest.raises(SystemExit) as stopped:
            command.main(
                ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--amounts", amount]
            )
        assert stopped.value.code == 2
        assert "--amounts" in capsys.readouterr().err


@pytest.mark.slow
def test_an_untrained_network_cannot_be_calibrated_but_hypotheses_can(
    checkpoint, simulated_cases, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    arguments = ["--checkpoint", str(run), "--specimens", "1", "--frames", "2"]
    monkeypatch.setattr(calibrate.simulator, "held_out_cases", lambda *_, **__: simulated_cases[:2])
    monkeypatch.setattr(calibrate, "SUCCESS_THRESHOLD_MM", 0.0)
    assert calibrate.main(arguments) == 2
    assert "train the network first" in capsys.readouterr().err
    assert load_calibration(run) is None
    monkeypatch.setattr(calibrate, "SUCCESS_THRESHOLD_MM", 1e4)
    assert calibrate.main(arguments) == 0
    assert load_calibration(run).cases == 2


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


@pytest.fixture(scope="module")
def example(bank):
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], bank.examples)
    return one._replace(surface=jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], bank.surfaces))


def test_weak_labels_are_those_of_a_displaced_model(example, simulated_cases):
    """Without an error they find the bone, as a coarse lattice allows; the error never changes."""
    valid = np.asarray(example.cloud.valid)
    exact = np.asarray(ablation.weak_labels(example, 0.0))
    again = np.asarray(ablation.weak_labels(example, 4.0))
    np.testing.assert_array_equal(again, ablation.weak_labels(example, 4.0))
    assert 0.02 < np.mean(exact[valid] != again[valid]) < 0.6
    case = simulated_cases[0]
    tree = np.linalg.norm(case.points[:, None] - np.asarray(example.cloud.points), axis=2)
    bone = case.bone[tree.argmin(0)]
    assert np.mean(exact[valid & bone]) > max(0.5, 3.0 * np.mean(exact[valid & ~bone]))


def test_the_label_loss_falls_as_the_mask_learns_its_labels(example):
    labels = np.asarray(ablation.weak_labels(example, 2.0))
    good, bad = np.where(labels, 4.0, -4.0), np.where(labels, -4.0, 4.0)
    loss = partial(ablation.label_loss, example=example, error=2.0)
    assert float(loss(jnp.asarray(good))) < 0.05
    assert float(loss(jnp.asarray(bad))) > 2.0


@pytest.mark.slow
def test_a_teacher_takes_the_place_of_the_pose_error(bank, tmp_path):
    """The same run, taught by labels: another result; begun from parameters: another again."""
    short = replace(TINY, optimisation=replace(TINY.optimisation, steps=2))
    stream = batches.from_bank(short, bank)
    plain = loop.train(short, stream, tmp_path / "a")
    teacher = partial(ablation.label_loss, error=2.0)
    taught = loop.train(short, stream, tmp_path / "b", teacher=teacher, source="labels")
    begun = loop.train(short, stream, tmp_path / "c", begin=plain.params)
    leaves = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params["mask"])])
        for s in (plain, taught, begun)
    ]
    assert len({leaf.tobytes() for leaf in leaves}) == 3
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_threshold_shifts_the_logits_alone(example):
    state = first_state()
    module = build_mask_network(TINY.network)
    low, high = (
        module.apply(ablation.shifted(state.params, t)["mask"], example.cloud, example.pyramid)
        for t in (0.0, 1.5)
    )
    np.testing.assert_allclose(low.logits - high.logits, 1.5, atol=1e-5)
    np.testing.assert_array_equal(low.interest, high.interest)


def test_an_ablation_does_not_go_on_in_a_folder_of_other_settings(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"steps": 5}')
    assert ablation.main(["--output", str(tmp_path), "--steps", "6"]) == 2
    assert "holds other settings" in capsys.readouterr().err
