"""``e2r export``: writes a prediction for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Export a prediction: transforms for ITK and 3D Slicer, surfaces, markups.

    A file export.json tells what the files are. A pose that was not accepted is exported only with
    --unaccepted, and the files then say so.

    Example: e2r export cases/seed0_0000_000 --output out
    """

    case: Annotated[Path, tyro.conf.Positional]
    """the case folder; or a data set, or a pattern such as ``'cases/*'``"""
    output: Path
    """folder for the files; each of several cases gets a folder in it"""
    predictions: Path = Path("predictions.jsonl")
    """file of predictions; the last one of this case is exported"""
    surfaces: tuple[str, ...] = ("ply",)
    """formats of the registered surfaces: ply or stl (one file a level), glb (one file)"""
    unaccepted: bool = False
    """export a pose that was not accepted, too; it may be wrong"""
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """more cases"""


def run(options: Options) -> int:
    """Runs ``e2r export``."""
    from e2r.cli import named_cases
    from e2r.datasets import case_folder
    from e2r.evaluation.export_folder import write_export
    from e2r.evaluation.stored_predictions import read_prediction
    from e2r.runtime import outputs

    folders = named_cases.find_named_cases([options.case, *options.more])
    places = named_cases.folders_below(options.output, folders)
    outputs.require_folder(options.output)

    def export(folder: Path) -> None:
        case = case_folder.read_case(folder)
        prediction = read_prediction(options.predictions, case)
        if not (prediction.accepted or options.unaccepted):
            raise ValueError(
                f"{options.predictions}: the prediction of {case.id} was not accepted, so its pose "
                "may be wrong; register another frame, or export it with --unaccepted"
            )
        written = write_export(places[folder], case, prediction, surfaces=options.surfaces)
        _say_axes(folder / "model")
        names = ", ".join(path.name for path in written)
        print(f"{len(written)} files in {places[folder]} ({prediction.verdict}): {names}")

    return named_cases.for_each(folders, export)


def _say_axes(model: Path) -> None:
    """Says which surfaces 3D Slicer would mirror: it takes those that say nothing for LPS."""
    from e2r.formats import file_checks, meshes, notices

    surfaces = [path for path in file_checks.visible(model.iterdir()) if path.is_file()]
    silent = [
        path
        for path in surfaces
        if path.suffix.lower() in meshes.MESH_SUFFIXES and meshes.declared_space(path) is None
    ]
    if silent:
        notices.say(
            silent[0],
            "does not say SPACE=RAS, so 3D Slicer turns it about z; there, load the exported "
            "surfaces instead of the model's",
        )
