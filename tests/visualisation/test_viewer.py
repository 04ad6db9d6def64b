"""The viewer serves the scene on loopback, steps, switches layers, and closes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import msgspec
import numpy as np
import pytest
import viser
import zstandard
from made_up_job import made_up_result
from websockets.sync.client import connect

from e2r.cli import view
from e2r.cli.errors import run_command
from e2r.visualisation import snapshots, viewer


@pytest.fixture
def shown():
    return [
        snapshots.make_snapshot(made_up_result(i, mm), "learnt") for i, mm in enumerate((12.0, 3.0))
    ]


@pytest.fixture
def running(shown):
    running = viewer.Viewer(shown, port=0)
    yield running
    running.close()


def messages(port, enough):
    """The messages that a browser receives (viser's wire format), until ``enough`` is true."""
    received = []
    address, protocol = f"ws://127.0.0.1:{port}", f"viser-v{viser.__version__}"
    with connect(address, subprotocols=[protocol], max_size=None) as wire:
        for _ in range(50):
            data = wire.recv(timeout=60)
            size = int.from_bytes(data[8:16], "little")
            body = zstandard.ZstdDecompressor().decompress(data[16 : 16 + size])
            received += msgspec.msgpack.decode(body)["messages"]
            if enough(received):
                return received
    raise AssertionError("the scene did not come")


def test_the_scene_is_served_on_loopback_only(shown):
    running = viewer.Viewer(shown, port=0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}", timeout=60) as answer:
            assert answer.status == 200
            assert b"<html" in answer.read(4096).lower()
        wanted = {"/cloud", "/mask", "/error", "/levels/L1", "/levels/L2", "/truth/L1"}
        sent = messages(running.port, lambda m: wanted <= {x.get("name") for x in m})
        assert wanted <= {x.get("name") for x in sent}
        with socket.socket() as other:  # the viewer is bound to its own address only
            other.bind(("127.0.0.2", running.port))
        with pytest.raises(ValueError, match=f"--port {running.port}: cannot be used"):
            viewer.Viewer(shown, port=running.port)
    finally:
        running.close()
    viewer.check_port_free("127.0.0.1", running.port)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{running.port}", timeout=5)


def test_a_step_moves_the_surfaces(running, shown):
    """The first case is found 12 mm to the right; its first step lies 9 mm farther."""

    def x_mm(name):
        return running.nodes[name].position[0] * viewer.MM_PER_UNIT

    level, ends = x_mm("L1"), running.nodes["error"].colors.copy()
    assert x_mm("L1") == pytest.approx(0.0, abs=0.5)  # the last step is at the centre
    running.show_step(0)
    assert x_mm("L1") - level == pytest.approx(9.0, abs=1e-3)
    assert (running.nodes["error"].colors != ends).any()
    assert f"{shown[0].tre_mm:.2f} mm" in running.status.content
    running.show_step(len(snapshots.poses_by_step(shown[0])) - 1)
    assert x_mm("L1") == pytest.approx(level, abs=1e-3)
    np.testing.assert_array_equal(running.nodes["error"].colors, ends)
    # The vertices lie where the pose puts them.
    node, snapshot = running.nodes["L2"], shown[0]
    position = np.asarray(node.position) * viewer.MM_PER_UNIT
    centre = snapshot.poses["L2"].translation - position
    placed = node.vertices * viewer.MM_PER_UNIT + position + centre
    true = snapshot.surfaces["L2"].vertices + snapshot.poses["L2"].translation
    np.testing.assert_allclose(placed, true, atol=1e-2)


def test_layers_and_cases_are_switched(running, shown):
    assert set(running.nodes) == {"cloud", "mask", "error", "L1", "L2", "truth"}
    assert not running.nodes["truth"].visible and running.nodes["L1"].visible
    running.checkboxes["truth"].value = True
    running.checkboxes["L1"].value = False
    for _ in range(1000):  # viser answers in another thread
        if running.nodes["truth"].visible and not running.nodes["L1"].visible:
            break
        time.sleep(0.05)
    assert running.nodes["truth"].visible and not running.nodes["L1"].visible
    running.show_case(1)
    assert running.nodes["L1"].visible
    assert f"{shown[1].tre_mm:.2f} mm" in running.status.content


def test_the_colors_of_small_and_large_errors():
    np.testing.assert_array_equal(
        viewer.viridis(np.array([-1.0, 0.0, 1.0, 9.0])), [[68, 1, 84]] * 2 + [[253, 231, 37]] * 2
    )


def test_bad_options_are_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        for options, words in (
            (view.Options(tmp_path / "out", port=0), "no views/*.npz); name a case folder, or run"),
            (view.Options(tmp_path / "nowhere", port=0), "nowhere: no such folder"),
            (view.Options(tmp_path / "out", port=port), f"--port {port}: cannot be used"),
            (view.Options(tmp_path / "out", port=70000), "--port 70000: use 1 to 65535"),
        ):
            assert run_command(lambda options=options: view.run(options)) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert words in line
    with pytest.raises(ValueError, match="no case to view"):
        viewer.Viewer([])


def test_ctrl_c_stops_the_viewer(shown, tmp_path):
    for i, snapshot in enumerate(shown):
        snapshots.write_snapshot(snapshot, tmp_path / "views" / f"{i:02d}.npz")
    root = str(viewer.__file__).rsplit("/e2r/", 1)[0]
    # A background job of a shell ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "e2r", "view", str(tmp_path), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            line = process.stdout.readline()
            assert "shows 2 cases" in line
            address = line.split()[0]
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()  # has no effect on a process that has ended
    assert process.returncode == 0
    assert "Traceback" not in errors
    viewer.check_port_free("127.0.0.1", int(address.rsplit(":", 1)[1]))
