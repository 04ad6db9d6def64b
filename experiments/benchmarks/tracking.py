"""Tracks of simulated recordings, played at the camera's rate: errors, latency, losses, peers.

Command:  python -m experiments.benchmarks.tracking --output runs/tracking
Time:     26 minutes on two cores with --events 0, most of it for drawing the frames; two minutes
          more for each of --events
Expect:   latency 4 to 10 ms in the median; 0.66 mm tracked, 0.68 mm alone (21 recordings)

Of five recordings, nothing moves in the first. The others have a hand, a cut, or a hand and a tool
under changing light. In the last one the camera is fast, and the surgeon moves a level. Further,
longer recordings have a hand or a cut every three seconds. Each is drawn before it is played, so
that drawing takes no time from the tracker. Registrations run beside the frames.

- alone: some frames are registered by themselves; the levels that both know are compared;
- peers: ICP from the pose of the frame before, by Open3D and by small_gicp, rigid, on the scene
  points of the tracker. They start at the tracker's first poses. Their time leaves the points out,
  and nothing runs beside them; "nothing beside" is our time under the same conditions;
- recovery: seconds from the first frame in which the wound is visible again to the first of three
  in a row whose levels are all right;
- lag: the delay of the track by which it fits the truth best;
- jitter: of a level's middle around its mean, where nothing moves.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from e2r.api.models import load_model
from e2r.cli.errors import parse_options, run_command
from e2r.evaluation.models import Model
from e2r.evaluation.text_table import text_table
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.compile_cache import enable_cache
from e2r.runtime.provenance import versions
from e2r.simulation import sequences, specimens
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.tracking.finder import ModelFinder
from e2r.tracking.measures import (
    RECOVERY_SECONDS,
    VISIBLE,
    Played,
    alone_errors,
    errors_of,
    jitter_mm,
    lag_frames,
    of_both,
    recoveries,
    undisturbed,
)
from e2r.tracking.peers import PEERS, follow_by_peer
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.summary import WRONG_MM, score
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.tracking.tracker import Tracker
from e2r.training.trained_model import PACKAGED

STILL: dict[str, Any] = {"path": "static", "hands": 0, "cuts": 0, "breathing_mm": 0.0}
KINDS: tuple[dict[str, Any], ...] = (
    STILL,
    {"path": "robot", "hands": 1, "cuts": 0},
    {"path": "hand", "hands": 0, "cuts": 1},
    {"path": "hand", "hands": 1, "cuts": 0, "tools": 1, "exposure": 0.2},
    {"path": "robot", "hands": 0, "cuts": 0, "speed": 2.0, "moved_level": True},
)
"""Recordings, in turn."""
EVENTS: dict[str, Any] = {"path": "hand", "hands": 3, "cuts": 4}
"""Of the recordings with many losses."""


@dataclass(frozen=True)
class Tracking:
    """Tracks of simulated recordings, played at the camera's rate."""

    output: Path
    """folder for tracking.json"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; by default the packaged model"""
    recordings: int = 20
    """recordings of --frames"""
    frames: int = 300
    """frames of each recording"""
    events: int = 15
    """recordings with seven hands and cuts each"""
    minutes: int = 1
    """recordings of a minute, in one piece"""
    alone_every: int = 20
    """each so many-th frame is registered by itself, too"""
    soak: int = 0
    """frames of a last track, which plays one recording again and again; its memory is measured"""
    peers: bool = True
    """compare with Open3D's and small_gicp's ICP (extra: peers)"""
    seed: int = 7000
    """of the first recording; others follow"""

    def __post_init__(self) -> None:
        if min(self.events, self.minutes) < 0:
            raise ValueError("--events and --minutes are 0 or more")
        if self.recordings < 1 or self.frames < 60 or self.alone_every < 1:
            raise ValueError("--recordings and --alone-every are 1 or more, --frames 60 or more")


def play(
    model: Model, number: int, config: SequenceConfig, seed: int
) -> tuple[Played, ModelFinder]:
    """Draws a recording, and tracks it at its own rate.

    Args:
      model: the trained model.
      number: of the recording.
      config: of the recording.
      seed: of the first recording.
    """
    k_shape, k_frames = jax.random.split(jax.random.key(seed + number))
    specimen = specimens.procedural_specimen(k_shape, f"recording{number}")
    sequence = sequences.simulate_sequence(k_frames, specimen, config)
    frames = list(sequence.frames)
    images = [frame.image(sequence.focal) for frame in frames]
    finder = ModelFinder(model, specimen.model, points=TrackerConfig().points)
    first = finder.find(images[0], 0)
    with Tracker(finder, beside=False) as warm:  # compiles
        for image, frame in zip(images[:2], frames[:2], strict=True):
            warm.update(image, frame.seconds)
    tracked: list[TrackedFrame | None] = []
    with Tracker(finder) as tracker:
        began = time.perf_counter()
        for image, frame in zip(images, frames, strict=True):
            ahead = frame.seconds - (time.perf_counter() - began)
            if ahead < -1.0 / config.rate:
                tracked.append(None)
                continue
            time.sleep(max(ahead, 0.0))
            tracked.append(tracker.update(image, frame.seconds))
    levels = dict(specimen.model)
    return Played(frames, images, levels, sequence.exposed, config, tracked, first), finder


def record_of(
    options: Tracking, model: Model, number: int, config: SequenceConfig
) -> dict[str, Any]:
    """Plays a recording, and gives the figures of it.

    Args:
      options: of the command line.
      model: the trained model.
      number: of the recording.
      config: of the recording.
    """
    played, finder = play(model, number, config, options.seed)
    errors, said = errors_of(played), [t for t in played.tracked if t is not None]
    wrong = sum(
        score(t, e).wrong for t, e in zip(played.tracked, errors, strict=True) if t is not None
    )
    lost = [t for t, f in zip(played.tracked, played.frames, strict=True) if f.visible >= VISIBLE]
    record: dict[str, Any] = {
        "number": number,
        "path": config.path,
        "hands": config.hands,
        "cuts": config.cuts,
        "frames": len(played.frames),
        "dropped": len(played.tracked) - len(said),
        "accepted": sum(t.accepted for t in said),
        "accepted_wrong": wrong,
        "followed_of_visible": float(
            np.mean([float(t is not None and t.state == "tracking") for t in lost] or [0.0])
        ),
        "latency_ms": [1e3 * t.latency for t in said],
        "recoveries": recoveries(played, errors),
    }
    if config.cuts + config.hands > 3:
        return record
    tracked = [float(np.mean(list(e.values()))) for e in errors if e]
    record["tracked_mm"] = tracked
    alone, seconds = alone_errors(played, finder, options.alone_every)
    both = of_both(alone, errors)
    record["alone_mm"] = [value for value, _ in both]
    record["tracked_beside_mm"] = [value for _, value in both]
    record["alone_ms"] = [1e3 * value for value in seconds]
    quiet = undisturbed(played, finder)  # the first frame waits for the registration
    record["undisturbed_ms"] = [1e3 * t.latency for t in quiet.tracked[1:] if t is not None]
    if config.path == "static":
        record["jitter_mm"], record["wander_mm"] = jitter_mm(played, 1.0), jitter_mm(played)
        record["filtered_mm"] = jitter_mm(quiet, 1.0)
        record["unfiltered_mm"] = jitter_mm(undisturbed(played, finder, filtered=False), 1.0)
    elif len(tracked) > 30:
        record["lag_frames"] = lag_frames(played)
    if options.peers and not isinstance(played.first, str):
        for name, make in PEERS.items():
            level, values, seconds = follow_by_peer(
                played.frames, played.images, played.model, played.first, make
            )
            ours = [e[level] for e in errors[: len(values)] if level in e]
            record[name] = {
                "tre_mm": values,
                "ms": [1e3 * value for value in seconds],
                "ours_mm": ours,
            }
    return record


def soak(options: Tracking, model: Model) -> list[tuple[int, float]]:
    """Frames and resident memory (MiB) of a track that plays one recording again and again."""
    config = SequenceConfig(frames=options.frames, **KINDS[1])
    played, finder = play(model, 0, config, options.seed)
    there_and_back = [*range(options.frames), *range(options.frames - 1, -1, -1)]
    measured = []
    with Tracker(finder) as tracker:
        for number in range(options.soak):
            image = played.images[there_and_back[number % len(there_and_back)]]
            tracker.update(image, number / config.rate)
            if (number + 1) % max(options.soak // 20, 1) == 0:
                measured.append((number + 1, resident_mib()))
    return measured


def resident_mib() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def summarise(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table.

    Args:
      records: of :func:`record_of`.
    """

    def gather(name: str) -> np.ndarray:
        return np.array([v for record in records for v in record.get(name, [])], float)

    latency, events = gather("latency_ms"), [e for r in records for e in r["recoveries"]]
    frames = sum(record["frames"] for record in records)
    alone, beside = gather("alone_mm"), gather("tracked_beside_mm")
    rows = [
        ["frames", str(frames)],
        ["dropped", str(sum(record["dropped"] for record in records))],
        ["latency, median (ms)", f"{np.median(latency):.1f}"],
        ["latency, 95 % (ms)", f"{np.quantile(latency, 0.95):.1f}"],
        ["accepted", str(sum(record["accepted"] for record in records))],
        [f"an accepted level {WRONG_MM:g} mm off", str(sum(r["accepted_wrong"] for r in records))],
        ["median TRE, tracked (mm)", f"{np.median(beside):.2f}"],
        ["median TRE, the same frames alone (mm)", f"{np.median(alone):.2f}"],
        ["a frame alone / tracked", f"{np.median(gather('alone_ms')) / np.median(latency):.1f} x"],
    ]
    for name, what in (
        ("jitter_mm", "jitter within a second (mm)"),
        ("filtered_mm", "jitter after one registration (mm)"),
        ("unfiltered_mm", "the same without the filter (mm)"),
        ("wander_mm", "jitter within a recording (mm)"),
        ("lag_frames", "lag (frames)"),
    ):
        values = [record[name] for record in records if name in record]
        if values:
            rows.append([what, f"{np.median(values):.2f} (worst {max(values):.2f})"])
    for kind in ("hand", "cut"):
        soon = np.array([s <= RECOVERY_SECONDS for k, s, _ in events if k == kind])
        before = np.array([b for k, _, b in events if k == kind])
        if len(soon):
            again = f"{(soon & before).sum()} of {before.sum()} that were right before"
            rows.append(
                [f"right within a second of a {kind}", f"{soon.sum()} of {len(soon)}; {again}"]
            )
    undisturbed = gather("undisturbed_ms")
    if len(undisturbed):
        rows.append(["a frame, nothing beside (ms)", f"{np.median(undisturbed):.1f}"])
    for name in PEERS:
        theirs = [record[name] for record in records if name in record]
        if theirs:
            ms = np.concatenate([one["ms"] for one in theirs])
            tre = np.concatenate([one["tre_mm"] for one in theirs])
            ours = np.concatenate([one["ours_mm"] for one in theirs])
            rows.append([f"{name}: a frame (ms)", f"{np.median(ms):.1f}"])
            rows.append(
                [
                    f"{name}: TRE of the best-seen level, ours (mm)",
                    f"{np.median(tre):.2f}, {np.median(ours):.2f}",
                ]
            )
    return rows


def run(options: Tracking) -> int:
    """Plays all recordings, and writes the figures after each.

    Raises:
      ValueError: a peer is not installed.
    """
    for package in ("open3d", "small_gicp") if options.peers else ():
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{package} is not installed; run: python -m pip install -e '.[peers]', or give "
                "--no-peers"
            )
    outputs.require_folder(options.output)
    enable_cache()
    model = load_model(options.checkpoint)
    configs = [
        SequenceConfig(frames=options.frames, **KINDS[number % len(KINDS)])
        for number in range(options.recordings)
    ]
    configs += [SequenceConfig(frames=2 * options.frames, **EVENTS)] * options.events
    configs += [SequenceConfig(frames=1800, **KINDS[3])] * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number, config in enumerate(configs):
        records.append(record_of(options, model, number, config))
        figures: dict[str, Any] = {"records": records, "versions": versions()}
        if number == len(configs) - 1 and options.soak:
            figures["soak_mib"] = soak(options, model)
        with atomic_write(options.output / "tracking.json") as part:
            part.write_text(json.dumps(figures))
        print(text_table(["", ""], summarise(records)), flush=True)
    if options.soak:
        print(text_table(["frames", "MiB"], [[str(n), f"{m:.0f}"] for n, m in figures["soak_mib"]]))
    print(options.output / "tracking.json")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and plays."""
    words: dict[str, Any] = {
        "prog": "python -m experiments.benchmarks.tracking",
        "description": __doc__,
    }
    return run_command(lambda: run(parse_options(Tracking, arguments, **words)))


if __name__ == "__main__":
    sys.exit(main())
