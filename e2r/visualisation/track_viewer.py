"""The viewer of a track: a page in the browser with the scene of one frame after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8
from plotly.colors import hex_to_rgb

from e2r.formats.scenes import RgbdImage
from e2r.types import Float
from e2r.visualisation import viewer
from e2r.visualisation.colors import level_color
from e2r.visualisation.figures import Surfaces, simplify_mesh
from e2r.visualisation.snapshots import MAX_FACES
from e2r.visualisation.track_pictures import (
    NOT_ACCEPTED_RGB,
    ShownFrame,
    TrackLine,
    is_accepted,
    line_poses,
)
from e2r.visualisation.viewer import LOOPBACK, MM_PER_UNIT, POINT_SIZE_MM

MAX_POINTS = 12000
"""Scene points of a frame."""
LIVE_SECONDS = 0.1
"""A live scene changes no more often."""
PLAY_SECONDS = 0.1
"""So often it is looked whether to play."""


class TrackViewer:
    """A running server that shows one frame of a track at a time.

    With numbers it steps through a recording, and reads a frame when it is asked for. Without, it
    shows what :meth:`offer` gives it.

    Attributes:
      server: the viser server.
      port: port of the server.
      nodes: layer name -> node of the scene.
      checkboxes: layer name -> checkbox that shows or hides the layer.
      status: text below the controls.
    """

    def __init__(
        self,
        surfaces: Surfaces,
        first: RgbdImage,
        *,
        numbers: Sequence[int] = (),
        read: Callable[[int], ShownFrame] | None = None,
        has_truth: bool = False,
        host: str = LOOPBACK,
        port: int = 8080,
    ) -> None:
        """Starts the server; :meth:`close` stops it.

        Args:
          surfaces: level -> surface, mm, model frame.
          first: an image of the recording; the scene is centred on what it shows.
          numbers: of the frames to step through.
          read: reads the frame of a number.
          has_truth: whether there is a layer of true poses.
          host: address of this machine; other machines cannot reach the default.
          port: a free port, or 0 for any free port.

        Raises:
          ValueError: the port is not free.
        """
        self.server = viewer.start_server(host, port)
        self.port: int = self.server.get_port()
        points, colors = thin_points(first)
        self._centre = np.median(points, axis=0)
        extent = float(np.ptp(np.quantile(points, (0.05, 0.95), axis=0), axis=0).max())
        viewer.look_from(self.server, 0.95 * max(extent, MM_PER_UNIT) / MM_PER_UNIT)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._busy, self._shown_at = threading.Event(), -np.inf
        self._worker = ThreadPoolExecutor(1)
        self._numbers, self._read = list(numbers), read
        gui = self.server.gui
        if read is not None:
            self._slider = gui.add_slider("frame", 0, max(len(self._numbers) - 1, 1), 1, 0)
            self._button, self._playing = gui.add_button("play"), threading.Event()
            self._slider.on_update(lambda _: self._slide())
            self._button.on_click(lambda _: self.play(not self._playing.is_set()))
        self.status = gui.add_markdown("")
        self._build(surfaces, points, colors, has_truth=has_truth)
        if read is not None:
            self.show_place(0)
            self._player = threading.Thread(target=self._play, daemon=True)
            self._player.start()

    def _build(
        self, surfaces: Surfaces, points: np.ndarray, colors: np.ndarray, *, has_truth: bool
    ) -> None:
        """Adds the layers."""
        scene = self.server.scene
        coarse = {name: simplify_mesh(mesh, MAX_FACES) for name, mesh in surfaces.items()}
        self._measured = scene.add_frame("/scene", show_axes=False)
        cloud = scene.add_point_cloud(
            "/scene/cloud",
            self._in_scene(points),
            colors,
            precision="float32",
            point_size=2.0 * POINT_SIZE_MM / MM_PER_UNIT,
            point_shape="circle",
        )
        self._followed = scene.add_frame("/levels", show_axes=False, visible=False)
        self._levels = viewer.add_surfaces(scene, coarse)
        self.nodes: dict[str, Any] = {"cloud": cloud, **self._levels}
        self._true: dict[str, Any] = {}
        if has_truth:
            self.nodes["truth"], self._true = viewer.add_wireframes(scene, coarse)
        self.checkboxes = {
            name: viewer.add_checkbox(self.server.gui, name, node)
            for name, node in self.nodes.items()
        }

    def _in_scene(self, points: np.ndarray) -> Float[np.ndarray, "n 3"]:
        return ((points - self._centre) / MM_PER_UNIT).astype(np.float32)

    def show(self, frame: ShownFrame) -> None:
        """Shows a frame.

        Args:
          frame: a new one, or one that was shown before.
        """
        cloud = None if frame.image is None else thin_points(frame.image)
        poses = line_poses(frame.line)
        with self._lock, self.server.atomic():
            self._measured.visible = cloud is not None and len(cloud[0]) > 0
            if cloud is not None and len(cloud[0]):
                self.nodes["cloud"].points = self._in_scene(cloud[0])
                self.nodes["cloud"].colors = cloud[1]
            self._followed.visible = bool(poses)
            for i, (name, node) in enumerate(self._levels.items()):
                if name in poses:
                    viewer.place(node, poses[name], self._centre)
                    accepted = is_accepted(frame.line, name)
                    node.color = hex_to_rgb(level_color(i)) if accepted else NOT_ACCEPTED_RGB
            for name, node in self._true.items():
                node.visible = name in frame.truth
                if name in frame.truth:
                    viewer.place(node, frame.truth[name], self._centre)
            self.status.content = status_text(frame.line)

    # Stepping -------------------------------------------------------------------------------------

    def show_place(self, place: int) -> None:
        """Reads and shows the frame at a place among the numbers.

        Args:
          place: from 0.

        Raises:
          ValueError: the viewer was given no frames to read.
        """
        if self._read is None:
            raise ValueError("this viewer has no frames to read; hand them over with offer")
        self._place = min(max(place, 0), len(self._numbers) - 1)
        frame = self._read(self._numbers[self._place])
        self._seconds: float = frame.line["seconds"]
        self.show(frame)
        self._slider.value = self._place

    def _slide(self) -> None:
        """Shows where the slider is, unless it is shown already."""
        if int(self._slider.value) != self._place:
            self.show_place(int(self._slider.value))

    def play(self, on: bool) -> None:
        """Plays the frames, or pauses.

        Args:
          on: whether to play.
        """
        self._button.label = "pause" if on else "play"
        if on:
            self._playing.set()
        else:
            self._playing.clear()

    def _play(self) -> None:
        """Shows one frame after the other while they are played, no faster than recorded."""
        while not self._closed.is_set():
            if not self._playing.wait(PLAY_SECONDS):
                continue
            if self._place >= len(self._numbers) - 1:
                self.play(False)
                continue
            began, before = time.perf_counter(), self._seconds
            self.show_place(self._place + 1)
            ahead = self._seconds - before - (time.perf_counter() - began)
            self._closed.wait(min(max(ahead, 0.0), 1.0))

    # Live -----------------------------------------------------------------------------------------

    def offer(self, frame: ShownFrame) -> bool:
        """Hands over a frame without waiting; it is left out while the viewer is busy.

        Args:
          frame: the latest one.

        Returns:
          Whether it will be shown.
        """
        now = time.perf_counter()
        if self._busy.is_set() or now - self._shown_at < LIVE_SECONDS:
            return False
        self._busy.set()
        self._shown_at = now
        self._worker.submit(self._show_offered, frame)
        return True

    def _show_offered(self, frame: ShownFrame) -> None:
        try:
            self.show(frame)
        finally:
            self._busy.clear()

    def say(self, text: str) -> None:
        """Adds a sentence to the status, after the frames that were offered are shown.

        Args:
          text: a sentence.
        """
        self._worker.submit(lambda: None).result()
        self.status.content = f"**{text}**\n\n{self.status.content}"

    def close(self) -> None:
        """Stops the server and frees its port."""
        self._closed.set()
        self._worker.shutdown(wait=True)
        self.server.stop()


def thin_points(image: RgbdImage) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """Some points of an image, mm, camera frame, and their colours.

    Args:
      image: of any size.

    Returns:
      Always as many points; they repeat where fewer pixels are seen, and there are none where none
      is.
    """
    pixels = np.flatnonzero(image.depth > 0)
    if not len(pixels):
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    pixels = pixels[np.linspace(0, len(pixels) - 1, MAX_POINTS).astype(int)]
    v, u = np.divmod(pixels, image.depth.shape[1])
    z = image.depth[v, u].astype(np.float64)
    points = np.stack([(u - image.cx) / image.fx * z, (v - image.cy) / image.fy * z, z], 1)
    return points, image.color[v, u]


def status_text(line: TrackLine) -> str:
    """What the page says of a frame, as Markdown.

    Args:
      line: of the track.
    """
    head = f"Frame {line['number']}, {line['seconds']:.2f} s"
    if "error" in line:
        return f"**{head}: not readable**\n\n{line['error']}"
    accepted = "accepted" if line["accepted"] else "not accepted"
    rows = [
        f"| {name} | {_mm(level.get('expected_tre_mm'))} | {_mm(level.get('tre_mm'))} |"
        for name, level in line["levels"].items()
    ]
    table = ["| level | expected TRE | TRE |", "|---|---|---|", *rows] if rows else []
    return "\n".join(
        [
            f"**{head}: {line['state']}, {accepted}**",
            "",
            f"Latency {line['latency_ms']:.0f} ms. Of the remembered bone, "
            f"{line['agreeing']:.0%} agrees and {line['covered']:.0%} is covered.",
            "",
            *table,
        ]
    )


def _mm(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} mm"
