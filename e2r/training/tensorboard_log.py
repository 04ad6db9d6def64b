"""The log of a training run as TensorBoard shows it, by ``tensorboardX``, an optional package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "tensorboard"
"""The events' folder in the run's folder."""
GROUPS = ("loss", "held_out", "probe")
"""Prefixes of figures that TensorBoard shows together; the others stand under ``training``."""


def require_package() -> ModuleType:
    """The package that writes the events.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import tensorboardX  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415
    except ImportError:
        raise ValueError(
            "--log tensorboard needs the package tensorboardX, which is not installed; install "
            "e2r[tensorboard]"
        ) from None
    package: ModuleType = tensorboardX
    return package


class TensorBoardLog:
    """Writes the lines of a log as TensorBoard's events."""

    def __init__(self, output: Path, *, done: int) -> None:
        """Opens a file of events; TensorBoard hides those of later steps, of a killed run.

        Args:
          output: folder of the run.
          done: steps done.

        Raises:
          ValueError: the package is not installed.
        """
        self._writer: Any = require_package().SummaryWriter(
            str(output / FOLDER), purge_step=done + 1
        )

    def write(self, line: Mapping[str, float | int]) -> None:
        """Writes the figures of a line.

        Args:
          line: of the log, with its ``step``.
        """
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(tag(name), value, int(line["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def tag(name: str) -> str:
    """The name under which TensorBoard shows a figure, with its group before the stroke.

    Args:
      name: of the figure in the log.
    """
    for group in GROUPS:
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return f"training/{name}"
