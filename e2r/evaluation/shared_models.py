"""What depends on a model alone is made once, and kept for the cases that share the model."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from e2r.evaluation.metrics import is_deep
from e2r.geometry import surface_cache, surfaces
from e2r.runtime.timing import timed
from e2r.types import Bool, Float, Surface

MAX_MODELS = 4
"""Models that :class:`SharedModels` holds."""


class SharedModel:
    """A model, ready to be registered and scored."""

    def __init__(self, meshes: Mapping[str, trimesh.Trimesh], surface: Surface) -> None:
        """Keeps both; the rest is made when it is asked for.

        Args:
          meshes: level -> surface, mm, model frame.
          surface: of all levels.
        """
        self.surface = surface
        self.meshes = meshes
        self._deep: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # level -> targets, whether deep

    @cached_property
    def tree(self) -> cKDTree:
        """Of the centres of the surface's triangles, mm."""
        with timed("tree"):
            return cKDTree(np.asarray(self.surface.planes, np.float64)[:, :3])

    def deep(
        self, targets: Mapping[str, Float[np.ndarray, "_ 3"]]
    ) -> dict[str, Bool[np.ndarray, "_"]]:
        """Level -> which of its targets lie off the surface; the latest answer is kept.

        Args:
          targets: level -> points, mm, model frame.
        """
        for name, points in targets.items():
            known = self._deep.get(name)
            if known is None or not np.array_equal(known[0], points):
                self._deep[name] = points, is_deep(self.meshes[name], points)
        return {name: self._deep[name][1] for name in targets}


class SharedModels:
    """Prepares models, and holds the latest: cases of one specimen share theirs."""

    def __init__(self, *, exact: bool, file: Path | None = None) -> None:
        """Makes an empty cache.

        Args:
          exact: keep the triangles' corners, for the ``closest`` correspondence.
          file: where the surface is kept between runs, if all cases have one model.
        """
        build = (
            surfaces.build_surface if file is None else partial(surface_cache.load_or_build, file)
        )
        self._build = partial(build, seed=0, nodes=surfaces.PROJECTION_NODES, exact=exact)
        self._models: dict[str, SharedModel] = {}
        self._lock = threading.Lock()

    def get(self, meshes: Mapping[str, trimesh.Trimesh]) -> SharedModel:
        """A model of these surfaces; threads wait for each other.

        Args:
          meshes: level -> surface, mm, model frame.
        """
        with self._lock, timed("surfaces"):
            key = surface_cache.fingerprint(meshes)
            if key not in self._models:
                if len(self._models) >= MAX_MODELS:
                    self._models.pop(next(iter(self._models)))
                self._models[key] = SharedModel(meshes, self._build(meshes))
            return self._models[key]
