"""Versions and commit of what made a figure."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, and the commit."""
    names = ("e2r", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "trimesh")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    here = Path(__file__).resolve().parent
    try:
        found["commit"] = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["commit"] = "unknown"
    return found
