"""Signed distance grids: procedural ones differ, and real spines are placed upright."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from e2r.formats import meshes
from e2r.geometry import poses
from e2r.simulation.bone_grids import bake_meshes, bake_specimen, distance_to_bone


def test_another_key_bakes_another_specimen():
    bake = jax.jit(bake_specimen)
    bones, other = bake(jax.random.key(4)), bake(jax.random.key(5))
    assert float(jnp.abs(bones.cells - other.cells).max()) > 1


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="at least two levels"):
        bake_meshes({"L1": trimesh.creation.icosphere(radius=20.0)})


@pytest.mark.parametrize("name", ["visible_human", "lumbar_mean", "verse004"])
def test_real_spines_are_baked_upright(name, anatomy):
    real = meshes.read_meshes(anatomy / name)
    bones, canonical = bake_meshes(real, nodes=30_000)
    np.testing.assert_allclose(np.linalg.det(canonical.rotation), 1.0, atol=1e-5)
    placed = {
        level: np.asarray(poses.apply(canonical, np.asarray(mesh.vertices, np.float32)))
        for level, mesh in real.items()
    }
    # Canonical: cranial is up (z), the spinous process is the most posterior part (y) and lies
    # on the midline (x), left and right are alike.
    assert placed["L2"][:, 2].mean() > placed["L5"][:, 2].mean() + 60
    for level in ("L2", "L3", "L4"):
        x, y = placed[level][:, 0], placed[level][:, 1]
        tip = y > np.quantile(y, 0.99)
        middle = 0.5 * (x.min() + x.max())
        assert abs(x[tip].mean() - middle) < 9
        bulk = poses.apply(canonical, np.asarray(real[level].center_mass, np.float32))[1]
        assert y.max() - bulk > bulk - y.min()
        apart, _ = distance_to_bone(bones, jnp.asarray(placed[level][::40]))
        assert float(jnp.median(jnp.abs(apart))) < 0.4
