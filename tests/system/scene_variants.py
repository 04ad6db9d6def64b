"""Depth pictures and clouds as devices and programs write them, and as people spoil them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import tifffile
from PIL import Image
from variants import (
    Draw,
    Patient,
    Places,
    Variant,
    camera_of,
    convert,
    same,
    scaling,
    spoil,
    turned,
    write_camera,
    write_frame,
)

# Depth pictures -----------------------------------------------------------------------------------

HALF_TURN = np.diag([-1.0, -1.0, 1.0])


def save_depth(frame: Path, name: str, mm: np.ndarray) -> tuple[float, str]:
    """Writes a depth in one of the encodings; returns its units per mm and the user's unit."""
    (frame / "depth.npy").unlink()
    steps = name.removeprefix("png in steps of 1/")
    if steps != name:
        values = np.where(mm * int(steps) < 65535, np.round(mm * int(steps)), 0)
        Image.fromarray(values.astype(np.uint16)).save(frame / "depth.png")
        return float(steps), "mm"
    metres = (mm / 1000.0).astype(np.float32)
    simple: dict[str, Callable[[], Any]] = {
        "npy": lambda: np.save(frame / "depth.npy", mm.astype(np.float32)),
        "npy of doubles": lambda: np.save(frame / "depth.npy", mm.astype(np.float64)),
        "npy of halves": lambda: np.save(frame / "depth.npy", mm.astype(np.float16)),
        "big-endian npy": lambda: np.save(frame / "depth.npy", mm.astype(">f4")),
        "npy (H, W, 1)": lambda: np.save(frame / "depth.npy", mm[..., None]),
        "npy (1, H, W)": lambda: np.save(frame / "depth.npy", mm[None]),
        "npy with NaN": lambda: np.save(frame / "depth.npy", np.where(mm > 0, mm, np.nan)),
        "npy with inf": lambda: np.save(frame / "depth.npy", np.where(mm > 0, mm, np.inf)),
        "npy of integers": lambda: np.save(frame / "depth.npy", np.round(mm).astype(np.int32)),
        "npz": lambda: np.savez(frame / "depth.npz", depth=mm),
        "npz in metres": lambda: np.savez_compressed(frame / "depth.npz", metres),
        "npy in metres": lambda: np.save(frame / "depth.npy", metres),
        "tif of floats": lambda: tifffile.imwrite(frame / "depth.tif", mm.astype(np.float32)),
        "tif of doubles in metres": lambda: tifffile.imwrite(
            frame / "depth.tiff", mm.astype(np.float64) / 1000.0
        ),
        "pfm": lambda: Image.fromarray(mm.astype(np.float32)).save(frame / "depth.pfm"),
    }
    simple[name]()
    return 1.0, "m" if "metres" in name else "mm"


ENCODINGS = (
    *(f"png in steps of 1/{n}" for n in (1, 10, 50)),
    *("npy", "npy of doubles", "npy of halves", "big-endian npy", "npy (H, W, 1)", "npy (1, H, W)"),
    *("npy with NaN", "npy with inf", "npy of integers", "npz", "npz in metres", "npy in metres"),
    *("tif of floats", "tif of doubles in metres", "pfm"),
)
DEPTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "in centimetres": lambda mm: mm / 10.0,
    "in 0.1 mm": lambda mm: mm * 10.0,
    "in inches": lambda mm: mm / 25.4,
    "in micrometres": lambda mm: mm * 1000.0,
    "5 % too long": lambda mm: mm * 1.05,
    "10 % too long": lambda mm: mm * 1.1,
    "10 % too short": lambda mm: mm * 0.9,
    "disparity": lambda mm: np.where(mm > 0, 1e5 / np.maximum(mm, 1.0), 0.0),
    "mirrored alone": lambda mm: mm[:, ::-1],
    "upside down alone": lambda mm: mm[::-1],
    "moved by 10 pixels": lambda mm: np.roll(mm, 10, axis=1),
    "one pixel in eight": lambda mm: np.where(np.arange(mm.size).reshape(mm.shape) % 8, 0.0, mm),
    "nearly empty": lambda mm: np.where(np.arange(mm.size).reshape(mm.shape) % 300, 0.0, mm),
    "cut to the left half": lambda mm: mm[:, : mm.shape[1] // 2],
    "half the size": lambda mm: mm[::2, ::2],
    "transposed": lambda mm: mm.T,
    "flat": lambda mm: np.full_like(mm, 400.0),
}
COLORS: dict[str, Callable[[np.ndarray], Any]] = {
    "blue and red exchanged": lambda rgb: rgb[..., ::-1],
    "grey": lambda rgb: rgb.mean(-1).astype(np.uint8),
    "with alpha": lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
    "black": np.zeros_like,
    "16 bits": lambda rgb: rgb[..., 0].astype(np.uint16) * 257,
    "mirrored alone": lambda rgb: rgb[:, ::-1],
}


def depth_picture(draw: Draw, folder: Path, patient: Patient, other: Patient) -> Variant:
    """A frame whose depth is in any encoding, or another depth than its camera file says."""
    frame = folder / "frame"
    color, mm = write_frame(frame, patient)
    encoding = draw(st.sampled_from(ENCODINGS))
    pair = ["both mirrored", "both upside down", "both turned", "both halved", "both cropped"]
    kinds = ["", "", "", "unit", "scale", "scale", "depth", "depth", "colour", "pair", "other"]
    kind, how, right, places = draw(st.sampled_from(kinds)), "", False, same
    if kind == "depth":
        how = draw(st.sampled_from(sorted(DEPTHS)))
        mm = np.ascontiguousarray(DEPTHS[how](mm))
        right = how == "one pixel in eight"
    elif kind == "colour":
        how = f"colour {draw(st.sampled_from(sorted(COLORS)))}"
        color = np.ascontiguousarray(COLORS[how.removeprefix("colour ")](color))
    elif kind == "pair":
        how = draw(st.sampled_from(pair))
        color, mm, right, places = both(how, color, mm)
    elif kind == "other":
        how, color, mm = "another patient's frame", other.image.color, other.image.depth
    scale, unit = save_depth(frame, encoding, mm)
    Image.fromarray(color).save(frame / "color.png")
    if kind == "unit":
        unit, how = ("m" if unit == "mm" else "mm"), "the other unit"
    elif kind == "scale":
        wrong = {
            "left out": None,
            "inverse": 1.0 / scale,
            "per metre": 1000.0 * scale,
            "in metres": 0.001 / scale,
            "tenfold": 10.0 * scale,
            "double": 2.0 * scale,
            "10 % more": 1.1 * scale,
        }
        how = draw(st.sampled_from(sorted(wrong)))
        right = how in ("left out", "inverse") and scale == 1.0
        write_camera(frame, patient, depth_scale=wrong[how])
        how = f"depth_scale {how}"
    if kind != "scale":
        about = camera_of(other if kind == "other" else patient)
        write_camera(frame, patient, depth_scale=scale, **about)
    depth = next(frame.glob("depth.*"))
    spoilt = spoil(draw, depth, chance=0.15)
    return Variant(
        "depth pictures",
        f"{encoding}, {how or 'as it is'}{spoilt}",
        (convert(frame, patient.model, "--unit", unit),),
        right=right or not how,
        scene_places=None if kind == "other" else places,
    )


def both(
    how: str, color: np.ndarray, mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool, Places]:
    """Colour and depth changed alike, and where the scene's points are then."""
    if how == "both mirrored":
        return color[:, ::-1].copy(), mm[:, ::-1].copy(), False, scaling(-1.0, 1.0, 1.0)
    if how == "both upside down":
        return color[::-1].copy(), mm[::-1].copy(), False, scaling(1.0, -1.0, 1.0)
    if how == "both turned":  # the principal point is the middle of the picture
        return color[::-1, ::-1].copy(), mm[::-1, ::-1].copy(), True, turned(HALF_TURN)
    if how == "both halved":
        return color[::2, ::2].copy(), mm[::2, ::2].copy(), False, same
    return color[:, 16:].copy(), mm[:, 16:].copy(), False, same


# Clouds -------------------------------------------------------------------------------------------

FIELDS = {"float": "<f4", "double": "<f8"}


def ply_bytes(points: np.ndarray, colors: np.ndarray, style: str, **more: np.ndarray) -> bytes:
    """A PLY cloud; the style says text or byte order, number types, and colours."""
    number, order = ("double", ">f8" if "big" in style else "<f8"), ">" if "big" in style else "<"
    if "double" not in style:
        number = ("float", f"{order}f4")
    wide = "16-bit colours" in style
    paint = ("ushort", f"{order}u2", 65535) if wide else ("uchar", "u1", 255)
    names = ["x", "y", "z", *more]
    columns = [*points.T, *more.values()]
    kinds = [number] * len(names)
    if "colours 0 to 1" in style:
        names, columns = [*names, "red", "green", "blue"], [*columns, *colors.T]
        kinds += [number] * 3
    elif "no colours" not in style:
        names = [*names, "red", "green", "blue"]
        columns = [*columns, *np.round(paint[2] * colors.T)]
        kinds += [paint[:2]] * 3
    form = "ascii" if "text" in style else f"binary_{'big' if 'big' in style else 'little'}_endian"
    if "upper case" in style:
        names = [name.upper() for name in names]
    head = f"ply\nformat {form} 1.0\nelement vertex {len(points)}\n"
    head += "".join(
        f"property {kind} {name}\n" for (kind, _), name in zip(kinds, names, strict=True)
    )
    rows = np.empty(len(points), [(n, k) for n, (_, k) in zip(names, kinds, strict=True)])
    for name, column in zip(names, columns, strict=True):
        rows[name] = column
    body = rows.tobytes()
    if form == "ascii":
        body = "".join(" ".join(map(str, row.tolist())) + "\n" for row in rows).encode()
    return f"{head}end_header\n".encode() + body


def pcd_bytes(points: np.ndarray, colors: np.ndarray, style: str, viewpoint: str) -> bytes:
    """A PCD cloud of float points, with colours packed or apart."""
    packed = np.round(255 * colors).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    apart = "r g b" in style
    kinds = [("p", "<f4", 3), *([("c", "u1", 3)] if apart else [("rgb", "<u4")])]
    rows = np.empty(len(points), kinds)
    rows["p"] = points
    if apart:
        rows["c"] = np.round(255 * colors)
    else:
        rows["rgb"] = packed
    end = ("r g b", "1 1 1", "U U U", "1 1 1") if apart else ("rgb", "4", "U", "1")
    head = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z {end[0]}\nSIZE 4 4 4 {end[1]}\n"
        f"TYPE F F F {end[2]}\nCOUNT 1 1 1 {end[3]}\nWIDTH {len(points)}\nHEIGHT 1\n"
        f"VIEWPOINT {viewpoint}\nPOINTS {len(points)}\n"
    )
    if "text" in style:
        paint = np.round(255 * colors).astype(int) if apart else packed[:, None]
        lines = [
            f"{' '.join(f'{x:.5f}' for x in p)} {' '.join(map(str, np.atleast_1d(c)))}\n"
            for p, c in zip(points, paint, strict=True)
        ]
        return (head + "DATA ascii\n" + "".join(lines)).encode()
    return (head + "DATA binary\n").encode() + rows.tobytes()


STYLES = (
    *("ply", "ply text", "ply big", "ply double", "ply 16-bit colours", "ply upper case"),
    *("ply no colours", "ply colours 0 to 1", "pcd", "pcd r g b", "pcd text", "pcd text r g b"),
)
MOVES: dict[str, tuple[Places, bool]] = {
    "y up, z backwards": (turned(np.diag([1.0, -1.0, -1.0])), True),
    "x mirrored": (scaling(-1.0, 1.0, 1.0), False),
    "y mirrored": (scaling(1.0, -1.0, 1.0), False),
    "z backwards": (scaling(1.0, 1.0, -1.0), False),
    "x and y exchanged": (turned([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), False),
    "x y z as z x y": (turned([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), False),
    "a quarter turn": (turned([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), True),
    "10 % larger": (scaling(1.1), False),
    "10 % smaller": (scaling(0.9), False),
    "5 % larger": (scaling(1.05), False),
    "in a world's frame": (lambda p: p + np.array([300.0, 100.0, 500.0]), False),
    "off by a metre": (lambda p: p + np.array([1000.0, 0.0, 0.0]), False),
}


def cloud(draw: Draw, folder: Path, patient: Patient, other: Patient) -> Variant:
    """A frame as a cloud, in any style, unit and frame."""
    style = draw(st.sampled_from(STYLES))
    kinds = ["", "", "unit", "unit", "move", "move", "normals", "gaps", "viewpoint", "other"]
    kind = draw(st.sampled_from(kinds))
    case = other.case if kind == "other" else patient.case
    points, colors, places = case.points.copy(), case.colors.copy(), same
    how, right, unit, more = kind, not kind, "mm", {}
    viewpoint = "0 0 0 1 0 0 0"
    if kind == "move":
        how = draw(st.sampled_from(sorted(MOVES)))
        move, right = MOVES[how]
        points = move(points)
        places = same if how == "y up, z backwards" else move
    elif kind == "unit":
        how, factor, unit, right = draw(
            st.sampled_from(
                [
                    ("in metres", 0.001, "m", True),
                    ("in metres, unsaid", 0.001, "mm", False),
                    ("mm said to be m", 1.0, "m", False),
                    ("in cm", 0.1, "mm", False),
                    ("in 0.1 mm", 10.0, "mm", False),
                    ("in inches", 1 / 25.4, "mm", False),
                ]
            )
        )
        points = points * factor
    elif kind == "normals" and style.startswith("ply") and "text" not in style:
        how = draw(st.sampled_from(["NaN", "zero", "towards the scene", "of length 0.1"]))
        value = {"NaN": np.nan, "zero": 0.0, "towards the scene": 1.0, "of length 0.1": -0.1}[how]
        normal = np.full(len(points), value)
        more = {"nx": 0 * normal, "ny": 0 * normal, "nz": normal}
        how, right = f"normals {how}", how == "NaN"
    elif kind == "gaps":
        how = draw(st.sampled_from(["NaN points", "points at the origin", "shuffled", "a tenth"]))
        rng, right = np.random.default_rng(len(points)), how != "a tenth"
        if how == "shuffled":
            order = rng.permutation(len(points))
            points, colors = points[order], colors[order]
        elif how == "a tenth":
            points, colors = points[::10], colors[::10]
        else:
            points[rng.uniform(size=len(points)) < 0.1] = np.nan if how == "NaN points" else 0.0
    elif kind == "viewpoint" and style.startswith("pcd"):
        viewpoint, right = "300 100 900 0 1 0 0", True  # a half turn about x, and a shift
        points = points @ np.diag([1.0, -1.0, -1.0]) + np.array([300.0, 100.0, 900.0])
    elif kind != "other":
        how, right = "", True
    path = folder / f"frame.{style[:3]}"
    if style.startswith("ply"):
        path.write_bytes(ply_bytes(points, colors, style, **more))
    else:
        path.write_bytes(pcd_bytes(points, colors, style, viewpoint))
    spoilt = spoil(draw, path, chance=0.15)
    return Variant(
        "clouds",
        f"{style}, {how or 'as it is'}{spoilt}",
        (convert(path, patient.model, "--unit", unit),),
        right=right and "no colours" not in style,
        scene_places=None if kind == "other" else places,
    )
