"""Surfaces: read, turned outwards, written; dropped ones are collected."""

import pytest
import trimesh

from e2r.formats import meshes


def test_the_meshes_of_a_folder_are_read_by_name(tmp_path):
    ball = trimesh.creation.icosphere(2, 20.0)
    above = ball.copy().apply_translation([0.0, 0.0, 45.0])
    meshes.write_meshes({"L2": ball, "L1": above}, tmp_path / "model")
    assert list(meshes.read_meshes(tmp_path / "model")) == ["L1", "L2"]
    with pytest.raises(ValueError, match="holds no STL"):
        meshes.read_meshes(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        meshes.read_meshes(tmp_path / "nowhere")


def test_an_inside_out_mesh_is_inverted(tmp_path):
    ball = trimesh.creation.icosphere(2, 20.0)
    ball.apply_translation([300.0, -100.0, 50.0])
    for name, mesh in (("right", ball), ("wrong", ball.copy())):
        if name == "wrong":
            mesh.invert()
        mesh.export(tmp_path / f"{name}.stl")
        read = meshes.read_mesh(tmp_path / f"{name}.stl")
        assert read.volume > 30_000


def test_written_meshes_are_read_back(tmp_path):
    sphere = trimesh.creation.icosphere(radius=9.0)
    (path,) = meshes.write_meshes({"L2": sphere}, tmp_path / "model")
    assert path == tmp_path / "model" / "L2.stl"
    assert meshes.read_mesh(path).volume == pytest.approx(sphere.volume, rel=1e-4)


def test_dropped_meshes_are_collected_from_time_to_time(monkeypatch):
    calls = []
    monkeypatch.setattr(meshes.gc, "collect", lambda: calls.append(None))
    for number in range(2 * meshes.COLLECT_EVERY):
        meshes.collect_meshes(number)
    assert len(calls) == 2
