"""Models that cannot be one spine, and folders that hold more than is read."""

import numpy as np
import pytest
import trimesh

from e2r.formats import meshes


def vertebra(at=(0.0, 0.0, 0.0)):
    body = trimesh.creation.box([45.0, 35.0, 26.0])
    process = trimesh.creation.box([8.0, 40.0, 14.0]).apply_translation([0.0, -34.0, -8.0])
    return trimesh.util.concatenate([body, process]).apply_translation(at)


@pytest.mark.parametrize("about", ["middle", "vertices", "mass", "posterior wall"])
@pytest.mark.parametrize("name", ["visible_human", "lumbar_mean", "verse004"])
def test_levels_that_have_each_a_frame_of_its_own_are_refused(anatomy, tmp_path, name, about):
    for path in sorted((anatomy / name).glob("*.stl")):
        mesh = trimesh.load(path)
        middle = {
            "middle": mesh.bounds.mean(0),
            "vertices": mesh.vertices.mean(0),
            "mass": mesh.center_mass,
            "posterior wall": mesh.bounds.mean(0) + 0.2 * mesh.extents * [0, 1, 0],
        }[about]
        mesh.apply_translation(-middle).export(tmp_path / path.name)
    with pytest.raises(ValueError, match=r"lie at one place|lie in each other"):
        meshes.read_meshes(tmp_path)


@pytest.mark.parametrize("apart", [6.0, 9.0, 12.0])
def test_overlapping_levels_are_refused_and_stacked_ones_are_not(tmp_path, apart):
    vertebra().export(tmp_path / "L3.stl")
    smaller = vertebra().apply_scale(0.95).apply_translation([0.0, 0.0, -apart])
    smaller.export(tmp_path / "L4.stl")
    with pytest.raises(ValueError, match="L3 and L4 lie in each other"):
        meshes.read_meshes(tmp_path)
    vertebra((0.0, 0.0, -32.0)).export(tmp_path / "L4.stl")
    assert list(meshes.read_meshes(tmp_path)) == ["L3", "L4"]


def test_small_neighbours_that_touch_are_accepted(tmp_path):
    """As those of the neck."""
    for number in range(4):
        ball = trimesh.creation.icosphere(3, 9.0).apply_scale([1.3, 1.3, 1.0])
        ball.apply_translation([0.0, 0.0, -17.0 * number]).export(tmp_path / f"C{4 + number}.stl")
    assert len(meshes.read_meshes(tmp_path)) == 4


@pytest.mark.parametrize("name", ["visible_human", "lumbar_mean", "verse004"])
def test_real_spines_are_accepted(anatomy, name, caplog):
    meshes.read_meshes(anatomy / name)
    assert not caplog.text


@pytest.mark.parametrize("suffix", [".vtk", ".off", ".fbx", ".gii", ".x3d", ".STEP", ".3mf"])
def test_a_level_of_another_format_is_refused(tmp_path, suffix):
    vertebra().export(tmp_path / "L3.stl")
    (tmp_path / f"L4{suffix}").write_bytes(b"something")
    with pytest.raises(ValueError, match=f"L4{suffix}: is of the format {suffix[1:].upper()}"):
        meshes.read_meshes(tmp_path)
    (tmp_path / f"L4{suffix}").rename(tmp_path / f"L3{suffix}")
    assert list(meshes.read_meshes(tmp_path)) == ["L3"]


@pytest.mark.parametrize("name", ["L4.stl.gz", "L4.ply.zip", "L4.obj.7z"])
def test_a_packed_level_is_refused(tmp_path, name):
    vertebra().export(tmp_path / "L3.stl")
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ValueError, match="is an archive; unpack it"):
        meshes.read_meshes(tmp_path)


@pytest.mark.parametrize("name", ["L4.nii.gz", "L4.mat", "vertebra_L4.pcd", "L4"])
def test_another_file_of_a_level_is_told(tmp_path, name, caplog):
    vertebra().export(tmp_path / "L3.stl")
    (tmp_path / name).mkdir() if name == "L4" else (tmp_path / name).write_bytes(b"something")
    assert list(meshes.read_meshes(tmp_path)) == ["L3"]
    assert f"{name}: was left out of the model" in caplog.text


def test_files_beside_their_level_are_no_matter(tmp_path, caplog):
    vertebra().export(tmp_path / "L3.stl")
    for name in ("L3.txt", "L3_slicer.tfm", "notes.json", "export.json", "texture.png"):
        (tmp_path / name).write_bytes(b"something")
    assert list(meshes.read_meshes(tmp_path)) == ["L3"]
    assert not caplog.text


@pytest.mark.parametrize("suffix", ["ply", "obj"])
@pytest.mark.parametrize("merge", [True, False])
def test_a_vertex_of_no_triangle_does_not_count(tmp_path, suffix, merge):
    mesh = vertebra((-80.0, 20.0, 700.0))
    mesh = trimesh.Trimesh(np.vstack([mesh.vertices, [5e3, 0, 0]]), mesh.faces, process=False)
    mesh.export(tmp_path / f"L3.{suffix}")
    read = meshes.read_mesh(tmp_path / f"L3.{suffix}", merge=merge)
    np.testing.assert_allclose(read.extents, vertebra().extents, atol=1e-3)


def test_a_vertex_beyond_all_measure_is_told(tmp_path):
    """Though no triangle has it."""
    mesh = trimesh.Trimesh(
        np.vstack([vertebra().vertices, [1e30, 0, 0]]), vertebra().faces, process=False
    )
    mesh.export(tmp_path / "L3.ply")
    with pytest.raises(ValueError, match=r"L3.ply: holds a vertex 1e\+30 mm from its origin"):
        meshes.read_mesh(tmp_path / "L3.ply")
