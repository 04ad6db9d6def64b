"""A recording of ellipsoids that move to the right, and a track of it, made in a moment."""

from __future__ import annotations

import jax
import numpy as np

from e2r.datasets.recordings import RecordedFrame, write_recording
from e2r.formats import meshes
from e2r.tracking.track_files import open_track
from e2r.tracking.tracked_frame import TrackedFrame, TrackedLevel
from tests import ellipsoid_scene as scene

STEP_MM = 5.0
"""Motion to the right from frame to frame."""
STATES = ("tracking", "tracking", "tracking", "lost")
ACCEPTED = (False, True, True, False)
RATE = 10.0


def poses_of(number):
    """Level -> true pose in the frame of a number, from 1."""
    stacked = scene.level_poses(shift=(STEP_MM * (number - 1), 0.0, 0.0))
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        for i, name in enumerate(scene.LEVELS)
    }


def image_of(number):
    pose = scene.level_poses(shift=(STEP_MM * (number - 1), 0.0, 0.0))
    return scene.image(scene.depth_image(pose))


def write(folder):
    """Writes ``recording`` and ``track`` into a folder."""
    recording, track = folder / "recording", folder / "track"
    for one in (recording, track):
        one.mkdir(parents=True)
    meshes.write_meshes(scene.model(), recording / "model")
    numbers = range(1, len(STATES) + 1)
    write_recording(
        recording,
        (
            (RecordedFrame(number, (number - 1) / RATE, image_of(number)), poses_of(number))
            for number in numbers
        ),
    )
    with open_track(track, list(scene.LEVELS)) as files:
        for number, state, accepted in zip(numbers, STATES, ACCEPTED, strict=True):
            levels = {
                name: TrackedLevel(pose, 0.5 if name != "L3" else None, None, accepted)
                for name, pose in poses_of(number).items()
            }
            frame = TrackedFrame(
                number - 1,
                (number - 1) / RATE,
                state,
                levels if state == "tracking" else {},
                accepted,
                0.9 - 0.1 * number,
                0.0,
                0.012,
            )
            tre = {"L1": 0.25 * number, "L3": 9.0} if state == "tracking" else {}
            files.add(frame, number=number, tre_mm=tre)
    return recording, track


def pixels_of(pose, mesh, view, shape):
    """Whether a pixel's centre is near the projection of a surface's vertex."""
    points = mesh.vertices @ np.asarray(pose.rotation, float).T + np.asarray(pose.translation)
    u = np.rint(points[:, 0] / points[:, 2] * view.fx + view.cx).astype(int)
    v = np.rint(points[:, 1] / points[:, 2] * view.fy + view.cy).astype(int)
    inside = (u >= 0) & (v >= 0) & (u < shape[1]) & (v < shape[0])
    found = np.zeros(shape, bool)
    found[v[inside], u[inside]] = True
    return found
