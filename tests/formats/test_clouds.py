"""Clouds of PLY and PCD files: axes, units, missing points and normals, held against plyfile."""

from pathlib import Path

import numpy as np
import plyfile
import pytest

from e2r.formats import clouds, ply

INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "clouds"
HEIGHT, WIDTH = 12, 16
RGB = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")


@pytest.fixture
def scan(rng):
    """A wound by rows, as a camera scans it: points in mm, and colours."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    z = 420.0 + 9.0 * np.sin(u / 3) + 5 * np.cos(v / 2)
    points = np.stack([(u - 7.5) * z / 40, (v - 5.5) * z / 40, z], -1).reshape(-1, 3)
    return points, rng.integers(0, 256, (HEIGHT * WIDTH, 3))


def write(path, columns, *, faces=None, **how):
    """By plyfile, an independent writer."""
    rows = np.zeros(len(columns["x" if "x" in columns else "X"]), [])
    kinds = [(name, np.asarray(column).dtype) for name, column in columns.items()]
    rows = np.zeros(len(next(iter(columns.values()))), kinds)
    for name, column in columns.items():
        rows[name] = column
    elements = [plyfile.PlyElement.describe(rows, "vertex", comments=["of a test"])]
    if faces is not None:
        polygons = np.empty(len(faces), [("vertex_indices", "O")])
        polygons["vertex_indices"] = [np.array(face, np.int32) for face in faces]
        element = plyfile.PlyElement.describe(polygons, "face", val_types={"vertex_indices": "i4"})
        elements.insert(how.pop("faces_at", 1), element)
    comments = how.pop("comments", [])
    plyfile.PlyData(elements, comments=comments, **how).write(str(path))
    return path


def columns_of(points, colors, dtype="u1", names=RGB, axes="xyz"):
    columns = dict(zip(axes, points.astype(np.float32).T, strict=True))
    return columns | dict(zip(names, colors.astype(dtype).T, strict=True))


VARIANTS = {
    "text": (columns_of, {"text": True}),
    "little-endian": (columns_of, {"byte_order": "<"}),
    "big-endian": (columns_of, {"byte_order": ">"}),
    "mesh": (columns_of, {"faces": [[0, 1, 2], [2, 3, 4, 5]]}),
    "faces first": (columns_of, {"faces": [[0, 1, 2]], "faces_at": 0}),
    "big-endian mesh": (columns_of, {"faces": [[0, 1, 2]], "byte_order": ">"}),
    "texture": (columns_of, {"comments": ["TextureFile Gone.PNG"]}),
    "16 bits": (lambda p, c: columns_of(p, c * 257, "u2"), {}),
    "16 bits in text": (lambda p, c: columns_of(p, c * 257, "u2"), {"text": True}),
    "16 bits up to 255": (lambda p, c: columns_of(p, c, "u2"), {}),
    "32 bits": (lambda p, c: columns_of(p, c, "i4"), {}),
    "from 0 to 1": (lambda p, c: columns_of(p, c / 255, "f4"), {}),
    "double from 0 to 1": (lambda p, c: columns_of(p, c / 255, "f8"), {"text": True}),
    "float to 255": (lambda p, c: columns_of(p, c, "f4"), {}),
    "diffuse": (lambda p, c: columns_of(p, c, names=[f"diffuse_{n}" for n in RGB]), {}),
    "upper case": (lambda p, c: columns_of(p, c, names=("RED", "GREEN", "BLUE"), axes="XYZ"), {}),
    "upper in text": (lambda p, c: columns_of(p, c, names="RGB", axes="XYZ"), {"text": True}),
    "alpha and more": (
        lambda p, c: columns_of(p, c) | {"alpha": c[:, 0].astype("u1"), "q": p[:, 0]},
        {"byte_order": ">"},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_to_write_a_ply_gives_the_same_cloud(scan, tmp_path, name):
    make, how = VARIANTS[name]
    path = write(tmp_path / "a.ply", make(*scan), **how)
    scene = clouds.read_cloud(path)
    np.testing.assert_allclose(scene.points, scan[0], rtol=1e-6)
    np.testing.assert_allclose(scene.colors, scan[1] / 255.0, atol=1e-6)
    raw = plyfile.PlyData.read(str(path))["vertex"].data
    axes = "XYZ" if "X" in raw.dtype.names else "xyz"
    np.testing.assert_array_equal(scene.points, np.stack([raw[a] for a in axes], 1).astype(float))


BAD_COLORS = {
    "none": (lambda p, c: dict(zip("xyz", p.T, strict=True)), "has no red, green, blue"),
    "negative": (lambda p, c: columns_of(p, c - 9, "i2"), "below 0"),
    "too large": (lambda p, c: columns_of(p, c * 3, "f4"), "up to"),
    "one and a half": (lambda p, c: columns_of(p, c / 99, "f4"), "from 0 to 2."),
    "NaN": (lambda p, c: columns_of(p, c * np.nan, "f4"), "below 0 or NaN"),
}


@pytest.mark.parametrize("name", BAD_COLORS)
def test_colours_without_a_known_range_are_refused(scan, tmp_path, name):
    make, words = BAD_COLORS[name]
    with pytest.raises(ValueError, match=words):
        clouds.read_cloud(write(tmp_path / "a.ply", make(*scan)))


@pytest.mark.parametrize("invalid", [np.nan, 0.0])
@pytest.mark.parametrize("text", [True, False])
def test_invalid_points_are_left_out_with_their_normals(scan, tmp_path, invalid, text, caplog):
    """Zivid writes NaN, others write zeros; a good point without a normal is kept."""
    points, colors = scan
    normals = np.tile([0.0, 0.0, -1.0], (len(points), 1)).astype(np.float32)
    points = points.copy()
    points[5:9], normals[5:9], normals[20:23] = invalid, invalid, invalid
    columns = columns_of(points, colors) | dict(zip(NORMALS, normals.T, strict=True))
    scene = clouds.read_cloud(write(tmp_path / "a.ply", columns, text=text))
    kept = np.r_[0:5, 9 : len(points)]
    np.testing.assert_allclose(scene.points, points[kept], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(scene.normals, axis=1), 1.0)
    without = np.isin(kept, [20, 21, 22])
    np.testing.assert_array_equal(scene.normals[~without], normals[kept][~without])
    assert (scene.normals[without, 2] < -0.5).all() and (scene.normals[without] != [0, 0, -1]).any()
    assert "3 points without a normal" in caplog.text


def test_normals_of_another_length_are_refused(scan, tmp_path):
    columns = columns_of(*scan) | dict.fromkeys(NORMALS, np.full(len(scan[0]), 0.1, np.float32))
    with pytest.raises(ValueError, match="normals that are not unit"):
        clouds.read_cloud(write(tmp_path / "a.ply", columns))


GL = np.array([1.0, -1.0, -1.0])
TURNED = {
    "viewer in metres": (lambda p: p * GL / 1000, ["pointcloud saved from Realsense Viewer"]),
    "viewer in mm": (lambda p: p * GL, ["pointcloud saved from Realsense Viewer"]),
    "by rows in metres": (lambda p: p * GL / 1000, []),
    "by rows in mm": (lambda p: p * GL, []),
    "by rows with holes": (lambda p: (p * GL)[np.r_[0:40, 47:90, 99 : len(p)]], []),
}


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("faces", [None, [[0, 1, 2]]])
def test_clouds_of_realsense_are_turned_and_it_is_said(scan, tmp_path, name, faces, caplog):
    change, comments = TURNED[name]
    points, colors = scan
    places = change(np.arange(len(points))[:, None] + 0 * points)  # which rows are kept
    points = change(points)
    normals = np.tile(np.float32([0.0, 0.6, 0.8]), (len(points), 1))  # to the camera: z backwards
    columns = columns_of(points, colors[: len(places)])
    columns |= dict(zip(NORMALS, normals.T, strict=True))
    path = write(tmp_path / "a.ply", columns, comments=comments, faces=faces)
    scene = clouds.read_cloud(path)
    scale = 1000 if "metres" in name else 1
    np.testing.assert_allclose(scene.points, points * GL * scale, rtol=1e-6)
    np.testing.assert_allclose(scene.normals, normals * GL, atol=1e-6)
    assert "turned about x by 180 degrees" in caplog.text
    if scale == 1000:
        again = clouds.read_cloud(path, "m")
        np.testing.assert_array_equal(again.points, scene.points)


UNSURE = {
    "mirrored: z alone is negative": lambda p, rng: p * [1, 1, -1],
    "turned about y: rows from right to left": lambda p, rng: p * [-1, 1, -1],
    "in no order": lambda p, rng: rng.permutation(p * GL),
    "mirrored through the camera": lambda p, rng: -p,
}


@pytest.mark.parametrize("name", UNSURE)
def test_a_cloud_behind_the_camera_is_refused_where_it_is_not_sure(scan, tmp_path, name, rng):
    points = UNSURE[name](scan[0], rng)
    with pytest.raises(ValueError, match=r"behind the camera.*negate y and z if y points up"):
        clouds.read_cloud(write(tmp_path / "a.ply", columns_of(points, scan[1])))


def test_rows_from_bottom_to_top_are_told(scan, tmp_path, caplog):
    points, colors = scan
    clouds.read_cloud(write(tmp_path / "a.ply", columns_of(points, colors)))
    assert not caplog.text
    clouds.read_cloud(write(tmp_path / "a.ply", columns_of(points * [1, -1, 1], colors)))
    assert "from bottom to top" in caplog.text


def test_metres_are_told_where_no_option_helps(scan, tmp_path):
    path = write(tmp_path / "a.ply", columns_of(scan[0] * 1e-3, scan[1]))
    with pytest.raises(ValueError, match=r"in metres; write it in mm$"):
        clouds.read_cloud(path, None)


UNITS = {
    "metres": (1e-3, "in metres; convert it with --unit m"),
    "centimetres": (0.1, "nearer than any RGB-D camera sees; is it in cm"),
    "tenths of mm": (10.0, "no wound; write its points in mm; are they in units of 0.1 mm"),
    "micrometres": (1e3, "no wound; write its points in mm"),
}


@pytest.mark.parametrize("name", UNITS)
def test_a_cloud_of_another_unit_is_refused(scan, tmp_path, name):
    factor, words = UNITS[name]
    with pytest.raises(ValueError, match=words):
        clouds.read_cloud(write(tmp_path / "a.ply", columns_of(scan[0] * factor, scan[1])))


def test_a_written_cloud_is_read_back_bit_for_bit(scan, tmp_path):
    """As case folders hold it: float32 points, colours in bytes."""
    columns = columns_of(*scan)
    write(tmp_path / "a.ply", columns, byte_order="<")
    scene = ply.read_cloud(tmp_path / "a.ply")
    assert scene.points.dtype == scene.colors.dtype == np.float64
    np.testing.assert_array_equal(scene.points, scan[0].astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(scene.colors, scan[1].astype(np.uint8) / 255.0)
    columns |= dict(zip(RGB, (scan[1] / 255).astype(np.float32).T, strict=True))
    with pytest.raises(ValueError, match="colours from 0 to 1; write red, green, blue"):
        ply.read_cloud(write(tmp_path / "a.ply", columns))


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the sample inputs are not there")
def test_the_samples_are_one_cloud():
    expected = clouds.read_cloud(INPUTS / "separate_rgb.pcd")
    turned = clouds.read_cloud(INPUTS / "realsense_mm_gl.ply")
    np.testing.assert_allclose(turned.points, expected.points, atol=1e-3)
    zivid = clouds.read_cloud(INPUTS / "zivid_nan_normals.ply")
    assert len(zivid.points) == 188
    np.testing.assert_array_equal(zivid.normals, np.tile([0.0, 0.0, -1.0], (188, 1)))
    deep = plyfile.PlyData.read(str(INPUTS / "ushort.ply"))["vertex"].data
    colors = np.stack([deep[name] for name in RGB], 1) / 65535
    np.testing.assert_allclose(clouds.read_cloud(INPUTS / "ushort.ply").colors, colors)
