"""Clouds in PLY files."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_binary_cloud_that_was_copied_as_text_is_told(tmp_path, order, seed):
    """A byte 13 before each byte 10 moves all numbers after it; some became points."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(3000, [("p", f"{order}f4", 3), ("c", "u1", 3)])
    rows["p"], rows["c"] = rng.normal(size=(3000, 3)) * 20 + [0, 0, 400], rng.integers(0, 256, 3)
    rows["c"][::5] = 10
    form = "binary_big_endian" if order == ">" else "binary_little_endian"
    header = f"ply\nformat {form} 1.0\nelement vertex 3000\n"
    header += "".join(f"property float {c}\n" for c in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    content = header.encode() + b"end_header\n" + rows.tobytes()
    (tmp_path / "scene.ply").write_bytes(content)
    np.testing.assert_array_equal(ply.read_cloud(tmp_path / "scene.ply").points, rows["p"])
    (tmp_path / "scene.ply").write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=r"scene.ply: was copied as text.*in binary mode"):
        ply.read_cloud(tmp_path / "scene.ply")


def test_a_signalling_nan_is_no_measurement_and_no_warning(tmp_path):
    rows = np.zeros(40, [("p", "<u4", 3), ("c", "u1", 3)])
    rows["p"] = np.float32(400).view(np.uint32)
    rows["p"][3] = 0x7F800001
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 40\n"
    header += "".join(f"property float {c}\n" for c in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    (tmp_path / "scene.ply").write_bytes(header.encode() + b"end_header\n" + rows.tobytes())
    assert np.isnan(ply.read_cloud(tmp_path / "scene.ply").points).any(1).sum() == 1
