"""A live view in the browser: step through a registration, switch its layers on and off."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import viser
from plotly.colors import hex_to_rgb, sequential
from scipy.spatial.transform import Rotation

from e2r.types import Pose
from e2r.visualisation import figures, snapshots
from e2r.visualisation.snapshots import Snapshot

HOST = "127.0.0.1"
UNIT = 50.0
"""mm that the browser takes for one: its cameras are made for rooms, not for spines."""
FAR_MM = 5.0
"""Distance from the surfaces that is drawn in the last colour."""
GREEN = (42, 157, 74)
_VIRIDIS = np.array([hex_to_rgb(color) for color in sequential.Viridis], np.float64)


class Viewer:
    """A running server that shows one view at a time.

    Attributes:
      server: of viser.
      nodes: layer name -> what is in the scene.
      port: where it answers.
    """

    def __init__(self, shown: Sequence[Snapshot], *, host: str = HOST, port: int = 8080) -> None:
        """Starts to serve; :meth:`close` ends it.

        Args:
          shown: one or more.
          host: address of this machine; the default answers this machine only.
          port: a free one, or 0 for any.

        Raises:
          ValueError: nothing to show, or the port cannot be had.
        """
        if not shown:
            raise ValueError("there is no case to view; register one first")
        check_free(host, port)
        with contextlib.redirect_stdout(io.StringIO()):  # its banner; we say where it is
            self.server = viser.ViserServer(host, port, label="e2r", verbose=False)
        self.port: int = self.server.get_port()
        self.nodes: dict[str, Any] = {}
        self._layers: dict[str, Any] = {}
        self._views = list(shown)
        self.server.scene.set_up_direction("-y")
        names = [f"{i + 1}: {view.id}" for i, view in enumerate(shown)]
        self._choice = self.server.gui.add_dropdown("case", names, initial_value=names[0])
        self._step = self.server.gui.add_slider("step", 0, 1, 1, 0)
        self._about = self.server.gui.add_markdown("")
        self._choice.on_update(lambda _: self.show(names.index(self._choice.value)))
        self._step.on_update(lambda _: self.go(int(self._step.value)))
        self.show(0)

    def show(self, index: int) -> None:
        """Shows another of the views, at its last step."""
        for old in (*self.nodes.values(), *self._layers.values()):
            old.remove()
        self.nodes, self._layers = {}, {}
        self._view = view = self._views[index]
        self._steps = snapshots.snapshot_steps(view)
        self._kept = view.weights > 0.5
        ends = [figures.place_points(view.found[k], m.vertices) for k, m in view.surfaces.items()]
        self._centre = np.concatenate(ends).mean(0)
        self._add_camera(float(np.ptp(np.concatenate(ends), axis=0).max()) / UNIT)
        self._add_clouds()
        self._add_surfaces()
        for name, node in self.nodes.items():
            self._add_switch(name, node)
        last = len(self._steps) - 1
        self._step.max = last
        self._step.value = last
        self.go(last)

    def go(self, step: int) -> None:
        """Places the surfaces as they are after a step; the last one is that of each level."""
        placed_by = self._steps[step]
        with self.server.atomic():
            for name, pose in placed_by.items():
                self._place(self.nodes[name], pose)
            apart = snapshots.distances(
                self._view._replace(points=self._view.points[self._kept]), placed_by
            )
            self.nodes["error"].colors = _colours(apart / FAR_MM)
        whole = "each level by itself" if step == len(self._steps) - 1 else "the whole model"
        middle = f"{np.median(apart):.2f} mm" if len(apart) else "no point"
        tre = self._view.tre_mm
        known = "" if tre is None else f"; in the end **TRE {tre:.2f} mm**"
        self._about.content = (
            f"{whole}; the mask's points are {middle} off (median){known}. "
            f"`error`: blue 0, yellow {FAR_MM:g} mm or more."
        )

    def close(self) -> None:
        """Stops to serve; the port is free again."""
        self.server.stop()

    def _add_camera(self, extent: float) -> None:
        camera = self.server.initial_camera
        camera.up = (0.0, -1.0, 0.0)
        camera.look_at = (0.0, 0.0, 0.0)
        camera.position = (0.0, 0.0, -1.4 * extent)  # from where the depth camera is

    def _add_clouds(self) -> None:
        view, scene = self._view, self.server.scene
        size = 0.8 / UNIT
        points = (view.points - self._centre) / UNIT
        shown = {"point_size": size, "point_shape": "circle", "precision": "float32"}
        kept = points[self._kept]
        self.nodes["cloud"] = scene.add_point_cloud(
            "/cloud", points, np.round(255 * view.colours).astype(np.uint8), **shown
        )
        shown["point_size"] = 1.3 * size
        self.nodes["mask"] = scene.add_point_cloud(
            "/mask", kept, tuple(figures.RED.astype(int).tolist()), **shown
        )
        self.nodes["error"] = scene.add_point_cloud(
            "/error", kept, _colours(np.zeros(len(kept))), visible=False, **shown
        )

    def _add_surfaces(self) -> None:
        view, scene = self._view, self.server.scene
        for i, (name, mesh) in enumerate(view.surfaces.items()):
            color = hex_to_rgb(figures.PALETTE[i % len(figures.PALETTE)])
            vertices, faces = np.asarray(mesh.vertices, np.float32) / UNIT, np.asarray(mesh.faces)
            self.nodes[name] = scene.add_mesh_simple(
                f"/levels/{name}", vertices, faces, color=color, opacity=0.85, side="double"
            )
        if not view.truth:
            return
        self.nodes["truth"] = scene.add_frame("/truth", show_axes=False, visible=False)
        for name, pose in view.truth.items():
            mesh = view.surfaces[name]
            vertices, faces = np.asarray(mesh.vertices, np.float32) / UNIT, np.asarray(mesh.faces)
            self._place(
                scene.add_mesh_simple(
                    f"/truth/{name}", vertices, faces, color=GREEN, wireframe=True
                ),
                pose,
            )
        goals = (snapshots.true_targets(view) - self._centre) / UNIT
        scene.add_point_cloud("/truth/targets", goals, GREEN, point_size=2.0 / UNIT)

    def _add_switch(self, name: str, node: Any) -> None:
        box = self.server.gui.add_checkbox(name, node.visible)

        @box.on_update
        def _(_: Any) -> None:
            node.visible = box.value

        self._layers[name] = box

    def _place(self, node: Any, pose: Pose) -> None:
        quaternion = Rotation.from_matrix(np.asarray(pose.rotation, np.float64)).as_quat()
        node.wxyz = np.roll(quaternion, 1)
        node.position = (np.asarray(pose.translation, np.float64) - self._centre) / UNIT


def read_worst_snapshots(folder: Path) -> list[Snapshot]:
    """The views in an evaluation's output folder, the worst case first.

    Raises:
      ValueError: there are none.
    """
    found = snapshots.read_worst(folder / "views")
    if not found:
        raise ValueError(
            f"{folder}: neither a case (no case.json) nor an evaluation's output (no views/*.npz); "
            f"name a case folder, or run python -m experiments.evaluate --output {folder}"
        )
    return found


def serve(shown: Sequence[Snapshot], *, host: str = HOST, port: int = 8080) -> None:
    """Serves until Ctrl-C, and says where.

    Raises:
      ValueError: see :class:`Viewer`.
    """
    viewer = Viewer(shown, host=host, port=port)
    print(f"http://{host}:{viewer.port} shows {len(shown)} cases; Ctrl-C ends it", flush=True)
    try:
        while True:
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()


def check_free(host: str, port: int) -> None:
    """Asks for a port; viser by itself would silently take the next one.

    Raises:
      ValueError: it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: use 1 to 65535, or 0 for any that is free")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: cannot be had ({error.strerror or error}); "
            "give another --port, or 0 for any that is free"
        ) from None


def _colours(share: np.ndarray) -> np.ndarray:
    """Viridis of values in [0, 1], (N, 3) uint8."""
    at = np.clip(share, 0.0, 1.0) * (len(_VIRIDIS) - 1)
    steps = np.arange(len(_VIRIDIS))
    channels = [np.interp(at, steps, channel) for channel in _VIRIDIS.T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)
