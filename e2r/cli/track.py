"""``e2r track``: follows the levels through a recording."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from e2r.api.models import load_model
from e2r.api.tracking import Tracker
from e2r.datasets import recordings
from e2r.datasets.any_recording import open_any
from e2r.datasets.case import vertex_targets
from e2r.formats import meshes
from e2r.formats.file_checks import Unit
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write, require_new_folder
from e2r.runtime.shutdown import stop_requested
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.summary import Scored, frame_errors, seen_errors, summary_table
from e2r.tracking.track_files import POSES_FILE, open_track

PAGE = "timeline.html"


@dataclass(frozen=True)
class Options:
    """Follow the levels through a recording: poses of every level in each frame.

    Example: e2r track recording --output track
    """

    recording: Annotated[Path, tyro.conf.Positional]
    """folder of frames (color_000001.png, depth_000001.png, camera.json); or a bag of ROS"""
    output: Path
    """folder for poses.jsonl, the trajectories and timeline.html"""
    model: Path | None = None
    """folder of the patient's surfaces (one a level, mm); by default, model in the recording"""
    checkpoint: Path | None = None
    """output folder of e2r train or e2r adapt; by default, the model that comes with e2r"""
    unit: Unit = "mm"
    """of the depth"""
    topics: tuple[str, str] | None = None
    """of a bag: the topics of colour and aligned depth, where there are several"""
    live: bool = False
    """play at the recorded rate, register beside the frames, and drop those that come too soon"""
    tracker: TrackerConfig = TrackerConfig()


def run(options: Options) -> int:
    """Runs ``e2r track``."""
    recording = open_any(options.recording, options.unit, options.topics or ())
    truth = recordings.read_truth(options.recording)
    folder = options.model or options.recording / "model"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the patient's surfaces with --model")
    levels = meshes.read_meshes(folder)
    outputs.require_folder(options.output)
    require_new_folder(options.output)
    targets = vertex_targets(levels)
    scored: list[Scored] = []
    broken = 0
    with (
        Tracker(
            load_model(options.checkpoint), levels, config=options.tracker, beside=options.live
        ) as tracker,
        stop_requested() as stop,
    ):
        options.output.mkdir(parents=True, exist_ok=True)
        began: float | None = None
        frames = recording.read()
        with (
            open_track(options.output, list(levels)) as files,
            tqdm(frames, total=recording.count, desc="track", unit="frame") as bar,
        ):
            for frame in bar:
                if stop():
                    raise KeyboardInterrupt
                if frame.image is None:
                    broken += 1
                    files.add_broken(frame.number, frame.seconds, frame.message)
                    print(f"e2r: frame {frame.number}: {frame.message}", file=sys.stderr)
                    continue
                if options.live:
                    first = recording.first_seconds
                    began = time.perf_counter() if began is None else began
                    ahead = frame.seconds - first - (time.perf_counter() - began)
                    if ahead < -1.0 / recordings.RATE:
                        continue  # the camera has taken the next one already
                    time.sleep(max(ahead, 0.0))
                found = tracker.update(frame.image, frame.seconds)
                errors = frame_errors(found, truth.get(frame.number, {}), targets)
                files.add(found, number=frame.number, tre_mm=errors)
                seen = seen_errors(found, errors)
                scored.append(Scored(found.state, found.accepted, found.latency, seen))
    _write_page(options)
    print(summary_table(scored, broken))
    print(f"{options.output / POSES_FILE}, {PAGE} and a trajectory of each level")
    return 3 if broken else 0


def _write_page(options: Options) -> None:
    """Writes the timeline of the track as a page."""
    from e2r.visualisation import pages, timeline  # a second of imports

    lines = (options.output / POSES_FILE).read_text().splitlines()
    figure = timeline.timeline([json.loads(line) for line in lines])
    page = pages.figures_page(f"Track of {options.recording.name}", {"timeline": figure})
    with atomic_write(options.output / PAGE) as part:
        part.write_text(page)
