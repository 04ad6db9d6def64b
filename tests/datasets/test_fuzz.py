"""Random values for the public constructors, readers and commands.

Each is accepted, or refused in one sentence. A prediction holds finite poses, or an error.
"""

import dataclasses
import json
import os
import shutil
import typing
from pathlib import Path

import hypothesis.strategies as st
import jax
import layouts
import numpy as np
import pytest
import trimesh
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from PIL import Image
from small_cases import prediction_line, small_case, write_lines

from e2r.cli import main
from e2r.config import EvaluationConfig, OptimisationConfig, config_from_json, config_to_json
from e2r.datasets import case_folder, ct, safe_pickle, spinedepth_files, spinedepth_pairs
from e2r.datasets.case import make_case
from e2r.evaluation import runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import make_prediction
from e2r.evaluation.results import Failed
from e2r.evaluation.stored_predictions import read_prediction
from e2r.formats import camera_files, meshes, pcd, pictures, ply
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.networks.build import NetworkConfig
from e2r.pipeline import ProgramConfig
from e2r.registration import global_search
from e2r.registration.schedule import Schedule
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import snapshots

MANY = int(os.environ.get("E2R_FUZZ", "1"))
"""E2R_FUZZ=8 tries more than 5,000 inputs."""


def tries(count: int):
    """Settings for this number of inputs, the same in every run."""
    return settings(
        max_examples=count * MANY,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


FLOATS = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, float("nan"), float("inf")])
)
INTEGERS = st.one_of(st.integers(-3, 3000), st.sampled_from([-(2**63), 2**31, 0]))
WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", "..", "../..", "/", "L1", "auto", "truth", "learnt", "mm", "<b>", "\x00"]),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | FLOATS | INTEGERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)

KINDS = (
    NetworkConfig,
    Schedule,
    global_search.SearchConfig,
    ProgramConfig,
    EvaluationConfig,
    OptimisationConfig,
    simulator.SimulationConfig,
)


def of_type(kind):
    """A strategy for the values of an annotation."""
    if kind is bool:
        return st.booleans()
    if kind is int:
        return INTEGERS
    if kind is float:
        return FLOATS
    if typing.get_origin(kind) is tuple:
        inner, *rest = typing.get_args(kind)
        if rest == [Ellipsis]:
            return st.lists(of_type(inner), max_size=4).map(tuple)
        return st.tuples(*map(of_type, (inner, *rest)))
    if dataclasses.is_dataclass(kind):
        return st.just(kind())
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    return WORDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_settings_are_accepted_or_refused(kind):
    """Random values for one field, or for several."""
    hints = typing.get_type_hints(kind)
    fields = st.fixed_dictionaries({}, optional={name: of_type(h) for name, h in hints.items()})

    @tries(40)
    @given(fields)
    def check(values):
        try:
            made = kind(**values)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) > 10
        else:
            assert dataclasses.replace(made) == made or "nan" in repr(values)

    check()


def refused_or(result_of, *arguments):
    """The result; None if a sentence refuses the arguments."""
    try:
        return result_of(*arguments)
    except (ValueError, OSError) as error:
        assert str(error).strip()
        return None


@tries(150)
@given(PLAIN)
def test_a_pose_is_a_rigid_motion_or_refused(value):
    found = refused_or(poses.from_matrix, value, "x: T")
    if found is not None:
        rotation = np.asarray(found.rotation, np.float64)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
        assert np.isfinite(found.translation).all()


@tries(60)
@given(PLAIN, st.sampled_from(["seed", "network", "scenes", "schedule", "optimisation"]))
def test_settings_of_a_checkpoint_are_accepted_or_refused(value, name):
    found = config_to_json(TINY)
    found[name] = value
    refused_or(config_from_json, found)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A case of a few kilobytes: an 8x6 image, two boxes."""
    folder = tmp_path_factory.mktemp("fuzz") / "case"
    depth = np.full((6, 8), 400.0) + np.arange(8)
    picture = RgbdImage(np.full((6, 8, 3), 90, np.uint8), depth, 9.0, 9.0, 3.5, 2.5)
    model = {}
    for number, name in enumerate(("L1", "L2")):
        model[name] = trimesh.creation.box(extents=[30.0, 20.0, 25.0])
        model[name].apply_translation([0.0, 0.0, 30.0 * number])
    pose = poses.identity()._replace(translation=np.array([0.0, 0.0, 400.0], np.float32))
    case = make_case(
        picture, id="small", model=model, truth=dict.fromkeys(model, pose), source="fuzz"
    )
    case_folder.write_case(case, folder)
    return folder


@pytest.fixture
def copied(small, tmp_path):
    """A function that returns a fresh copy of the case at each call."""
    place = tmp_path / "copy"

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(small, place)
        return place

    return fresh


def changed(value, where, new):
    """The JSON value with one of its places replaced."""
    if isinstance(value, dict) and value and where:
        key = sorted(value)[where[0] % len(value)]
        return {**value, key: changed(value[key], where[1:], new)}
    if isinstance(value, list) and value and where:
        at = where[0] % len(value)
        return [*value[:at], changed(value[at], where[1:], new), *value[at + 1 :]]
    return new


PLACES = st.lists(st.integers(0, 7), max_size=4)


def test_changed_fields_of_a_case_are_accepted_or_refused(copied):
    @tries(100)
    @given(st.sampled_from(["case.json", "camera.json", "truth.json"]), PLACES, PLAIN)
    def check(name, where, value):
        folder = copied()
        text = json.dumps(changed(json.loads((folder / name).read_text()), where, value))
        (folder / name).write_text(text)
        found = refused_or(case_folder.read_case, folder)
        if found is not None:
            assert np.isfinite(found.points).all() and len(found.points) > 10
            assert all(
                folder in (folder / "model" / f"{n}.stl").resolve().parents for n in found.model
            )

    check()


def spoilt(content: bytes, at: int, new: bytes, cut: bool) -> bytes:
    """The content with some bytes replaced, and perhaps cut off after them."""
    at %= max(len(content), 1)
    return content[:at] + new + (b"" if cut else content[at + len(new) :])


BYTES = st.tuples(st.integers(0, 10**6), st.binary(max_size=12), st.booleans())


def test_changed_bytes_of_a_case_are_accepted_or_refused(copied, small):
    files = sorted(str(path.relative_to(small)) for path in small.rglob("*") if path.is_file())
    assert len(files) >= 7

    @tries(100)
    @given(st.sampled_from(files), BYTES)
    def check(name, how):
        path = copied() / name
        path.write_bytes(spoilt(path.read_bytes(), *how))
        found = refused_or(case_folder.read_case, path.parents[len(Path(name).parts) - 1])
        if found is not None:
            assert np.isfinite(found.points).all()
            assert all(np.isfinite(mesh.vertices).all() for mesh in found.model.values())

    check()


def readers(folder: Path):
    """File -> its reader; most of the files are written, small and valid."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3)) * 20.0 + np.array([0.0, 0.0, 400.0])
    colors = rng.uniform(size=(40, 3))
    layouts.write_pcd(folder / "a.pcd", points.reshape(5, 8, 3), colors.reshape(5, 8, 3))
    trimesh.creation.box(extents=[9.0, 9.0, 9.0]).export(folder / "a.stl")
    trimesh.PointCloud(points).export(folder / "a.ply")
    np.savetxt(folder / "a.xyz", points)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(folder / "a.png")
    write_lines(folder / "a.jsonl", prediction_line(small_case("a")))
    (folder / "a.json").write_text(json.dumps({"fx": 90.0, "fy": 90.0, "cx": 2.0, "cy": 2.0}))
    (folder / "a.txt").write_text("\n".join(",".join(["1"] * 17) for _ in range(3)))
    (folder / "a.pkl").write_bytes(__import__("pickle").dumps({"a": np.eye(3)}))
    return {
        "a.pcd": pcd.read_cloud,
        "a.stl": meshes.read_mesh,
        "a.ply": ply.read_cloud,
        "a.xyz": spinedepth_pairs.read_xyz,
        "a.png": pictures.read_image,
        "a.json": camera_files.read_lens,
        "a.jsonl": lambda path: read_prediction(path, small_case("a")),
        "a.txt": spinedepth_files.read_poses,
        "a.pkl": safe_pickle.read,
        "calibration.json": lambda path: load_calibration(path.parent),
        "a.nii": ct.read_labels,
        "a.view": snapshots.read_snapshot,
        "pose.json": lambda path: read_initial_poses(str(path)),
    }


def test_changed_bytes_of_other_files_are_accepted_or_refused(tmp_path):
    """Bytes of the file are replaced or cut off; some files are never valid."""
    known = readers(tmp_path)
    shutil.copy(PACKAGED / "calibration.json", tmp_path)
    (tmp_path / "pose.json").write_text(json.dumps(np.eye(4).tolist()))
    whole = {
        name: (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b""
        for name in known
    }

    @tries(180)
    @given(st.sampled_from(sorted(known)), BYTES)
    def check(name, how):
        (tmp_path / name).write_bytes(spoilt(whole[name], *how))
        refused_or(known[name], tmp_path / name)

    check()


ARGUMENTS = st.lists(
    st.one_of(
        WORDS,
        st.sampled_from(
            [
                "register",
                "export",
                "view",
                "convert",
                "simulate",
                "ct",
                "rgbd",
                "pairs",
                "spinealign",
                "spinedepth",
                "--output",
                "OUT",
                "CASE",
                "--start",
                "--seed",
                "-1",
                "nan",
                "--count",
                "0",
                "--checkpoint",
                "--predictions",
                "--surfaces",
                "ply",
                "--model",
                "--unit",
            ]
        ),
    ),
    max_size=6,
)


def test_no_command_ends_in_a_traceback(small, tmp_path, capsys):
    """Any words end with exit code 0 or 2."""

    @tries(40)
    @given(ARGUMENTS)
    def check(words):
        given_ = {"OUT": str(tmp_path / "out"), "CASE": str(small)}
        line = [given_.get(word, word).replace("\x00", "0") for word in words]
        # What would run for minutes is left to the other tests.
        if {"register", "simulate", "view"} & set(line[:1]) and len(line) > 1:
            line = [line[0], "--output", str(tmp_path / "out"), "--no-such", *line[1:]]
        try:
            code = main(line)
        except SystemExit as stop:  # argument parsing says what it says, and leaves with 2
            code = 2 if stop.code not in (0, None) else 0
        err = capsys.readouterr().err
        assert code in (0, 2), (line, code)
        assert "Traceback" not in err

    check()


def test_a_prediction_holds_finite_poses_or_an_error(checkpoint, simulated_cases, tmp_path):
    """Scenes of any shape, size and validity through the whole pipeline."""
    config, params = load_trained(checkpoint)
    search = global_search.SearchConfig(rolls=1, shifts=(0.0,), parents=0, finalists=1, steps=3)
    program = ProgramConfig(num_samples=1, search=search, schedule=Schedule(steps=4))
    job = EvaluationConfig(program, batch=4)
    base = simulated_cases[0]

    @st.composite
    def scenes(draw):
        rng = np.random.default_rng(draw(st.integers(0, 10**6)))
        count = draw(st.sampled_from([11, 40, 300, 2000]))
        scale = draw(st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e4, 1e30]))
        points = rng.normal(size=(count, 3)) * scale * draw(
            st.sampled_from([np.ones(3), np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])])
        ) + np.array([0.0, 0.0, draw(st.sampled_from([1e-3, 400.0, 1e6]))])
        bad = draw(st.sampled_from([None, np.nan, np.inf, -np.inf]))
        if bad is not None:
            points[:: draw(st.sampled_from([1, 2, 7]))] = bad
        return points

    @tries(40)
    @given(scenes())
    def check(points):
        case = dataclasses.replace(
            base, points=points, colors=np.zeros_like(points), normals=None, bone=None, image=None
        )
        (found,) = runner.run(
            [case], Model(config, params), job=job, surface_file=tmp_path / "surface.npz"
        )
        if isinstance(found, Failed):
            assert found.id == base.id and len(found.message) > 10
            return
        line = make_prediction(found, "learnt").to_json()
        json.loads(json.dumps(line, allow_nan=False))
        for matrix in line["T_camera_model"].values():
            rotation = np.array(matrix)[:3, :3]
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)

    check()
    assert jax.tree.leaves(params)
