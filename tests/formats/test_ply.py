"""Clouds in PLY files."""

import numpy as np

from e2r.formats import ply


def test_normals_of_a_ply_are_read_and_turned_to_the_camera(tmp_path):
    vertices = np.random.default_rng(0).normal(size=(40, 3)) * 5 + [0, 0, 400]
    header = (
        "ply\nformat ascii 1.0\nelement vertex 40\n"
        + "".join(f"property float {c}\n" for c in ("x", "y", "z", "nx", "ny", "nz"))
        + "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
        + "end_header\n"
    )
    rows = "".join(f"{x} {y} {z} 0 0 2 10 20 30\n" for x, y, z in vertices)
    (tmp_path / "scene.ply").write_text(header + rows)
    points, colors, normals = ply.read_cloud(tmp_path / "scene.ply")
    np.testing.assert_allclose(points, vertices, rtol=1e-4)
    np.testing.assert_allclose(colors[0], np.array([10, 20, 30]) / 255)
    np.testing.assert_allclose(normals, np.tile([0.0, 0.0, -1.0], (40, 1)))  # to the camera
