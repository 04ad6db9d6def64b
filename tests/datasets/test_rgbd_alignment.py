"""Frames whose depth is in another unit, or was taken by another camera than the colour."""

import json

import cv2
import layouts
import numpy as np
import pytest
from conftest import refused
from PIL import Image
from scipy.spatial.transform import Rotation

from e2r.datasets import rgbd
from e2r.formats.scenes import RgbdImage
from e2r.geometry import depth_registration
from e2r.geometry.lens_distortion import Lens

LENS = Lens(230.0, 231.0, 161.0, 119.0)
OWN = Lens(210.0, 210.0, 158.0, 121.0)  # of the depth camera
MOTION = np.eye(4)
MOTION[:3, :3] = Rotation.from_rotvec([0.01, -0.004, 0.006]).as_matrix()
MOTION[:3, 3] = [-32.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def scene():
    """What the depth camera sees, and the colour of each surface: blocks on a ground."""
    rng = np.random.default_rng(4)
    depth, paint = np.full((240, 320), 600.0), np.full((240, 320, 3), 120.0)
    for _ in range(30):
        top, left = rng.integers(0, 210), rng.integers(0, 280)
        place = np.s_[top : top + rng.integers(14, 30), left : left + rng.integers(14, 40)]
        depth[place], paint[place] = rng.uniform(480, 570), rng.uniform(0, 255, 3)
    return depth, paint


def taken(scene, lens=LENS, size=(320, 240), motion=MOTION):
    """The colour camera's picture: each channel is carried by the depth."""
    depth, paint = scene
    found = depth_registration.register_depth(
        depth, motion, depth_lens=OWN, color_lens=lens, size=size
    )
    # A surface has one depth, so its colour is found by it.
    known, index = np.unique(depth.ravel(), return_index=True)
    back = np.linalg.inv(motion)
    v, u = np.indices(found.shape)
    rays = np.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, np.ones(u.shape)], -1)
    there = (rays * found[..., None]) @ back[2, :3] + back[2, 3]
    nearest = np.abs(there[..., None] - known).argmin(-1)
    color = np.where(found[..., None] > 0, paint.reshape(-1, 3)[index][nearest], 0)
    return color.astype(np.uint8), found


def intrinsics(path, lens, size, **more):
    names = dict(zip(("fx", "fy", "cx", "cy"), lens[:4], strict=True))
    path.write_text(json.dumps(names | {"width": size[0], "height": size[1]} | more))


@pytest.fixture
def unaligned(scene, tmp_path):
    """A frame with the depth camera's own picture, its lens and its motion."""
    color, _ = taken(scene)
    Image.fromarray(color).save(tmp_path / "color.png")
    Image.fromarray(np.rint(scene[0]).astype(np.uint16)).save(tmp_path / "depth.png")
    intrinsics(tmp_path / "intrinsics.json", LENS, (320, 240))
    intrinsics(tmp_path / "depth_intrinsics.json", OWN, (320, 240))
    (tmp_path / "depth_to_color.json").write_text(json.dumps(MOTION.tolist()))
    return tmp_path


def test_depth_of_another_camera_is_moved_to_the_colour(unaligned, scene, caplog):
    """Each pixel lies where OpenCV projects it; before, it lay 20 pixels off."""
    found = rgbd.read_image_folder(unaligned)
    v, u = np.indices(scene[0].shape)
    rays = np.stack([(u - OWN.cx) / OWN.fx, (v - OWN.cy) / OWN.fy, np.ones(u.shape)], -1)
    points = (rays * np.rint(scene[0])[..., None]).reshape(-1, 3)
    k = np.array([[LENS.fx, 0, LENS.cx], [0, LENS.fy, LENS.cy], [0, 0, 1]])
    turn = cv2.Rodrigues(MOTION[:3, :3])[0]
    places = cv2.projectPoints(points, turn, MOTION[:3, 3], k, None)[0][:, 0]
    z = (points @ MOTION[:3, :3].T + MOTION[:3, 3])[:, 2]
    column, row = np.rint(places).astype(int).T
    inside = (column >= 0) & (column < 320) & (row >= 0) & (row < 240)
    there = found.depth[row[inside], column[inside]]
    assert (np.abs(there - z[inside]) < 2).mean() > 0.8  # the rest is hidden by nearer blocks
    assert (there < z[inside] + 2).mean() > 0.999
    assert np.median(np.hypot(*(places - np.stack([u.ravel(), v.ravel()], 1)).T)) > 10
    assert "was read as a matrix by rows, from depth to colour" in caplog.text
    assert "seems not to be aligned" not in caplog.text


def test_a_motion_that_the_pictures_do_not_confirm_is_refused(unaligned, caplog):
    """Of small or plain pictures, the edges cannot tell a motion from its inverse."""
    rgbd.read_image_folder(unaligned)
    assert "could not be checked" not in caplog.text
    plain = np.full((240, 320, 3), 120, np.uint8)
    Image.fromarray(plain).save(unaligned / "color.png")
    words = "depth_to_color.json: could not be checked, for the edges"
    with pytest.raises(ValueError, match=f"{words}.*use it as it is with --unchecked$"):
        rgbd.read_image_folder(unaligned)
    rgbd.read_image_folder(unaligned, unchecked=True)
    assert words in caplog.text


@pytest.mark.parametrize("size", [(160, 120), (640, 480), (400, 300)])
def test_depth_of_another_size_is_moved_too(unaligned, scene, size, caplog):
    width, height = size
    factor = np.array([width / 320, height / 240])
    lens = Lens(
        OWN.fx * factor[0],
        OWN.fy * factor[1],
        (OWN.cx + 0.5) * factor[0] - 0.5,
        (OWN.cy + 0.5) * factor[1] - 0.5,
    )
    depth = cv2.resize(scene[0], size, interpolation=cv2.INTER_NEAREST_EXACT)
    Image.fromarray(np.rint(depth).astype(np.uint16)).save(unaligned / "depth.png")
    intrinsics(unaligned / "depth_intrinsics.json", lens, size)
    found = rgbd.read_image_folder(unaligned)
    both = (found.depth > 0) & (taken(scene)[1] > 0)
    assert both.mean() > 0.6
    assert (np.abs(found.depth - taken(scene)[1])[both] < 2).mean() > 0.9
    assert "seems not to be aligned" not in caplog.text


def test_a_lens_of_the_colour_is_undone_as_well(unaligned, scene):
    """A distorted colour is straightened; the depth goes straight to the straightened one."""
    lens = LENS._replace(distortion=(-0.15, 0.05, 1e-3, -5e-4, 0.0, 0.0, 0.0, 0.0))
    color, depth = taken(scene, lens)
    Image.fromarray(color).save(unaligned / "color.png")
    intrinsics(
        unaligned / "intrinsics.json", lens, (320, 240), distortion=list(lens.distortion[:5])
    )
    found = rgbd.read_image_folder(unaligned)
    k = np.array([[LENS.fx, 0, LENS.cx], [0, LENS.fy, LENS.cy], [0, 0, 1]])
    maps = cv2.initUndistortRectifyMap(
        k, np.array(lens.distortion[:5]), None, k, (320, 240), cv2.CV_32FC1
    )
    other = cv2.remap(depth, *maps, cv2.INTER_NEAREST)
    both = (found.depth > 0) & (other > 0)
    assert both.mean() > 0.6 and (np.abs(found.depth - other)[both] < 2).mean() > 0.9


def without(*names):
    return lambda f: [(f / name).unlink() for name in names]


def aligned(folder, scene):
    Image.fromarray(np.rint(taken(scene)[1]).astype(np.uint16)).save(folder / "depth.png")


def inverted(folder, scene):
    (folder / "depth_to_color.json").write_text(json.dumps(np.linalg.inv(MOTION).tolist()))


def by_rows(folder, scene):
    """Where librealsense writes columns; the cameras of this frame are turned by 5 degrees."""
    motion = MOTION.copy()
    motion[:3, :3] = Rotation.from_rotvec([-0.09, 0.0, 0.0]).as_matrix()
    Image.fromarray(taken(scene, motion=motion)[0]).save(folder / "color.png")
    value = {"rotation": motion[:3, :3].ravel().tolist()}
    value["translation"] = (motion[:3, 3] / 1000).tolist()
    (folder / "depth_to_color.json").write_text(json.dumps(value))


REFUSED = {
    "no lens of the depth": (
        lambda f, _: (f / "depth_intrinsics.json").unlink(),
        "depth_intrinsics.json: no such file, but depth_to_color.json is there",
    ),
    "no motion": (
        lambda f, _: (f / "depth_to_color.json").unlink(),
        "depth_to_color.json: no such file, but depth_intrinsics.json is there",
    ),
    "of another size": (
        lambda f, _: intrinsics(f / "depth_intrinsics.json", OWN, (640, 480)),
        "the intrinsics are for 640x480, but the picture is 320x240",
    ),
    "two scales": (
        lambda f, _: (
            intrinsics(f / "intrinsics.json", LENS, (320, 240), depth_scale=4.0),
            intrinsics(f / "depth_intrinsics.json", OWN, (320, 240), depth_scale=10.0),
        ),
        "depth_scale is 4 for the colour and 10 for the depth",
    ),
    "aligned already": (aligned, "lies on the colour already; remove depth_to_color.json"),
    "rows for columns": (by_rows, "better with its rotation transposed; write it as three rows"),
    "the other way round": (inverted, "fits the pictures better the other way round"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_depth_of_another_camera_is_refused_where_it_cannot_be_right(unaligned, scene, name):
    spoil, words = REFUSED[name]
    spoil(unaligned, scene)
    with pytest.raises(ValueError, match=words):
        rgbd.read_image_folder(unaligned)


@pytest.mark.parametrize("size", [(160, 120), (80, 60), (320, 180), (240, 320), (640, 480)])
def test_a_depth_of_another_size_without_its_camera_is_refused(unaligned, size):
    without("depth_intrinsics.json", "depth_to_color.json")(unaligned)
    Image.fromarray(np.full(size[::-1], 500, np.uint16)).save(unaligned / "depth.png")
    words = "align the depth to the colour, or give the depth camera's depth_intrinsics.json"
    with pytest.raises(ValueError, match=words):
        rgbd.read_image_folder(unaligned)


def test_a_raw_depth_beside_the_colour_is_refused(unaligned, scene, caplog):
    """Of the same size, but of another camera: nothing but its edges says so."""
    without("depth_intrinsics.json", "depth_to_color.json")(unaligned)
    words = "depth.png: seems not to be aligned: its edges fit the colour best when it"
    with pytest.raises(ValueError, match=f"{words}.*use it as it is with --unchecked$"):
        rgbd.read_image_folder(unaligned)
    rgbd.read_image_folder(unaligned, unchecked=True)
    assert words in caplog.text
    caplog.clear()
    aligned(unaligned, scene)
    rgbd.read_image_folder(unaligned)
    assert not caplog.text
    (unaligned / "extrinsics.json").write_text(json.dumps(MOTION.tolist()))
    rgbd.read_image_folder(unaligned)
    assert "was not used; it needs depth_intrinsics.json beside it" in caplog.text


def test_two_files_of_one_picture_are_told(unaligned, scene, caplog):
    without("depth_intrinsics.json", "depth_to_color.json")(unaligned)
    aligned(unaligned, scene)
    np.save(unaligned / "depth.npy", scene[0])
    rgbd.read_image_folder(unaligned)
    assert "depth.png: was read, and depth.npy beside it was not" in caplog.text


# Units --------------------------------------------------------------------------------------------


@pytest.fixture
def plain():
    """A hollow of 280 to 320 mm."""
    v, u = np.mgrid[:48, :64]
    depth = 300.0 + 20.0 * np.sin(u / 9) * np.cos(v / 7)
    return RgbdImage(np.full((48, 64, 3), 90, np.uint8), depth, 60.0, 60.0, 31.5, 23.5)


def written(folder, image, stored, scale):
    """Depth as numbers of ``stored`` units per mm, and what the lens says about it."""
    layouts.write_rgbd(folder, image, Lens(60.0, 60.0, 31.5, 23.5, depth_scale=stored))
    path = folder / "intrinsics.json"
    about = json.loads(path.read_text()) | {"depth_scale": scale}
    path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))


SCALES = {
    "a D405 that says nothing": (10.0, None, "10 if its units are 0.1 mm, as of a RealSense"),
    "RealSense, metres per unit": (1.0, 0.001, "per mm: 1 instead of 0.001, which is in metres"),
    "RealSense's float": (1.0, 0.0010000000474974513, "per mm: 1 instead of 0.001, which is in"),
    "a D405, metres per unit": (10.0, 0.0001, "per mm: 10 instead of 0.0001, which is in metres"),
    "Open3D, units per metre": (1.0, 1000, "per mm: 1 instead of 1000, which is in units per met"),
    "TUM, units per metre": (5.0, 5000, "per mm: 5 instead of 5000, which is in units per metre"),
    "a D405, units per metre": (10.0, 10000, "per mm: 10 instead of 10000"),
    "mm per unit": (10.0, 0.1, "per mm: 10 instead of 0.1, which is in mm per unit"),
    "a quarter of a mm": (4.0, 0.25, "give its depth_scale, in units per mm: 4 instead of 0.25"),
    "half a mm": (2.0, 0.5, "depth_scale of 0.5 units per mm, so steps of 2 mm, which no camera"),
    "micrometres": (200.0, None, "no wound; give its depth_scale"),
    "far too fine": (1.0, 7.0, "nearer than any RGB-D camera sees"),
}


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_of_another_program_is_refused_with_the_number(plain, tmp_path, capsys, name):
    stored, scale, words = SCALES[name]
    written(tmp_path / "frame", plain, stored, scale)
    with pytest.raises(ValueError, match=words):
        rgbd.read_image_folder(tmp_path / "frame")
    model = layouts_model(tmp_path)
    output = tmp_path / "out"
    refused(capsys, "depth", "convert", "rgbd", tmp_path / "frame", output, "--model", model)
    assert not (tmp_path / "out").exists()


def layouts_model(folder):
    import trimesh

    (folder / "model").mkdir()
    trimesh.creation.icosphere(2, 20.0).export(folder / "model" / "L3.stl")
    return folder / "model"


@pytest.mark.parametrize(("stored", "scale"), [(1.0, None), (1.0, 1), (10.0, 10), (4.0, 4)])
def test_a_right_scale_is_read_without_a_word(plain, tmp_path, caplog, stored, scale):
    written(tmp_path, plain, stored, scale)
    found = rgbd.read_image_folder(tmp_path)
    np.testing.assert_allclose(found.depth, plain.depth, atol=0.51 / stored)
    assert not caplog.text


def test_a_scale_in_units_per_metre_with_metres_is_right(plain, tmp_path):
    written(tmp_path, plain, 1.0, 1000)
    found = rgbd.read_image_folder(tmp_path, "m")
    np.testing.assert_allclose(found.depth, plain.depth, atol=0.51)


def test_a_depth_that_is_rather_far_is_told(plain, tmp_path, caplog):
    """A D405 near the wound: 150 mm are 1500 units, which may be mm as well."""
    written(tmp_path, plain._replace(depth=plain.depth / 2), 10.0, None)
    rgbd.read_image_folder(tmp_path)
    assert "far for a wound; give a depth_scale of 10 if its units are 0.1 mm" in caplog.text


@pytest.mark.parametrize("nearest", [70.0, 85.0, 100.0, 115.0])
@pytest.mark.parametrize("focal", [0.51, 0.53, 0.60])  # over the width
def test_a_d405_nearer_than_120_mm_is_told_by_its_wide_picture(tmp_path, caplog, nearest, focal):
    """Its steps of 0.1 mm, taken for mm, put the wound where other cameras hang."""
    depth = nearest + 4.0 * np.random.default_rng(0).random((48, 64))
    lens = Lens(64 * focal, 64 * focal, 31.5, 23.5, depth_scale=10.0)
    image = RgbdImage(np.full((48, 64, 3), 90, np.uint8), depth, *lens[:4])
    layouts.write_rgbd(tmp_path, image, lens)
    assert np.allclose(rgbd.read_image_folder(tmp_path).depth, depth, atol=0.06)
    assert not caplog.text
    path = tmp_path / "intrinsics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"depth_scale": 1.0}))
    rgbd.read_image_folder(tmp_path)
    assert "m across, wide for a wound; give a depth_scale of 10 if its units" in caplog.text


def test_a_narrow_picture_at_the_same_distance_is_read_without_a_word(plain, tmp_path, caplog):
    """That of a camera with a long lens, 0.8 m away."""
    layouts.write_rgbd(
        tmp_path, plain._replace(depth=plain.depth + 500.0), Lens(60.0, 60.0, 31.5, 23.5)
    )
    rgbd.read_image_folder(tmp_path)
    assert not caplog.text
