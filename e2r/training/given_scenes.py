"""The scenes that a run is given: none, case folders, or cases in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from e2r.config import TrainingConfig
from e2r.datasets.case import Case, case_digest
from e2r.training import batches, sources

Scenes: TypeAlias = str | os.PathLike[str] | Sequence[Case] | None
"""A folder of cases, or cases, with truth; None: the configuration's simulated scenes."""


def source_name(scenes: Scenes) -> str:
    """The name by which a run's scenes are known again.

    Args:
      scenes: of the run.
    """
    if scenes is None:
        return "simulated"
    if isinstance(scenes, (str, os.PathLike)):
        return str(Path(scenes).resolve())
    digests = " ".join(case_digest(case) for case in scenes)
    return f"{len(scenes)} cases, {hashlib.sha256(digests.encode()).hexdigest()[:12]}"


def make_batches(scenes: Scenes, config: TrainingConfig) -> batches.Batches:
    """The batches of a run, from examples in memory.

    Args:
      scenes: of the run.
      config: of the run.

    Raises:
      ValueError: a case is broken or has no truth, or there is none.
    """
    if scenes is None:
        bank = sources.simulated(config)
    elif isinstance(scenes, (str, os.PathLike)):
        bank = sources.from_folder(Path(scenes), config)
    else:
        bank = sources.from_cases(scenes, config)
    return batches.uniform_batches(config, bank)
