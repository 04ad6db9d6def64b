"""A case replaces the one before it whole; whatever is no part of a case stays."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from small_cases import small_case

from e2r.datasets import case_folder
from e2r.datasets.case import case_digest
from e2r.formats import meshes
from e2r.runtime import atomic_folders


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def same(case, folder):
    """Whether a folder holds the case that was written, and nothing of another one."""
    again = case_folder.read_case(folder)
    assert case_digest(again) == case_digest(case)
    assert list(again.model) == list(case.model)
    assert (again.truth is None) == (case.truth is None)
    assert (again.bone is None) == (case.bone is None)
    return True


def rounded(case, tmp_path):
    """The case as a file keeps it: a PLY cloud has colours in 8 bits."""
    case_folder.write_case(case, tmp_path / "rounded")
    return case_folder.read_case(tmp_path / "rounded")


OLD = small_case("old", seed=1, levels=("L1", "L2", "L3"))
NEW = {
    "another picture": small_case("new", seed=2, levels=("L1", "L2", "L3")),
    "a cloud": small_case("new", seed=2, cloud=True),
    "no truth": small_case("new", seed=2, truth=False),
    "fewer levels": small_case("new", seed=2, levels=("L2",)),
    "other levels": small_case("new", seed=2, levels=("T12", "L5")),
    "a cloud without truth": small_case("new", seed=2, cloud=True, truth=False),
}


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("backwards", [False, True])
def test_nothing_of_the_old_case_is_left(name, backwards, tmp_path):
    old, new = (rounded(NEW[name], tmp_path), OLD) if backwards else (OLD, NEW[name])
    new = rounded(new, tmp_path / "other") if new.image is None else new
    case_folder.write_case(old, tmp_path / "case")
    (tmp_path / "case" / "model" / "surface.npz").write_bytes(b"of the old model")
    case_folder.write_case(new, tmp_path / "case")
    case_folder.write_case(new, tmp_path / "alone")
    assert same(new, tmp_path / "case")
    assert files(tmp_path / "case") == files(tmp_path / "alone")
    assert not list(tmp_path.glob(".*"))


def test_levels_of_the_old_case_in_other_formats_are_replaced_too(tmp_path):
    case_folder.write_case(OLD, tmp_path / "case")
    model = tmp_path / "case" / "model"
    OLD.model["L2"].export(model / "L2.ply")
    (model / "L2.stl").unlink()
    (model / "L3.stl").rename(model / "L3.STL")
    case_folder.write_case(NEW["fewer levels"], tmp_path / "case")
    assert [path.name for path in model.iterdir()] == ["L2.stl"]


def test_what_is_no_part_of_a_case_stays(tmp_path):
    folder = tmp_path / "case"
    case_folder.write_case(OLD, folder)
    (tmp_path / "shared.txt").write_text("elsewhere")
    for name in ("notes.txt", "model/README", "model/T9.stl", "raw/depth.png", "raw/a/b/c.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my {name}")
    (folder / "link").symlink_to(tmp_path / "shared.txt")
    (folder / "empty").mkdir()
    case_folder.write_case(NEW["fewer levels"], folder)
    assert same(NEW["fewer levels"], folder)
    for name in ("notes.txt", "model/README", "model/T9.stl", "raw/depth.png", "raw/a/b/c.bin"):
        assert (folder / name).read_text() == f"my {name}"
    assert (folder / "link").is_symlink() and (folder / "link").read_text() == "elsewhere"
    assert (folder / "empty").is_dir()


def test_a_model_that_is_a_link_is_unlinked_and_not_written_to(tmp_path):
    case_folder.write_case(OLD, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("model"))
    (tmp_path / "two" / "model").symlink_to(tmp_path / "one" / "model")
    case_folder.write_case(NEW["another picture"], tmp_path / "two")
    assert same(OLD, tmp_path / "one")
    assert same(NEW["another picture"], tmp_path / "two")


def test_a_link_to_a_case_folder_stays_a_link(tmp_path):
    case_folder.write_case(OLD, tmp_path / "disk" / "case")
    (tmp_path / "case").symlink_to(tmp_path / "disk" / "case")
    case_folder.write_case(NEW["a cloud"], tmp_path / "case")
    assert (tmp_path / "case").is_symlink()
    assert not (tmp_path / "disk" / "case" / "depth.png").exists()


@pytest.mark.parametrize("name", ["color.png", "depth.png", "scene.ply", "truth.json"])
def test_a_frame_of_a_camera_is_no_case_to_replace(name, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"holds {name} but no case.json"):
        case_folder.write_case(OLD, tmp_path)
    assert files(tmp_path) == [name] and (tmp_path / name).read_text() == "precious"


def test_cases_and_folders_of_cases_are_not_nested(tmp_path):
    """The outer one would hide the inner ones."""
    case_folder.write_cases([OLD], tmp_path / "set")
    with pytest.raises(ValueError, match="is a folder of cases, such as old"):
        case_folder.write_case(OLD, tmp_path / "set")
    with pytest.raises(ValueError, match="is a case; name a folder that holds cases"):
        case_folder.write_cases([OLD], tmp_path / "set" / "old")
    assert [path.name for path in case_folder.find_cases(tmp_path / "set")] == ["old"]


def test_a_model_that_was_made_first_is_taken_over(tmp_path):
    """``e2r convert ct MAP case/model``, then ``e2r convert rgbd FRAME case``."""
    meshes.write_meshes(OLD.model, tmp_path / "model")
    case_folder.write_case(OLD, tmp_path)
    assert same(OLD, tmp_path)


def test_the_folder_that_one_is_in_can_be_filled_but_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case_folder.write_case(OLD, ".")
    assert same(OLD, Path("."))
    with pytest.raises(ValueError, match="while you are in it"):
        case_folder.write_case(NEW["a cloud"], ".")
    assert same(OLD, tmp_path)


def test_a_conversion_that_fails_leaves_the_old_case(tmp_path, monkeypatch):
    case_folder.write_case(OLD, tmp_path / "case")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_folder, "_write_truth", full)
    with pytest.raises(OSError, match="No space"):
        case_folder.write_case(NEW["another picture"], tmp_path / "case")
    with pytest.raises(OSError, match="No space"):
        case_folder.write_case(NEW["another picture"], tmp_path / "fresh")
    assert same(OLD, tmp_path / "case")
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_a_disk_that_cannot_exchange_or_link_is_served(tmp_path, monkeypatch):
    def cannot(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", cannot)
    monkeypatch.setattr("ctypes.CDLL", cannot)
    case_folder.write_case(OLD, tmp_path / "case")
    (tmp_path / "case" / "notes.txt").write_text("mine")
    case_folder.write_case(NEW["no truth"], tmp_path / "case")
    assert same(NEW["no truth"], tmp_path / "case")
    assert (tmp_path / "case" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


KILLED = """
import json, os, pickle, signal, sys, time, zlib
from pathlib import Path
from e2r.datasets import case_folder

folder, cases = Path(sys.argv[1]), pickle.load(open(sys.argv[2], "rb"))

def content(folder):
    return {
        path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

found = []
for number in range(30):
    child = os.fork()
    if child == 0:
        while True:
            for case in cases:
                case_folder.write_case(case, folder)
    time.sleep(0.03 + 0.0071 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found.append(content(folder))
print(json.dumps(found))
"""
"""Kills a process that writes two cases in turns into one folder, and says what it left there."""


def test_a_killed_conversion_leaves_the_old_case_or_the_new_one(tmp_path):
    cases = (OLD, NEW["fewer levels"])
    whole = []
    for case in cases:
        case_folder.write_case(case, tmp_path / "set" / case.id)
        whole.append(content(tmp_path / "set" / case.id))
    folder = tmp_path / "set" / "case"
    case_folder.write_case(OLD, folder)
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "cases.pickle")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert len(found) == 30 and all(one in whole for one in found)
    assert all(one in found for one in whole)  # both were met
    names = [path.name for path in case_folder.find_cases(tmp_path / "set")]
    assert names == ["case", "new", "old"]  # what the killed ones left beside is no case


def test_what_a_killed_conversion_left_is_removed_by_the_next_one(tmp_path):
    """Only its own: not of a running process, another machine, or another case."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = atomic_folders.HOST
    stay = [
        f".case.{host}.{os.getppid()}.part",
        f".case.another-{host}.{gone.pid}.part",
        f".case2.{host}.{gone.pid}.part",
        f".case.{host}.{gone.pid}.part.old",
        f".case.{host}.x.part",
    ]
    for name in (*stay, f".case.{host}.{gone.pid}.part"):
        (tmp_path / name / "model").mkdir(parents=True)
    case_folder.write_case(OLD, tmp_path / "case")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, "case"])


def content(folder):
    return {name: zlib.crc32((folder / name).read_bytes()) for name in files(folder)}


# Models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale", ["L1.stl", "L1.STL", "L9.ply", "L2.obj"])
def test_a_model_is_not_written_beside_other_levels(stale, tmp_path):
    meshes.write_meshes({"L2": OLD.model["L2"]}, tmp_path)
    OLD.model["L1"].export(tmp_path / stale, file_type=stale[-3:].lower())
    before = files(tmp_path)
    with pytest.raises(ValueError, match=f"holds {stale}"):
        meshes.write_meshes({"L2": OLD.model["L3"]}, tmp_path)
    assert files(tmp_path) == before
    np.testing.assert_allclose(
        meshes.read_mesh(tmp_path / "L2.stl").bounds, OLD.model["L2"].bounds, atol=1e-4
    )


@pytest.mark.parametrize("junk", ["._L1.stl", ".DS_Store", "Thumbs.db", "notes.txt"])
def test_a_model_is_written_again_beside_files_of_others(junk, tmp_path):
    meshes.write_meshes({"L2": OLD.model["L2"]}, tmp_path / "model")
    (tmp_path / "model" / junk).write_text("kept")
    meshes.write_meshes({"L2": OLD.model["L3"]}, tmp_path / "model")
    assert files(tmp_path / "model") == sorted(["L2.stl", junk])
    assert list(meshes.read_meshes(tmp_path / "model")) == ["L2"]
    np.testing.assert_allclose(
        meshes.read_mesh(tmp_path / "model" / "L2.stl").bounds, OLD.model["L3"].bounds, atol=1e-4
    )
