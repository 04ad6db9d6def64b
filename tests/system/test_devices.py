"""A run is the same on one device, on eight and in two processes."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from e2r.runtime import sharding
from experiments.benchmarks import devices


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.devices", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def assert_agreement(output: str, lines: int) -> None:
    gaps = [float(line.rsplit(" ", 1)[1]) for line in output.splitlines()]
    assert len(gaps) == lines and max(gaps) < devices.TOLERANCE, output


def test_two_processes_train_as_one_and_resume_its_checkpoint(tmp_path):
    done = command(
        "--output", tmp_path / "out", "--steps", 4, "--setups", "1 device", "2 processes"
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    assert_agreement(done.stdout, 4)


@pytest.mark.slow
def test_all_setups_give_one_run(tmp_path):
    done = command("--output", tmp_path / "out", "--held-out-every", 25)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    assert_agreement(done.stdout, 16)


def test_shared_values_are_replicated_and_batches_are_divided():
    mesh = sharding.make_mesh(6)
    key = jax.random.key(5)
    shared = sharding.replicate({"a": np.arange(3.0), "key": key}, mesh)
    np.testing.assert_array_equal(shared["a"], np.arange(3.0))
    np.testing.assert_array_equal(jax.random.key_data(shared["key"]), jax.random.key_data(key))
    assert sharding.replicate(shared, mesh)["a"] is shared["a"]  # it was replicated already
    rows = sharding.shard(np.arange(12.0).reshape(6, 2), mesh)
    np.testing.assert_array_equal(rows, np.arange(12.0).reshape(6, 2))
    assert rows.sharding.spec == sharding.SHARDED
    assert sharding.process_rows(6) == slice(0, 6)
    assert sharding.is_primary() and sharding.any_process(True) and not sharding.any_process(False)


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 3)
    with pytest.raises(ValueError, match="a batch of 8 cannot be divided among 3 devices"):
        sharding.make_mesh(8)


def test_process_numbers_that_do_not_fit_are_refused():
    sharding.join_processes()  # a single process
    for processes, process in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(ValueError, match="how many processes there are"):
            sharding.join_processes("127.0.0.1:1", processes, process)


@pytest.mark.slow
def test_an_evaluation_is_the_same_on_two_devices(checkpoint, data_set, tmp_path):
    found = []
    for count in (1, 2):
        flags = f"--xla_force_host_platform_device_count={count}"
        out = tmp_path / str(count)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "experiments.evaluate",
                "--checkpoint",
                checkpoint,
                "--cases",
                data_set,
                "--output",
                out,
                "--batch",
                "2",
                "--num-samples",
                "1",
                "--schedule.steps",
                "4",
                "--search.rolls",
                "2",
                "--search.parents",
                "2",
                "--search.shifts",
                "0",
                "20",
                "--search.finalists",
                "2",
                "--timings",
            ],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (out / "predictions.jsonl").read_text().splitlines()
        found.append({one["id"]: one["T_camera_model"] for one in map(json.loads, lines)})
        assert "device" in done.stdout and "in all" in done.stdout
    assert len(found[0]) == 3
    for name, several in found[0].items():
        for level, matrix in several.items():
            np.testing.assert_allclose(found[1][name][level], matrix, atol=1e-3)
