"""Binary surfaces that a copy in text mode has changed: told in one sentence, by every reader."""

import pytest
import trimesh

from e2r.formats import meshes


@pytest.mark.parametrize("kind", ["stl", "ply", "glb"])
@pytest.mark.parametrize("radius", [20.0, 21.0])
def test_a_binary_surface_that_was_copied_as_text_is_told(tmp_path, kind, radius):
    """A byte 13 stands before each byte 10: all numbers after the first one are others."""
    mesh = trimesh.creation.icosphere(3, radius).apply_translation([300.0, -100.0, 50.0])
    if kind == "glb":
        mesh.apply_scale(0.001)
    content = trimesh.Scene({"L3": mesh}).export(file_type="glb") if kind == "glb" else None
    content = content or mesh.export(file_type=kind)
    path = tmp_path / f"L3.{kind}"
    path.write_bytes(content)
    meshes.read_mesh(path)
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=f"L3.{kind}: was copied as text.*in binary mode"):
        meshes.read_mesh(path)
