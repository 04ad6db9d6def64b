"""Surfaces kept as ``.npz`` files beside their models, because building one takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from e2r.geometry import surfaces
from e2r.runtime.atomic_files import atomic_write
from e2r.types import Pose, Surface

FORMAT_VERSION = 2
"""Part of every fingerprint: a file of another version is built again."""
FILE_KEYS = {"canonical_from_model": "upright", "num_degenerate": "dropped"}
"""Fields whose name in the file differs from that in :class:`~e2r.types.Surface`."""


def load_or_build(path: Path, meshes: Mapping[str, trimesh.Trimesh], **options: Any) -> Surface:
    """Reads the surface of ``meshes`` from a file, or builds and saves it.

    A folder that is not writable only costs time.

    Args:
      path: an ``.npz`` file, beside the model.
      meshes: level name -> mesh, mm.
      **options: of :func:`e2r.geometry.surfaces.build_surface`.
    """
    digest = fingerprint(meshes, **options)
    try:
        return load(path, digest)
    except ValueError:
        surface = surfaces.build_surface(meshes, **options)
    with contextlib.suppress(OSError):
        save(path, surface, digest)
    return surface


def fingerprint(meshes: Mapping[str, trimesh.Trimesh], **options: Any) -> str:
    """A digest of everything that a surface depends on.

    Args:
      meshes: level name -> mesh, mm.
      **options: of :func:`e2r.geometry.surfaces.build_surface`.
    """
    digest = hashlib.sha256(repr((FORMAT_VERSION, sorted(options.items()))).encode())
    for name, mesh in meshes.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(mesh.vertices, np.float64).tobytes())
        digest.update(np.ascontiguousarray(mesh.faces, np.int64).tobytes())
    return digest.hexdigest()


def save(path: Path, surface: Surface, digest: str = "") -> None:
    """Writes a surface as ``.npz``, atomically.

    Args:
      path: the file to write.
      surface: of one model.
      digest: the :func:`fingerprint` of its meshes.
    """
    leaves = surface._replace(
        canonical_from_model=np.column_stack(surface.canonical_from_model)  # type: ignore[arg-type]
    )._asdict()
    with atomic_write(path) as part, part.open("wb") as file:
        named = {FILE_KEYS.get(name, name): leaf for name, leaf in leaves.items()}
        np.savez(file, made_of=np.array(digest), **named)


def load(path: Path, digest: str | None = None) -> Surface:
    """Reads a file that :func:`save` wrote.

    Args:
      path: the ``.npz`` file.
      digest: if given, the :func:`fingerprint` that the file must hold.

    Raises:
      ValueError: the file is missing, is no surface, or has another fingerprint.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            leaves: dict[str, Any] = {
                name: arrays[FILE_KEYS.get(name, name)] for name in Surface._fields
            }
            matrix = leaves["canonical_from_model"]
            leaves["canonical_from_model"] = Pose(matrix[:, :3], matrix[:, 3])
            found = str(arrays["made_of"])
    except Exception as error:  # a zip file breaks in many ways, which all mean the same here
        raise ValueError(
            f"{path}: holds no surface ({type(error).__name__}); delete it and build it again"
        ) from None
    if digest not in (None, found):
        raise ValueError(f"{path}: holds the surface of another model; build it again")
    return Surface(**leaves)
