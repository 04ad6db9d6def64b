"""Depth moved to the colour camera, held against OpenCV's projection and registration."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from e2r.geometry import depth_registration
from e2r.geometry.lens_distortion import Lens

KINECT_DEPTH = (0.9, 0.3, 4e-5, -2e-5, 0.01, 1.2, 0.5, 0.05)
KINECT_COLOR = (0.45, -2.3, -1.3e-4, -1.6e-4, 1.4, 0.33, -2.1, 1.3)
FEMTO_COLOR = (0.075, -0.105, -2e-4, -1e-4, 0.043, 0.0, 0.0, 0.0)
SENSORS = {  # a quarter of their sizes: depth size and lens, colour size and lens, turn, shift
    "RealSense D435": (
        (212, 120),
        Lens(106.0, 106.0, 106.2, 59.6),
        (320, 180),
        Lens(230.0, 230.4, 161.0, 90.5),
        (0.004, -0.003, 0.002),
        (14.8, 0.2, 0.3),
    ),
    "RealSense D455": (
        (212, 120),
        Lens(107.0, 107.0, 105.5, 60.1),
        (320, 180),
        Lens(160.0, 160.0, 159.0, 91.0, distortion=(-0.055, 0.066, 1e-4, 2e-4, -0.021)),
        (-0.002, 0.001, -0.003),
        (-59.0, 0.1, 0.5),
    ),
    "Azure Kinect": (
        (160, 144),
        Lens(126.0, 126.0, 80.2, 82.7, distortion=KINECT_DEPTH),
        (320, 180),
        Lens(152.0, 151.8, 159.8, 91.3, distortion=KINECT_COLOR),
        (-0.1, 0.0006, 0.0012),
        (-32.0, -2.2, 3.9),
    ),
    "Femto Bolt": (
        (160, 144),
        Lens(126.5, 126.4, 79.5, 84.1, distortion=KINECT_DEPTH),
        (480, 270),
        Lens(281.0, 280.5, 239.0, 134.0, distortion=FEMTO_COLOR),
        (-0.105, 0.002, -0.001),
        (-32.3, -0.9, 1.6),
    ),
}


def matrix_of(lens):
    return np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])


def motion(turn, shift):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = cv2.Rodrigues(np.array(turn, float))[0], shift
    return matrix


def wound(size):
    """A smooth hollow with holes, and a retractor 60 mm above it."""
    width, height = size
    v, u = np.mgrid[:height, :width].astype(float)
    depth = 520.0 + 25.0 * np.sin(6 * u / width) + 18.0 * np.cos(5 * v / height)
    depth[height // 4 : height // 2, width // 5 : width // 3] = 450.0
    depth[10:14, 60:66] = 0.0
    return depth


def projected(depth, matrix, depth_lens, color_lens):
    """Each pixel by OpenCV alone: undistorted to a ray, moved, projected with distortion."""
    v, u = np.nonzero(depth > 0)
    pixels = np.stack([u, v], 1).astype(float)[:, None]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-12)
    rays = cv2.undistortPoints(
        pixels, matrix_of(depth_lens), np.array(depth_lens.distortion), criteria=criteria
    )[:, 0]
    points = np.column_stack([rays, np.ones(len(rays))]) * depth[v, u][:, None]
    turn = cv2.Rodrigues(matrix[:3, :3])[0]
    places, _ = cv2.projectPoints(
        points, turn, matrix[:3, 3], matrix_of(color_lens), np.array(color_lens.distortion)
    )
    return places[:, 0], (points @ matrix[:3, :3].T + matrix[:3, 3])[:, 2], (v, u)


@pytest.mark.parametrize("name", SENSORS)
def test_each_pixel_lands_where_opencv_projects_it(name):
    depth_size, depth_lens, color_size, color_lens, turn, shift = SENSORS[name]
    depth, matrix = wound(depth_size), motion(turn, shift)
    found = depth_registration.register_depth(
        depth, matrix, depth_lens=depth_lens, color_lens=color_lens, size=color_size
    )
    places, z, (v, u) = projected(depth, matrix, depth_lens, color_lens)
    column, row = np.rint(places).astype(int).T
    width, height = color_size
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    assert found.shape == (height, width) and inside.mean() > 0.3
    column, row, z = column[inside], row[inside], z[inside]
    there = found[row, column]
    # A pixel is rounded by half of one, over which the hollow rises by less than 1.5 mm.
    assert (there > 0).all()
    assert (there < z + 1.5).all()  # nothing is hidden by what lies behind it
    edge = ndimage.maximum_filter(depth, 5) - ndimage.minimum_filter(depth, 5) > 30
    plain = ~edge[v, u][inside] & ~(np.abs(there - z) > 30)  # the retractor hides some
    assert plain.mean() > 0.6
    assert np.abs(there - z)[plain].max() < 1.5
    assert np.abs((there - z)[plain].mean()) < 0.05  # no bias towards the camera
    # Before: the depth was taken as it lies in its own picture, many pixels off.
    assert (
        np.median(
            np.hypot(
                places[:, 0] - u * width / depth_size[0], places[:, 1] - v * height / depth_size[1]
            )
        )
        > 3
    )


@pytest.mark.parametrize("name", SENSORS)
def test_the_picture_is_that_of_opencv_without_its_gaps(name):
    """OpenCV knows no distortion of the depth, and leaves gaps between the pixels."""
    depth_size, depth_lens, color_size, color_lens, turn, shift = SENSORS[name]
    depth_lens = depth_lens._replace(distortion=(0.0,) * 8)
    depth, matrix = wound(depth_size), motion(turn, shift)
    found = depth_registration.register_depth(
        depth, matrix, depth_lens=depth_lens, color_lens=color_lens, size=color_size
    )
    in_metres = matrix.copy()
    in_metres[:3, 3] /= 1000.0
    other = cv2.registerDepth(
        matrix_of(depth_lens),
        matrix_of(color_lens),
        np.array(color_lens.distortion),
        in_metres,
        (depth / 1000.0).astype(np.float32),
        color_size,
        depthDilation=False,
    )
    other = np.nan_to_num(np.asarray(other, float)) * 1000.0
    both = (other > 0) & (found > 0)
    assert (found[other > 0] > 0).all()
    assert (np.abs(found - other)[both] < 1.5).mean() > 0.97  # OpenCV sees through its own gaps
    assert (found - other)[both].max() < 1.5
    seen = ndimage.binary_closing(other > 0, iterations=6)
    inner = ndimage.binary_erosion(seen, iterations=8)
    assert (found > 0)[inner].mean() > 0.97  # what is left: holes and the retractor's shadow
    assert (other > 0)[inner].mean() < 0.9


def test_equal_cameras_change_nothing():
    depth, lens = wound((80, 60)), Lens(70.0, 71.0, 39.0, 30.0)
    found = depth_registration.register_depth(
        depth, np.eye(4), depth_lens=lens, color_lens=lens, size=(80, 60)
    )
    np.testing.assert_allclose(found, depth, rtol=1e-6)


def test_a_plane_stays_a_plane():
    """Its depth is known at each new pixel, so that a bias would show."""
    depth_lens, color_lens = Lens(100.0, 100.0, 63.5, 47.5), Lens(260.0, 255.0, 150.0, 120.0)
    normal, distance = np.array([0.4, -0.2, 1.0]), 500.0
    v, u = np.mgrid[:96, :128].astype(float)
    rays = np.stack([(u - 63.5) / 100, (v - 47.5) / 100, np.ones_like(u)], -1)
    matrix = motion((0.02, -0.06, 0.01), (-40.0, 5.0, 2.0))
    found = depth_registration.register_depth(
        distance / (rays @ normal),
        matrix,
        depth_lens=depth_lens,
        color_lens=color_lens,
        size=(300, 240),
    )
    turned = matrix[:3, :3] @ normal
    offset = distance + turned @ matrix[:3, 3]
    v, u = np.mgrid[:240, :300].astype(float)
    exact = offset / (np.stack([(u - 150) / 260, (v - 120) / 255, np.ones_like(u)], -1) @ turned)
    seen = found > 0
    assert seen.mean() > 0.6
    error = np.abs(found - exact)[seen]
    assert np.quantile(error, 0.95) < 1e-3
    assert error.max() < 2.5  # the picture's rim: half a slanted pixel of up to 7 mm
    holes = ndimage.binary_fill_holes(seen) & ~seen
    assert not holes.any()


def test_nothing_lies_between_two_surfaces():
    """A step of 80 mm: the near surface hides the far one, and its shadow stays empty."""
    depth = np.full((60, 80), 520.0)
    depth[:, 30:50] = 440.0
    lens = Lens(90.0, 90.0, 39.5, 29.5)
    found = depth_registration.register_depth(
        depth,
        motion((0, 0, 0), (-45.0, 0.0, 0.0)),
        depth_lens=lens,
        color_lens=lens._replace(fx=200.0, fy=200.0, cx=90.0, cy=66.0),
        size=(180, 132),
    )
    values = np.unique(np.round(found[found > 0]))
    np.testing.assert_array_equal(values, [440.0, 520.0])
    row = found[66]
    shadow = np.nonzero(row == 0)[0]
    shadow = shadow[(shadow > 20) & (shadow < 150)]
    # By hand: the far surface appears 45 mm times 200 (1 / 440 - 1 / 520) further.
    assert abs(len(shadow) - 45 * 200 * (1 / 440 - 1 / 520)) <= 2
    assert np.all(np.diff(shadow) == 1)


def test_points_behind_the_colour_camera_or_beside_its_picture_are_left_out():
    depth, lens = np.full((20, 30), 400.0), Lens(40.0, 40.0, 14.5, 9.5)
    behind = motion((0.0, 0.0, 0.0), (0.0, 0.0, -450.0))
    beside = motion((0.0, 0.0, 0.0), (900.0, 0.0, 0.0))
    for matrix in (behind, beside):
        found = depth_registration.register_depth(
            depth, matrix, depth_lens=lens, color_lens=lens, size=(30, 20)
        )
        assert not found.any()
    nothing = depth_registration.register_depth(
        np.zeros((20, 30)), np.eye(4), depth_lens=lens, color_lens=lens, size=(30, 20)
    )
    assert not nothing.any()
