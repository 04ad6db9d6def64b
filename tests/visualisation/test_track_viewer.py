"""The viewer of a track: the model moves from frame to frame, and a live scene never waits."""

import threading
import time

import made_up_track
import numpy as np
import pytest

from e2r.datasets.recordings import open_recording, read_truth
from e2r.formats import meshes
from e2r.tracking.track_files import read_track
from e2r.visualisation import track_viewer
from e2r.visualisation.track_pictures import NOT_ACCEPTED_RGB, ShownFrame
from e2r.visualisation.viewer import MM_PER_UNIT
from tests.visualisation.test_viewer import messages


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    recording, folder = made_up_track.write(tmp_path_factory.mktemp("track"))
    return open_recording(recording), read_track(folder), read_truth(recording)


@pytest.fixture
def frame(track):
    recording, lines, truth = track

    def read(number):
        (one,) = recording.read([number])
        return ShownFrame(one.image, lines[number - 1], truth[number])

    return read


@pytest.fixture
def running(track, frame):
    recording, lines, _ = track
    surfaces = meshes.read_meshes(recording.path / "model")
    numbers = [line["number"] for line in lines]
    running = track_viewer.TrackViewer(
        surfaces, recording.first_image(), numbers=numbers, read=frame, has_truth=True, port=0
    )
    yield running
    running.close()


@pytest.fixture
def live(track):
    recording = track[0]
    surfaces = meshes.read_meshes(recording.path / "model")
    live = track_viewer.TrackViewer(surfaces, recording.first_image(), port=0)
    yield live
    live.close()


def x_mm(node):
    return node.position[0] * MM_PER_UNIT


def test_a_frame_moves_the_surfaces_and_the_points(running):
    assert set(running.nodes) == {"cloud", "L1", "L2", "L3", "truth"}
    first, points = x_mm(running.nodes["L2"]), running.nodes["cloud"].points.copy()
    assert running.nodes["L1"].color == NOT_ACCEPTED_RGB
    assert "not accepted" in running.status.content and "0.25 mm" in running.status.content
    running.show_place(2)
    assert x_mm(running.nodes["L2"]) - first == pytest.approx(2 * made_up_track.STEP_MM, abs=1e-3)
    assert (running.nodes["cloud"].points != points).any()
    assert running.nodes["L1"].color != NOT_ACCEPTED_RGB
    assert "Frame 3, 0.20 s: tracking, accepted" in running.status.content
    assert "0.50 mm | 0.75 mm" in running.status.content and "12 ms" in running.status.content
    true = running.server.scene.get_handle_by_name("/truth/L2")
    assert x_mm(true) == pytest.approx(x_mm(running.nodes["L2"]), abs=1e-3)
    sent = messages(
        running.port, lambda m: any(x.get("name") == "/levels/L2" and "position" in x for x in m)
    )
    places = [x["position"] for x in sent if x.get("name") == "/levels/L2" and "position" in x]
    assert places[-1][0] * MM_PER_UNIT == pytest.approx(x_mm(running.nodes["L2"]), abs=1e-3)


def test_the_points_are_those_of_the_image(frame):
    image = frame(1).image
    points, colors = track_viewer.thin_points(image)
    u = np.rint(points[:, 0] / points[:, 2] * image.fx + image.cx).astype(int)
    v = np.rint(points[:, 1] / points[:, 2] * image.fy + image.cy).astype(int)
    np.testing.assert_allclose(points[:, 2], image.depth[v, u], rtol=1e-6)
    np.testing.assert_array_equal(colors, image.color[v, u])
    assert len(points) == track_viewer.MAX_POINTS
    blind = image._replace(depth=np.zeros_like(image.depth))
    assert len(track_viewer.thin_points(blind)[0]) == 0


def test_lost_levels_are_hidden(running):
    group = running.server.scene.get_handle_by_name("/levels")
    assert group.visible
    running.show_place(3)
    assert not group.visible and "lost" in running.status.content


def test_it_plays_to_the_end_and_pauses(running):
    running.play(True)
    end = time.monotonic() + 60
    while time.monotonic() < end and "Frame 4" not in running.status.content:
        time.sleep(0.05)
    assert "Frame 4" in running.status.content
    while time.monotonic() < end and running._button.label != "play":
        time.sleep(0.05)
    assert running._button.label == "play"


def test_an_unreadable_frame_is_told(running):
    broken = ShownFrame(None, {"number": 9, "seconds": 1.0, "error": "no picture"}, {})
    running.show(broken)
    assert "not readable" in running.status.content and "no picture" in running.status.content
    measured = running.server.scene.get_handle_by_name("/scene")
    assert not measured.visible  # the points were those of the frame before
    running.show_place(0)
    assert measured.visible


def test_a_live_frame_never_waits_for_the_viewer(live, frame, monkeypatch):
    let_go, show = threading.Event(), live.show
    monkeypatch.setattr(live, "show", lambda one: let_go.wait(60) and show(one))
    monkeypatch.setattr(track_viewer, "LIVE_SECONDS", 0.0)
    first, second = frame(1), frame(3)
    assert live.offer(first)
    began = time.perf_counter()
    assert not any(live.offer(second) for _ in range(50))  # the viewer is busy
    assert time.perf_counter() - began < 1.0
    let_go.set()
    live.say("The recording has ended.")
    assert "has ended" in live.status.content and "Frame 1," in live.status.content
    before = x_mm(live.nodes["L1"])
    assert live.offer(second)
    live.say("Again.")
    assert x_mm(live.nodes["L1"]) - before == pytest.approx(2 * made_up_track.STEP_MM, abs=1e-3)


def test_a_live_scene_changes_no_more_often_than_it_may(live, frame, monkeypatch):
    one = frame(1)
    monkeypatch.setattr(track_viewer, "LIVE_SECONDS", 1000.0)
    assert live.offer(one)
    live.say("Shown.")  # so that it is not busy
    assert not live.offer(one)
    monkeypatch.setattr(track_viewer, "LIVE_SECONDS", 0.0)
    assert live.offer(one)
    with pytest.raises(ValueError, match="no frames to read"):
        live.show_place(0)
