"""A cloth over a part of the wound: it hides bone, and nothing marks its points as a cloth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from e2r.datasets.case import Case, visible_bone

CLOTH_MARGIN_MM = 30.0
"""How far the cloth reaches beyond the bone."""
CLOTH_DEPTH_MM = 40.0
"""The cloth covers points up to this far below the deepest bone."""
CLOTH_COLOR = np.array([0.83, 0.80, 0.74])


def hide_bone(case: Case, share: float, rng: np.random.Generator) -> Case:
    """Hides a share of the visible bone under a cloth with a straight edge.

    The cloth lies 10 to 20 mm above what it covers, and covers the points near the bone too.

    Args:
      case: a simulated case, which knows its bone.
      share: of the bone points, 0 to below 1.
      rng: draws the direction of the edge and the height of the cloth.

    Raises:
      ValueError: the case does not know its bone.
    """
    rows = visible_bone(case)
    angle, lift = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(10.0, 20.0)
    if not share or not len(rows):
        return case
    bone = case.points[rows]
    across = case.points[:, :2] @ np.array([np.cos(angle), np.sin(angle)])
    edge = np.quantile(across[rows], 1.0 - share)
    low, high = bone[:, :2].min(0) - CLOTH_MARGIN_MM, bone[:, :2].max(0) + CLOTH_MARGIN_MM
    inside = ((case.points[:, :2] > low) & (case.points[:, :2] < high)).all(1)
    deepest = np.quantile(bone[:, 2], 0.95) + CLOTH_DEPTH_MM
    covered = inside & (across >= edge) & (case.points[:, 2] < deepest)
    points, colors = case.points.copy(), case.colors.copy()
    points[covered] *= 1.0 - lift / points[covered, 2:]  # along the rays
    weave = 0.04 * rng.standard_normal((int(covered.sum()), 1))
    colors[covered] = np.clip(CLOTH_COLOR + weave, 0.0, 1.0)
    left = case.bone & ~covered if case.bone is not None else None
    return replace(case, points=points, colors=colors, normals=None, image=None, bone=left)
