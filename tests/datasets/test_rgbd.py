"""Frames of any RGB-D camera: lenses, units, invalid values, clouds, broken files."""

import json

import layouts
import numpy as np
import pytest
import trimesh
from conftest import refused
from PIL import Image

from e2r.cli import main
from e2r.datasets import case_folder, rgbd
from e2r.datasets.case import make_case
from e2r.formats import camera_files, clouds
from e2r.formats.scenes import RgbdImage
from e2r.geometry import lens_distortion, point_clouds

BROWN = (-0.12, 0.03, 1e-3, -5e-4, 0.01, 0.0, 0.0, 0.0)
KINECT = (0.45, -2.3, 4e-4, -1e-4, 1.4, 0.33, -2.1, 1.3)  # of the kind of an Azure Kinect
LENS = lens_distortion.Lens(95.0, 96.0, 63.0, 47.5)


@pytest.fixture(scope="module")
def hill():
    """The image of a gentle hill in soft colours, with a hole that has no depth."""
    v, u = np.mgrid[:96, :128]
    depth = 500.0 - 40.0 * np.exp(-(((u - 64) / 30) ** 2 + ((v - 48) / 25) ** 2))
    depth[40:44, 20:26] = 0.0
    color = np.stack([u + 60, v + 90, 200 - v], -1).astype(np.uint8)
    return RgbdImage(color, depth.astype(np.float32), *LENS[:4])


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    trimesh.creation.icosphere(2, 20.0).export(tmp_path / "model" / "L3.stl")
    return tmp_path / "model"


def convert(source, output, model, *more):
    arguments = ["convert", "rgbd", source, output, "--model", model, *more]
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("distortion", [BROWN, KINECT])
def test_distortion_is_undone(hill, distortion):
    """Distorting and undistorting an image gives it back, where both show it."""
    lens = LENS._replace(distortion=distortion)
    x, y = np.meshgrid(np.linspace(-0.6, 0.6, 25), np.linspace(-0.45, 0.45, 19))
    back = lens_distortion.undistort(*lens_distortion.distort(x, y, distortion), distortion)
    np.testing.assert_allclose(back, (x, y), atol=1e-5)
    bent = lens_distortion.remap(hill.color, hill.depth, lens, ray_map=lens_distortion.undistort)
    assert np.abs(bent[1] - hill.depth)[:8].max() > 0.2
    again = rgbd.undistort_image(*bent, lens)
    both = (again.depth > 0) & (hill.depth > 0)
    assert both.mean() > 0.85
    assert np.median(np.abs(again.depth - hill.depth)[both]) < 0.3
    error = np.abs(again.color.astype(float) - hill.color)[both]
    assert np.quantile(error, 0.95) < 3.0
    assert not (again.depth[41:43, 22:24] > 0).any()  # a hole stays one, no mean across its edge


@pytest.mark.parametrize(("unit", "suffix"), [("mm", ".png"), ("m", ".npy"), ("mm", ".npy")])
def test_a_written_frame_is_read_back(hill, model, tmp_path, capsys, unit, suffix):
    lens = LENS._replace(depth_scale=10.0 if suffix == ".png" else 1.0)
    layouts.write_rgbd(tmp_path / "frame", hill, lens, unit=unit, suffix=suffix)
    assert convert(tmp_path / "frame", tmp_path / "mine", model, "--unit", unit) == 0
    assert "levels L3" in capsys.readouterr().out
    case = case_folder.read_case(tmp_path / "mine")
    assert case.id == "mine" and case.truth is None
    np.testing.assert_allclose(case.image.depth, hill.depth, atol=0.06)
    np.testing.assert_array_equal(case.image.color, hill.color)
    assert case.image[2:] == LENS[:4]


SPELLINGS = [
    {"fx": 95, "fy": 96, "cx": 63, "cy": 47.5},
    {"FX": 95, "FY": 96, "ppx": 63, "ppy": 47.5, "coeffs": [0.1, 0.2, 0.3, 0.4, 0.5]},
    {"camera_matrix": [[95, 0, 63], [0, 96, 47.5], [0, 0, 1]], "dist_coeffs": list(KINECT)},
    {"intrinsic_matrix": [95, 0, 0, 0, 96, 0, 63, 47.5, 1], "width": 128, "height": 96},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_lens_is_read(tmp_path, spelling):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(spelling))
    lens = camera_files.read_lens(path)
    assert lens[:4] == (95.0, 96.0, 63.0, 47.5)
    if "coeffs" in spelling:
        assert lens.distortion == (0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0)
    if "dist_coeffs" in spelling:
        assert lens.distortion == KINECT
    assert lens.size == ((128, 96) if "width" in spelling else None)


def test_pixels_without_a_measurement_are_left_out(hill, tmp_path):
    layouts.write_rgbd(tmp_path, hill, LENS)
    steps = np.array(Image.open(tmp_path / "depth.png"))
    steps[0, :5] = 65535
    Image.fromarray(steps).save(tmp_path / "depth.png")
    found = rgbd.read_image_folder(tmp_path).depth
    assert (found[0, :5] == 0).all() and (found[40:44, 20:26] == 0).all()
    (tmp_path / "depth.png").unlink()
    values = hill.depth / 1000.0
    values[1, :5] = [np.nan, np.inf, -np.inf, -1.0, 100.0]
    np.save(tmp_path / "depth.npy", values)
    image = rgbd.read_image_folder(tmp_path, "m")
    found = image.depth
    assert (found[1, :5] == 0).all()
    case = make_case(image, id="far", model={"L3": trimesh.creation.icosphere(2, 20.0)})
    case_folder.write_case(case, tmp_path / "far")  # the far pixel costs no digit
    scale = json.loads((tmp_path / "far" / "camera.json").read_text())["depth_scale"]
    assert scale == case_folder.DEPTH_SCALE
    np.testing.assert_allclose(found[50:], hill.depth[50:], rtol=1e-5)


def grid_of(hill):
    points, pixels = point_clouds.back_project(
        hill.depth, fx=hill.fx, fy=hill.fy, cx=hill.cx, cy=hill.cy
    )
    grid = np.zeros((*hill.depth.shape, 3))
    grid.reshape(-1, 3)[pixels] = points
    return grid


def test_an_organised_cloud_brings_normals(hill, model, tmp_path):
    grid = grid_of(hill)
    layouts.write_pcd(tmp_path / "scene.pcd", grid, hill.color / 255.0)
    assert convert(tmp_path / "scene.pcd", tmp_path / "mine", model) == 0
    case = case_folder.read_case(tmp_path / "mine")
    np.testing.assert_allclose(case.points, grid[hill.depth > 0], atol=1e-3)
    np.testing.assert_allclose(case.colors, hill.color[hill.depth > 0] / 255.0, atol=1e-6)
    # The hill as a function z(x, y): its normal by differences, exact enough in its middle.
    dz = np.stack(np.gradient(grid, axis=(0, 1)), 0)
    exact = np.cross(dz[0], dz[1])
    exact = exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1e-9)
    inside = np.zeros(hill.depth.shape, bool)
    inside[8:-8, 40:-8] = True
    agree = np.abs((case.normals * exact[hill.depth > 0]).sum(1))[inside[hill.depth > 0]]
    assert agree.min() > np.cos(np.deg2rad(3.0))
    assert ((case.normals * case.points).sum(1) < 0).all()


def test_normals_at_an_edge_are_those_of_its_sides():
    """Two parallel planes 100 mm apart: no normal in between."""
    v, u = np.mgrid[:40, :40].astype(float)
    depth = np.where(u < 20, 400.0, 500.0)
    grid = np.stack([(u - 20) / 300 * depth, (v - 20) / 300 * depth, depth], -1)
    normals = point_clouds.organised_normals(grid)
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1.0], grid.shape), atol=1e-6)
    grid[5, 5] = np.nan
    assert np.isnan(point_clouds.organised_normals(grid)[5, 5]).all()


HEAD = "# made by hand\nVERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"


def by_hand(count=40, head=HEAD, data="ascii", rows=None, width=None):
    rng = np.random.default_rng(3)
    xyz = rng.uniform([-30, -30, 370], [30, 30, 430], (count, 3))
    rows = rows or [f"{x:.4f} {y:.4f} {z:.4f} {0x0A141E}" for x, y, z in xyz]
    size = f"WIDTH {width or count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {width or count}\n"
    return head + size + f"DATA {data}\n" + "\n".join(rows) + "\n"


def test_clouds_written_by_hand(tmp_path):
    """PCD as text, and a PLY whose unseen points lie at the origin or are NaN."""
    path = tmp_path / "a.pcd"
    path.write_text(by_hand())
    scan = clouds.read_cloud(path)
    assert scan.points.shape == (40, 3) and scan.normals is None
    np.testing.assert_allclose(scan.colors[7], np.array([10, 20, 30]) / 255.0)
    path.write_text(by_hand(rows=["0 0 0 0"] * 2 + ["nan nan nan 0"] + ["1 2 400 9"] * 37))
    assert len(clouds.read_cloud(path).points) == 37
    path.write_text(by_hand(rows=["0.1 0.2 0.4 9"] * 40))
    np.testing.assert_allclose(clouds.read_cloud(path, "m").points[0], [100, 200, 400])
    head = "ply\nformat ascii 1.0\nelement vertex 40\n" + "".join(
        f"property {kind} {name}\n"
        for kind, name in zip(
            ["float"] * 3 + ["uchar"] * 3, ["x", "y", "z", "red", "green", "blue"], strict=True
        )
    )
    rows = ["0 0 0 0 0 0", "nan nan nan 0 0 0"] + [f"{i} 5 410 255 0 51" for i in range(38)]
    (tmp_path / "a.ply").write_text(head + "end_header\n" + "\n".join(rows) + "\n")
    scan = clouds.read_cloud(tmp_path / "a.ply")
    np.testing.assert_allclose(scan.points[3], [3, 5, 410])
    np.testing.assert_allclose(scan.colors[3], [1.0, 0.0, 0.2])
    assert len(scan.points) == 38


def put(name, text):
    def spoil(frame):
        path = frame / name
        if text is None:
            path.unlink()
        elif isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(text)

    return spoil


def about(**values):
    def spoil(frame):
        path = frame / "intrinsics.json"
        old = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in (old | values).items() if v is not None}))

    return spoil


def image(name, change):
    def spoil(frame):
        Image.fromarray(change(np.array(Image.open(frame / name)))).save(frame / name)

    return spoil


def array(values):
    def spoil(frame):
        (frame / "depth.png").unlink()
        np.save(frame / "depth.npy", values, allow_pickle=values.dtype == object)

    return spoil


FLAT = np.full((96, 128), 0.5)
BROKEN = {
    "no colour": (put("color.png", None), "color.png: no such file"),
    "no depth": (put("depth.png", None), "depth.png: no such file"),
    "no lens": (put("intrinsics.json", None), "intrinsics.json: no such file"),
    "a lens in another file": (
        lambda f: (f / "intrinsics.json").rename(f / "intrinsics.txt") and None,
        "intrinsics.json: no such file, but intrinsics.txt is there; write it in this format",
    ),
    "a lens as rs-enumerate-devices prints it": (
        put("intrinsics.json", ' Intrinsic of "Color" / 640x480\n  Width:  \t640\n'),
        "intrinsics.json: is what rs-enumerate-devices prints; write its fx, fy",
    ),
    "a lens of NumPy": (
        lambda f: (f / "intrinsics.json").write_bytes(b"PK\x03\x04 mtx.npy") and None,
        "intrinsics.json: is of NumPy; write its fx, fy",
    ),
    "torn lens": (put("intrinsics.json", '{"fx": 3'), "intrinsics.json: is not JSON"),
    "torn colour": (put("color.png", b"\x89PNG"), "color.png: cannot be read"),
    "torn depth": (put("depth.png", b"\x89PNG"), "depth.png: cannot be read"),
    "no focal length": (about(fx=None), "intrinsics.json: fx must be a number"),
    "zero focal length": (about(fy=0), "intrinsics.json: fy is 0"),
    "text": (about(cx="middle"), "cx must be a number, not middle"),
    "infinite": (about(cy=1e400), "cy must be a number"),
    "zero scale": (about(depth_scale=0), "depth_scale is 0"),
    "a scale in metres": (about(depth_scale=0.001), "which is no wound; give its depth_scale"),
    "three coefficients": (about(distortion=[1, 2, 3]), "distortion has 3 numbers"),
    "a coefficient of text": (about(distortion=[1, 2, 3, "a"]), "distortion must be 4 numbers"),
    "a flat matrix": (about(camera_matrix=[1, 2]), "camera_matrix must be 3 by 3 numbers"),
    "of another size": (about(width=640), "the intrinsics are for 640x96"),
    "8 bit": (image("depth.png", lambda a: (a // 256).astype(np.uint8)), "has 8 bits"),
    "depth in colour": (
        lambda f: (
            (f / "color.png").replace(f / "depth.png")
            and put("color.png", (f / "depth.png").read_bytes())(f)
        ),
        "one channel",
    ),
    "grey colour": (image("color.png", lambda a: a[..., 0]), "8-bit RGB"),
    "not aligned": (image("depth.png", lambda a: a[:90]), "align the depth to the colour"),
    "nothing seen": (image("depth.png", np.zeros_like), "no pixel has a depth"),
    "metres": (array(FLAT), "in metres; convert it with --unit m"),
    "NaN": (array(FLAT * np.nan), "no pixel has a depth"),
    "objects": (array(np.array([{}], object)), "depth.npy: cannot be read"),
    "cut short": (
        lambda f: (
            array(FLAT * 1000)(f),
            (f / "depth.npy").write_bytes((f / "depth.npy").read_bytes()[:500]),
        ),
        "depth.npy: cannot be read",
    ),
    "complex": (array(FLAT.astype(complex)), "one channel of numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frames_are_refused_in_one_sentence(name, hill, model, tmp_path, capsys):
    spoil, words = BROKEN[name]
    frame = tmp_path / "frame"
    layouts.write_rgbd(frame, hill, LENS)
    spoil(frame)
    refused(capsys, words, "convert", "rgbd", frame, tmp_path / "out", "--model", model)
    assert not (tmp_path / "out").exists()


CLOUDS = {
    "empty.pcd": ("", "has no PCD header"),
    "noise.pcd": ("\x00\x01" * 6000, "has no PCD header"),
    "no_xyz.pcd": (by_hand(head=HEAD.replace("x y z", "a b c")), "it has no x y z"),
    "types.pcd": (by_hand(head=HEAD.replace("F F F U", "F F F Q")), "broken PCD header"),
    "sizes.pcd": (by_hand(head=HEAD.replace("SIZE 4 4 4 4", "SIZE 4 4")), "broken PCD header"),
    "squeezed.pcd": (by_hand(data="binary_compressed"), "save it again as plain binary PCD"),
    "short.pcd": (by_hand(width=900), "is cut short"),
    "short_binary.pcd": (by_hand(width=900, data="binary"), "is cut short"),
    "columns.pcd": (by_hand(rows=["1 2 400"] * 40), "is cut short or broken"),
    "metres.pcd": (by_hand(rows=["0 0.1 0.4 0"] * 40), "in metres; convert it with --unit m"),
    "unseen.pcd": (by_hand(rows=["0 0 0 0"] * 40), "no point with a depth"),
    "few.pcd": (by_hand(count=9), "holds 9 points"),
    "behind.pcd": (by_hand(rows=["0 1 -400 0"] * 40), "behind the camera"),
    "text.ply": ("hello", "is no PLY file"),
    "scene.xyz": ("1 2 3", "give a folder of images, or a PLY or PCD cloud"),
    "gone.pcd": (None, "gone.pcd: no such file"),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_broken_clouds_are_refused_in_one_sentence(name, model, tmp_path, capsys):
    text, words = CLOUDS[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    refused(capsys, words, "convert", "rgbd", tmp_path / name, tmp_path / "out", "--model", model)
    assert not (tmp_path / "out").exists()


def test_a_wrong_unit_name_or_missing_model_is_refused(hill, model, tmp_path, capsys):
    layouts.write_rgbd(tmp_path / "frame", hill, LENS)
    arguments = ("convert", "rgbd", tmp_path / "frame")
    refused(
        capsys, "leave --unit m out", *arguments, tmp_path / "out", "--model", model, "--unit", "m"
    )
    refused(capsys, "no such folder", *arguments, tmp_path / "out", "--model", tmp_path / "none")
    refused(capsys, "is no name for a case", *arguments, tmp_path / "a b", "--model", model)
