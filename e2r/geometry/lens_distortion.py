"""Lens distortion: where a real lens projects a ray, and images without that distortion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage

from e2r.types import Float, Shaped

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
"""Names of the distortion coefficients, in OpenCV's order."""
MORE_COEFFICIENTS = ("s1", "s2", "s3", "s4", "tauX", "tauY")
"""Thin prism and tilted sensor: they may follow the eight of :data:`COEFFICIENTS`."""
Model: TypeAlias = Literal["brown_conrady", "modified_brown_conrady", "equidistant", "fov"]
"""How a lens bends rays; see :func:`distort`."""

Coordinates: TypeAlias = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]
"""x and y of points on the plane z = 1."""

RayMap: TypeAlias = Callable[..., Coordinates]
"""(x, y, coefficients, model=...) -> another x and y: :func:`distort` or :func:`undistort`."""


class Lens(NamedTuple):
    """Intrinsics and distortion of one camera."""

    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels; integer pixel (u, v) is the pixel's centre
    cy: float  # pixels
    distortion: tuple[float, ...] = (0.0,) * 8  # in the order of the model; missing ones are 0
    depth_scale: float = 1.0  # stored depth units per mm
    size: tuple[int, int] | None = None  # width and height in pixels, if the file names them
    model: Model = "brown_conrady"

    @property
    def bends(self) -> bool:
        """Whether the picture differs from a pinhole camera's."""
        return self.model == "equidistant" or any(self.distortion)


def distort(
    x: Float[np.ndarray, "..."],
    y: Float[np.ndarray, "..."],
    distortion: tuple[float, ...],
    *,
    model: Model = "brown_conrady",
) -> Coordinates:
    """Applies lens distortion to the ray (x, y, 1).

    The models, with r the distance from the axis on the plane z = 1:

    - ``brown_conrady``: OpenCV's and Azure Kinect's; rational with k4 to k6, thin prism with s1 to
      s4, tilted sensor with tauX and tauY (radians).
    - ``modified_brown_conrady``: k1 k2 p1 p2 k3; the tangential part is of the point that the
      radial part has moved. So librealsense's ``rs2_project_point_to_pixel`` computes its
      *modified* and its *inverse* Brown-Conrady.
    - ``equidistant``: k1 to k4 of Kannala and Brandt, a polynomial of the angle; OpenCV's fish-eye.
    - ``fov``: one angle in radians (Devernay and Faugeras, 2001); librealsense's *F-theta*.

    The result is NaN where the model folds the image over itself.

    Args:
      x: on the plane z = 1, any shape.
      y: on the plane z = 1, the same shape.
      distortion: coefficients in the order of the model; missing ones are 0.
      model: of the lens.
    """
    unfolded = x * x + y * y < _fold(distortion, model)
    u, v = _bend(x, y, distortion, model=model)
    return np.where(unfolded, u, np.nan), np.where(unfolded, v, np.nan)


def undistort(
    x: Float[np.ndarray, "..."],
    y: Float[np.ndarray, "..."],
    distortion: tuple[float, ...],
    *,
    model: Model = "brown_conrady",
    iterations: int = 20,
) -> Coordinates:
    """The inverse of :func:`distort`, by Newton's method.

    Args:
      x: distorted, on the plane z = 1, any shape.
      y: distorted, on the plane z = 1, the same shape.
      distortion: as for :func:`distort`.
      model: of the lens.
      iterations: of Newton's method.

    Returns:
      x and y of the rays; NaN where no ray arrives at the point.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    ray_x, ray_y = x, y
    step = 1e-6
    with np.errstate(all="ignore"):  # a point that no ray reaches runs away
        for _ in range(iterations):
            u, v = _bend(ray_x, ray_y, distortion, model=model)
            right = _bend(ray_x + step, ray_y, distortion, model=model)
            down = _bend(ray_x, ray_y + step, distortion, model=model)
            ux, vx, uy, vy = right[0] - u, right[1] - v, down[0] - u, down[1] - v
            determinant = (ux * vy - uy * vx) / step
            ray_x = ray_x + ((x - u) * vy - (y - v) * uy) / determinant
            ray_y = ray_y + ((y - v) * ux - (x - u) * vx) / determinant
        u, v = distort(ray_x, ray_y, distortion, model=model)
        arrived = np.hypot(u - x, v - y) < 1e-6
    return np.where(arrived, ray_x, np.nan), np.where(arrived, ray_y, np.nan)


# Formulas -----------------------------------------------------------------------------------------


def _bend(
    x: Float[np.ndarray, "..."],
    y: Float[np.ndarray, "..."],
    distortion: tuple[float, ...],
    *,
    model: Model,
) -> Coordinates:
    """:func:`distort` as its formula has it, folds included."""
    square = x * x + y * y
    if model in ("equidistant", "fov"):
        r = np.asarray(np.maximum(np.sqrt(square), 1e-12))
        scale = (_equidistant if model == "equidistant" else _fov)(r, distortion) / r
        return np.asarray(x * scale), np.asarray(y * scale)
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = _padded(distortion, 14)
    with np.errstate(all="ignore"):  # at a pole of the rational model
        radial = (1.0 + square * (k1 + square * (k2 + square * k3))) / (
            1.0 + square * (k4 + square * (k5 + square * k6))
        )
    u, v = x * radial, y * radial
    if model == "modified_brown_conrady":
        x, y = u, v
    u = u + 2.0 * p1 * x * y + p2 * (square + 2.0 * x * x) + square * (s1 + square * s2)
    v = v + 2.0 * p2 * x * y + p1 * (square + 2.0 * y * y) + square * (s3 + square * s4)
    if tilt_x or tilt_y:
        (a, b, c), (d, e, f), (g, h, i) = _tilt(tilt_x, tilt_y)
        depth = g * u + h * v + i
        u, v = (a * u + b * v + c) / depth, (d * u + e * v + f) / depth
    return np.asarray(u), np.asarray(v)


def _padded(distortion: tuple[float, ...], count: int) -> tuple[float, ...]:
    return (*distortion, *(0.0,) * (count - len(distortion)))


def _equidistant(
    r: Float[np.ndarray, "..."], distortion: tuple[float, ...]
) -> Float[np.ndarray, "..."]:
    k1, k2, k3, k4 = _padded(distortion, 4)
    angle = np.arctan(r)
    square = angle * angle
    return np.asarray(angle * (1.0 + square * (k1 + square * (k2 + square * (k3 + square * k4)))))


def _fov(r: Float[np.ndarray, "..."], distortion: tuple[float, ...]) -> Float[np.ndarray, "..."]:
    angle = distortion[0] if distortion else 0.0
    return np.asarray(np.arctan(2.0 * r * np.tan(angle / 2.0)) / angle) if angle else r


def _tilt(angle_x: float, angle_y: float) -> Float[np.ndarray, "3 3"]:
    """OpenCV's projection onto a sensor that is tilted about x, then about y."""
    cos_x, sin_x, cos_y, sin_y = np.cos(angle_x), np.sin(angle_x), np.cos(angle_y), np.sin(angle_y)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cos_x, sin_x], [0.0, -sin_x, cos_x]])
    about_y = np.array([[cos_y, 0.0, -sin_y], [0.0, 1.0, 0.0], [sin_y, 0.0, cos_y]])
    turn = about_y @ about_x
    onto = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1.0]])
    return onto @ turn


def _fold(distortion: tuple[float, ...], model: Model) -> float:
    """The squared distance from the axis at which the radial part first turns back."""
    if model == "fov":
        return np.inf
    if model == "equidistant":
        k1, k2, k3, k4 = _padded(distortion, 4)
        angle = np.sqrt(_first_root([9.0 * k4, 7.0 * k3, 5.0 * k2, 3.0 * k1, 1.0]))
        return float(np.tan(angle) ** 2) if angle < np.pi / 2 else np.inf
    k1, k2, _, _, k3, k4, k5, k6 = _padded(distortion, 8)[:8]
    over, under = np.poly1d([k3, k2, k1, 1.0]), np.poly1d([k6, k5, k4, 1.0])
    slope = over * under + np.poly1d([2.0, 0.0]) * (over.deriv() * under - over * under.deriv())
    return min(_first_root(each.coeffs) for each in (slope, over, under))


def _first_root(polynomial: Any) -> float:
    """The smallest positive root, or infinity."""
    roots = np.roots(polynomial)
    real = roots.real[np.abs(roots.imag) < 1e-9 * np.maximum(np.abs(roots), 1.0)]
    return float(min(real[real > 0], default=np.inf))


# Images -------------------------------------------------------------------------------------------


def remap(
    color: Shaped[np.ndarray, "h w 3"],
    depth: Shaped[np.ndarray, "h w"],
    lens: Lens,
    *,
    ray_map: RayMap,
) -> tuple[Shaped[np.ndarray, "h w 3"], Shaped[np.ndarray, "h w"]]:
    """Resamples an RGB-D image: each new pixel is read where ``ray_map`` sends its ray.

    Colours are interpolated. A depth is that of the nearest pixel, never a mean of two surfaces.

    Args:
      color: uint8.
      depth: mm along the optical axis, 0 where unseen.
      lens: of both images.
      ray_map: :func:`distort` removes the distortion, :func:`undistort` adds it.

    Returns:
      Colour (uint8) and depth (float32, mm); both are 0 where the ray leaves the given image.
    """
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    x, y = ray_map(
        (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, lens.distortion, model=lens.model
    )
    rows, columns = y * lens.fy + lens.cy, x * lens.fx + lens.cx
    inside = (rows > -0.5) & (rows < depth.shape[0] - 0.5)
    inside &= (columns > -0.5) & (columns < depth.shape[1] - 0.5)  # NaN compares as False
    rows, columns = np.where(inside, rows, 0.0), np.where(inside, columns, 0.0)
    nearest = depth[np.rint(rows).astype(int), np.rint(columns).astype(int)]
    channels = [
        ndimage.map_coordinates(
            color[..., i].astype(np.float32), (rows, columns), order=1, mode="nearest"
        )
        for i in range(3)
    ]
    colors = np.where(inside[..., None], np.rint(np.stack(channels, -1)), 0).astype(np.uint8)
    return colors, np.where(inside, nearest, 0).astype(np.float32)
