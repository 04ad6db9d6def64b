"""The live viewer: it answers on loopback, serves the scene, steps, switches layers, and closes."""

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
from test_report import made_up
from websockets.sync.client import connect

from e2r.cli import commands
from e2r.cli.errors import run_command
from e2r.visualisation import snapshots, viewer


@pytest.fixture
def shown():
    return [snapshots.make_snapshot(made_up(i, off), "learnt") for i, off in enumerate((12.0, 3.0))]


@pytest.fixture
def running(shown):
    found = viewer.Viewer(shown, port=0)
    yield found
    found.close()


def messages(port, enough):
    """What a browser is sent, until ``enough`` says so: viser's own wire format."""
    found = []
    address, protocol = f"ws://127.0.0.1:{port}", f"viser-v{viser.__version__}"
    with connect(address, subprotocols=[protocol], max_size=None) as wire:
        for _ in range(50):
            data = wire.recv(timeout=60)
            size = int.from_bytes(data[8:16], "little")
            body = zstandard.ZstdDecompressor().decompress(data[16 : 16 + size])
            found += msgspec.msgpack.decode(body)["messages"]
            if enough(found):
                return found
    raise AssertionError("the scene did not come")


def test_it_serves_the_scene_on_loopback_and_closes(shown):
    running = viewer.Viewer(shown, port=0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}", timeout=60) as answer:
            assert answer.status == 200
            assert b"<html" in answer.read(4096).lower()
        wanted = {"/cloud", "/mask", "/error", "/levels/L1", "/levels/L2", "/truth/L1"}
        sent = messages(running.port, lambda m: wanted <= {x.get("name") for x in m})
        assert wanted <= {x.get("name") for x in sent}
        with socket.socket() as other:  # bound to loopback and to nothing else
            other.bind(("127.0.0.2", running.port))
        with pytest.raises(ValueError, match=f"--port {running.port}: cannot be had"):
            viewer.Viewer(shown, port=running.port)
    finally:
        running.close()
    viewer.check_free("127.0.0.1", running.port)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{running.port}", timeout=5)


def test_a_step_moves_the_surfaces(running, shown):
    """Of the first view, found 12 mm to the right; its steps begin 9 mm farther."""

    def across(name):
        return running.nodes[name].position[0] * viewer.UNIT

    level, ends = across("L1"), running.nodes["error"].colors.copy()
    assert across("L1") == pytest.approx(0.0, abs=0.5)  # the end is in the middle
    running.go(0)
    assert across("L1") - level == pytest.approx(9.0, abs=1e-3)
    assert (running.nodes["error"].colors != ends).any()
    assert f"{shown[0].tre_mm:.2f} mm" in running._about.content
    running.go(len(snapshots.snapshot_steps(shown[0])) - 1)
    assert across("L1") == pytest.approx(level, abs=1e-3)
    np.testing.assert_array_equal(running.nodes["error"].colors, ends)
    # The vertices are where the pose puts them.
    node, view = running.nodes["L2"], shown[0]
    centre = view.found["L2"].translation - np.asarray(node.position) * viewer.UNIT
    placed = node.vertices * viewer.UNIT + np.asarray(node.position) * viewer.UNIT + centre
    true = view.surfaces["L2"].vertices + view.found["L2"].translation
    np.testing.assert_allclose(placed, true, atol=1e-2)


def test_layers_and_cases_are_switched(running, shown):
    assert set(running.nodes) == {"cloud", "mask", "error", "L1", "L2", "truth"}
    assert not running.nodes["truth"].visible and running.nodes["L1"].visible
    running._layers["truth"].value = True
    running._layers["L1"].value = False
    for _ in range(1000):  # viser answers in a thread of its own
        if running.nodes["truth"].visible and not running.nodes["L1"].visible:
            break
        time.sleep(0.05)
    assert running.nodes["truth"].visible and not running.nodes["L1"].visible
    running.show(1)
    assert running.nodes["L1"].visible
    assert f"{shown[1].tre_mm:.2f} mm" in running._about.content


def test_far_and_near_have_their_colours():
    np.testing.assert_array_equal(
        viewer._colours(np.array([-1.0, 0.0, 1.0, 9.0])), [[68, 1, 84]] * 2 + [[253, 231, 37]] * 2
    )


def test_bad_calls_get_one_sentence(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        for options, words in (
            (
                commands.Look(tmp_path / "out", port=0),
                "no views/*.npz); name a case folder, or run",
            ),
            (commands.Look(tmp_path / "nowhere", port=0), "nowhere: no such folder"),
            (commands.Look(tmp_path / "out", port=port), f"--port {port}: cannot be had"),
            (commands.Look(tmp_path / "out", port=70000), "--port 70000: use 1 to 65535"),
        ):
            assert run_command(lambda options=options: commands.view(options)) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert words in line
    with pytest.raises(ValueError, match="no case to view"):
        viewer.Viewer([])


def test_ctrl_c_ends_it(shown, tmp_path):
    for i, view in enumerate(shown):
        snapshots.write_snapshot(view, tmp_path / "views" / f"{i:02d}.npz")
    root = str(loop.__file__).rsplit("/e2r/", 1)[0]
    # A shell's background job ignores Ctrl-C, and so would what it starts; a terminal's does not.
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
            process.kill()  # nothing, where it has ended
    assert process.returncode == 0
    assert "Traceback" not in errors
    viewer.check_free("127.0.0.1", int(address.rsplit(":", 1)[1]))
