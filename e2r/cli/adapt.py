"""``e2r adapt``: adapts a model to a patient before surgery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e2r.adaptation.report import REPORT_FILE, read_report, report_text
from e2r.adaptation.settings import AdaptationConfig
from e2r.api.adapting import adapt
from e2r.api.models import load_model
from e2r.runtime import outputs


@dataclass(frozen=True)
class Options:
    """Adapt a model to a patient before surgery, from the preoperative surfaces alone.

    Simulates surgery on these surfaces, trains on, and calibrates. Give the output to the other
    commands as --checkpoint. The same command goes on with an interrupted adaptation.

    Example: e2r adapt cases/seed0_0000_000/model --output patient
    """

    surfaces: Annotated[Path, tyro.conf.Positional]
    """folder of the patient's surfaces: one closed STL, PLY or OBJ a level, mm"""
    output: Path
    """folder of the adapted model"""
    checkpoint: Path | None = None
    """model to begin with; the packaged one without it"""
    camera: Path | None = None
    """intrinsics, width and height of the room's camera; any camera without it"""
    adaptation: Annotated[AdaptationConfig, tyro.conf.arg(name="")] = AdaptationConfig()


def run(options: Options) -> int:
    """Runs ``e2r adapt``."""
    outputs.require_folder(options.output)
    model = load_model(options.checkpoint)
    adapt(
        model,
        options.surfaces,
        output=options.output,
        config=options.adaptation,
        camera=options.camera,
    )
    print(report_text(read_report(options.output / REPORT_FILE)))
    print(f"adapted model in {options.output}; give it to the other commands as --checkpoint")
    return 0
