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


@pytest.mark.parametrize("columns", ["vt", "vn", "vt and vn"])
def test_a_texture_tears_no_surface(tmp_path, columns):
    """By trimesh alone, each corner with a place of its own in a texture is a vertex of its own."""
    ball = trimesh.creation.icosphere(2, 20.0)
    lines, number = [f"v {x} {y} {z}" for x, y, z in ball.vertices], 0
    for face in ball.faces:
        corners = []
        for corner in face + 1:
            number += 1
            lines += [f"vt 0.{number} 0.5", f"vn {number} 1 2"]
            texture, normal = (number if name in columns else "" for name in ("vt", "vn"))
            corners.append(f"{corner}/{texture}/{normal}")
        lines.append("f " + " ".join(corners))
    (tmp_path / "L3.obj").write_text("\n".join(lines) + "\n")
    read = meshes.read_mesh(tmp_path / "L3.obj")
    assert read.is_watertight and len(read.vertices) == len(ball.vertices)
    assert read.volume == pytest.approx(ball.volume, rel=1e-4)


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


def write_levels(folder, headers):
    """Spheres, one above the other, as STL files with these headers."""
    folder.mkdir()
    for number, (name, header) in enumerate(headers.items()):
        ball = trimesh.creation.icosphere(radius=20.0)
        ball.apply_translation([0.0, 0.0, -40.0 * number])
        content = ball.export(file_type="stl")
        (folder / f"{name}.stl").write_bytes(header.ljust(80) + content[80:])
    return folder


def test_levels_of_which_some_say_lps_and_others_nothing_are_refused(tmp_path):
    """The spine broke by 40 mm between those that were turned and those that were not."""
    folder = write_levels(tmp_path / "mixed", {"L1": b"SPACE=LPS", "L2": b"", "L3": b"SPACE=RAS"})
    with pytest.raises(ValueError, match=r"L2\.stl: does not say its axes, but L1.stl says LPS"):
        meshes.read_meshes(folder)
    said = write_levels(tmp_path / "said", {"L1": b"SPACE=LPS", "L2": b"SPACE=RAS"})
    assert list(meshes.read_meshes(said)) == ["L1", "L2"]
    silent = write_levels(tmp_path / "silent", {"L1": b"", "L2": b"SPACE=RAS"})
    assert list(meshes.read_meshes(silent)) == ["L1", "L2"]


def test_a_label_map_in_place_of_surfaces_is_sent_to_the_right_command(tmp_path):
    (tmp_path / "spine.seg.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(ValueError, match=r"spine\.seg\.nrrd: is a file; .* e2r convert ct"):
        meshes.read_meshes(tmp_path / "spine.seg.nrrd")
    with pytest.raises(ValueError, match=r"holds no STL, PLY or OBJ surface; .* e2r convert ct"):
        meshes.read_meshes(tmp_path)
