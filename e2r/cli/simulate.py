"""``e2r simulate``: writes simulated cases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro
from tqdm import tqdm

from e2r.datasets import case_files, case_folder, recordings
from e2r.datasets.case import Case
from e2r.datasets.recordings import RecordedFrame
from e2r.formats import meshes
from e2r.runtime import outputs
from e2r.runtime.atomic_files import require_new_folder
from e2r.runtime.seeds import require_seed
from e2r.simulation import sequences, simulator, specimens
from e2r.simulation.cases import case_id
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.simulation.simulator import SimulationConfig


@dataclass(frozen=True)
class Options:
    """Write simulated cases: RGB-D frames of open spine surgery, models and truth.

    Example: e2r simulate --count 24 --seed 1 --output cases
    """

    output: Path
    """folder for the case folders"""
    count: int = 8
    """number of cases, one frame each"""
    seed: int = 0
    """random seed; the same seed writes the same cases"""
    anatomy: Path | None = None
    """folder of real surfaces (STL, PLY or OBJ, one a level, mm); without it, procedural spines"""
    frames: int = 1
    """frames of each procedural specimen"""
    sequence: bool = False
    """write recordings of a moving camera instead of single frames, a folder each"""
    recording: SequenceConfig = SequenceConfig()
    simulation: Annotated[SimulationConfig, tyro.conf.arg(name="")] = SimulationConfig(
        wound_fraction=(0.2, 0.8), min_bone_fraction=0.02
    )


def run(options: Options) -> int:
    """Runs ``e2r simulate``."""
    if options.count < 1 or options.frames < 1:
        raise ValueError("--count and --frames must be 1 or more")
    require_seed(options.seed)
    _require_used(options)
    outputs.require_folder(options.output)
    case_files.require_data_set(options.output)
    if options.sequence:
        return _write_recordings(options)
    written = 0
    with tqdm(total=options.count, desc="cases", unit="case") as bar:
        for group in _specimens(options):
            for case in group[: options.count - written]:
                case_folder.write_case(case, options.output / case.id)
                written += 1
                bar.update()
    print(f"{written} cases in {options.output}")
    return 0


def _require_used(options: Options) -> None:
    """Refuses settings of frames for recordings, and settings of recordings for frames."""
    default = Options(options.output)
    if options.sequence:
        if (options.simulation, options.frames) != (default.simulation, default.frames):
            raise ValueError(
                "--sequence takes the settings of --recording, and none of single frames; leave "
                "these out"
            )
    elif options.recording != default.recording:
        raise ValueError("--recording describes what --sequence writes; give it, too")
    if options.anatomy is not None and options.frames != default.frames:
        raise ValueError("--frames is of procedural specimens; with --anatomy, give --count alone")


def _write_recordings(options: Options) -> int:
    """Writes recordings, each of a specimen of its own, or all of the given surfaces."""
    key, config = jax.random.key(options.seed), options.recording
    for index in range(options.count):
        folder = options.output / f"recording{options.seed}_{index:04d}"
        require_new_folder(folder)
        k_shape, k_frames = jax.random.split(jax.random.fold_in(key, index))
        if options.anatomy is None:
            specimen = specimens.procedural_specimen(k_shape, folder.name)
        else:
            surfaces = meshes.read_meshes(options.anatomy)
            specimen = specimens.specimen_from_surfaces(surfaces, folder.name)
        part = folder.with_name(f"{folder.name}.part")  # what is interrupted is no recording
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        meshes.write_meshes(specimen.model, part / "model")
        sequence = sequences.simulate_sequence(k_frames, specimen, config)
        bar = tqdm(sequence.frames, total=config.frames, desc=folder.name, unit="frame")
        frames = (
            (
                RecordedFrame(number, frame.seconds, frame.image(sequence.focal)),
                frame.level_poses(sequence.levels),
            )
            for number, frame in enumerate(bar, 1)
        )
        recordings.write_recording(part, frames)
        part.replace(folder)
    print(f"{options.count} recordings in {options.output}")
    return 0


def _specimens(options: Options) -> Iterator[list[Case]]:
    """The cases of one specimen after the other."""
    key = jax.random.key(options.seed)
    if options.anatomy is None:
        yield from simulator.simulate_specimens(
            key,
            options.simulation,
            specimens=-(-options.count // options.frames),
            frames=options.frames,
            prefix=f"seed{options.seed}_",
        )
    else:
        surfaces = meshes.read_meshes(options.anatomy)
        specimen = specimens.specimen_from_surfaces(surfaces, options.anatomy.resolve().name)
        for index in range(options.count):  # an id says nothing of the seed
            require_new_folder(options.output / case_id(specimen.name, index))
        yield simulator.simulate_frames(key, specimen, options.simulation, count=options.count)
