"""What all variants of inputs share: a patient with a known truth, and files as people write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import trimesh
from PIL import Image

from e2r.datasets.case import Case
from e2r.formats.scenes import RgbdImage
from e2r.geometry import lens_distortion, poses

Draw = Callable[[st.SearchStrategy[Any]], Any]
Places = Callable[[np.ndarray], np.ndarray]
MM = st.sampled_from([0.85, 0.9, 0.95, 1.05, 1.1, 1.15])
"""Factors by which people are wrong: voxel sizes, calibrations."""


def same(places: np.ndarray) -> np.ndarray:
    return places


@dataclass(frozen=True)
class Variant:
    """An input as a person brings it, and where its levels truly are.

    ``model_places`` maps a level's true points, in the patient's model frame, to the frame of the
    model as it was written; ``scene_places`` maps true points in the camera to the frame of the
    scene as it was written. None: the model or the scene is another patient's, so no pose is right.
    """

    kind: str
    how: str
    commands: tuple[tuple[str, ...], ...]  # of e2r; the last one writes the case "made"
    right: bool = True  # the file says what it means, in its program's own words
    model_places: Places | None = same
    scene_places: Places | None = same
    named: Mapping[str, str] = field(default_factory=dict)  # level as written -> true level


@dataclass(frozen=True)
class Patient:
    """A simulated case, and its model as a folder of STL files."""

    case: Case
    model: Path

    @property
    def image(self) -> RgbdImage:
        assert self.case.image is not None
        return self.case.image

    def level_errors(self, variant: Variant, found: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Level -> mean distance of its targets from their true places, mm; exposed levels only."""
        assert self.case.truth is not None and self.case.targets is not None
        errors = {}
        for name, matrix in found.items():
            level = variant.named.get(name, name)
            if level not in self.case.targets:
                continue
            if variant.model_places is None or variant.scene_places is None:
                errors[name] = float("inf")
                continue
            targets = np.asarray(self.case.targets[level])
            true = variant.scene_places(poses.apply_host(self.case.truth[level], targets))
            given = variant.model_places(targets)
            errors[name] = float(
                np.linalg.norm(given @ matrix[:3, :3].T + matrix[:3, 3] - true, axis=1).mean()
            )
        return errors


def scaling(*factors: float) -> Places:
    """Stretches points along the axes."""
    return lambda places: places * np.asarray(factors if len(factors) > 1 else factors * 3)


def turned(matrix: np.ndarray | Sequence[Sequence[float]]) -> Places:
    """Applies a linear map."""
    return lambda places: places @ np.asarray(matrix, float).T


# Files --------------------------------------------------------------------------------------------


def write_frame(
    folder: Path, patient: Patient, *, lens: lens_distortion.Lens | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Writes colour, depth in mm as floats, and a plain camera file; returns colour and depth.

    Args:
      folder: is made.
      patient: whose frame it is.
      lens: with distortion, if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = patient.image
    color, depth = image.color, image.depth
    if lens is not None and lens.bends:
        color, depth = lens_distortion.remap(color, depth, lens, ray_map=lens_distortion.undistort)
    Image.fromarray(color).save(folder / "color.png")
    np.save(folder / "depth.npy", depth.astype(np.float32))
    write_camera(folder, patient)
    return color, depth


def write_camera(folder: Path, patient: Patient, **more: Any) -> None:
    """Writes a plain camera file."""
    about = {**camera_of(patient), **more}
    (folder / "intrinsics.json").write_text(
        json.dumps({k: v for k, v in about.items() if v is not None})
    )


def camera_of(patient: Patient) -> dict[str, float]:
    image = patient.image
    height, width = image.depth.shape
    values = {"fx": image.fx, "fy": image.fy, "cx": image.cx, "cy": image.cy}
    return {**values, "width": width, "height": height}


def convert(scene: Path, model: Path, *more: str) -> tuple[str, ...]:
    """The command that makes the case of a scene and a model."""
    return ("convert", "rgbd", str(scene), str(scene.parent / "made"), "--model", str(model), *more)


def spoil(draw: Draw, path: Path, chance: float = 0.2) -> str:
    """Perhaps cuts a file short, or puts bytes before or after it; says which."""
    hows = ["cut short", "bytes after it", "a BOM", "empty", "CRLF"]
    whole = round(len(hows) * (1.0 - chance) / chance)
    how = draw(st.sampled_from([""] * whole + hows))
    content = path.read_bytes()
    if not how:
        return ""
    if how == "cut short":
        content = content[: int(draw(st.sampled_from([0.05, 0.4, 0.8, 0.99])) * len(content))]
    elif how == "bytes after it":
        content += draw(st.sampled_from([b"\n", b"\0" * 7, b"more\n", content[:100]]))
    elif how == "a BOM":
        content = b"\xef\xbb\xbf" + content
    elif how == "empty":
        content = b""
    else:
        content = content.replace(b"\n", b"\r\n")
    path.write_bytes(content)
    return f", {how}"


# Right readings -----------------------------------------------------------------------------------


def reading_error(patient: Patient, variant: Variant, case: Case) -> str | None:
    """How a read case differs from what its files mean; None where it does not.

    The scene may differ by the rounding of its numbers, and a model of a label map by its voxels.
    """
    if variant.model_places is None or variant.scene_places is None:
        return None
    true = variant.scene_places(patient.case.points)
    far = trimesh.proximity.cKDTree(true).query(case.points)[0]
    if np.quantile(far, 0.9) > 1.5 or len(case.points) < 0.5 * len(true):
        return f"the scene is {np.quantile(far, 0.9):.2f} mm off, of {len(case.points)} points"
    for name, mesh in case.model.items():
        level = variant.named.get(name, name)
        if level not in patient.case.model:
            return f"{name} is no level of the patient"
        vertices = variant.model_places(np.asarray(patient.case.model[level].vertices))
        apart = np.abs(np.asarray(mesh.bounds) - [vertices.min(0), vertices.max(0)]).max()
        if apart > 2.0:
            return f"{name} is {apart:.2f} mm off"
    return None
