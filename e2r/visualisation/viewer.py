"""The viewer: a page in the browser that steps through a registration and switches its layers."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import viser
from jaxtyping import UInt8
from plotly.colors import hex_to_rgb, sequential
from scipy.spatial.transform import Rotation

from e2r.geometry.poses import apply_host
from e2r.types import Array, Float, Pose
from e2r.visualisation.colors import MASK_RGB, TRUTH_RGB, level_color
from e2r.visualisation.figures import Surfaces
from e2r.visualisation.snapshots import Snapshot, distance_to_model, poses_by_step, true_targets

LOOPBACK = "127.0.0.1"
"""The address that only this machine can reach."""
MM_PER_UNIT = 50.0
"""Length of the browser's unit: its camera is made for scenes of a few units."""
MAX_COLORED_DISTANCE_MM = 5.0
"""Distance from the surfaces that gets the last colour of the error layer."""
POINT_SIZE_MM = 0.8
"""Diameter of a scene point."""
_VIRIDIS = np.array([hex_to_rgb(color) for color in sequential.Viridis], np.float64)


class Viewer:
    """A running server that shows one case at a time.

    Attributes:
      server: the viser server.
      port: port of the server.
      nodes: layer name -> node of the scene.
      checkboxes: layer name -> checkbox that shows or hides the layer.
      status: text below the controls.
    """

    def __init__(
        self, snapshots: Sequence[Snapshot], *, host: str = LOOPBACK, port: int = 8080
    ) -> None:
        """Starts the server; :meth:`close` stops it.

        Args:
          snapshots: the cases, one or more.
          host: address of this machine; other machines cannot reach the default.
          port: a free port, or 0 for any free port.

        Raises:
          ValueError: there is no snapshot, or the port is not free.
        """
        if not snapshots:
            raise ValueError("there is no case to view; register one first")
        self.server = start_server(host, port)
        self.port: int = self.server.get_port()
        self.nodes: dict[str, Any] = {}
        self.checkboxes: dict[str, Any] = {}
        self._snapshots = list(snapshots)
        names = [f"{i + 1}: {snapshot.id}" for i, snapshot in enumerate(snapshots)]
        self._case = self.server.gui.add_dropdown("case", names, initial_value=names[0])
        self._step = self.server.gui.add_slider("step", 0, 1, 1, 0)
        self.status = self.server.gui.add_markdown("")
        self._case.on_update(lambda _: self.show_case(names.index(self._case.value)))
        self._step.on_update(lambda _: self.show_step(int(self._step.value)))
        self.show_case(0)

    def show_case(self, index: int) -> None:
        """Shows the snapshot at this index, at its last step."""
        for element in (*self.nodes.values(), *self.checkboxes.values()):
            element.remove()
        self._snapshot = snapshot = self._snapshots[index]
        self._poses = poses_by_step(snapshot)
        placed = np.concatenate(
            [apply_host(snapshot.poses[k], m.vertices) for k, m in snapshot.surfaces.items()]
        )
        self._centre = placed.mean(0)
        extent = float(np.ptp(placed, axis=0).max()) / MM_PER_UNIT
        look_from(self.server, 1.4 * extent)
        scene = self.server.scene
        self.nodes = {
            **_add_clouds(scene, snapshot, self._centre),
            **add_surfaces(scene, snapshot.surfaces),
            **_add_truth(scene, snapshot, self._centre),
        }
        self.checkboxes = {
            name: add_checkbox(self.server.gui, name, node) for name, node in self.nodes.items()
        }
        last = len(self._poses) - 1
        self._step.max = last
        self._step.value = last
        self.show_step(last)

    def show_step(self, step: int) -> None:
        """Places the surfaces as they are after a step; at the last one each has its own pose."""
        poses, tre_mm = self._poses[step], self._snapshot.tre_mm
        distances = distance_to_model(self._snapshot.masked_points, self._snapshot.surfaces, poses)
        with self.server.atomic():
            for name, pose in poses.items():
                place(self.nodes[name], pose, self._centre)
            self.nodes["error"].colors = viridis(distances / MAX_COLORED_DISTANCE_MM)
        last = step == len(self._poses) - 1
        median = f"{np.median(distances):.2f} mm" if len(distances) else "no points"
        self.status.content = (
            f"**{'one pose for each level' if last else 'one pose for the whole model'}**\n\n"
            f"Median distance from the masked points to the surfaces: {median}.\n\n"
            + (f"Final TRE: {tre_mm:.2f} mm.\n\n" if tre_mm is not None else "")
            + f"Layer `error`: blue is 0 mm, yellow is {MAX_COLORED_DISTANCE_MM:g} mm or more."
        )

    def close(self) -> None:
        """Stops the server and frees its port."""
        self.server.stop()


def serve(snapshots: Sequence[Snapshot], *, host: str = LOOPBACK, port: int = 8080) -> None:
    """Prints the viewer's address and serves until Ctrl-C.

    Args:
      snapshots: the cases, one or more.
      host: address of this machine.
      port: a free port, or 0 for any free port.

    Raises:
      ValueError: there is no snapshot, or the port is not free.
    """
    viewer = Viewer(snapshots, host=host, port=port)
    cases = "1 case" if len(snapshots) == 1 else f"{len(snapshots)} cases"
    wait_for_ctrl_c(viewer.close, f"http://{host}:{viewer.port} shows {cases}")


def wait_for_ctrl_c(close: Callable[[], None], said: str) -> None:
    """Serves until Ctrl-C, then closes.

    Args:
      close: stops the server.
      said: what is printed before "press Ctrl-C to stop".
    """
    print(f"{said}; press Ctrl-C to stop", flush=True)
    try:
        while True:
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        close()


def start_server(host: str, port: int) -> Any:
    """Starts viser's server, whose scene has the depth camera's axes.

    Args:
      host: address of this machine.
      port: a free port, or 0 for any free port.

    Raises:
      ValueError: the port is not free.
    """
    check_port_free(host, port)
    with contextlib.redirect_stdout(io.StringIO()):  # viser prints a banner
        server = viser.ViserServer(host, port, label="e2r", verbose=False)
    server.scene.set_up_direction("-y")
    return server


def look_from(server: Any, distance: float) -> None:
    """Lets the browser begin on the side of the depth camera.

    Args:
      server: of viser.
      distance: from the scene's centre, in the browser's units.
    """
    camera = server.initial_camera
    camera.up, camera.look_at = (0.0, -1.0, 0.0), (0.0, 0.0, 0.0)
    camera.position = (0.0, 0.0, -distance)


def check_port_free(host: str, port: int) -> None:
    """Refuses a port that is in use; viser would silently take the next one.

    Raises:
      ValueError: the port does not exist or is not free.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: use 1 to 65535, or 0 for any free port")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: cannot be used ({error.strerror or error}); "
            "give another --port, or 0 for any free port"
        ) from None


def viridis(share: Float[Array, "n"]) -> UInt8[np.ndarray, "n 3"]:
    """The Viridis colours of values, which are clipped to 0 to 1."""
    position = np.clip(np.asarray(share), 0.0, 1.0) * (len(_VIRIDIS) - 1)
    stops = np.arange(len(_VIRIDIS))
    channels = [np.interp(position, stops, channel) for channel in _VIRIDIS.T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def _add_clouds(scene: Any, snapshot: Snapshot, centre: np.ndarray) -> dict[str, Any]:
    """Adds the layers ``cloud``, ``mask`` and ``error``, the last one hidden."""
    points = (snapshot.points - centre) / MM_PER_UNIT
    masked = (snapshot.masked_points - centre) / MM_PER_UNIT
    rgb = np.round(255 * snapshot.colors).astype(np.uint8)
    small = {"point_size": POINT_SIZE_MM / MM_PER_UNIT, "point_shape": "circle"}
    large = {**small, "point_size": 1.3 * POINT_SIZE_MM / MM_PER_UNIT}
    no_error = viridis(np.zeros(len(masked)))
    return {
        "cloud": scene.add_point_cloud("/cloud", points, rgb, precision="float32", **small),
        "mask": scene.add_point_cloud("/mask", masked, MASK_RGB, precision="float32", **large),
        "error": scene.add_point_cloud(
            "/error", masked, no_error, precision="float32", visible=False, **large
        ),
    }


def add_surfaces(scene: Any, surfaces: Surfaces) -> dict[str, Any]:
    """Adds a layer for each level; :func:`place` puts it in its place.

    Args:
      scene: of the server.
      surfaces: level -> surface, mm, model frame.
    """
    return {
        name: scene.add_mesh_simple(
            f"/levels/{name}",
            np.asarray(mesh.vertices, np.float32) / MM_PER_UNIT,
            np.asarray(mesh.faces),
            color=hex_to_rgb(level_color(i)),
            opacity=0.85,
            side="double",
        )
        for i, (name, mesh) in enumerate(surfaces.items())
    }


def _add_truth(scene: Any, snapshot: Snapshot, centre: np.ndarray) -> dict[str, Any]:
    """Adds the hidden layer ``truth``, surfaces and targets under the true poses, if known."""
    if not snapshot.truth:
        return {}
    group, nodes = add_wireframes(scene, {k: snapshot.surfaces[k] for k in snapshot.truth})
    for name, pose in snapshot.truth.items():
        place(nodes[name], pose, centre)
    targets = (true_targets(snapshot) - centre) / MM_PER_UNIT
    scene.add_point_cloud("/truth/targets", targets, TRUTH_RGB, point_size=2.0 / MM_PER_UNIT)
    return {"truth": group}


def add_wireframes(scene: Any, surfaces: Surfaces) -> tuple[Any, dict[str, Any]]:
    """Adds the hidden group ``truth``, and in it a wireframe of each level.

    Args:
      scene: of the server.
      surfaces: level -> surface, mm, model frame.
    """
    group = scene.add_frame("/truth", show_axes=False, visible=False)
    return group, {
        name: scene.add_mesh_simple(
            f"/truth/{name}",
            np.asarray(mesh.vertices, np.float32) / MM_PER_UNIT,
            np.asarray(mesh.faces),
            color=TRUTH_RGB,
            wireframe=True,
        )
        for name, mesh in surfaces.items()
    }


def add_checkbox(gui: Any, layer: str, node: Any) -> Any:
    """Adds a checkbox that shows or hides a layer.

    Args:
      gui: of the server.
      layer: its name.
      node: of the scene.
    """
    checkbox = gui.add_checkbox(layer, node.visible)

    @checkbox.on_update
    def _(_: Any) -> None:
        node.visible = checkbox.value

    return checkbox


def place(node: Any, pose: Pose, centre: np.ndarray) -> None:
    """Gives a surface its pose.

    Args:
      node: of the scene.
      pose: camera from model.
      centre: of the scene, mm, camera frame.
    """
    quaternion = Rotation.from_matrix(np.asarray(pose.rotation, np.float64)).as_quat()
    node.wxyz = np.roll(quaternion, 1)
    node.position = (np.asarray(pose.translation, np.float64) - centre) / MM_PER_UNIT
