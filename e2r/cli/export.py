"""``e2r export``: writes a prediction for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Export a prediction: transforms for ITK and 3D Slicer, surfaces, markups.

    Example: e2r export cases/seed0_0000_000 --output out
    """

    case: Annotated[Path, tyro.conf.Positional]
    """the case folder"""
    output: Path
    """folder for the files"""
    predictions: Path = Path("predictions.jsonl")
    """file of predictions; the last one of this case is exported"""
    surfaces: tuple[str, ...] = ("ply",)
    """formats of the registered surfaces: ply or stl (one file a level), glb (one file)"""


def run(options: Options) -> int:
    """Runs ``e2r export``."""
    from e2r.datasets import case_folder
    from e2r.evaluation import slicer
    from e2r.evaluation.predictions import read_prediction

    case = case_folder.read_case(options.case)
    poses = read_prediction(options.predictions, case.id)
    written = slicer.export_prediction(
        options.output, case.model, poses, targets=case.targets, surfaces=options.surfaces
    )
    print(f"{len(written)} files in {options.output}: {', '.join(path.name for path in written)}")
    return 0
