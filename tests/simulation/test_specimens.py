"""Specimens: their surfaces are closed, complete, and lie where the grids' distance is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.geometry import anatomical_frame, poses
from e2r.simulation.bone_grids import bake_specimen, distance_to_bone
from e2r.simulation.specimens import extract_meshes, procedural_specimen
from e2r.simulation.spine import LEVELS

bake_whole_spine = jax.jit(lambda key: bake_specimen(key, LEVELS))


def test_a_whole_spine_has_short_stubs_at_its_head_and_a_sacrum_at_its_tail():
    model = procedural_specimen(jax.random.key(3), "s", first=("T12",), last=("S1",)).model
    assert list(model) == list(LEVELS)
    assert all(mesh.is_watertight for mesh in model.values())
    frame = anatomical_frame.estimate_frame(model)
    size = {
        name: np.ptp(np.asarray(poses.apply(frame, mesh.vertices.astype(np.float32))), axis=0)
        for name, mesh in model.items()
    }
    assert size["T12"][0] < 0.75 * size["L1"][0]
    assert size["S1"][0] > 95.0 and size["S1"][2] > 60.0
    few = procedural_specimen(jax.random.key(3), "s", first=("L2",), last=("L4",))
    assert list(few.model) == ["L2", "L3", "L4"]


def test_no_part_of_a_level_is_lost():
    """Some canals cut an arch off its body: it stays in the surface, as it does in the frame."""
    for seed in (1001, 1005, 1020):
        bones = jax.tree.map(np.asarray, bake_whole_spine(jax.random.key(seed)))
        models = extract_meshes(bones, LEVELS)
        for i, mesh in enumerate(models.values()):
            cells = np.asarray(bones.cells[i, : int(np.prod(bones.shape[i])), 0])
            inside = (cells < 0).sum() * float(bones.spacing[i]) ** 3
            assert mesh.volume == pytest.approx(inside, rel=0.03)


def test_models_are_closed_and_lie_where_the_distance_is_zero():
    bones = jax.jit(bake_specimen)(jax.random.key(4))
    models = extract_meshes(jax.tree.map(np.asarray, bones), LEVELS[1:6])
    assert list(models) == ["L1", "L2", "L3", "L4", "L5"]
    for mesh in models.values():
        assert mesh.is_watertight
        assert 25_000 < mesh.volume < 110_000
        assert 70 < mesh.extents.max() < 125
        apart, _ = distance_to_bone(bones, jnp.asarray(mesh.vertices[::25], jnp.float32))
        # On the surface, or inside a neighbour that it touches.
        assert float(jnp.quantile(jnp.abs(apart), 0.9)) < 0.1
