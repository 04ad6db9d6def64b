"""Clouds in PCD files, held against pypcd4 and against points in another frame."""

from pathlib import Path

import numpy as np
import pytest
from pypcd4 import Encoding, PointCloud
from scipy.spatial.transform import Rotation

from e2r.formats import clouds, pcd

INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "clouds"
COUNT = 60


@pytest.fixture
def points(rng):
    """Of whole mm, so that their bytes repeat: pypcd4 compresses nothing else."""
    return np.rint(rng.uniform([-40, -30, 380], [40, 30, 450], (COUNT, 3))).astype(np.float32)


@pytest.fixture
def colors(rng):
    return rng.integers(0, 256, (COUNT, 3)).astype(np.uint8)


def packed(colors):
    r, g, b = colors.astype(np.uint32).T
    return (r << 16) | (g << 8) | b


def write(path, fields, *, encoding="binary", viewpoint="0 0 0 1 0 0 0", width=None):
    """Columns by name, of any type; two-dimensional ones have a COUNT."""
    columns = {name: np.asarray(column) for name, column in fields.items()}
    kinds = {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
    rows = np.zeros(COUNT, [(name, kind, shape) for name, (kind, shape) in kinds.items()])
    for name, column in columns.items():
        rows[name] = column
    width = width or COUNT
    counts = [str(int(np.prod(shape))) for _, shape in kinds.values()]
    head = (
        f"VERSION 0.7\nFIELDS {' '.join(fields)}\n"
        f"SIZE {' '.join(str(kind.itemsize) for kind, _ in kinds.values())}\n"
        f"TYPE {' '.join(kind.kind.upper() for kind, _ in kinds.values())}\n"
        f"COUNT {' '.join(counts)}\nWIDTH {width}\nHEIGHT {COUNT // width}\n"
        f"VIEWPOINT {viewpoint}\nPOINTS {COUNT}\nDATA {encoding}\n"
    )
    if encoding == "ascii":
        lines = (" ".join(str(v) for name in fields for v in np.ravel(row[name])) for row in rows)
        path.write_text(head + "\n".join(lines) + "\n")
    else:
        path.write_bytes(head.encode() + rows.tobytes())
    return path


def xyz(points):
    return dict(zip("xyz", points.T, strict=True))


@pytest.mark.parametrize(
    ("encoding", "field"),
    [
        (encoding, field)
        for encoding in ("ascii", "binary", "binary_compressed")
        for field in ("rgb", "rgba", "float")
        if (encoding, field) != ("ascii", "float")  # pypcd4 writes ten decimals of about 1e-38
    ],
)
def test_every_encoding_is_read_as_pypcd4_reads_it(points, colors, tmp_path, encoding, field):
    bits = packed(colors)
    if field == "float":
        bits = bits.view(np.float32)
    path = write(tmp_path / "a.pcd", xyz(points) | {"rgba" if field == "rgba" else "rgb": bits})
    other = PointCloud.from_path(path)
    if encoding != "binary":
        other.save(tmp_path / "b.pcd", encoding=Encoding(encoding))
        path = tmp_path / "b.pcd"
        assert f"DATA {encoding}".encode() in path.read_bytes()
    scene, _ = pcd.read_cloud(path)
    np.testing.assert_array_equal(scene.points, other.numpy(("x", "y", "z")))
    np.testing.assert_allclose(scene.points, points, rtol=1e-6)
    np.testing.assert_allclose(scene.colors, colors / 255.0)


def test_compressed_fields_of_several_numbers_keep_their_order(points, colors, tmp_path):
    """Of a field with COUNT 3, all values of one point follow each other, as PCL writes them."""
    import lzf

    features = np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3)
    columns = {"f": features} | xyz(points) | {"rgb": packed(colors)}
    path = write(tmp_path / "a.pcd", columns, encoding="binary_compressed")
    head = path.read_bytes().split(b"DATA binary_compressed\n")[0] + b"DATA binary_compressed\n"
    plain = b"".join(np.ascontiguousarray(column).tobytes() for column in columns.values())
    body = lzf.compress(plain, 2 * len(plain))
    path.write_bytes(head + np.array([len(body), len(plain)], "<u4").tobytes() + body)
    scene, _ = pcd.read_cloud(path)
    np.testing.assert_array_equal(scene.points, points.astype(float))
    for spoilt in (body[:-9], b"\xff" * len(body)):
        path.write_bytes(head + np.array([len(body), len(plain)], "<u4").tobytes() + spoilt)
        with pytest.raises(ValueError, match="cut short or broken"):
            pcd.read_cloud(path)
    path.write_bytes(head + np.array([8, 2**31], "<u4").tobytes() + body)  # takes no 2 GB
    with pytest.raises(ValueError, match="cut short or broken"):
        pcd.read_cloud(path)


SEPARATE = {
    "bytes": lambda c: c,
    "from 0 to 1": lambda c: (c / 255).astype(np.float32),
    "float from 0 to 255": lambda c: c.astype(np.float32),
    "double": lambda c: c / 255.0,
    "16 bits": lambda c: c.astype(np.uint16) * 257,
    "16 bits up to 255": lambda c: c.astype(np.uint16),
}


@pytest.mark.parametrize("names", ["r g b", "red green blue", "R G B"])
@pytest.mark.parametrize("kind", SEPARATE)
def test_separate_colours_are_read(points, colors, tmp_path, kind, names):
    columns = dict(zip(names.split(), SEPARATE[kind](colors).T, strict=True))
    for encoding in ("binary", "ascii"):
        path = write(tmp_path / "a.pcd", xyz(points) | columns, encoding=encoding)
        np.testing.assert_allclose(pcd.read_cloud(path)[0].colors, colors / 255.0, atol=1e-6)


def test_colours_of_one_field_are_read(points, colors, tmp_path):
    path = write(tmp_path / "a.pcd", xyz(points) | {"rgb": colors})
    np.testing.assert_allclose(pcd.read_cloud(path)[0].colors, colors / 255.0)
    colors[0] = [1, 2, 3]
    number = packed(colors).astype(np.float32)  # 2^24 fits a float, as a number and not as bits
    path = write(tmp_path / "a.pcd", xyz(points) | {"rgb": number})
    np.testing.assert_allclose(pcd.read_cloud(path)[0].colors, colors / 255.0)
    opaque = (packed(colors) | 0xFF000000).view(np.float32)  # mostly NaN as numbers
    path = write(tmp_path / "a.pcd", xyz(points) | {"rgba": opaque})
    np.testing.assert_allclose(pcd.read_cloud(path)[0].colors, colors / 255.0)


def test_colours_that_are_lost_are_refused(points, colors, tmp_path):
    opaque = (packed(colors) | 0xFF000000).view(np.float32)
    path = write(tmp_path / "a.pcd", xyz(points) | {"rgb": opaque}, encoding="ascii")
    with pytest.raises(ValueError, match="nan as text; save it again as binary"):
        pcd.read_cloud(path)
    with pytest.raises(ValueError, match="has no red, green, blue"):
        pcd.read_cloud(write(tmp_path / "a.pcd", xyz(points)))
    for values, words in (
        (colors - 9.0, "below 0"),
        (colors * 9.0, "up to"),
        (colors / 99, "to 2."),
    ):
        columns = dict(zip("rgb", values.T, strict=True))
        with pytest.raises(ValueError, match=words):
            pcd.read_cloud(write(tmp_path / "a.pcd", xyz(points) | columns))


POSES = {
    "shifted": ([30.0, -12.0, 80.0], [1.0, 0.0, 0.0, 0.0]),
    "over the table": ([300.0, 100.0, 900.0], [0.0, 1.0, 0.0, 0.0]),
    "slanted": ([-200.0, 50.0, 700.0], [0.1, 0.95, 0.2, -0.15]),
    "rolled": ([5.0, 6.0, 7.0], [0.7071068, 0.0, 0.0, 0.7071068]),
}


@pytest.mark.parametrize("name", POSES)
def test_a_viewpoint_is_undone(points, colors, tmp_path, name, caplog):
    """Points and normals of a world frame come back into the sensor's."""
    place, quaternion = POSES[name]
    quaternion = np.array(quaternion) / np.linalg.norm(quaternion)
    w, x, y, z = quaternion
    turn = Rotation.from_quat([x, y, z, w]).as_matrix()
    normals = np.tile([0.0, 0.6, -0.8], (COUNT, 1))
    points[:3], points[3] = 0.0, np.nan
    world = points.astype(float) @ turn.T + place
    world[:3] = 0.0  # unmeasured points stay at the origin
    columns = xyz(world) | {"rgb": packed(colors)}
    columns |= dict(zip(("normal_x", "normal_y", "normal_z"), (normals @ turn.T).T, strict=True))
    text = " ".join(map(repr, [float(v) for v in (*place, *quaternion)]))
    path = write(tmp_path / "a.pcd", columns, viewpoint=text)
    scene = clouds.read_cloud(path)
    np.testing.assert_allclose(scene.points, points[4:], atol=1e-4)
    np.testing.assert_allclose(scene.normals, normals[4:], atol=1e-6)
    np.testing.assert_allclose(scene.colors, colors[4:] / 255.0)
    assert "moved from the world to the sensor's frame" in caplog.text


@pytest.mark.parametrize(
    ("viewpoint", "words"),
    [
        ("0 0 2000 1 0 0 0", "behind the camera that VIEWPOINT describes"),
        ("0 0 0 0 0 0 0", "no unit quaternion"),
        ("1 2 3 2 0 0 0", "no unit quaternion"),
        ("nan 0 0 1 0 0 0", "no unit quaternion"),
        ("0 0 0", "seven numbers"),
        ("0 0 0 one 0 0 0", "broken PCD header"),
    ],
)
def test_a_wrong_viewpoint_is_refused(points, colors, tmp_path, viewpoint, words):
    columns = xyz(points) | {"rgb": packed(colors)}
    with pytest.raises(ValueError, match=words):
        pcd.read_cloud(write(tmp_path / "a.pcd", columns, viewpoint=viewpoint))


def test_text_of_any_spaces_and_counts_is_read(points, colors, tmp_path):
    columns = xyz(points) | {"f": np.zeros((COUNT, 5), np.float32), "rgb": packed(colors)}
    path = write(tmp_path / "a.pcd", columns, encoding="ascii")
    old = path.read_text()
    for new in (
        old,
        old.replace(" ", "  "),
        old.replace("\n", "\r\n"),
        old.replace("VERSION 0.7", "VERSION .5"),
    ):
        path.write_text(new)
        scene, _ = pcd.read_cloud(path)
        np.testing.assert_allclose(scene.points, points, rtol=1e-6)
        np.testing.assert_allclose(scene.colors, colors / 255.0)


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the sample inputs are not there")
def test_the_samples_are_read_in_the_frame_of_the_sensor():
    separate = clouds.read_cloud(INPUTS / "separate_rgb.pcd")
    world = clouds.read_cloud(INPUTS / "viewpoint_world.pcd")
    np.testing.assert_allclose(world.points, separate.points, atol=1e-3)
    np.testing.assert_allclose(world.colors, separate.colors)
    raw = PointCloud.from_path(INPUTS / "viewpoint_world.pcd").numpy(("x", "y", "z"))
    assert np.linalg.norm(raw - separate.points, axis=1).min() > 100  # what was read before


def test_a_binary_cloud_that_was_copied_as_text_is_told(tmp_path, points, colors):
    colors[:20] = 10
    red, green, blue = colors.T
    path = write(tmp_path / "a.pcd", xyz(points) | {"r": red, "g": green, "b": blue})
    pcd.read_cloud(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=r"a.pcd: was copied as text.*in binary mode"):
        pcd.read_cloud(path)
