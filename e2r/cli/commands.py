"""The command line: ``python -m e2r simulate``, ``register``, ``export``, ``view``, ``convert``."""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()  # before the other imports, which take a second or two

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from e2r.cli import convert
from e2r.cli.errors import run_command

if TYPE_CHECKING:  # imported where they are used: a command starts with what it needs
    from e2r.config import EvaluationConfig, TrainingConfig
    from e2r.datasets.case import Case
    from e2r.evaluation.predictions import Registered
    from e2r.types import Params


@dataclass(frozen=True)
class Simulate:
    """Write simulated cases: RGB-D frames of open spine surgery, with models and truth.

    Example: python -m e2r simulate --count 24 --seed 1 --output cases
    """

    output: Path
    """folder for the case folders, one a scene"""
    count: int = 8
    """number of scenes"""
    seed: int = 0
    """the same seed writes the same cases"""
    anatomy: Path | None = None
    """folder of real surfaces (STL, PLY or OBJ, one a level, mm); procedural spines without it"""
    frames: int = 1
    """scenes of each procedural specimen"""
    width: int = 96
    """picture width, pixels"""
    height: int = 72
    """picture height, pixels"""
    wound_fraction: tuple[float, float] = (0.2, 0.8)
    """share of the picture that the wound fills, from and to"""
    min_bone_fraction: float = 0.02
    """scenes that show a smaller share of bone are drawn again"""
    posture_degrees: float = 0.0
    """how far each level has turned since the scan, standard deviation per axis"""
    posture_mm: float = 0.0
    """how far each level has shifted since the scan, standard deviation per axis"""


@dataclass(frozen=True)
class Register:
    """Register one case: where are the model's levels in the camera's frame?

    Prints the poses, and how far off they are where the case has a truth.json.
    Example: python -m e2r register cases/specimen0000_000
    """

    case: Annotated[Path, tyro.conf.Positional]
    """a case folder"""
    checkpoint: Path | None = None
    """output folder of experiments.train; the model that comes with e2r without it"""
    start: str = "auto"
    """auto (no start), truth (the true pose, perturbed), or a JSON file with a 4x4 pose"""
    start_degrees: float = 4.0
    """with --start truth: standard deviation of the rotation per axis"""
    start_mm: float = 4.0
    """with --start truth: standard deviation of the translation per axis"""
    seed: int = 0
    """of the perturbed start, or of the search's draws"""
    output: Path = field(default_factory=lambda: Path("predictions.jsonl"))
    """file to which the prediction is appended, one JSON line"""
    timings: bool = False
    """also print what the seconds went to"""


@dataclass(frozen=True)
class Export:
    """Write a prediction for other programs: transforms for ITK and 3D Slicer, surfaces, markups.

    Example: python -m e2r export cases/specimen0000_000 --output out
    """

    case: Annotated[Path, tyro.conf.Positional]
    """a case folder"""
    output: Path
    """folder for the files"""
    predictions: Path = field(default_factory=lambda: Path("predictions.jsonl"))
    """file of predictions; the last one of this case counts"""
    surfaces: tuple[str, ...] = ("ply",)
    """registered surfaces as ply, stl (a file a level) or glb (one file)"""


@dataclass(frozen=True)
class Look:
    """Look at a registration live, in the browser: its steps, and its layers one by one.

    Example: python -m e2r view cases/specimen0000_000
    """

    what: Annotated[Path, tyro.conf.Positional]
    """a case folder, which is registered now, or the output folder of experiments.evaluate"""
    checkpoint: Path | None = None
    """of a case: output folder of experiments.train; the model that comes with e2r without it"""
    host: str = "127.0.0.1"
    """address to answer at; 0.0.0.0 lets other machines look too"""
    port: int = 8080
    """port to answer at, 0 for any that is free"""


def simulate(options: Simulate) -> int:
    """Runs ``simulate``."""
    import jax
    from tqdm import tqdm

    from e2r.datasets import case_folder, meshes
    from e2r.simulation import simulator

    if options.count < 1 or options.frames < 1:
        raise ValueError("--count and --frames must be 1 or more")
    settings = simulator.SimulationConfig(
        width=options.width,
        height=options.height,
        wound_fraction=options.wound_fraction,
        min_bone_fraction=options.min_bone_fraction,
        posture_degrees=options.posture_degrees,
        posture_mm=options.posture_mm,
    )
    key = jax.random.key(options.seed)
    written = 0
    with tqdm(total=options.count, desc="cases", unit="case") as bar:
        if options.anatomy is not None:
            surfaces = meshes.read_meshes(options.anatomy)
            specimen = simulator.specimen_from_surfaces(surfaces, options.anatomy.resolve().name)
            groups = iter([simulator.simulate_frames(key, specimen, settings, count=options.count)])
        else:
            groups = simulator.simulate_specimens(
                key,
                settings,
                specimens=-(-options.count // options.frames),
                frames=options.frames,
                prefix=f"seed{options.seed}_",
            )
        for group in groups:
            for case in group[: options.count - written]:
                case_folder.write_case(case, options.output / case.id)
                written += 1
                bar.update()
    print(f"{written} cases in {options.output}")
    return 0


def register(options: Register) -> int:
    """Runs ``register``."""
    from e2r.runtime.timing import collect_timings, timed, timing_table

    imports = time.perf_counter() - _BEGAN
    with collect_timings() as seconds:
        with timed("other"):
            code = _register(options)
        if options.timings:
            print(timing_table({"imports": imports, **seconds}))
    return code


def _register(options: Register) -> int:
    import numpy as np

    from e2r.runtime.timing import timed

    with timed("e2r's imports"):
        from e2r.config import EvaluationConfig, InitialPose
        from e2r.datasets import case_folder
        from e2r.evaluation.calibration import load_calibration
        from e2r.evaluation.predictions import prediction_line
        from e2r.training.trained_model import PACKAGED, load_trained
    with timed("case"):
        case = case_folder.read_case(options.case)
    with timed("trained model"):
        checkpoint = options.checkpoint or PACKAGED
        config, params = load_trained(checkpoint)
        calibration = load_calibration(checkpoint)
    job = EvaluationConfig(
        start=InitialPose(options.start, options.start_degrees, options.start_mm),
        batch=1,
        seed=options.seed,
    )
    result = _result(case, options.case, config, params, job)
    line = prediction_line(result, "learnt", calibration)
    for name, matrix in line["T_camera_model"].items():
        print(f"{name}  T_camera_model =")
        print(np.array2string(np.array(matrix), precision=4, suppress_small=True))
    found = result.registrations["learnt"]
    if result.num_degenerate:
        print(f"{result.num_degenerate} triangles of the model have no area and were left out")
    print(
        f"{float(found.inlier_weight):.0f} points agree with the model, {float(found.residual):.2f} mm "
        f"off (robust RMS); {'accepted' if line['accepted'] else 'not accepted'}"
    )
    if line["expected_tre_mm"] is not None:
        others = [f"{h['probability']:.0%}" for h in line["hypotheses"]]
        print(
            f"expected TRE {line['expected_tre_mm']:.1f} mm; chances of the hypotheses, the one "
            f"above first: {', '.join(others)}"
        )
    if result.errors:
        errors = result.errors["learnt"]
        print(f"TRE against truth.json: {errors['tre_mm']:.2f} mm")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"prediction appended to {options.output}")
    return 0


def _result(
    case: Case, folder: Path, config: TrainingConfig, params: Params, job: EvaluationConfig
) -> Registered:
    """One case's result; the model's surface is kept in the case's folder.

    Raises:
      ValueError: it came to nothing, and why.
    """
    from e2r.evaluation import runner
    from e2r.evaluation.predictions import Registered
    from e2r.evaluation.programs import compile_programs

    programs = compile_programs(config.network, job, fast_compile=True)
    keep = folder / "model" / "surface.npz"
    (result,) = runner.run([case], config, params, job, programs, keep)
    if not isinstance(result, Registered):
        raise ValueError(result[1])
    return result


def view(options: Look) -> int:
    """Runs ``view``."""
    from e2r.config import EvaluationConfig
    from e2r.datasets import case_folder
    from e2r.training.trained_model import PACKAGED, load_trained
    from e2r.visualisation import snapshots, viewer

    viewer.check_free(options.host, options.port)  # before a minute of work
    if not options.what.is_dir():
        raise ValueError(f"{options.what}: no such folder; give a case or an evaluation's output")
    if (options.what / "case.json").exists():
        case = case_folder.read_case(options.what)
        config, params = load_trained(options.checkpoint or PACKAGED)
        job = EvaluationConfig(batch=1)
        result = _result(case, options.what, config, params, job)
        shown = [snapshots.make_snapshot(result, job.head)]
    else:
        shown = viewer.read_worst_snapshots(options.what)
    viewer.serve(shown, host=options.host, port=options.port)
    return 0


def export(options: Export) -> int:
    """Runs ``export``."""
    from e2r.datasets import case_folder
    from e2r.evaluation import slicer
    from e2r.evaluation.predictions import read_prediction

    case = case_folder.read_case(options.case)
    found = read_prediction(options.predictions, case.id)
    targets = case.targets or None
    written = slicer.export_prediction(
        options.output, case.model, found, targets, surfaces=options.surfaces
    )
    print(f"{len(written)} files in {options.output}: {', '.join(path.name for path in written)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line (``sys.argv`` without arguments) and runs the command."""
    command = tyro.cli(
        Simulate  # type: ignore[arg-type]
        | Register
        | Export
        | Annotated[Look, tyro.conf.subcommand("view")]
        | Annotated[convert.Conversion, tyro.conf.subcommand("convert")],
        args=arguments,
        prog="python -m e2r",
        description="Find a patient's vertebrae in a depth camera's picture of open surgery.",
    )
    if isinstance(command, Simulate):
        return run_command(lambda: simulate(command))
    if isinstance(command, convert.Conversion):
        return run_command(lambda: convert.run(command))
    if isinstance(command, Look):
        return run_command(lambda: view(command))
    if isinstance(command, Export):
        return run_command(lambda: export(command))
    return run_command(lambda: register(command))


if __name__ == "__main__":
    sys.exit(main())
