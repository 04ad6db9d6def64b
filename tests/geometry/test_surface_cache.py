"""Surfaces as files beside their models."""

import jax
import numpy as np
import pytest
import trimesh

from e2r.geometry import surface_cache, surfaces


def test_a_saved_surface_is_read_and_a_broken_file_refused(sphere, tmp_path):
    path = tmp_path / "surface.npz"
    surface_cache.save(path, sphere)
    for a, b in zip(*map(jax.tree.leaves, (surface_cache.load(path), sphere)), strict=True):
        np.testing.assert_array_equal(a, b)
    for text in (b"", b"PK not a zip", path.read_bytes()[:5000]):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"surface\.npz: holds no surface"):
            surface_cache.load(path)
    with pytest.raises(ValueError, match="holds no surface"):
        surface_cache.load(tmp_path / "none.npz")


def test_a_surface_is_built_once_and_again_if_its_model_changes(tmp_path, monkeypatch):
    ball = trimesh.creation.icosphere(2, 20.0)
    path, options = tmp_path / "surface.npz", {"seed": 0, "nodes": 2**12, "exact": False}
    first = surface_cache.load_or_build(path, {"L1": ball}, **options)
    made = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(surfaces, "build_surface", lambda *_, **__: pytest.fail("built twice"))
        again = surface_cache.load_or_build(path, {"L1": ball}, **options)
    for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    bigger = surface_cache.load_or_build(path, {"L1": ball.copy().apply_scale(1.1)}, **options)
    assert bigger.spacing > first.spacing
    assert path.read_bytes() != made
    path.write_bytes(b"broken")
    mended = surface_cache.load_or_build(path, {"L1": ball}, **options)
    np.testing.assert_array_equal(mended.nodes, first.nodes)
    nowhere = surface_cache.load_or_build(
        tmp_path / "none" / "surface.npz", {"L1": ball}, **options
    )
    np.testing.assert_array_equal(nowhere.nodes, first.nodes)
