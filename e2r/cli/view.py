"""``e2r view``: shows registrations and tracks in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from e2r.formats.file_checks import Unit


@dataclass(frozen=True)
class Options:
    """View a registration or a track in the browser: its steps and its layers.

    Example: e2r view cases/seed0_0000_000
    """

    source: Annotated[Path, tyro.conf.Positional]
    """a case folder, which is registered now; the output folder of e2r evaluate; or a recording"""
    track: Path | None = None
    """output folder of e2r track, of a recording; without it, the recording is tracked now"""
    model: Path | None = None
    """folder of the patient's surfaces, of a recording; by default, model in the recording, or
    those of SpineDepth"""
    unit: Unit = "mm"
    """of the depth of a recording"""
    topics: tuple[str, str] | None = None
    """of a bag: the topics of colour and aligned depth, where there are several"""
    unchecked: bool = False
    """use a recording although its cameras look wrong"""
    checkpoint: Path | None = None
    """output folder of e2r train, for a case or a recording; by default, the model that comes with
    e2r"""
    host: str = "127.0.0.1"
    """address to serve at; 0.0.0.0 admits other machines"""
    port: int = 8080
    """port to serve at; 0: any free one"""


def run(options: Options) -> int:
    """Runs ``e2r view``."""
    from e2r.datasets.any_recording import is_recording
    from e2r.visualisation import snapshots, viewer

    viewer.check_port_free(options.host, options.port)  # before a minute of work
    if not options.source.exists():
        raise ValueError(
            f"{options.source}: no such folder; give a case, an evaluation's output, or a recording"
        )
    if options.track is not None and options.checkpoint is not None:
        raise ValueError("--checkpoint tracks a recording, and --track shows a track; give one")
    if is_recording(options.source) or options.track is not None:
        return _view_track(options)
    for option, given in (
        ("model", options.model),
        ("unit", options.unit != "mm"),
        ("topics", options.topics),
        ("unchecked", options.unchecked),
    ):
        if given:
            raise ValueError(
                f"--{option} is of a recording; {options.source} is none, leave it out"
            )
    if (options.source / "case.json").exists():
        from e2r.api import models, registering

        result = registering.register(options.source, models.load_model(options.checkpoint))
        registering.view(result, host=options.host, port=options.port)
    else:
        if options.checkpoint is not None:
            raise ValueError("--checkpoint is for a case or a recording; leave it out")
        worst = snapshots.read_worst_of_job(options.source)
        viewer.serve(worst, host=options.host, port=options.port)
    return 0


def _view_track(options: Options) -> int:
    """Steps through a recording and its track."""
    from e2r.datasets.any_recording import find_patient, open_any
    from e2r.tracking.track_files import check_fits, read_record, read_track, track_record
    from e2r.visualisation import viewer
    from e2r.visualisation.track_pictures import ShownFrame
    from e2r.visualisation.track_viewer import TrackViewer

    recording = open_any(
        options.source, options.unit, options.topics or (), unchecked=options.unchecked
    )
    levels, truth = find_patient(recording, options.model)
    if options.track is not None:
        lines = read_track(options.track)
    else:
        lines = _track_now(options, recording, levels, truth)
    check_fits(
        lines,
        recording=options.source,
        numbers=recording.numbers,
        levels=levels,
        record={} if options.track is None else read_record(options.track),
        expected=track_record(recording.first_image_or_none(), levels),
    )
    by_number = {line["number"]: line for line in lines}

    def read(number: int) -> ShownFrame:
        (frame,) = recording.read([number])
        return ShownFrame(frame.image, by_number[number], truth.get(number, {}))

    shown = TrackViewer(
        levels,
        recording.first_image(),
        numbers=list(by_number),
        read=read,
        has_truth=bool(truth),
        host=options.host,
        port=options.port,
    )
    viewer.wait_for_ctrl_c(
        shown.close, f"http://{options.host}:{shown.port} shows {len(by_number)} frames"
    )
    return 0


def _track_now(options: Options, recording: Any, levels: Any, truth: Any) -> list[dict[str, Any]]:
    """The lines of a track that is made now, and kept nowhere."""
    from tqdm import tqdm

    from e2r.api.models import load_model
    from e2r.api.tracking import Tracker
    from e2r.datasets.case import vertex_targets
    from e2r.tracking.following import follow

    with Tracker(load_model(options.checkpoint), levels, beside=False) as tracker:
        frames = follow(recording, tracker, truth=truth, targets=vertex_targets(levels))
        bar = tqdm(frames, total=recording.count, desc="track", unit="frame")
        return [one.line() for one in bar]
