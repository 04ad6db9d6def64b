"""Camera files as programs write them, with the mistakes that people make in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from variants import Draw, Patient, Variant, camera_of, convert, spoil, write_frame

from e2r.geometry.lens_distortion import Lens

Values = dict[str, Any]
BENT = ((0.0,) * 5, (-2.5, 4.0, 0.0, 0.0, 0.0), (3.0, -2.0, 0.01, -0.02, 0.0))
"""k1 k2 p1 p2 k3; strong, for the frames are narrow: up to 3 pixels at the corners."""


def rows_of(v: Values) -> list[list[float]]:
    return [[v["fx"], 0.0, v["cx"]], [0.0, v["fy"], v["cy"]], [0.0, 0.0, 1.0]]


def flat(v: Values, *, columns: bool = False) -> list[float]:
    return np.array(rows_of(v)).ravel("F" if columns else "C").tolist()


def plain(v: Values, key: str = "distortion") -> str:
    names = ("fx", "fy", "cx", "cy", "width", "height", "distortion_model")
    return json.dumps({name: v[name] for name in names if name in v} | {key: v["dist"]})


def upper(v: Values) -> str:
    found = {"FX": v["fx"], "FY": v["fy"], "PPX": v["cx"], "PPY": v["cy"]}
    return json.dumps(found | {"Dist_Coeffs": v["dist"]})


def by_name(v: Values) -> str:
    named = dict(zip(("k1", "k2", "p1", "p2", "k3"), v["dist"], strict=True))
    inside = {"model": v.get("distortion_model", "brown_conrady"), **named}
    return json.dumps({**{k: v[k] for k in ("fx", "fy", "cx", "cy")}, "distortion": inside})


def opencv_json(v: Values) -> str:
    return json.dumps({"camera_matrix": rows_of(v), "distortion_coefficients": [v["dist"]]})


def ros_json(v: Values) -> str:
    model = v.get("distortion_model", "plumb_bob")
    size = {"width": v["width"], "height": v["height"]}
    return json.dumps({**size, "K": flat(v), "D": v["dist"], "distortion_model": model})


def open3d(v: Values) -> str:
    size = {"width": v["width"], "height": v["height"]}
    return json.dumps({**size, "intrinsic_matrix": flat(v, columns=True), "dist": v["dist"]})


def open3d_rows(v: Values) -> str:
    return json.dumps({"intrinsic_matrix": flat(v), "dist": v["dist"]})


def columns(v: Values) -> str:
    return json.dumps({"camera_matrix": np.transpose(rows_of(v)).tolist(), "dist": v["dist"]})


def realsense(v: Values) -> str:
    found = {"width": v["width"], "height": v["height"], "ppx": v["cx"], "ppy": v["cy"]}
    model = v.get("distortion_model", "distortion.brown_conrady")
    return json.dumps({**found, "fx": v["fx"], "fy": v["fy"], "model": model, "coeffs": v["dist"]})


def ros_yaml(v: Values) -> str:
    return (
        f"image_width: {v['width']}\nimage_height: {v['height']}\ncamera_name: color\n"
        f"camera_matrix:\n  rows: 3\n  cols: 3\n  data: {flat(v)}\n"
        f"distortion_model: {v.get('distortion_model', 'plumb_bob')}\n"
        f"distortion_coefficients:\n  rows: 1\n  cols: 5\n  data: {v['dist']}\n"
        "rectification_matrix:\n  rows: 3\n  cols: 3\n  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]\n"
    )


def opencv_yaml(v: Values) -> str:
    def matrix(rows: int, values: list[float]) -> str:
        cols = len(values) // rows
        return f"!!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: {values}\n"

    text = f"%YAML:1.0\n---\nimage_width: {v['width']}\nimage_height: {v['height']}\n"
    text += f"camera_matrix: {matrix(3, flat(v))}"
    return text + f"distortion_coefficients: {matrix(1, list(v['dist']))}"


def opencv_xml(v: Values) -> str:
    def matrix(name: str, rows: int, values: list[float]) -> str:
        return (
            f'<{name} type_id="opencv-matrix"><rows>{rows}</rows>'
            f"<cols>{len(values) // rows}</cols><dt>d</dt>"
            f"<data>{' '.join(map(str, values))}</data></{name}>"
        )

    inside = matrix("camera_matrix", 3, flat(v)) + matrix("dist_coeffs", 1, list(v["dist"]))
    return f'<?xml version="1.0"?>\n<opencv_storage>{inside}</opencv_storage>\n'


def kalibr(v: Values) -> str:
    return (
        f"cam0:\n  camera_model: pinhole\n  distortion_coeffs: {list(v['dist'])[:4]}\n"
        f"  distortion_model: {v.get('distortion_model', 'radtan')}\n"
        f"  intrinsics: [{v['fx']}, {v['fy']}, {v['cx']}, {v['cy']}]\n"
        f"  resolution: [{v['width']}, {v['height']}]\n  rostopic: /color/image_raw\n"
    )


def matlab(v: Values) -> str:
    k1, k2, p1, p2, k3 = v["dist"]
    of_one = {**v, "cx": v["cx"] + 1, "cy": v["cy"] + 1}  # MATLAB's first pixel is (1, 1)
    return json.dumps(
        {
            "IntrinsicMatrix": np.transpose(rows_of(of_one)).tolist(),
            "RadialDistortion": [k1, k2, k3],
            "TangentialDistortion": [p1, p2],
            "ImageSize": [v["height"], v["width"]],
        }
    )


STYLES: dict[str, tuple[str, Callable[[Values], str]]] = {
    "fx fy cx cy": (".json", plain),
    "upper case": (".json", upper),
    "distortion by name": (".json", by_name),
    "another key": (".json", lambda v: plain(v, "distortion_coefficients")),
    "Kalibr's key": (".json", lambda v: plain({**v, "dist": v["dist"][:4]}, "distortion_coeffs")),
    "misspelt key": (".json", lambda v: plain(v, "distorsion")),
    "OpenCV as JSON": (".json", opencv_json),
    "ROS as JSON": (".json", ros_json),
    "Open3D": (".json", open3d),
    "Open3D by rows": (".json", open3d_rows),
    "matrix by columns": (".json", columns),
    "RealSense": (".json", realsense),
    "ROS": (".yaml", ros_yaml),
    "OpenCV's YAML": (".yaml", opencv_yaml),
    "OpenCV's XML": (".xml", opencv_xml),
    "Kalibr": (".yaml", kalibr),
    "MATLAB": (".json", matlab),
}


def of_another_size(v: Values, factor: float) -> Values:
    return v | {name: v[name] * factor for name in ("fx", "fy", "cx", "cy")}


def shares(v: Values) -> Values:
    sides = {"fx": "width", "fy": "height", "cx": "width", "cy": "height"}
    return v | {name: v[name] / v[side] for name, side in sides.items()}


def other_order(v: Values) -> Values:
    k1, k2, p1, p2, k3 = v["dist"]
    return v | {"dist": [k1, k2, k3, p1, p2]}


MISTAKES: dict[str, Callable[[Values], Values]] = {
    "the half size's": lambda v: of_another_size(v, 0.5),
    "the double size's": lambda v: of_another_size(v, 2.0),
    "four thirds the size's": lambda v: of_another_size(v, 4 / 3),
    "shares of the picture": shares,
    "cx and cy exchanged": lambda v: v | {"cx": v["cy"], "cy": v["cx"]},
    "cx and cy are 0": lambda v: v | {"cx": 0.0, "cy": 0.0},
    "cropped by 12 pixels": lambda v: v | {"cx": v["cx"] - 12},
    "cropped by 5 pixels": lambda v: v | {"cx": v["cx"] - 5},
    "fx is NaN": lambda v: v | {"fx": float("nan")},
    "fx is negative": lambda v: v | {"fx": -v["fx"]},
    "fx is a text": lambda v: v | {"fx": str(v["fx"])},
    "fx has a comma": lambda v: v | {"fx": str(v["fx"]).replace(".", ",")},
    "fx in mm": lambda v: v | {"fx": 4.2, "fy": 4.2},
    "fy is 10 % more": lambda v: v | {"fy": 1.1 * v["fy"]},
    "width and height exchanged": lambda v: v | {"width": v["height"], "height": v["width"]},
    "distortion's sign": lambda v: v | {"dist": [-k for k in v["dist"]]},
    "distortion left out": lambda v: v | {"dist": [0.0] * 5},
    "distortion as k1 k2 k3 p1 p2": other_order,
    "named equidistant": lambda v: v | {"distortion_model": "equidistant"},
    "named f-theta": lambda v: v | {"distortion_model": "ftheta"},
    "named none": lambda v: v | {"distortion_model": "none"},
    "named omni": lambda v: v | {"distortion_model": "omni"},
}
FOCAL = (0.85, 0.9, 0.95, 1.05, 1.1, 1.15)


def camera_file(draw: Draw, folder: Path, patient: Patient, _: Patient) -> Variant:
    """A frame whose camera file is of any program, perhaps with a mistake."""
    style = draw(st.sampled_from(sorted(STYLES)))
    mistake = draw(st.sampled_from(["", "", "", "focal length", "focal length", *MISTAKES]))
    bent = list(draw(st.sampled_from(BENT)))
    values: Values = {**camera_of(patient), "dist": bent}
    image = patient.image
    lens = Lens(image.fx, image.fy, image.cx, image.cy, (*bent, 0.0, 0.0, 0.0))
    write_frame(folder / "frame", patient, lens=lens)
    how = f"{style}{', bent' if any(bent) else ''}"
    if mistake == "focal length":
        factor = draw(st.sampled_from(FOCAL))
        how += f", focal length times {factor}"
        values |= {"fx": values["fx"] * factor, "fy": values["fy"] * factor}
    elif mistake:
        how += f", {mistake}"
        values = MISTAKES[mistake](values)
    (folder / "frame" / "intrinsics.json").unlink()
    suffix, write = STYLES[style]
    path = folder / "frame" / f"intrinsics{suffix}"
    path.write_text(write(values))
    spoilt = spoil(draw, path, chance=0.15)
    return Variant(
        "camera files",
        how + spoilt,
        (convert(folder / "frame", patient.model),),
        right=not mistake and (not any(bent) or style != "misspelt key"),
    )


def depth_camera(draw: Draw, folder: Path, patient: Patient, _: Patient) -> Variant:
    """A depth of a camera beside the colour's, with its motion as programs write it."""
    frame = folder / "frame"
    write_frame(frame, patient)
    baseline = np.array([draw(st.sampled_from([6.0, 12.0, -12.0])), 1.0, 0.5])
    angle = np.deg2rad(draw(st.sampled_from([0.0, 1.5])))
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]]
    )
    image = patient.image
    height, width = image.depth.shape
    points = (patient.case.points - baseline) @ turn  # the depth camera's frame
    u = np.round(image.fx * points[:, 0] / points[:, 2] + image.cx + 20).astype(int)
    v = np.round(image.fy * points[:, 1] / points[:, 2] + image.cy + 20).astype(int)
    depth = np.zeros((height + 40, width + 40), np.float32)
    seen = (u >= 0) & (u < width + 40) & (v >= 0) & (v < height + 40)
    depth[v[seen], u[seen]] = points[seen, 2]
    np.save(frame / "depth.npy", depth)
    lens = {"fx": image.fx, "fy": image.fy, "cx": image.cx + 20, "cy": image.cy + 20}
    (frame / "depth_intrinsics.json").write_text(
        json.dumps({**lens, "width": width + 40, "height": height + 40})
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, baseline
    mistakes = ["inverse", "transposed", "no motion", "no lens", "the colour's lens", "unit"]
    mistake = draw(st.sampled_from(["", "", *mistakes]))
    if mistake == "inverse":
        matrix = np.linalg.inv(matrix)
    elif mistake == "transposed":
        matrix = matrix.T
    elif mistake == "unit":
        matrix[:3, 3] *= draw(st.sampled_from([0.1, 10.0, 1000.0]))
    style = draw(st.sampled_from(["4x4 in mm", "4x4 in m", "RealSense", "Orbbec", "text"]))
    metres = matrix.copy()
    metres[:3, 3] /= 1000.0
    files: dict[str, Any] = {
        "4x4 in mm": matrix.tolist(),
        "4x4 in m": {"depth_to_color": metres.tolist(), "unit": "m"},
        "RealSense": {
            "rotation": metres[:3, :3].T.ravel().tolist(),
            "translation": metres[:3, 3].tolist(),
        },
        "Orbbec": {
            "transform": {"rot": matrix[:3, :3].ravel().tolist(), "trans": matrix[:3, 3].tolist()}
        },
    }
    path = frame / ("depth_to_color.txt" if style == "text" else "depth_to_color.json")
    if style == "text":
        np.savetxt(path, matrix)
    else:
        path.write_text(json.dumps(files[style]))
    if mistake == "no motion":
        path.unlink()
    elif mistake == "no lens":
        (frame / "depth_intrinsics.json").unlink()
    elif mistake == "the colour's lens":
        (frame / "intrinsics.json").replace(frame / "depth_intrinsics.json")
        (frame / "intrinsics.json").write_bytes((frame / "depth_intrinsics.json").read_bytes())
    spoilt = spoil(draw, path, chance=0.1) if path.exists() else ""
    # Pictures of 96x72 cannot confirm a motion; who is sure of his own insists.
    insisting = () if mistake or draw(st.booleans()) else ("--unchecked",)
    return Variant(
        "depth cameras",
        f"{style}, {mistake or 'as it is'}{', unchecked' if insisting else ''}{spoilt}",
        (convert(frame, patient.model, *insisting),),
        right=not mistake,
    )
