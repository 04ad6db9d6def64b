"""Colour and depth in pictures and arrays, held against OpenCV, tifffile and the format's rules."""

import json
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
import tifffile
from PIL import Image

from e2r.datasets import rgbd
from e2r.formats import depth_files, pictures

INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "pictures"
HEIGHT, WIDTH = 24, 40


@pytest.fixture
def color(rng):
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture
def depth():
    """mm, another one at each pixel, and a hole."""
    values = 400.0 + np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) / 8
    values[3:5, 7:9] = 0.0
    return values


# Colour -------------------------------------------------------------------------------------------


def test_16_bits_become_8(rng, tmp_path):
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    for name in ("a.png", "a.tif"):
        found = pictures.read_color(tmp_path / name)
        assert found.dtype == np.uint8
        assert np.abs(found - deep / 257.0).max() <= 1.0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_the_colours_of_a_palette_are_read(color, tmp_path, suffix):
    few = (color // 64) * 64
    Image.fromarray(few).quantize(256).save(tmp_path / f"a{suffix}")
    found = pictures.read_color(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found, cv2.imread(str(tmp_path / f"a{suffix}"))[..., ::-1])
    np.testing.assert_array_equal(found, few)
    assert pictures.read_image(tmp_path / f"a{suffix}").ndim == 2  # a mask may have a palette


UNLIKE = {
    "cmyk.jpg": ("CMYK", "is CMYK, and must be an 8-bit RGB image; save it as RGB"),
    "cmyk.tif": ("CMYK", "is CMYK"),
    "lab.tif": ("LAB", "is LAB"),
    "grey.png": ("L", "must be an 8-bit RGB image"),
    "grey.jpg": ("L", "must be an 8-bit RGB image"),
    "grey_alpha.png": ("LA", "must be an 8-bit RGB image"),
    "black_white.png": ("1", "must be an 8-bit RGB image"),
    "deep_grey.png": ("I;16", "must be an 8-bit RGB image"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_pictures_that_are_not_rgb_are_refused(color, tmp_path, name):
    mode, words = UNLIKE[name]
    image = Image.fromarray(color)
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    if mode == "LAB":
        image = Image.fromarray(color, "LAB")
    image.save(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        pictures.read_color(tmp_path / name)


def test_an_alpha_channel_is_dropped(color, tmp_path):
    alpha = np.dstack([color, np.full((HEIGHT, WIDTH), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pictures.read_color(tmp_path / "a.png"), color)


def write_frame(folder, color, depth, name="color.png", **how):
    Image.fromarray(color).save(folder / name, **how)
    Image.fromarray(np.rint(depth).astype(np.uint16)).save(folder / "depth.png")
    lens = {"fx": 60.0, "fy": 60.0, "cx": 19.5, "cy": 11.5}
    (folder / "intrinsics.json").write_text(json.dumps(lens))


@pytest.mark.parametrize("orientation", [None, 0, 1, 2, 3, 6, 8])
@pytest.mark.parametrize("name", ["color.jpg", "color.png"])
def test_a_picture_that_is_to_be_turned_is_refused(color, depth, tmp_path, orientation, name):
    exif = Image.Exif()
    if orientation is not None:
        exif[pictures.ORIENTATION] = orientation
    write_frame(tmp_path, color, depth, name, exif=exif)
    if orientation in (None, 0, 1):
        assert rgbd.read_image_folder(tmp_path).color.shape == color.shape
        return
    shown = cv2.imread(str(tmp_path / name))[..., ::-1]
    stored = pictures.read_color(tmp_path / name)
    assert shown.shape != stored.shape or np.abs(shown.astype(int) - stored).max() > 50
    with pytest.raises(ValueError, match=f"turned by its EXIF orientation {orientation}; save it"):
        rgbd.read_image_folder(tmp_path)


# Depth --------------------------------------------------------------------------------------------


def rounded(values):
    return np.rint(values).astype(np.uint16)


def pages(path, values):
    """Three pages, which tifffile would else write as red, green and blue."""
    tifffile.imwrite(path, np.stack([values] * 3), metadata=None, photometric="minisblack")


def as_exr(path, channels):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(path))


def as_pfm(path, values, scale="-1.0"):
    """Rows from the bottom up; a negative scale means little-endian."""
    order = "<f4" if scale.startswith("-") else ">f4"
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode()
    path.write_bytes(head + values[::-1].astype(order).tobytes())


WRITERS = {
    "float64.tif": tifffile.imwrite,
    "float32.tif": lambda p, d: tifffile.imwrite(p, d.astype(np.float32)),
    "half.tif": lambda p, d: tifffile.imwrite(p, (d / 1000).astype(np.float16)),
    "uint32.tif": lambda p, d: tifffile.imwrite(p, np.rint(d).astype(np.uint32)),
    "big_endian.tif": lambda p, d: tifffile.imwrite(p, np.rint(d).astype(">u2"), byteorder=">"),
    "lzw.tif": lambda p, d: Image.fromarray(rounded(d)).save(p, compression="tiff_lzw"),
    "float64_zip.tif": lambda p, d: tifffile.imwrite(p, d, compression="zlib"),
    "hw1.npy": lambda p, d: np.save(p, d[..., None]),
    "1hw.npy": lambda p, d: np.save(p, d[None].astype(np.float32)),
    "uint32.npy": lambda p, d: np.save(p, np.rint(d).astype(np.uint32)),
    "half.npy": lambda p, d: np.save(p, (d / 1000).astype(np.float16)),
    "fortran.npy": lambda p, d: np.save(p, np.asfortranarray(d)),
    "big_endian.npy": lambda p, d: np.save(p, d.astype(">f8")),
    "one.npz": lambda p, d: np.savez(p, anything=d),
    "packed.npz": lambda p, d: np.savez_compressed(p, arr=d[..., None]),
    "named.npz": lambda p, d: np.savez(p, color=np.zeros(3), depth=d),
    "z.exr": lambda p, d: as_exr(p, {"Z": d.astype(np.float32)}),
    "layer.exr": lambda p, d: as_exr(
        p, {"RGB": np.zeros((*d.shape, 3), np.float32), "View.Depth.Z": d.astype(np.float32)}
    ),
    "grey_rgb.exr": lambda p, d: as_exr(p, {"RGB": np.dstack([d.astype(np.float32)] * 3)}),
    "half.exr": lambda p, d: as_exr(p, {"Y": (d / 1000).astype(np.float16)}),
    "little.pfm": as_pfm,
    "big.pfm": lambda p, d: as_pfm(p, d, "1.0"),
    "opencv.pfm": lambda p, d: cv2.imwrite(str(p), d.astype(np.float32)),
    "deep.pgm": lambda p, d: cv2.imwrite(str(p), rounded(d)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_depth_of_every_kind_is_read(color, depth, tmp_path, name):
    write_frame(tmp_path, color, depth)
    (tmp_path / "depth.png").unlink()
    path = tmp_path / f"depth{Path(name).suffix}"
    WRITERS[name](path, depth)
    unit = "m" if "half" in name else "mm"
    found = rgbd.read_image_folder(tmp_path, unit).depth
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, depth, atol=0.51)  # not flipped: rows differ by 5 mm
    if path.suffix in (".pfm", ".pgm") or name in ("float64.tif", "uint32.tif", "lzw.tif"):
        other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(found, other, rtol=1e-6)


REFUSED = {
    "8 bits.png": (lambda p, d: Image.fromarray((d / 4).astype(np.uint8)).save(p), "has 8 bits"),
    "8 bits.tif": (lambda p, d: tifffile.imwrite(p, (d / 4).astype(np.uint8)), "has 8 bits"),
    "8 bits.npy": (lambda p, d: np.save(p, (d / 4).astype(np.uint8)), "has 8 bits"),
    "truths.npy": (lambda p, d: np.save(p, d > 0), "has 8 bits"),
    "painted.png": (
        lambda p, d: cv2.imwrite(str(p), cv2.applyColorMap((d / 4).astype(np.uint8), 2)),
        "painted in colours, so its distances are lost; save the measured depth with one channel",
    ),
    "painted.npy": (
        lambda p, d: np.save(p, np.dstack([d / 4] * 3).astype(np.uint8)),
        "painted in colours",
    ),
    "three.npy": (lambda p, d: np.save(p, np.dstack([d] * 3)), "must have one channel"),
    "flat.npy": (lambda p, d: np.save(p, d.ravel()), "must have one channel"),
    "complex.npy": (lambda p, d: np.save(p, d + 1j), "one channel of numbers"),
    "several.npz": (lambda p, d: np.savez(p, a=d, b=d), "2 arrays and none is depth"),
    "empty.npz": (lambda p, d: np.savez(p), "0 arrays and none is depth"),
    "objects.npz": (lambda p, d: np.savez(p, a=np.array([{}], object)), "cannot be read"),
    "torn.npz": (lambda p, d: p.write_bytes(b"PK\x03\x04"), "cannot be read"),
    "pages.tif": (lambda p, d: pages(p, rounded(d)), "holds 3 pictures"),
    "pages64.tif": (pages, "holds 3 pictures"),
    "torn.tif": (lambda p, d: p.write_bytes(b"II*\0"), "cannot be read"),
    "scaled.pfm": (lambda p, d: as_pfm(p, d, "-2.0"), "has a scale of 2"),
    "torn.pfm": (lambda p, d: p.write_bytes(b"Pf\n9"), "cannot be read"),
    "torn.exr": (lambda p, d: p.write_bytes(b"hello"), "cannot be read as an EXR"),
    "colours.exr": (
        lambda p, d: as_exr(p, {"RGB": np.dstack([d, d + 1, d]).astype(np.float32)}),
        "has the channels B, G, R; save one channel, named Z",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_depth_is_refused(depth, tmp_path, name):
    write, words = REFUSED[name]
    write(tmp_path / name, depth)
    with pytest.raises(ValueError, match=words):
        depth_files.read_depth(tmp_path / name)


def test_a_small_copy_in_a_tiff_is_no_second_picture(depth, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(depth.astype(np.float32), subfiletype=0)
        file.write(depth[::2, ::2].astype(np.float32), subfiletype=1)
    found = depth_files.read_depth(tmp_path / "a.tif")
    np.testing.assert_allclose(found, depth)


def test_a_part_of_an_exr_is_refused(depth, tmp_path):
    header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.NO_COMPRESSION}
    header["dataWindow"] = (np.array([4, 2], np.int32), np.array([43, 25], np.int32))
    header["displayWindow"] = (np.array([0, 0], np.int32), np.array([79, 59], np.int32))
    OpenEXR.File(header, {"Z": depth.astype(np.float32)}).write(str(tmp_path / "a.exr"))
    with pytest.raises(ValueError, match="cut out of a larger picture"):
        depth_files.read_depth(tmp_path / "a.exr")


@pytest.mark.parametrize(("package", "suffix"), [("OpenEXR", ".exr"), ("lzf", ".pcd")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, suffix):
    """Packages for one format alone are imported where a file needs them."""
    from e2r.formats import pcd

    monkeypatch.setitem(__import__("sys").modules, package, None)
    path = tmp_path / f"a{suffix}"
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 9\nHEIGHT 1\nDATA binary_compressed\n"
    path.write_text(head)
    with pytest.raises(ValueError, match=r"install (OpenEXR|python-neo-lzf), or save"):
        (pcd.read_cloud if suffix == ".pcd" else depth_files.read_depth)(path)


UNSEEN = {
    "uint16": (np.uint16, 65535),
    "uint32": (np.uint32, 2**32 - 1),
    "int32": (np.int32, -5),
    "half": (np.float16, np.finfo(np.float16).max),
    "float": (np.float32, 1e10),
    "infinite": (np.float64, np.inf),
    "NaN": (np.float64, np.nan),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_numbers_that_are_no_measurement_are_left_out(name):
    kind, number = UNSEEN[name]
    values = np.full((3, 4), 500).astype(kind)
    values[1, 2] = number
    expected = np.zeros((3, 4), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(depth_files.unmeasured(values), expected)


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the sample inputs are not there")
def test_the_samples_are_read_or_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"is CMYK.*save it as RGB"):
        rgbd.read_image_folder(INPUTS / "jpeg_cmyk")
    with pytest.raises(ValueError, match="in metres; convert it with --unit m"):
        rgbd.read_image_folder(INPUTS / "tiff_float64_m")
    metres = rgbd.read_image_folder(INPUTS / "tiff_float64_m", "m").depth
    other = cv2.imread(str(INPUTS / "tiff_float64_m" / "depth.tif"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(metres, np.nan_to_num(other) * 1000, rtol=1e-6)
    millimetres = rgbd.read_image_folder(INPUTS / "npy_hw1").depth
    np.testing.assert_array_equal(millimetres, np.load(INPUTS / "npy_hw1" / "depth.npy")[..., 0])


@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_a_pgm_with_another_largest_value_is_refused(tmp_path, kind):
    path, values = tmp_path / "depth.pgm", np.full((4, 6), 400, np.uint16)
    for largest in (65535, 32767, 1000):
        body = values.astype(">u2").tobytes() if kind == "P5" else b"400 " * values.size
        path.write_bytes(f"{kind}\n# by a camera\n6 4\n{largest}\n".encode() + body)
        if largest == 65535:
            np.testing.assert_array_equal(depth_files.read_depth(path), values)
            continue
        with pytest.raises(ValueError, match=rf"has {largest} as its largest value"):
            depth_files.read_depth(path)


def test_a_float_of_the_largest_16_bit_number_is_no_measurement():
    for dtype in (np.float32, np.float64, np.uint16, np.int32):
        unseen = depth_files.unmeasured(np.array([[400, 65535, 0]], dtype))
        assert unseen.tolist() == [[False, True, True]]
