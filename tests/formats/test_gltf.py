"""glTF models as other programs write them, held against VTK's reader."""

import json
import struct

import numpy as np
import pytest
import trimesh

from e2r.formats import meshes

vtk = pytest.importorskip("vtk")
from vtkmodules.util.numpy_support import vtk_to_numpy  # noqa: E402


def vertebra(at=0.0):
    """A body with a process, away from the origin, in metres."""
    body = trimesh.creation.box([0.040, 0.032, 0.026]).subdivide()
    process = trimesh.creation.box([0.008, 0.050, 0.012]).apply_translation([0.003, -0.050, 0.0])
    return trimesh.util.concatenate([body, process]).apply_translation([-0.11, 0.085, at - 0.6])


def split(content):
    """The JSON and the binary part of a GLB."""
    (size,) = struct.unpack("<I", content[12:16])
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def pack(document, binary):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I", len(text)) + b"JSON" + text
    body += struct.pack("<I", len(binary)) + b"BIN\0" + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def two_levels(nodes=None, **changes):
    """A GLB of two levels, with other nodes where they are given."""
    scene = trimesh.Scene()
    scene.add_geometry(vertebra(), node_name="L3", geom_name="L3")
    scene.add_geometry(vertebra(0.04), node_name="L4", geom_name="L4")
    document, binary = split(scene.export(file_type="glb"))
    if nodes is not None:
        document["nodes"], document["scenes"] = nodes, [{"nodes": [0]}]
    return pack(document | changes, binary)


def seen_by_vtk(path):
    """The middle and the size of all surfaces in mm, by VTK."""
    reader = vtk.vtkGLTFReader()
    reader.SetFileName(str(path))
    reader.Update()
    points, blocks = [], reader.GetOutput().NewIterator()
    while not blocks.IsDoneWithTraversal():
        points.append(vtk_to_numpy(blocks.GetCurrentDataObject().GetPoints().GetData()))
        blocks.GoToNextItem()
    points = 1000.0 * np.concatenate(points)
    return points.min(0), points.max(0)


def same_as_vtk(model, path):
    bounds = np.array([mesh.bounds for mesh in model.values()])
    low, high = seen_by_vtk(path)
    np.testing.assert_allclose(bounds[:, 0].min(0), low, atol=0.01)
    np.testing.assert_allclose(bounds[:, 1].max(0), high, atol=0.01)


MOVED = [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 0.05, 0.06, 0.07, 1]  # by columns
TURNED = [-(0.5**0.5), 0, 0, 0.5**0.5]
TREES = {
    "nodes": [{"children": [1, 2]}, {"name": "L3", "mesh": 0}, {"name": "L4", "mesh": 1}],
    "nameless nodes": [{"children": [1, 2]}, {"mesh": 0}, {"mesh": 1}],
    "names that tell nothing": [
        {"name": "root", "children": [1, 2]},
        {"name": "Mesh", "mesh": 0},
        {"name": "Mesh.001", "mesh": 1},
    ],
    "y up, as Blender writes": [
        {"name": "root", "children": [1, 2], "rotation": TURNED},
        {"name": "L3", "mesh": 0},
        {"name": "L4", "mesh": 1},
    ],
    "a scale, a motion and a matrix": [
        {"children": [1, 2], "scale": [0.001] * 3, "translation": [0.1, 0.2, 0.3]},
        {"name": "L3", "mesh": 0, "scale": [1000] * 3},
        {"name": "L4", "mesh": 1, "matrix": np.diag([1e3, 1e3, 1e3, 1]).ravel().tolist()},
    ],
    "mirrored": [
        {"children": [1, 2], "scale": [-1, 1, 1]},
        {"name": "L3", "mesh": 0},
        {"name": "L4", "mesh": 1},
    ],
}


@pytest.mark.parametrize("tree", TREES)
def test_levels_are_named_and_placed_as_in_the_file(tmp_path, tree):
    path = tmp_path / "spine.glb"
    path.write_bytes(two_levels(TREES[tree]))
    model = meshes.read_meshes(path)
    assert list(model) == ["L3", "L4"]
    same_as_vtk(model, path)
    for mesh in model.values():
        assert mesh.volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)


def changed(**changes):
    return two_levels(**{"nodes": TREES["nodes"]} | changes)


CAMERA = {"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}
SAME_SHAPE = {
    "cameras": {"nodes": [node | {"camera": 0} for node in TREES["nodes"]], "cameras": [CAMERA]},
    "materials": {"extensionsRequired": ["KHR_materials_unlit", "KHR_texture_transform"]},
    "units in extras": {"asset": {"version": "2.0", "extras": {"unit": "mm", "units": "mm"}}},
    "an animation": {"animations": [{"channels": [], "samplers": []}]},
    "metres in a matrix": {
        "nodes": [TREES["nodes"][0], *[one | {"matrix": MOVED} for one in TREES["nodes"][1:]]]
    },
}


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_what_is_no_shape_changes_none(tmp_path, name):
    """By trimesh alone, the first node with a camera loses its surface."""
    path = tmp_path / "spine.glb"
    path.write_bytes(changed(**SAME_SHAPE[name]))
    model = meshes.read_meshes(path)
    assert list(model) == ["L3", "L4"]
    if name != "materials":  # VTK refuses them
        same_as_vtk(model, path)
    assert model["L3"].volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)


def test_one_scene_is_read_and_the_others_are_told(tmp_path, caplog):
    path = tmp_path / "spine.glb"
    for number, level in enumerate(("L3", "L4")):
        path.write_bytes(changed(scenes=[{"nodes": [1]}, {"nodes": [2]}], scene=number))
        model = meshes.read_meshes(path)
        assert list(model) == [level]
        same_as_vtk(model, path)
        assert f"spine.glb: holds 2 scenes; number {number + 1} was read" in caplog.text


def test_whole_numbers_with_a_stride_and_the_scale_of_their_node_are_vertices(tmp_path):
    """As gltfpack writes them with -noq off; VTK refuses the extension."""
    document, binary = split(two_levels(TREES["nodes"]))
    given = np.asarray(vertebra().vertices)
    rows = np.zeros((len(given), 4), "<u2")
    rows[:, :3] = np.round((given - given.min(0)) * 1e5)
    binary += bytes(-len(binary) % 4)
    document["bufferViews"].append(
        {"buffer": 0, "byteOffset": len(binary), "byteLength": rows.nbytes, "byteStride": 8}
    )
    count, view = len(given), len(document["bufferViews"]) - 1
    document["accessors"].append(
        {"bufferView": view, "componentType": 5123, "type": "VEC3", "count": count}
    )
    (primitive,) = document["meshes"][0]["primitives"]
    primitive["attributes"] = {"POSITION": len(document["accessors"]) - 1}
    document["nodes"][1] |= {"scale": [1e-5] * 3, "translation": given.min(0).tolist()}
    document["extensionsRequired"] = ["KHR_mesh_quantization"]
    (tmp_path / "spine.glb").write_bytes(pack(document, binary + rows.tobytes()))
    read = meshes.read_meshes(tmp_path / "spine.glb")["L3"]
    np.testing.assert_allclose(read.bounds, 1e3 * vertebra().bounds, atol=0.02)
    assert read.volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)


@pytest.mark.parametrize("sides", [1, 3])
def test_a_mirrored_node_is_closed_and_outward(tmp_path, caplog, sides):
    """A negative determinant turns the triangles; they are turned back without a word."""
    scale = [-1.0 if i < sides else 1.0 for i in range(3)]
    path = tmp_path / "spine.glb"
    path.write_bytes(two_levels([TREES["nodes"][0] | {"scale": scale}, *TREES["nodes"][1:]]))
    model = meshes.read_meshes(path)
    same_as_vtk(model, path)
    assert all(mesh.is_volume and mesh.volume > 0 for mesh in model.values())
    assert not caplog.text


def test_a_level_of_two_materials_is_one_level(tmp_path):
    document, binary = split(two_levels(TREES["nodes"]))
    binary += bytes(-len(binary) % 4)
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["indices"]]
    half = dict(accessor, count=accessor["count"] // 2 // 3 * 3)
    rest = dict(accessor, count=accessor["count"] - half["count"])
    rest["byteOffset"] = accessor.get("byteOffset", 0) + 4 * half["count"]
    (first,) = document["meshes"][0]["primitives"]
    document["accessors"] += [half, rest]
    count = len(document["accessors"])
    document["meshes"][0]["primitives"] = [
        dict(first, indices=count - 2),
        dict(first, indices=count - 1),
    ]
    path = tmp_path / "spine.glb"
    path.write_bytes(pack(document, binary))
    model = meshes.read_meshes(path)
    assert list(model) == ["L3", "L4"]
    assert model["L3"].volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)
    same_as_vtk(model, path)


def test_parts_below_a_named_node_are_one_level(tmp_path):
    scene = trimesh.Scene()
    for i, part in enumerate(vertebra().split()):
        scene.add_geometry(part, node_name=f"part{i}", geom_name=f"part{i}")
    document, binary = split(scene.export(file_type="glb"))
    document["nodes"] = [
        {"name": "L3", "children": [1, 2]},
        {"name": "part0", "mesh": 0},
        {"name": "part1", "mesh": 1},
    ]
    document["scenes"] = [{"nodes": [0]}]
    (tmp_path / "spine.glb").write_bytes(pack(document, binary))
    (mesh,) = meshes.read_meshes(tmp_path / "spine.glb").values()
    assert mesh.volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)


@pytest.mark.parametrize("embedded", [True, False])
def test_a_gltf_with_its_files_is_a_model(tmp_path, embedded):
    scene = trimesh.Scene()
    scene.add_geometry(vertebra(), node_name="L3", geom_name="L3")
    path = tmp_path / "L3.gltf"
    for name, content in trimesh.exchange.gltf.export_gltf(
        scene, embed_buffers=embedded, merge_buffers=True
    ).items():
        (tmp_path / (path.name if name.endswith(".gltf") else name)).write_bytes(content)
    model = meshes.read_meshes(path)
    same_as_vtk(model, path)
    np.testing.assert_array_equal(meshes.read_mesh(path).triangles, model["L3"].triangles)
    if embedded:
        return
    (other,) = tmp_path.glob("*.bin")
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"bin: is cut short"):
        meshes.read_meshes(path)
    other.unlink()
    with pytest.raises(ValueError, match=r"L3.gltf: names .*bin', which is not there"):
        meshes.read_meshes(path)


def test_what_is_repaired_in_a_level_is_told(tmp_path, caplog):
    scene = trimesh.Scene()
    mesh = vertebra()
    mesh.faces[::3] = mesh.faces[::3, ::-1]
    scene.add_geometry(mesh, node_name="L3", geom_name="L3")
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb") + b"more")
    (read,) = meshes.read_meshes(tmp_path / "a.glb").values()
    assert read.volume == pytest.approx(vertebra().volume * 1e9, rel=1e-3)
    assert "a.glb: L3 has 20 of 60 triangles wound the other way; they were turned" in caplog.text
    assert "a.glb: has 4 bytes after its end; they were left out" in caplog.text


def each_primitive(**changes):
    document, binary = split(two_levels(TREES["nodes"]))
    for mesh in document["meshes"]:
        mesh["primitives"][0].update(changes)
    return pack(document, binary)


def each_accessor(**changes):
    """Other vertices; what is None is left out."""
    document, binary = split(two_levels(TREES["nodes"]))
    for accessor in document["accessors"]:
        if accessor["type"] == "VEC3":
            accessor.update(changes)
            for name in [name for name, value in changes.items() if value is None]:
                del accessor[name]
    return pack(document, binary)


def each_node(**changes):
    return [node | changes for node in TREES["nodes"]]


def in_millimetres():
    return two_levels([{"children": [1, 2], "scale": [1000] * 3}, *TREES["nodes"][1:]])


FAR = {"name": "L3", "mesh": 0, "scale": [1e300] * 3}
SAME_NAMES = [{"children": [1, 2]}, {"name": "L3", "mesh": 0}, {"name": "L3", "mesh": 1}]
REFUSED = {
    "in mm": (in_millimetres(), "is .* metres large, the unit of glTF"),
    "cut short": (changed()[:-100], "is cut short: of"),
    "cut in its first bytes": (changed()[:15], "is cut short: it holds 15 bytes"),
    "broken": (b"glTF" + struct.pack("<II", 2, 30) + bytes(18), "cannot be read as glTF"),
    "version 1": (b"glTF" + struct.pack("<II", 1, 30) + bytes(18), "of version 2"),
    "one name twice": (two_levels(SAME_NAMES), "names the level 'L3' twice"),
    "draco": (changed(extensionsRequired=["KHR_draco_mesh_compression"]), "needs KHR_draco_mesh"),
    "meshopt": (changed(extensionsRequired=["EXT_meshopt_compression"]), "needs EXT_meshopt_com"),
    "a new extension": (changed(extensionsRequired=["KHR_new"]), "without this extension"),
    "draco that is not asked for": (each_accessor(bufferView=None), "sparse or packed vertices"),
    "sparse vertices": (each_accessor(sparse={"count": 1}), "sparse or packed vertices"),
    "quantised": (each_accessor(normalized=True), "has quantised vertices"),
    "a skeleton": (changed(nodes=each_node(skin=0)), "is moved by a skeleton"),
    "copies": (
        changed(nodes=each_node(extensions={"EXT_mesh_gpu_instancing": {}})),
        "places copies by EXT_mesh_gpu_instancing",
    ),
    "mixed shapes": (each_primitive(targets=[{"POSITION": 1}]), "shapes to be mixed"),
    "fans": (each_primitive(mode=6), "holds fans of triangles"),
    "lines": (each_primitive(mode=1), "holds no surface"),
    "nodes that are none": (two_levels({"a": 1}), "cannot be read as glTF"),
    "children that are none": (two_levels([{"children": [None, 9]}]), "holds no surface|glTF"),
    "meshes that are none": (changed(meshes=[None, 3]), "cannot be read as glTF"),
    "vertices that are not there": (each_accessor(count=5), "of vertices that are not there"),
    "an overflow": (
        two_levels([{"children": [1], "scale": [1e300] * 3}, FAR]),
        "that are not finite",
    ),
    "no mesh": (changed(meshes=[{"primitives": []}] * 2), "holds no surface"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_with_the_remedy(tmp_path, case):
    content, message = REFUSED[case]
    for name in ("spine.glb", "L3.glb"):
        path = tmp_path / name
        path.write_bytes(content)
        read = meshes.read_meshes if name == "spine.glb" else meshes.read_mesh
        with pytest.raises(ValueError, match=message) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")


def test_nameless_levels_are_refused(tmp_path):
    document, binary = split(two_levels(TREES["nameless nodes"]))
    for mesh in document["meshes"]:
        del mesh["name"]
    (tmp_path / "spine.glb").write_bytes(pack(document, binary))
    with pytest.raises(ValueError, match="name each node by its level"):
        meshes.read_meshes(tmp_path / "spine.glb")


def test_a_file_of_several_levels_is_no_level(tmp_path):
    (tmp_path / "spine.glb").write_bytes(two_levels())
    with pytest.raises(ValueError, match=r"holds L3 and L4; name this file itself as the model"):
        meshes.read_meshes(tmp_path)


@pytest.mark.parametrize("scenes", [None, []])
@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
@pytest.mark.parametrize("tree", TREES)
def test_a_file_that_names_no_scene_is_read_whole(tmp_path, tree, suffix, scenes, caplog):
    """It was said to hold no surface. VTK sees the same file with a scene that names its roots."""
    (tmp_path / "whole.glb").write_bytes(two_levels(TREES[tree]))
    document, binary = split((tmp_path / "whole.glb").read_bytes())
    document.pop("scene", None)
    document.pop("scenes")
    if scenes is not None:
        document["scenes"] = scenes
    path = tmp_path / f"spine{suffix}"
    path.write_bytes(pack(document, binary))
    if suffix == ".gltf":
        (tmp_path / "spine.bin").write_bytes(binary)
        document["buffers"][0]["uri"] = "spine.bin"
        path.write_text(json.dumps(document))
    model = meshes.read_meshes(path)
    assert len(model) == 2 and "names no scene; all its surfaces were read" in caplog.text
    same_as_vtk(model, tmp_path / "whole.glb")
