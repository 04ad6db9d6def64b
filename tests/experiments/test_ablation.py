"""Weak labels, the loss that they give, and the runs of the ablation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, first_state

from e2r.networks.build import build_mask_network
from e2r.training import batches, loop
from experiments.studies import ablation


@pytest.fixture(scope="module")
def example(bank):
    one = jax.tree.map(jnp.asarray, bank.read(0, 0))
    return one._replace(surface=jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], bank.surfaces))


def test_weak_labels_are_those_of_a_displaced_model(example, simulated_cases):
    """Without an error they find the bone, as far as a coarse lattice allows."""
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
def test_a_mask_loss_replaces_the_pose_error(bank, tmp_path):
    """Labels change the result of a run, and so do initial parameters."""
    short = replace(TINY, optimisation=replace(TINY.optimisation, steps=2))
    stream = batches.uniform_batches(short, bank)
    plain = loop.train(loop.RunInputs(short, stream), tmp_path / "a")
    mask_loss = partial(ablation.label_loss, error=2.0)
    taught = loop.train(
        loop.RunInputs(short, stream, "labels", mask_loss=mask_loss), tmp_path / "b"
    )
    begun = loop.train(loop.RunInputs(short, stream, initial_params=plain.params), tmp_path / "c")
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
        module.apply(
            ablation.with_threshold(state.params, t)["mask"], example.cloud, example.pyramid
        )
        for t in (0.0, 1.5)
    )
    np.testing.assert_allclose(low.logits - high.logits, 1.5, atol=1e-5)
    np.testing.assert_array_equal(low.interest, high.interest)


def test_a_folder_with_other_settings_is_refused(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"steps": 5}')
    assert ablation.main(["--output", str(tmp_path), "--steps", "6"]) == 2
    assert "holds a study with other settings" in capsys.readouterr().err
