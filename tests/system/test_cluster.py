"""Work on a Ray cluster of this machine: workers that die, a poisoned item, open ports, a job."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from e2r.runtime import cluster
from e2r.runtime.cluster import ClusterConfig, stream
from e2r.runtime.measured_process import process_family
from experiments import evaluate

LOCAL = ClusterConfig("local", workers=2)


@pytest.fixture(scope="module")
def ray():
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'e2r[cluster]'")
    with cluster._connected("local") as found:
        found.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found


def name_of(item):
    return f"item{item['number']}"


def make_items(count):
    return [{"number": number, "array": np.arange(number)} for number in range(count)]


def serve(items):
    """Takes three items before it gives one back, as batches do."""
    held = []

    def outcomes():
        for item in held:
            if item["number"] == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            yield (
                name_of(item),
                (item["number"], item["array"].sum(), os.environ.get("OMP_NUM_THREADS")),
            )
        held.clear()

    for item in items:
        held.append(item)
        if len(held) == 3:
            yield from outcomes()
    yield from outcomes()


def run(items, function=serve, window=4, config=LOCAL):
    notices = []
    found = stream(
        function,
        items,
        config=config,
        name=name_of,
        give_up=lambda item, sentence: (item["number"], sentence, ""),
        window=window,
        notice=notices.append,
    )
    return sorted(found, key=lambda outcome: outcome[0]), notices


def test_a_poisoned_item_is_named_and_all_others_are_done_once(ray):
    """Those that were in the hands of its worker are done by others."""
    found, notices = run(make_items(24))
    assert [number for number, *_ in found] == list(range(24))
    given_up = [sentence for _, sentence, threads in found if not threads]
    assert len(given_up) == 1 and given_up[0].startswith("item13: the worker that had nothing")
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    assert all(
        (total, seen) == (sum(range(number)), threads)
        for number, total, seen in found
        if number != 13
    )
    died = re.search(r"died: \S+ (\d+)$", notices[-1])
    assert died and 2 <= int(died[1]) <= 3


def refuse(items):
    for item in items:
        if item["number"] == 0:
            raise ValueError("item0: is refused")
        yield name_of(item), item


def test_a_refusal_in_a_worker_is_that_of_the_command(ray):
    with pytest.raises(ValueError, match=r"^item0: is refused$"):
        run(make_items(1), refuse)


def listening_addresses(root: int) -> set[str]:
    """The local addresses, in hexadecimal, on which a process and its children listen."""
    sockets = set()
    for pid in process_family(root):
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(link))
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = row.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                found.add(address.split(":")[0])
    return found


def test_all_ports_are_on_loopback(ray):
    found = listening_addresses(os.getpid())
    assert found  # the cluster's own
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F", f"{1 << 24:032X}"}


def test_a_job_is_that_of_one_process(ray, checkpoint, data_set, tmp_path, capsys):
    """Also where a case is broken; and it goes on without the cluster."""
    cases = Path(shutil.copytree(data_set, tmp_path / "cases"))
    (sorted(cases.iterdir())[1] / "depth.png").write_bytes(b"no picture")
    words = f"--cases {cases} --checkpoint {checkpoint} --start truth --batch 2 --num-samples 2"
    words = [*words.split(), "--schedule.steps", "12", "--output"]
    lines = {}
    for name, more in {"one": [], "two": ["--cluster", "local", "--workers", "1"]}.items():
        assert evaluate.main([*words, str(tmp_path / name), *more]) == 3
        text = (tmp_path / name / "predictions.jsonl").read_text()
        lines[name] = {line["id"]: line for line in map(json.loads, text.splitlines())}
        assert len(lines[name]) == text.count("\n") == 3
        assert len([*(tmp_path / name / "views").iterdir()]) == 2
    for key, line in lines["one"].items():
        other = lines["two"][key]
        assert line["error"] == other["error"]
        for level, pose in line["T_camera_model"].items():
            np.testing.assert_allclose(other["T_camera_model"][level], pose, atol=1e-6)
    assert evaluate.main([*words, str(tmp_path / "two")]) == 3


def test_a_study_runs_on_a_cluster_as_it_is_called(checkpoint, tmp_path):
    """By ``python -m``, where its functions are those of ``__main__``, which no worker has."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'e2r[cluster]'")
    (tmp_path / "models" / "bob").mkdir(parents=True)
    (tmp_path / "models" / "bob" / "L1.stl").write_bytes(b"no surface")
    words = ["-m", "experiments.adapt_patients", "--patients", tmp_path / "models"]
    words += ["--output", tmp_path / "out", "--checkpoint", checkpoint, "--cluster", "local"]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "e2r: bob: " in done.stderr and "Traceback" not in done.stderr
    assert "bob" in (tmp_path / "out" / "patients.json").read_text()


class FakeRay:
    """Knows what a cluster has, and makes actors that do nothing."""

    def __init__(self):
        self.there = {"CPU": 4}
        self.made = []

    def put(self, value):
        return value

    def cluster_resources(self):
        return self.there

    def remote(self, kind):
        return self

    def options(self, **options):
        self.made.append("GPU" if "num_gpus" in options else "CPU")
        return self

    def __getattr__(self, name):
        return self


def test_a_gpu_that_joins_later_gets_a_worker(monkeypatch):
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", -1.0)
    fake = FakeRay()
    fake.remote = lambda *_: fake
    driver = cluster._Driver(fake, serve, [1, 2], 0, name=str, window=1)
    driver._hire()
    assert fake.made == ["CPU"] * 4
    fake.there = {"CPU": 4, "GPU": 2.0}
    driver._hire()
    driver._hire()
    assert fake.made[4:] == ["GPU"] * 2
    driver._items = None  # nothing is left
    fake.there = {"CPU": 4, "GPU": 8.0}
    driver._hire()
    assert len(fake.made) == 6


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"cluster": "remote"}, "--cluster remote: use local"),
        ({"cluster": "ray://host"}, "use local, auto or ray://HOST:PORT"),
        ({"workers": 2}, "--workers 2: .* give --cluster"),
        ({"cluster": "local", "workers": -1}, "--workers -1"),
    ],
)
def test_a_wrong_place_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ClusterConfig(**arguments)


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="pip install"):
        run(make_items(1))


def test_one_process_needs_no_cluster():
    found, notices = run(make_items(5), config=ClusterConfig())
    assert [number for number, *_ in found] == list(range(5)) and not notices
