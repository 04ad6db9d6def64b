"""The film of a track: an animated picture of the recording with the followed surfaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from e2r.datasets.recordings import Recording
from e2r.runtime.atomic_files import atomic_write
from e2r.visualisation.figures import Surfaces
from e2r.visualisation.track_pictures import TrackLine, coarse_surfaces, draw_frames, readable

MAX_PICTURES = 300
MAX_RATE = 10.0
"""Pictures a second."""
WIDTH = 480
"""Pixels, at most."""
QUALITY = 60


def write_film(
    path: Path, recording: Recording, lines: Sequence[TrackLine], surfaces: Surfaces
) -> int:
    """Writes the film of a track as an animated WebP that repeats.

    The pictures are drawn while the film is written, so that few are held at a time.

    Args:
      path: of the film.
      recording: that was tracked.
      lines: of the track.
      surfaces: level -> surface, mm, model frame.

    Returns:
      The number of pictures; without one, nothing is written.
    """
    chosen = film_lines(lines)
    if not chosen:
        return 0
    drawn = draw_frames(
        recording.read([line["number"] for line in chosen]),
        {line["number"]: line for line in chosen},
        coarse_surfaces(surfaces),
        width=WIDTH,
    )
    seconds = np.array([line["seconds"] for line in chosen])
    own = np.median(np.diff([line["seconds"] for line in lines])) if len(lines) > 1 else 0.0
    longest = max(1.0 / MAX_RATE, own)  # a slow recording keeps its pace, a long one is quickened
    gaps = np.minimum(np.diff(seconds, append=seconds[-1] + 1.0), longest)
    first = next(drawn, None)
    if first is None:
        return 0
    with atomic_write(path) as part, part.open("wb") as file:
        pictures = _Pictures(first[1], (picture for _, picture in drawn), len(chosen))
        milliseconds = np.maximum(np.round(1e3 * gaps), 20).astype(int).tolist()
        milliseconds[-1] = 1000
        pictures.save(
            file, "WEBP", save_all=True, duration=milliseconds, loop=0, quality=QUALITY, method=0
        )
    return len(chosen)


def film_lines(lines: Sequence[TrackLine]) -> list[TrackLine]:
    """The frames of a film, evenly spread over the track.

    Args:
      lines: of the track, in order of time.

    Returns:
      At most 300, and at most 10 of a second.
    """
    frames = readable(lines)
    if not frames:
        return []
    first, last = frames[0]["seconds"], frames[-1]["seconds"]
    step = max(1.0 / MAX_RATE, (last - first) / (MAX_PICTURES - 1))
    chosen: list[TrackLine] = []
    due = first
    for line in frames:
        if line["seconds"] >= due - 1e-6:
            chosen.append(line)
            due = first + step * (np.floor((line["seconds"] - first) / step + 1e-6) + 1.0)
    return chosen


class _Pictures(Image.Image):
    """Pictures that Pillow takes for one file of many: each is drawn when it is asked for.

    Pillow makes a list of ``append_images``, so 300 of them would lie in memory at once.
    """

    def __init__(
        self,
        first: UInt8[np.ndarray, "h w 3"],
        others: Iterator[UInt8[np.ndarray, "h w 3"]],
        count: int,
    ) -> None:
        super().__init__()
        picture = Image.fromarray(first)
        self.im, self._mode, self._size = picture.im, picture.mode, picture.size
        self.n_frames, self._others, self._place = count, others, 0

    def tell(self) -> int:
        """The number of the picture."""
        return self._place

    def seek(self, frame: int) -> None:
        """Draws the next picture; the last one stays where there are fewer than expected."""
        if frame > self._place:
            self._place = frame
            picture = next(self._others, None)
            if picture is not None:
                self.im = Image.fromarray(picture).im
