"""Case folders: written cases are read back, broken ones are refused in one sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from e2r.datasets import case_folder
from e2r.datasets.case import case_digest, scored_targets, slim, whole
from e2r.formats import meshes


@pytest.fixture(scope="module")
def folder(simulated_cases, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("case") / "one"
    case = replace(simulated_cases[0], exposed=tuple(simulated_cases[0].targets))
    case_folder.write_case(case, path)
    return path


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_written_case_is_read_back(simulated_cases, folder):
    case, again = simulated_cases[0], case_folder.read_case(folder)
    assert again.id == case.id
    assert again.source == case.source
    assert list(again.model) == list(case.model)
    np.testing.assert_allclose(again.points, case.points, atol=1e-3)
    np.testing.assert_allclose(again.colors, case.colors)
    np.testing.assert_array_equal(again.bone, case.bone)
    for name, pose in case.truth.items():
        np.testing.assert_allclose(again.truth[name].rotation, pose.rotation, atol=1e-5)
        np.testing.assert_allclose(again.truth[name].translation, pose.translation, atol=1e-3)
        assert abs(again.model[name].volume - case.model[name].volume) < 1.0
    for name, points in case.targets.items():
        np.testing.assert_allclose(again.targets[name], points, atol=1e-3)
    assert again.exposed == tuple(case.targets)


def test_a_hand_made_case_is_read(anatomy):
    """The example beside the project: L3 and L4, an image and a cloud."""
    case = case_folder.read_case(anatomy.parent / "case_example")
    assert list(case.model) == ["L3", "L4"]
    assert case.bone is None
    pose = case.truth["L3"]
    # The camera sees the model's back: its points lie on the placed surface where bone shows.
    placed = case.model["L3"].vertices @ pose.rotation.T + pose.translation
    apart = np.linalg.norm(placed[::20, None] - case.points[None, ::10], axis=-1).min(0)
    assert (apart < 3.0).mean() > 0.02


def test_a_cloud_can_replace_the_image(simulated_cases, tmp_path):
    case = replace(simulated_cases[0], image=None, bone=None)
    case_folder.write_case(case, tmp_path)
    assert not (tmp_path / "depth.png").exists()
    again = case_folder.read_case(tmp_path)
    np.testing.assert_allclose(again.points, case.points, atol=1e-3)
    np.testing.assert_allclose(again.colors, case.colors, atol=1 / 255)
    assert again.normals is None
    normals = -case.points / np.linalg.norm(case.points, axis=1, keepdims=True)
    case_folder.write_case(replace(case, normals=normals), tmp_path)
    np.testing.assert_allclose(case_folder.read_case(tmp_path).normals, normals, atol=1e-5)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def truth_matrix(change):
    def apply(folder):
        def inner(value):
            name = next(iter(value["T_camera_model"]))
            m = np.array(value["T_camera_model"][name])
            value["T_camera_model"][name] = change(m).tolist()

        edit(folder / "truth.json", inner)

    return apply


def image(name, change):
    return lambda f: Image.fromarray(change(np.array(Image.open(f / name)))).save(f / name)


def camera(field, value):
    return lambda f: edit(f / "camera.json", lambda v: v.__setitem__(field, value))


def about(field, value):
    return lambda f: edit(f / "case.json", lambda v: v.__setitem__(field, value))


def as_ply(change):
    def apply(folder):
        case = case_folder.read_case(folder)
        for name in ("color.png", "depth.png", "camera.json"):
            (folder / name).unlink()
        points = change(np.array(case.points))
        colors = np.zeros((len(points), 3), np.uint8)
        trimesh.PointCloud(points, colors=colors).export(folder / "scene.ply")

    return apply


def nan_points(points):
    points[3] = np.nan
    return points


def nan_model(folder):
    path = next((folder / "model").glob("*.stl"))
    data = bytearray(path.read_bytes())
    data[84 + 12 : 84 + 16] = np.float32(np.nan).tobytes()
    path.write_bytes(data)


def ply(text):
    def apply(folder):
        as_ply(lambda p: p)(folder)
        head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
        head += "property float z\n" + "".join(f"property float {c}\n" for c in COLORS)
        (folder / "scene.ply").write_text(head + "end_header\n" + text)

    return apply


COLORS = ("red", "green", "blue")


def metres(folder):
    path = next((folder / "model").glob("*.stl"))
    mesh = trimesh.load(path)
    mesh.apply_scale(1e-3)
    mesh.export(path)


BROKEN = {
    "gone": (shutil.rmtree, "no such folder"),
    "no case.json": (lambda f: (f / "case.json").unlink(), "there is no case.json"),
    "not JSON": (lambda f: (f / "case.json").write_text("{"), "is not JSON"),
    "binary JSON": (lambda f: (f / "case.json").write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "a list": (lambda f: (f / "case.json").write_text("[1]"), "one JSON object"),
    "inches": (about("unit", "inch"), 'convert everything to "mm"'),
    "no id": (about("id", ""), "id must be"),
    "levels text": (about("levels", "L1"), "list of names"),
    "no levels": (about("levels", []), "levels is empty"),
    "level twice": (about("levels", ["L1", "L1"]), "twice"),
    "outside": (about("levels", ["../../L1"]), "no level name"),
    "unknown level": (
        lambda f: edit(f / "case.json", lambda v: v.update(levels=["L1", "L9"], exposed=None)),
        "L9.stl: no such file",
    ),
    "unknown exposed": (about("exposed", ["T3"]), "T3 is not among the levels"),
    "no camera": (lambda f: (f / "camera.json").unlink(), "camera.json: no such file"),
    "no colour": (lambda f: (f / "color.png").unlink(), "color.png: no such file"),
    "no focal length": (camera("fx", 0), "fx must be positive"),
    "camera text": (camera("cx", "left"), "cx must be a number"),
    "camera infinite": (camera("fy", float("inf")), "fy must be a number"),
    "other size": (camera("width", 97), "all three must agree"),
    "metres by scale": (camera("depth_scale", 50000), "metres"),
    "8 bit": (image("depth.png", lambda a: (a // 256).astype(np.uint8)), "8 bits are too few"),
    "empty": (image("depth.png", np.zeros_like), "cloud is empty"),
    "grey": (image("color.png", lambda a: a[..., 0]), "8-bit RGB"),
    "torn": (lambda f: (f / "depth.png").write_bytes(b"\x89PNG\r\n"), "cannot be read as a PNG"),
    "mirrored": (truth_matrix(lambda m: m @ np.diag([1, 1, -1, 1])), "mirrored"),
    "scaled": (truth_matrix(lambda m: m @ np.diag([2, 2, 2, 1])), "scale about 2"),
    "3x4": (truth_matrix(lambda m: m[:3]), "4x4"),
    "truth of others": (
        lambda f: edit(f / "truth.json", lambda v: v.update(T_camera_model={"T1": []})),
        "T1 is not among",
    ),
    "flat targets": (
        lambda f: edit(f / "truth.json", lambda v: v["targets"].update(L1=[1, 2, 3])),
        r"not among|must be a list of \[x, y, z\]",
    ),
    "no scene": (
        lambda f: [(f / n).unlink() for n in ("color.png", "depth.png", "camera.json")],
        "no scene",
    ),
    "NaN": (as_ply(nan_points), "1 points are not finite"),
    "few": (as_ply(lambda p: p[:5]), "holds 5 points"),
    "cloud in metres": (as_ply(lambda p: p * 1e-3), "in metres"),
    "behind": (as_ply(lambda p: -p), "behind the camera"),
    "NaN model": (nan_model, "not finite"),
    "cloud without points": (as_ply(lambda p: p[:0]), "empty|cannot be read"),
    "cloud cut short": (ply("1 2 400 9 9 9\n"), "cut short|cannot be read"),
    "colours to one": (ply("1 2 400 .9 1 .1\n" * 3), "from 0 to 255"),
    "huge number": (
        lambda f: edit(
            f / "truth.json", lambda v: v["T_camera_model"].update(L1=[[10**400] * 4] * 4)
        ),
        "numbers|finite",
    ),
    "huge camera": (camera("fx", 10**400), "fx must be a number"),
    "model in metres": (metres, "in metres"),
    "model torn": (
        lambda f: next((f / "model").glob("*.stl")).write_bytes(b"solid x\n facet"),
        "holds no triangle|cannot be read",
    ),
    "not a PLY": (
        lambda f: (as_ply(lambda p: p)(f), (f / "scene.ply").write_text("hello")),
        "is no PLY file",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cases_are_refused_in_one_sentence(name, copy):
    spoil, words = BROKEN[name]
    spoil(copy)
    with pytest.raises(ValueError, match=words) as caught:
        case_folder.read_case(copy)
    assert str(copy) in str(caught.value)  # it names the place


def test_truth_and_bone_are_optional(copy):
    (copy / "truth.json").unlink()
    (copy / "bone.png").unlink()
    case = case_folder.read_case(copy)
    assert case.truth is None
    assert case.bone is None
    assert scored_targets(case) == {}


def test_vertices_serve_as_targets_if_none_are_named(copy):
    edit(copy / "truth.json", lambda v: v.pop("targets"))
    targets = scored_targets(case_folder.read_case(copy))
    assert len(targets) == 5
    assert all(100 < len(points) < 500 for points in targets.values())


def test_a_path_may_be_a_text(folder):
    text = str(folder)
    assert case_folder.read_case(text).id == case_folder.read_id(text)
    assert case_folder.find_cases(text) == [folder]
    assert case_folder.read_source(text) == case_folder.read_source(folder)
    assert list(meshes.read_meshes(f"{text}/model")) == ["L1", "L2", "L3", "L4", "L5"]


def test_16_bits_reach_the_farthest_pixel(simulated_cases, tmp_path):
    """A distant scene is written with fewer depth units per mm, not with holes."""
    near = simulated_cases[0]
    far = near.image._replace(depth=near.image.depth * 4.0)
    assert 1310.0 < far.depth.max() < 65535.0
    assert case_folder.write_cases([replace(near, image=far), near], tmp_path / "set") == 2
    case_folder.write_case(replace(near, image=far), tmp_path / "far")
    again = case_folder.read_case(tmp_path / "far")
    np.testing.assert_allclose(again.image.depth, far.depth, atol=0.1)


def test_a_data_set_is_a_folder_of_cases(folder, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [path.name for path in case_folder.find_cases(tmp_path)] == ["a", "b"]
    assert case_folder.find_cases(folder) == [folder]
    with pytest.raises(ValueError, match="such as a"):
        case_folder.read_case(tmp_path)
    with pytest.raises(ValueError, match="holds no case"):
        case_folder.find_cases(tmp_path / "notes")


def test_a_case_is_whole_again_after_it_was_sent(simulated_cases):
    """Bit for bit, and the bone as well."""
    case = simulated_cases[0]
    sent = slim(case)
    assert sent.id == case.id and sent.case.points.size == sent.case.colors.size == 0
    again = whole(sent)
    assert case_digest(again) == case_digest(case)
    for name in ("points", "colors", "bone"):
        np.testing.assert_array_equal(getattr(again, name), getattr(case, name))
    bare = replace(case, image=None)
    assert slim(bare) is bare


def test_surfaces_of_mixed_axes_are_refused(copy):
    first, second = sorted((copy / "model").glob("*.stl"))[:2]
    content = bytearray(first.read_bytes())
    content[:80] = b"SPACE=LPS".ljust(80)
    first.write_bytes(content)
    content = bytearray(second.read_bytes())
    content[:80] = bytes(80)
    second.write_bytes(content)
    with pytest.raises(ValueError, match=f"does not say its axes, but {first.name} says LPS"):
        case_folder.read_case(copy)


def test_two_surfaces_of_a_level_are_refused(copy):
    first = sorted((copy / "model").glob("*.stl"))[0]
    meshes.read_mesh(first).export(first.with_suffix(".ply"))
    with pytest.raises(ValueError, match=f"level {first.stem} is {first.stem}.ply already"):
        case_folder.read_case(copy)


def test_a_distortion_in_a_case_is_refused(copy):
    camera("distortion_coefficients", [0.0] * 5)(copy)
    case_folder.read_case(copy)
    camera("distortion_coefficients", [-0.3, 0.1, 0.0, 0.0, 0.0])(copy)
    with pytest.raises(ValueError, match=r"camera\.json: has a distortion.*convert rgbd"):
        case_folder.read_case(copy)


def test_the_largest_depth_is_no_measurement(copy):
    count = len(case_folder.read_case(copy).points)
    (copy / "bone.png").unlink()

    def saturate(values):
        values[np.nonzero(values)[0][0], np.nonzero(values)[1][0]] = 65535
        return values

    image("depth.png", saturate)(copy)
    found = case_folder.read_case(copy).points
    assert len(found) == count - 1
