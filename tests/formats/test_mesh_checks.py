"""Surfaces as people have them: wound wrongly, in another unit, cut short, or no surface at all."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from e2r.formats import mesh_checks, meshes

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "models"
RNG = np.random.default_rng(23)


def ball(radius=20.0, at=(300.0, -100.0, 50.0), subdivisions=3):
    return trimesh.creation.icosphere(subdivisions, radius).apply_translation(at)


def shell(cavity=True):
    """A ball with a smaller one in it; beside them a third."""
    inner = ball(8.0)
    if cavity:
        inner.invert()
    return [ball(), inner, ball(10.0, at=(340.0, -100.0, 50.0))]


def flipped(mesh, which):
    faces = mesh.faces.copy()
    faces[which] = faces[which, ::-1]
    return trimesh.Trimesh(mesh.vertices, faces, process=False)


def volume_of(path):
    """The enclosed volume by VTK, from triangles that VTK winds alike itself."""
    vtk = pytest.importorskip("vtk")
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(path))
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(reader.GetOutputPort())
    normals.ConsistencyOn()
    normals.AutoOrientNormalsOn()
    normals.SplittingOff()
    mass = vtk.vtkMassProperties()
    mass.SetInputConnection(normals.GetOutputPort())
    return mass.GetVolume()


# Winding ------------------------------------------------------------------------------------------

PATTERNS = {
    "every third": slice(None, None, 3),
    "every second": slice(None, None, 2),
    "most": slice(None, 900),
    "one": slice(5, 6),
    "none": slice(0, 0),
    "all": slice(None),
    "at random": RNG.uniform(size=1280) < 0.45,
}


@pytest.mark.parametrize("suffix", ["stl", "ply", "obj"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_flipped_triangles_are_turned_back(tmp_path, caplog, pattern, suffix):
    right = ball()
    path = tmp_path / f"L3.{suffix}"
    flipped(right, PATTERNS[pattern]).export(path)
    for merge in (True, False):
        read = meshes.read_mesh(path, merge=merge)
        out = np.einsum("ij,ij->i", read.face_normals, read.triangles_center - [300, -100, 50])
        assert out.min() > 18.0
        assert read.volume == pytest.approx(right.volume, rel=1e-4)
    assert ("wound the other way" in caplog.text) == (pattern not in ("none", "all"))


def test_the_volume_is_that_of_another_reader(tmp_path):
    path = tmp_path / "L3.stl"
    right = trimesh.creation.box(extents=[30.0, 40.0, 50.0])
    for _ in range(3):
        right = right.subdivide()
    flipped(right, slice(None, None, 3)).export(path)
    unrepaired = trimesh.load(path)
    assert unrepaired.volume < 0.6 * volume_of(path)
    assert meshes.read_mesh(path).volume == pytest.approx(volume_of(path), rel=1e-5)


def test_the_flipped_sample_is_repaired(caplog):
    if not SAMPLES.is_dir():
        pytest.skip("there are no sample inputs beside this checkout")
    path = SAMPLES / "every_third_face_flipped" / "L3.stl"
    assert meshes.read_mesh(path).volume == pytest.approx(volume_of(path), rel=1e-5)
    assert "27 of 80 triangles wound the other way" in caplog.text


def test_a_flipped_real_vertebra_is_read_as_the_right_one(anatomy, tmp_path):
    source = anatomy / "visible_human" / "L4.stl"
    right = trimesh.load(source)
    flipped(right, RNG.uniform(size=len(right.faces)) < 0.3).export(tmp_path / "L4.stl")
    read, expected = meshes.read_mesh(tmp_path / "L4.stl"), meshes.read_mesh(source)
    np.testing.assert_array_equal(read.vertices[read.faces].sum(1), expected.triangles.sum(1))
    np.testing.assert_allclose(read.face_normals, expected.face_normals, atol=1e-5)


@pytest.mark.parametrize("wrong", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("cavity", [True, False])
def test_pieces_inside_out_are_told_apart_from_cavities(tmp_path, caplog, wrong, cavity):
    pieces = shell()
    expected = sum(piece.volume for piece in pieces)  # the cavity's is negative
    if not cavity:
        pieces = [pieces[0], pieces[2]]
        expected = sum(piece.volume for piece in pieces)
        wrong = tuple(i for i in wrong if i < 2)
    for i in wrong:
        pieces[i].invert()
    trimesh.util.concatenate(pieces).export(tmp_path / "L3.stl")
    read = meshes.read_mesh(tmp_path / "L3.stl")
    assert read.volume == pytest.approx(expected, rel=1e-4)
    assert read.is_winding_consistent
    some = 0 < len(wrong) < len(pieces)
    assert ("inside out; they were turned" in caplog.text) == some


@pytest.mark.parametrize("invert", [False, True])
def test_an_open_surface_is_turned_as_well_as_can_be_and_told(tmp_path, caplog, invert):
    cap = ball()
    cap.update_faces(cap.triangles_center[:, 2] < 60.0)
    if invert:
        cap.invert()
    flipped(cap, slice(None, None, 3)).export(tmp_path / "L3.stl")
    read = meshes.read_mesh(tmp_path / "L3.stl")
    out = np.einsum("ij,ij->i", read.face_normals, read.triangles_center - [300, -100, 50])
    assert out.min() > 18.0
    assert "is not closed, it has 1 open rims" in caplog.text


def test_a_moebius_strip_is_told(tmp_path, caplog):
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rows = []
    for side in (-8.0, 8.0):
        r = 30.0 + side * np.cos(turn / 2)
        rows.append(np.stack([r * np.cos(turn), r * np.sin(turn), side * np.sin(turn / 2)], 1))
    faces = []
    for i in range(40):
        a, b, c, d = i, 40 + i, i + 1, 41 + i
        if i == 39:
            c, d = 40, 0  # the strip's other side
        faces += [[a, b, c], [b, d, c]]
    trimesh.Trimesh(np.concatenate(rows), faces, process=False).export(tmp_path / "L3.ply")
    meshes.read_mesh(tmp_path / "L3.ply")
    assert "has one side only" in caplog.text


@pytest.mark.parametrize("name", ["visible_human", "lumbar_mean", "verse004"])
def test_right_files_are_read_bit_for_bit_as_before(anatomy, name, caplog):
    for path in sorted((anatomy / name).glob("*.stl")):
        plain = trimesh.load(io.BytesIO(path.read_bytes()), file_type="stl", process=False)
        for merge in (False, True):
            if merge:
                plain.merge_vertices()
            read = meshes.read_mesh(path, merge=merge)
            np.testing.assert_array_equal(read.vertices, plain.vertices)
            np.testing.assert_array_equal(read.faces, plain.faces)
    assert not caplog.text


def test_pieces_that_touch_along_an_edge_are_left_as_they_are(tmp_path, caplog):
    """Label maps make such edges of four triangles."""
    boxes = [trimesh.creation.box(extents=[20.0] * 3) for _ in range(2)]
    boxes[1].apply_translation([20.0, 20.0, 0.0])
    both = trimesh.util.concatenate(boxes)
    both.export(tmp_path / "L3.stl")
    assert meshes.read_mesh(tmp_path / "L3.stl").volume == pytest.approx(16_000.0)
    assert not caplog.text
    boxes[1].invert()
    trimesh.util.concatenate(boxes).export(tmp_path / "L3.stl")
    assert meshes.read_mesh(tmp_path / "L3.stl").volume == pytest.approx(16_000.0)
    assert "1 of 2 pieces inside out" in caplog.text


@pytest.mark.parametrize("sides", ["two sides", "one side twice", "a part twice"])
def test_triangles_that_are_there_twice_count_once(tmp_path, caplog, sides):
    more = ball()
    if sides == "two sides":
        more.invert()
    elif sides == "a part twice":
        more.update_faces(np.arange(50))
    trimesh.util.concatenate([ball(), more]).export(tmp_path / "L3.stl")
    read = meshes.read_mesh(tmp_path / "L3.stl")
    assert read.is_watertight
    assert read.volume == pytest.approx(ball().volume, rel=1e-4)
    assert f"has {len(more.faces)} triangles more than once; they were left out" in caplog.text


@pytest.mark.parametrize("inside_out", [False, True])
def test_a_wall_between_two_pieces_is_kept(tmp_path, caplog, inside_out):
    """Label maps make them: both pieces own the triangles there."""
    boxes = [trimesh.creation.box(extents=[20.0] * 3) for _ in range(2)]
    boxes[1].apply_transform(trimesh.transformations.reflection_matrix([10.0, 0, 0], [1.0, 0, 0]))
    if inside_out:
        boxes[1].invert()
    trimesh.util.concatenate(boxes).export(tmp_path / "L3.stl")
    read = meshes.read_mesh(tmp_path / "L3.stl")
    assert len(read.faces) == 24
    if not inside_out:
        assert read.volume == pytest.approx(16_000.0)
    assert ("encloses nothing" in caplog.text) == inside_out  # the wall hides which is wrong
    assert "more than once" not in caplog.text


def test_two_touching_pieces_of_flipped_triangles_are_turned_back(tmp_path):
    boxes = [trimesh.creation.box(extents=[20.0] * 3).subdivide().subdivide() for _ in range(2)]
    boxes[1].apply_translation([20.0, 20.0, 0.0])
    both = trimesh.util.concatenate(boxes)
    flipped(both, RNG.uniform(size=len(both.faces)) < 0.6).export(tmp_path / "L3.stl")
    assert meshes.read_mesh(tmp_path / "L3.stl").volume == pytest.approx(16_000.0)


# Size and place -----------------------------------------------------------------------------------

SIZES = {
    "metres": ("L3", 0.04, "multiply it by 1000"),
    "centimetres": ("L3", 4.0, "multiply it by 10 "),
    "large in centimetres": ("T12", 9.0, "multiply it by 10 "),
    "centimetres, named otherwise": ("mesh", 9.0, "multiply it by 10 "),
    "two vertebrae": ("A_L3", 260.0, "export L3 alone"),
    "a spine in half millimetres": ("spine", 1200.0, "no spine is"),
    "micrometres": ("L3", 40_000.0, "no spine is"),
}


@pytest.mark.parametrize("case", SIZES)
def test_surfaces_of_another_unit_are_refused_with_the_remedy(tmp_path, case):
    name, size, message = SIZES[case]
    trimesh.creation.box(extents=[size, 0.6 * size, 0.5 * size]).export(tmp_path / f"{name}.stl")
    with pytest.raises(ValueError, match=message):
        meshes.read_mesh(tmp_path / f"{name}.stl")


@pytest.mark.parametrize(
    "name, size",
    [("L3", 40.0), ("S1", 159.0), ("C4", 20.0), ("spine", 620.0), ("L1-L5", 260.0), ("a", 16.0)],
)
def test_plausible_sizes_are_accepted(tmp_path, name, size):
    trimesh.creation.box(extents=[size, 0.6 * size, 0.5 * size]).export(tmp_path / f"{name}.stl")
    assert meshes.read_mesh(tmp_path / f"{name}.stl").extents.max() == pytest.approx(size)


PLACES = {
    "metres apart": ({"L3": 0.0, "L4": 2500.0}, "L3 and L4 lie 2500 mm apart"),
    "neighbours half a metre apart": ({"L3": 0.0, "L4": 500.0}, "export all levels in one frame"),
    "unknown names": ({"a": 0.0, "b": 1500.0}, "lie 1500 mm apart"),
    "the same twice": ({"L3": 0.0, "L4": 0.0}, "L3 and L4 lie at one place"),
    "nearly the same": ({"L2": -40.0, "L3": 0.0, "L4": 0.4}, "export each level once"),
}


@pytest.mark.parametrize("case", PLACES)
def test_levels_that_are_no_spine_are_refused(tmp_path, case):
    places, message = PLACES[case]
    for name, z in places.items():
        ball(at=(0.0, 0.0, z)).export(tmp_path / f"{name}.stl")
    with pytest.raises(ValueError, match=message):
        meshes.read_meshes(tmp_path)


def test_levels_of_a_whole_spine_are_accepted(tmp_path):
    for number, name in enumerate(("T1", "T7", "L1", "L5", "S1")):
        ball(at=(0.0, 0.0, -110.0 * number)).export(tmp_path / f"{name}.stl")
    assert len(meshes.read_meshes(tmp_path)) == 5


# Bytes --------------------------------------------------------------------------------------------


def exported(kind):
    """A ball as binary or ascii STL, PLY or OBJ."""
    if kind == "stl ascii":
        return ball(subdivisions=1).export(file_type="stl_ascii").encode()
    if kind == "ply ascii":
        return ball(subdivisions=1).export(file_type="ply", encoding="ascii")
    content = ball(subdivisions=1).export(file_type=kind)
    return content.encode() if isinstance(content, str) else content


@pytest.mark.parametrize("kind", ["stl", "stl ascii", "ply", "ply ascii"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.95, 0.995])
def test_files_cut_short_are_told(tmp_path, kind, share):
    content = exported(kind)
    path = tmp_path / f"L3.{kind[:3]}"
    path.write_bytes(content)
    assert len(meshes.read_mesh(path).faces) == 80
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="is cut short"):
        meshes.read_mesh(path)


def test_the_cut_sample_is_told():
    if not SAMPLES.is_dir():
        pytest.skip("there are no sample inputs beside this checkout")
    with pytest.raises(ValueError, match="of 80 triangles it holds 78"):
        meshes.read_mesh(SAMPLES / "binary_cut_short" / "L3.stl")
    with pytest.raises(ValueError, match="multiply it by 10 "):
        meshes.read_mesh(SAMPLES / "centimetres" / "L3.stl")


@pytest.mark.parametrize("kind", ["stl", "ply"])
@pytest.mark.parametrize("more", [1, 2, 50, 700])
def test_bytes_after_the_end_are_told_and_left_out(tmp_path, caplog, kind, more):
    (tmp_path / f"L3.{kind}").write_bytes(exported(kind) + b"\x07" * more)
    read = meshes.read_mesh(tmp_path / f"L3.{kind}")
    assert read.volume == pytest.approx(ball(subdivisions=1).volume, rel=1e-4)
    assert f"has {more} bytes after its" in caplog.text


def test_a_binary_stl_whose_header_says_solid_is_read(tmp_path):
    content = b"solid L3, by a CAD program".ljust(80) + exported("stl")[80:]
    (tmp_path / "L3.stl").write_bytes(content)
    assert len(meshes.read_mesh(tmp_path / "L3.stl").faces) == 80


def test_an_ascii_stl_may_be_named_as_its_words_are(tmp_path):
    text = exported("stl ascii").split(b"\n", 1)[1].replace(b"endsolid", b"endsolid facet vertex")
    for end in (b"\n", b"\r\n"):
        content = b"solid facet vertex\n" + text
        (tmp_path / "L3.stl").write_bytes(content.replace(b"\n", end))
        assert len(meshes.read_mesh(tmp_path / "L3.stl").faces) == 80


STL = exported("stl")
OBJ = exported("obj").decode()
TWO = exported("stl ascii") + b"\n" + exported("stl ascii")
CORNERS = "v 0 0 0\nv 30 0 0\nv 0 30 0\nv 0 0 30\nf 1 3 2\nf 1 2 4\nf 2 3 4\n"
PLY = exported("ply ascii").decode()
FOREIGN = {
    "empty": ("L3.stl", b"", "is empty"),
    "zeros": ("L3.stl", bytes(4096), "is empty"),
    "empty ply": ("L3.ply", b"\n", "is empty"),
    "web page": ("L3.stl", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    "short web page": ("L3.obj", b"\n<html><head>", "web page"),
    "lfs": ("L3.stl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4", "git lfs pull"),
    "lfs ply": ("L3.ply", b"version https://git-lfs.github.com/spec/v1\noid sh", "Git LFS"),
    "archive": ("L3.stl", b"PK\x03\x04" + bytes(90), "unpack it"),
    "vtk as stl": ("L3.stl", b"# vtk DataFile Version 3.0\nL3\nASCII\n", "STL, PLY or OBJ"),
    "vtk": ("L3.vtk", b"# vtk DataFile Version 3.0\nL3\nASCII\n", "export it as STL, PLY or OBJ"),
    "vtp": ("L3.vtp", b'<?xml version="1.0"?>\n<VTKFile>', "export it as STL, PLY or OBJ"),
    "vtp as ply": ("L3.ply", b'<?xml version="1.0"?>\n<VTKFile>', "export it as STL, PLY or OBJ"),
    "ply as stl": ("L3.stl", PLY.encode(), "name it .ply"),
    "second solid cut": ("L3.stl", TWO[: TWO.rindex(b"endsolid")], "1 of 2 endsolid"),
    "glb as stl": ("L3.stl", b"glTF" + bytes(range(90)), "is a GLB file"),
    "no triangle": ("L3.stl", bytes(79) + b"x" + bytes(4), "holds no triangle"),
    "text": ("L3.stl", b"hello", "is text, but no STL"),
    "an answer of a server": ("L3.stl", b'{"message": "Not Found"}' * 9, "is text, but no STL"),
    "UTF-16": ("L3.obj", OBJ.encode("utf-16"), "save it as UTF-8"),
    "commas": ("L3.obj", OBJ.replace(".", ",").encode(), "with decimal points"),
    "commas in STL": ("L3.stl", exported("stl ascii").replace(b".", b","), "decimal points"),
    "count too low": ("L3.stl", STL[:80] + b"\x32\0\0\0" + STL[84:], "80 triangles, but 50"),
    "obj cut in two": ("L3.obj", OBJ[: OBJ.index("f ")].encode(), "or is cut short"),
    "obj with too high a number": ("L3.obj", (CORNERS + "f 1 4 9\n").encode(), "names vertex 9"),
    "obj with zero": ("L3.obj", (CORNERS + "f 1 4 0\n").encode(), "a vertex that is not there"),
    "obj with -9": ("L3.obj", (CORNERS + "f -1 -2 -9\n").encode(), "a vertex that is not there"),
    "obj, a face cut": ("L3.obj", (CORNERS + "f 1 4").encode(), "is cut short"),
    "obj, a vertex cut": ("L3.obj", (CORNERS + "v 1 4").encode(), "is cut short"),
    "obj, vertices lost": ("L3.obj", OBJ.replace("v ", "# ", 3).encode(), "but it holds 39"),
    "ply, vertices lost": ("L3.ply", PLY.replace("vertex 42", "vertex 41").encode(), "."),
    "ply, number too high": ("L3.ply", PLY.replace("\n3 ", "\n3 9", 1).encode(), "."),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_files_that_hold_no_surface_are_told(tmp_path, case):
    name, content, message = FOREIGN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        meshes.read_mesh(tmp_path / name)
    assert str(refused.value).startswith(f"{tmp_path / name}: ")


def test_an_obj_of_relative_numbers_and_slashes_is_read(tmp_path):
    (tmp_path / "L3.obj").write_text(CORNERS + "f -4/1 -1/2 -2/3\n")
    assert meshes.read_mesh(tmp_path / "L3.obj").volume == pytest.approx(4500.0)


@pytest.mark.parametrize("suffix", sorted(mesh_checks.OTHER_SUFFIXES))
def test_a_level_in_another_format_is_not_left_out_silently(tmp_path, suffix):
    ball().export(tmp_path / "L3.stl")
    (tmp_path / f"L4{suffix}").write_bytes(b"something")
    with pytest.raises(ValueError, match=f"L4{suffix}: .* export it as STL, PLY or OBJ"):
        meshes.read_meshes(tmp_path)
    (tmp_path / f"L4{suffix}").rename(tmp_path / f"L3{suffix}")
    (tmp_path / "notes.json").write_text(json.dumps({}))
    assert list(meshes.read_meshes(tmp_path)) == ["L3"]
