"""``e2r track``: follows the levels through a recording."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import trimesh
import tyro
from tqdm import tqdm

from e2r.api.models import load_model
from e2r.api.tracking import Tracker
from e2r.datasets.any_recording import find_patient, open_any
from e2r.datasets.case import vertex_targets
from e2r.datasets.recordings import Recording
from e2r.formats import notices
from e2r.formats.file_checks import Unit
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write, require_new_folder
from e2r.runtime.shutdown import stop_requested
from e2r.tracking.following import follow
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.summary import Scored, score, summary_table
from e2r.tracking.track_files import POSES_FILE, open_track, read_track, track_record
from e2r.types import Pose

if TYPE_CHECKING:
    from e2r.visualisation.track_viewer import TrackViewer

PAGE, FILM = "timeline.html", "track.webp"


@dataclass(frozen=True)
class Options:
    """Follow the levels through a recording: poses of every level in each frame.

    Example: e2r track recording --output track
    """

    recording: Annotated[Path, tyro.conf.Positional]
    """folder of frames (color_000001.png, depth_000001.png, camera.json); a camera of SpineDepth
    (Specimen_1/recording_0/cam_0); or a bag of ROS or of the RealSense SDK"""
    output: Path
    """folder for poses.jsonl, the trajectories, timeline.html and track.webp"""
    model: Path | None = None
    """folder of the patient's surfaces (one a level, mm); by default, model in the recording, or
    those of SpineDepth"""
    checkpoint: Path | None = None
    """output folder of e2r train or e2r adapt; by default, the model that comes with e2r"""
    unit: Unit = "mm"
    """of the depth"""
    topics: tuple[str, str] | None = None
    """of a bag: the topics of colour and aligned depth, where there are several"""
    unchecked: bool = False
    """use a recording although its cameras look wrong"""
    live: bool = False
    """play at the recorded rate, register beside the frames, and drop those that come too soon"""
    film: bool = True
    """draw the film track.webp at the end"""
    view: bool = False
    """show the frames in the browser while they are tracked"""
    host: str = "127.0.0.1"
    """address to show them at; 0.0.0.0 admits other machines"""
    port: int = 8080
    """port to show them at; 0: any free one"""
    tracker: TrackerConfig = TrackerConfig()


class _Done(NamedTuple):
    """What was tracked of a recording."""

    scored: list[Scored]
    broken: int = 0
    dropped: int = 0
    interrupted: bool = False


def run(options: Options) -> int:
    """Runs ``e2r track``."""
    recording = open_any(
        options.recording, options.unit, options.topics or (), unchecked=options.unchecked
    )
    levels, truth = find_patient(recording, options.model)
    outputs.require_folder(options.output)
    require_new_folder(options.output)
    with ExitStack() as stack:
        viewer = _open_viewer(options, recording, levels, has_truth=bool(truth))
        if viewer is not None:
            stack.callback(viewer.close)
        done = _track(options, recording, levels, truth=truth, viewer=viewer)
        if viewer is not None:
            viewer.say("Interrupted." if done.interrupted else "The recording has ended.")
        drawn = _draw(options, recording, levels, film=not done.interrupted) if done.scored else []
    print(summary_table(done.scored, done.broken, done.dropped))
    print(", ".join([str(options.output / POSES_FILE), *drawn, "a trajectory of each level"]))
    if done.interrupted:
        raise KeyboardInterrupt
    return 3 if done.broken else 0


def _track(
    options: Options,
    recording: Recording,
    levels: Mapping[str, trimesh.Trimesh],
    *,
    truth: Mapping[int, Mapping[str, Pose]],
    viewer: TrackViewer | None,
) -> _Done:
    """Follows the levels and writes their poses; Ctrl-C ends it between two frames."""
    from e2r.visualisation.track_pictures import ShownFrame

    done = _Done([])
    model = load_model(options.checkpoint)
    with (
        Tracker(model, levels, config=options.tracker, beside=options.live) as tracker,
        stop_requested() as stop,
    ):
        options.output.mkdir(parents=True, exist_ok=True)
        targets = vertex_targets(levels)
        record = track_record(recording.first_image_or_none(), levels)
        frames = follow(recording, tracker, truth=truth, targets=targets, live=options.live)
        with (
            open_track(options.output, list(levels), record=record) as files,
            tqdm(frames, total=recording.count, desc="track", unit="frame") as bar,
        ):
            for one in bar:
                if stop():
                    return done._replace(interrupted=True)
                frame, found = one.recorded, one.tracked
                if one.dropped:
                    done = done._replace(dropped=done.dropped + 1)
                    continue
                if viewer is not None:
                    true = truth.get(frame.number, {})
                    viewer.offer(ShownFrame(frame.image, one.line(), true))
                if found is None:
                    done = done._replace(broken=done.broken + 1)
                    files.add_broken(frame.number, frame.seconds, frame.message)
                    print(f"e2r: frame {frame.number}: {frame.message}", file=sys.stderr)
                    continue
                files.add(found, number=frame.number, tre_mm=one.tre_mm)
                done.scored.append(score(found, one.tre_mm))
        if tracker.failure and all(frame.state == "searching" for frame in done.scored):
            notices.say(recording.path, f"nothing was found in it; the last try: {tracker.failure}")
    return done


def _open_viewer(
    options: Options,
    recording: Recording,
    levels: Mapping[str, trimesh.Trimesh],
    *,
    has_truth: bool,
) -> TrackViewer | None:
    """A viewer that follows along, if one is wanted."""
    if not options.view:
        return None
    from e2r.visualisation.track_viewer import TrackViewer

    viewer = TrackViewer(
        levels, recording.first_image(), has_truth=has_truth, host=options.host, port=options.port
    )
    print(f"http://{options.host}:{viewer.port} shows the frames that are tracked", flush=True)
    return viewer


def _draw(
    options: Options, recording: Recording, levels: Mapping[str, trimesh.Trimesh], *, film: bool
) -> list[str]:
    """Writes the timeline as a page, and the film where it is wanted; returns their names."""
    from e2r.visualisation.film import write_film  # a second of imports
    from e2r.visualisation.track_page import track_page

    lines = read_track(options.output)
    page = track_page(f"Track of {options.recording.name}", recording, lines, levels)
    with atomic_write(options.output / PAGE) as part:
        part.write_text(page)
    if not (film and options.film):
        return [PAGE]
    drawn = write_film(options.output / FILM, recording, lines, levels)
    return [PAGE, FILM] if drawn else [PAGE]
