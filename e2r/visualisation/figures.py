"""The scene figure: a cloud, its mask and the registered surfaces in three dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import plotly.graph_objects as go
import trimesh

from e2r.geometry.poses import apply_host
from e2r.types import Array, Float, Pose
from e2r.visualisation.colors import TRUTH_RGB, hex_color, level_color

Surfaces: TypeAlias = Mapping[str, trimesh.Trimesh]
"""Level name -> surface in mm, model frame."""

MIN_SHOWN_WEIGHT = 0.05
"""Points of a smaller mask weight are left out of the mask layer."""
_MASK_SCALE = [[0.0, "#f7dade"], [1.0, "#d6283c"]]
_CAMERA_VIEW = {"eye": {"x": 0.0, "y": 0.0, "z": -1.7}, "up": {"x": 0.0, "y": -1.0, "z": 0.0}}


def scene_figure(
    points: Float[Array, "n 3"],
    colors: Float[Array, "n 3"] | None = None,
    weights: Float[Array, "n"] | None = None,
    *,
    surfaces: Surfaces | None = None,
    poses: Mapping[str, Pose] | Pose | None = None,
    error: Float[Array, "n"] | None = None,
    targets: Float[Array, "t 3"] | None = None,
) -> go.Figure:
    """Draws a cloud and the registered surfaces, seen from the camera.

    A click on a layer's name shows or hides the layer. The mask starts hidden if an error is given.

    Args:
      points: scene points, mm, camera frame; rows that are not finite are left out.
      colors: of the points, 0 to 1; grey if None.
      weights: mask weights, 0 to 1.
      surfaces: level name -> surface, mm, model frame.
      poses: camera from model, one for all levels or one each. If None, the surfaces are already
        in the camera frame.
      error: one value for each point, such as its distance from the surface in mm.
      targets: targets under the true pose, mm, camera frame.
    """
    points = np.asarray(points, np.float32)
    finite = np.isfinite(points).all(axis=1)
    rgb = np.full(points.shape, 0.6) if colors is None else np.asarray(colors)
    figure = go.Figure()
    figure.add_scatter3d(
        **_xyz(points[finite]),
        mode="markers",
        name="scene",
        hoverinfo="skip",
        marker={"size": 2, "color": _css(rgb[finite])},
    )
    if weights is not None:
        values = np.asarray(weights, np.float32)
        shown = finite & (values > MIN_SHOWN_WEIGHT)
        layer = _value_layer("mask", points[shown], values[shown], _MASK_SCALE, 1.0)
        figure.add_scatter3d(**layer, visible=True if error is None else "legendonly")
    if error is not None:
        values = np.asarray(error, np.float32)
        shown = finite & np.isfinite(values)
        top = float(np.quantile(values[shown], 0.95)) if shown.any() else 1.0
        layer = _value_layer("error", points[shown], values[shown], "Viridis", top or 1.0)
        figure.add_scatter3d(**layer, visible=True)
    for i, (name, mesh) in enumerate((surfaces or {}).items()):
        pose = poses.get(name) if isinstance(poses, Mapping) else poses
        vertices = mesh.vertices if pose is None else apply_host(pose, mesh.vertices)
        figure.add_mesh3d(
            **_xyz(vertices),
            **dict(zip("ijk", np.asarray(mesh.faces, np.int32).T, strict=True)),
            name=name,
            showlegend=True,
            color=level_color(i),
            opacity=0.6,
            hoverinfo="name",
            lighting={"ambient": 0.7, "diffuse": 0.6, "specular": 0.1},
        )
    if targets is not None:
        figure.add_scatter3d(
            **_xyz(targets),
            mode="markers",
            name="true targets",
            hoverinfo="name",
            marker={"size": 3, "color": hex_color(TRUTH_RGB), "symbol": "diamond"},
        )
    figure.update_scenes(
        aspectmode="data",
        xaxis_visible=False,
        yaxis_visible=False,
        zaxis_visible=False,
        camera=_CAMERA_VIEW,
        dragmode="orbit",
    )
    return figure.update_layout(
        template="plotly_white", height=480, margin={"l": 0, "r": 0, "t": 0, "b": 0}
    )


def simplify_mesh(mesh: trimesh.Trimesh, max_faces: int) -> trimesh.Trimesh:
    """A coarser surface for drawing: the vertices of each cell of a grid become one vertex.

    Args:
      mesh: the surface, mm.
      max_faces: triangles of the result, at most.
    """
    original = np.asarray(mesh.vertices)
    vertices, faces = original, np.asarray(mesh.faces)
    cell_mm = float(np.sqrt(2.0 * mesh.area / max(max_faces, 1)))
    while len(faces) > max_faces:
        _, first, group = np.unique(
            np.floor(original / cell_mm), axis=0, return_index=True, return_inverse=True
        )
        vertices, faces = original[first], group.ravel()[mesh.faces]
        a, b, c = faces.T
        faces = faces[(a != b) & (b != c) & (c != a)]
        cell_mm *= 1.2
    return trimesh.Trimesh(vertices, faces, process=False)


def _value_layer(
    name: str, points: np.ndarray, values: np.ndarray, scale: str | list, top: float
) -> dict:
    """The arguments of a layer of points that are coloured by their values, 0 to ``top``."""
    rounded = values.round(3)
    return {
        **_xyz(points),
        "mode": "markers",
        "name": name,
        "text": rounded,
        "hovertemplate": name + " %{text}<extra></extra>",
        "marker": {
            "size": 3,
            "color": rounded,
            "colorscale": scale,
            "cmin": 0.0,
            "cmax": top,
            "showscale": name == "error",
            "colorbar": {"thickness": 10, "len": 0.6, "x": 0.0},
        },
    }


def _xyz(points: Array) -> dict[str, np.ndarray]:
    return dict(zip("xyz", np.asarray(points, np.float32).T, strict=True))


def _css(colors: np.ndarray) -> list[str]:
    channels = np.clip(np.round(255 * colors), 0, 255).astype(int)
    return [hex_color((r, g, b)) for r, g, b in channels.tolist()]
