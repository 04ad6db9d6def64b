"""Provenance of results: versions of the packages, and the commit."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

PACKAGES = ("e2r", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "trimesh")
"""Packages on which results depend."""


def versions() -> dict[str, str]:
    """Version of each of :data:`PACKAGES`, and the commit of this checkout."""
    found = {name: _version(name) for name in PACKAGES}
    return {**found, "commit": _commit()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
