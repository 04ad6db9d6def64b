"""Provenance of results: versions of the packages, the commit, and digests of the code."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2r.runtime.code_digest import package_digest
from e2r.runtime.registry import plugin_digests

PACKAGES = ("e2r", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "trimesh")
"""Packages on which results depend."""


DESCRIPTIVE = ("e2r", "commit")
"""Entries of a code record that describe the code; the digests identify it."""


def code_record(*settings: Any) -> dict[str, str]:
    """What computes figures: versions, commit, and digests of e2r's sources and of plug-ins.

    Args:
      *settings: dataclasses that name the plug-ins in use.
    """
    return {**versions(), "e2r sources": package_digest(), **plugin_digests(*settings)}


def code_differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two code records, in words.

    Args:
      then: a record that was kept.
      now: today's record.
    """
    names = [name for name in {**then, **now} if name not in DESCRIPTIVE]
    return [
        f"{name} {then.get(name, 'not recorded')} then, {now.get(name, 'not used')} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


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
