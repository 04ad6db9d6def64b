"""PLY surfaces of MeshLab, Blender and others, held against plyfile."""

import numpy as np
import pytest
import trimesh

from e2r.formats import meshes

plyfile = pytest.importorskip("plyfile")
vtk = pytest.importorskip("vtk")

BOX = trimesh.creation.box(extents=[40.0, 30.0, 20.0]).apply_translation([100.0, -50.0, 7.0])
BALL = trimesh.creation.icosphere(2, 20.0).apply_translation([100.0, -50.0, 7.0])
SQUARES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
MIXED = [*SQUARES[:5], [1, 5, 7], [1, 7, 3]]
EVERY_OTHER = [SQUARES[0], [1, 5, 7], *SQUARES[1:4], [1, 7, 3], SQUARES[4]]


def prism(corners):
    """A prism over a regular polygon: two polygons and squares."""
    turn = 2 * np.pi * np.arange(corners) / corners
    ring = np.stack([20.0 * np.cos(turn), 20.0 * np.sin(turn)], 1)
    low, high = (np.column_stack([ring, np.full(corners, z)]) for z in (-10.0, 10.0))
    sides = [
        [i, (i + 1) % corners, corners + (i + 1) % corners, corners + i] for i in range(corners)
    ]
    ends = [list(range(corners))[::-1], list(range(corners, 2 * corners))]
    volume = 20.0 * 0.5 * corners * 20.0**2 * np.sin(2 * np.pi / corners)
    return np.concatenate([low, high]), [*ends, *sides], volume


def write(path, vertices, faces, *, text=False, order="<", extra=(), name="vertex_indices"):
    """Writes a PLY by plyfile; ``extra`` are more properties of the faces."""
    points = np.zeros(len(vertices), [(axis, "f4") for axis in "xyz"])
    for i, axis in enumerate("xyz"):
        points[axis] = np.asarray(vertices)[:, i]
    rows = np.zeros(len(faces), [(name, "O"), *extra])
    for i, face in enumerate(faces):
        rows[name][i] = np.array(face, "i4")
    for field in extra:
        if len(field) == 3:
            rows[field[0]] = 0.5
    edges = np.zeros(3, [("vertex1", "i4"), ("vertex2", "i4")])
    elements = [
        plyfile.PlyElement.describe(points, "vertex"),
        plyfile.PlyElement.describe(rows, "face"),
        plyfile.PlyElement.describe(edges, "edge"),
    ]
    plyfile.PlyData(elements, text=text, byte_order=order).write(str(path))


def polygons_of(path):
    """Volume and faces by plyfile."""
    read = plyfile.PlyData.read(str(path))
    points = np.stack([read["vertex"][axis] for axis in "xyz"], 1).astype(float)
    name = read["face"].properties[0].name
    volume = 0.0
    for face in read["face"][name]:
        for i in range(1, len(face) - 1):
            volume += np.linalg.det(points[[face[0], face[i], face[i + 1]]]) / 6
    return volume


EXTRA = {
    "none": (),
    "MeshLab's colours": (("red", "u1"), ("green", "u1"), ("blue", "u1"), ("alpha", "u1")),
    "MeshLab's flags and quality": (("flags", "i4"), ("quality", "f4")),
    "MeshLab's texture": (("texcoord", "f4", (6,)),),
    "normals": (("nx", "f8"), ("ny", "f8"), ("nz", "f8")),
}


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("order", ["<", ">", "text"])
@pytest.mark.parametrize("name", ["vertex_indices", "vertex_index"])
def test_faces_with_more_than_corners_are_read(tmp_path, extra, order, name):
    path = tmp_path / "L3.ply"
    text, order = order == "text", order.replace("text", "<")
    given = {"text": text, "order": order, "extra": EXTRA[extra], "name": name}
    write(path, BALL.vertices, BALL.faces.tolist(), **given)
    read = meshes.read_mesh(path, merge=False)
    np.testing.assert_array_equal(read.faces, BALL.faces)
    np.testing.assert_allclose(read.vertices, BALL.vertices, atol=1e-4)
    assert read.volume == pytest.approx(polygons_of(path), rel=1e-5)


SHAPES = {
    "squares": (BOX.vertices, SQUARES),
    "squares and triangles": (BOX.vertices, MIXED),
    "in turns": (BOX.vertices, EVERY_OTHER),
    "pentagons": prism(5)[:2],
    "twelve corners": prism(12)[:2],
    "with a line and a point": (BOX.vertices, [[0, 1], *SQUARES, [3]]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extra", ["none", "MeshLab's colours", "MeshLab's texture"])
@pytest.mark.parametrize("order", ["<", ">", "text"])
def test_polygons_of_any_size_are_read(tmp_path, shape, extra, order, caplog):
    path = tmp_path / "L3.ply"
    text, order = order == "text", order.replace("text", "<")
    write(path, *SHAPES[shape], extra=EXTRA[extra], order=order, text=text)
    read = meshes.read_mesh(path)
    assert read.is_watertight
    assert read.volume == pytest.approx(abs(polygons_of(path)), rel=1e-4)
    assert ("they were cut into triangles" in caplog.text) == (shape != "squares")


def test_the_volume_of_a_prism_is_known(tmp_path):
    vertices, faces, volume = prism(7)
    write(tmp_path / "L3.ply", vertices, faces)
    assert meshes.read_mesh(tmp_path / "L3.ply").volume == pytest.approx(volume, rel=1e-5)


@pytest.mark.parametrize("extra", ["none", "MeshLab's colours", "MeshLab's texture"])
@pytest.mark.parametrize("shape", ["squares and triangles", "pentagons", "in turns"])
def test_polygons_cut_short_anywhere_are_told(tmp_path, shape, extra):
    path = tmp_path / "L3.ply"
    write(path, *SHAPES[shape], extra=EXTRA[extra])
    content = path.read_bytes()
    start = content.index(b"end_header") + 11
    for end in range(start, len(content), 3):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"is cut short|no sensible length"):
            meshes.read_mesh(path)


HEADERS = {
    "upper-case axes": (b"float x\n", b"float X\n"),
    "upper-case corners": (b"vertex_indices", b"Vertex_Indices"),
    "upper-case elements": (b"element vertex", b"element VERTEX"),
    "a comment on the end": (b"element vertex", b"comment end_header\nelement vertex"),
    "obj_info": (b"element vertex", b"obj_info num_cols 8\nelement vertex"),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("text", [True, False])
def test_headers_of_other_programs_are_read(tmp_path, header, text):
    path = tmp_path / "L3.ply"
    write(path, BALL.vertices, BALL.faces.tolist(), text=text)
    path.write_bytes(path.read_bytes().replace(*HEADERS[header], 1))
    np.testing.assert_array_equal(meshes.read_mesh(path, merge=False).faces, BALL.faces)


BROKEN = {
    "a word": (b"\n3 0 ", b"\n3 zero ", "words in place of numbers"),
    "half a corner": (b"\n3 0 ", b"\n3 0.5 ", "no 4-byte integer"),
    "a length below 0": (b"\n3 0 ", b"\n-3 0 ", "no sensible length"),
    "one name twice": (b"float y", b"float x", "broken PLY header"),
    "no z": (b"float z", b"float w", "no vertices with x, y and z"),
    "a list of x": (b"property float x", b"property list uchar float x", "length|cut short"),
    "rows below 0": (b"element face 12", b"element face -1", "broken PLY header"),
    "too many rows": (b"element face 12", b"element face 99999999999", "is cut short"),
    "an unknown type": (b"float x", b"half x", "broken PLY header"),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_broken_text_is_told(tmp_path, wrong):
    path = tmp_path / "L3.ply"
    write(path, BOX.vertices, [[0, 1, 3], *BOX.faces.tolist()[1:]], text=True)
    before, after, message = BROKEN[wrong]
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        meshes.read_mesh(path)


@pytest.mark.parametrize("text", [True, False])
def test_edges_are_left_out(tmp_path, text):
    """By trimesh alone, an edge to vertex 2,000,000,000 takes gigabytes."""
    points = np.zeros(8, [(axis, "f4") for axis in "xyz"])
    for i, axis in enumerate("xyz"):
        points[axis] = BOX.vertices[:, i]
    faces = np.zeros(12, [("vertex_indices", "i4", (3,))])
    faces["vertex_indices"] = BOX.faces
    edges = np.array([(0, 2_000_000_000), (1, 7)], [("vertex1", "i4"), ("vertex2", "i4")])
    for names in (["vertex", "edge", "face"], ["edge", "vertex", "face"]):
        rows = {"vertex": points, "edge": edges, "face": faces}
        elements = [plyfile.PlyElement.describe(rows[name], name) for name in names]
        plyfile.PlyData(elements, text=text).write(str(tmp_path / "L3.ply"))
        read = meshes.read_mesh(tmp_path / "L3.ply", merge=False)
        np.testing.assert_array_equal(read.faces, BOX.faces)
        np.testing.assert_allclose(read.vertices, BOX.vertices, atol=1e-4)


@pytest.mark.parametrize("wrong", [[0, 1, 99], [0, 1, -1], [2**31 - 1, 1, 2]])
def test_corners_that_are_not_there_are_told(tmp_path, wrong):
    for extra in EXTRA.values():
        write(tmp_path / "L3.ply", BOX.vertices, [*BOX.faces.tolist(), wrong], extra=extra)
        with pytest.raises(ValueError, match="vertices that are not there"):
            meshes.read_mesh(tmp_path / "L3.ply")


def test_stripped_faces_are_told(tmp_path):
    write(tmp_path / "L3.ply", BOX.vertices, SQUARES, name="strips")
    with pytest.raises(ValueError, match="without a list vertex_indices"):
        meshes.read_mesh(tmp_path / "L3.ply")


# Concave polygons ---------------------------------------------------------------------------------

ARROW = [[0.0, 0.0], [30.0, -20.0], [10.0, 0.0], [30.0, 20.0]]
ELL = [[0, 0], [30, 0], [30, 10], [10, 10], [10, 30], [0, 30]]
ANGLES, RADII = np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 8.0, 30.0)
STAR = np.stack([RADII * np.cos(ANGLES), RADII * np.sin(ANGLES)], 1)


def column(ring):
    """A prism over any polygon."""
    low, high = (np.column_stack([np.array(ring, float), np.full(len(ring), z)]) for z in (0, 20))
    many = len(ring)
    sides = [[i, (i + 1) % many, many + (i + 1) % many, many + i] for i in range(many)]
    ends = [list(range(many))[::-1], list(range(many, 2 * many))]
    return np.concatenate([low, high]), [*ends, *sides]


def write_obj(path, vertices, faces, last=""):
    lines = [f"v {x} {y} {z}" for x, y, z in vertices]
    lines += ["vn 0 0 1"] * bool(last)
    lines += ["f " + " ".join(f"{i + 1}{last}" for i in face) for face in faces]
    path.write_text("\n".join(lines) + "\n")


def area_of(path):
    """Area of the surface by VTK, which cuts polygons by their ears; a fan from any corner errs."""
    reader = {".ply": vtk.vtkPLYReader, ".obj": vtk.vtkOBJReader}[path.suffix]()
    reader.SetFileName(str(path))
    cut = vtk.vtkTriangleFilter()
    cut.SetInputConnection(reader.GetOutputPort())
    mass = vtk.vtkMassProperties()
    mass.SetInputConnection(cut.GetOutputPort())
    mass.Update()
    return mass.GetSurfaceArea()


@pytest.mark.parametrize("kind", ["ply", "ply of text", "obj", "obj with normals"])
@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("ring", [ARROW, ELL], ids=["arrow", "L"])
def test_concave_polygons_are_cut_inside(tmp_path, ring, start, kind):
    """A fan from the first corner covers what lies outside, too: its area is too large."""
    vertices, faces = column(ring)
    faces = [face[start % len(face) :] + face[: start % len(face)] for face in faces]
    path = tmp_path / f"L3.{kind[:3]}"
    if path.suffix == ".obj":
        write_obj(path, vertices, faces, "//1" * kind.endswith("normals"))
    else:
        write(path, vertices, faces, text=kind.endswith("text"))
    read = meshes.read_mesh(path)
    assert read.area == pytest.approx(area_of(path), rel=1e-5)
    assert read.is_watertight


@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_a_polygon_that_is_no_fan_is_refused(tmp_path, kind):
    vertices, faces = column(STAR)
    path = tmp_path / f"L3.{kind}"
    (write if kind == "ply" else write_obj)(path, vertices, faces)
    with pytest.raises(ValueError, match=f"L3.{kind}: has a concave polygon .*as triangles"):
        meshes.read_mesh(path)
