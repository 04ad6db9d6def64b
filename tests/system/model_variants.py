"""Models of any program, unit and frame, with the mistakes that people make in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import trimesh
from variants import (
    Draw,
    Patient,
    Places,
    Variant,
    convert,
    same,
    scaling,
    spoil,
    turned,
    write_frame,
)

Meshes = dict[str, trimesh.Trimesh]
LPS = np.diag([-1.0, -1.0, 1.0])
STYLES = ("stl", "stl text", "ply", "ply text", "obj", "glb", "stl LPS", "ply LPS", "one glb")
PLACES: dict[str, tuple[Places, bool]] = {
    "10 % too large": (scaling(1.1), False),
    "10 % too small": (scaling(0.9), False),
    "5 % too large": (scaling(1.05), False),
    "5 % too small": (scaling(0.95), False),
    "2 % too large": (scaling(1.02), False),
    "15 % too long": (scaling(1.0, 1.0, 1.15), False),
    "slices twice as thick": (scaling(1.0, 1.0, 2.0), False),
    "in metres": (scaling(0.001), False),
    "in centimetres": (scaling(0.1), False),
    "in inches": (scaling(1 / 25.4), False),
    "in 0.1 mm": (scaling(10.0), False),
    "mirrored left to right": (scaling(-1.0, 1.0, 1.0), False),
    "mirrored front to back": (scaling(1.0, -1.0, 1.0), False),
    "mirrored head to foot": (scaling(1.0, 1.0, -1.0), False),
    "x and y exchanged": (turned([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), False),
    "x y z as z x y": (turned([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), True),
    "LPS, unsaid": (turned(LPS), True),
    "y up": (turned([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), True),
    "far from the origin": (lambda p: p + np.array([900.0, -1200.0, 1500.0]), True),
}


def every_third_flipped(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    faces = np.asarray(mesh.faces).copy()
    faces[::3] = faces[::3, ::-1]
    return trimesh.Trimesh(mesh.vertices, faces, process=False)


def inside_out(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, np.asarray(mesh.faces)[:, ::-1], process=False)


def with_holes(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    keep = np.arange(len(mesh.faces)) % 40 > 0
    return trimesh.Trimesh(mesh.vertices, np.asarray(mesh.faces)[keep], process=False)


def with_nan(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    vertices = np.asarray(mesh.vertices).copy()
    vertices[7] = np.nan
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def front_cut_off(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Only the back of the vertebra, as of a scan with a small field of view."""
    back = mesh.triangles_center[:, 1] < np.median(np.asarray(mesh.vertices)[:, 1])
    return trimesh.Trimesh(mesh.vertices, np.asarray(mesh.faces)[back], process=False)


def with_an_island(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(2, 4.0).apply_translation(
        mesh.centroid + np.array([45.0, 20.0, 5.0])
    )
    return trimesh.util.concatenate([mesh, ball])


def twice(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate([mesh, mesh.copy()])


SHAPES: dict[str, tuple[Callable[[trimesh.Trimesh], trimesh.Trimesh], bool]] = {
    "every third face flipped": (every_third_flipped, True),
    "inside out": (inside_out, True),
    "with holes": (with_holes, True),
    "a NaN": (with_nan, False),
    "front cut off": (front_cut_off, False),
    "an island": (with_an_island, False),
    "each surface twice": (twice, False),
}


def export(meshes: Meshes, folder: Path, style: str, *, suffix: str = "") -> None:
    """Writes one file a level, or one GLB of all."""
    folder.mkdir(parents=True)
    if style in ("glb", "one glb"):
        metres = {name: mesh.copy().apply_scale(0.001) for name, mesh in meshes.items()}
        if style == "one glb":
            scene = trimesh.Scene()
            for name, mesh in metres.items():
                scene.add_geometry(mesh, node_name=name, geom_name=name)
            (folder / "spine.glb").write_bytes(scene.export(file_type="glb"))
            return
        for name, mesh in metres.items():
            (folder / f"{name}{suffix}.glb").write_bytes(mesh.export(file_type="glb"))
        return
    for name, mesh in meshes.items():
        given = mesh.copy().apply_scale([-1, -1, 1]) if "LPS" in style else mesh
        kind = "stl_ascii" if style == "stl text" else style[:3]
        text = {"encoding": "ascii"} if style == "ply text" else {}
        content = given.export(file_type=kind, **text)
        content = content.encode() if isinstance(content, str) else content
        if style == "stl LPS":
            content = b"3D Slicer output. SPACE=LPS".ljust(80) + content[80:]
        elif style == "ply LPS":
            start, rest = content.split(b"\n", 1)
            form, rest = rest.split(b"\n", 1)
            content = b"\n".join([start, form, b"comment 3D Slicer output. SPACE=LPS", rest])
        (folder / f"{name}{suffix}.{style[:3]}").write_bytes(content)


def renamed(meshes: Meshes, how: str, draw: Draw) -> tuple[Meshes, dict[str, str], bool]:
    """The meshes under other names, those names' true levels, and whether nothing is wrong."""
    names = list(meshes)
    if how == "two levels exchanged":
        at = draw(st.integers(0, len(names) - 2))
        names[at], names[at + 1] = names[at + 1], names[at]
    elif how == "one level too low":
        names = [*names[1:], "S1"]
    elif how == "in lower case":
        names = [name.lower() for name in names]
    elif how == "with words":
        names = [f"vertebrae_{name}" for name in names]
    elif how == "from head to tail reversed":
        names = names[::-1]
    found = dict(zip(names, meshes.values(), strict=True))
    return found, dict(zip(names, meshes, strict=True)), how in ("in lower case", "with words")


NAMES = (
    *("two levels exchanged", "one level too low", "in lower case", "with words"),
    "from head to tail reversed",
)
PARTS = (
    *("one level missing", "two levels only", "one level twice", "one level moved by 8 mm"),
    *("one level moved by 30 mm", "each level about its own origin", "one level turned"),
    *("all levels in one file", "one level of another patient"),
)


def parts(meshes: Meshes, how: str, other: Meshes, draw: Draw) -> tuple[Meshes, bool]:
    """The meshes without some, or with some elsewhere, and whether a right pose is left."""
    names = list(meshes)
    at = draw(st.sampled_from(names))
    found = {name: mesh.copy() for name, mesh in meshes.items()}
    if how == "one level missing":
        del found[at]
    elif how == "two levels only":
        found = {name: found[name] for name in names[1:3]}
    elif how == "one level twice":
        first, second = names[1:3]
        found[second] = found[first].copy()
    elif how.startswith("one level moved"):
        found[at].apply_translation([0.0, 0.0, float(how.split()[-2])])
    elif how == "each level about its own origin":
        for mesh in found.values():
            mesh.apply_translation(-mesh.centroid)
    elif how == "one level turned":
        turn = trimesh.transformations.rotation_matrix(0.35, [1, 0, 0], found[at].centroid)
        found[at].apply_transform(turn)
    elif how == "all levels in one file":
        found = {"L3": trimesh.util.concatenate(list(found.values()))}
    else:
        offset = found[at].centroid - other[at].centroid
        found[at] = other[at].copy().apply_translation(offset)
    return found, how in ("one level missing", "two levels only")


def model(draw: Draw, folder: Path, patient: Patient, other: Patient) -> Variant:
    """A right frame, with a model of any format, frame, unit and patient."""
    write_frame(folder / "frame", patient)
    style = draw(st.sampled_from(STYLES))
    kind = draw(
        st.sampled_from(["", "places", "places", "places", "shape", "names", "parts", "patient"])
    )
    meshes: Meshes = dict(patient.case.model)
    how, right, places, named = "", True, same, {}
    if kind == "places":
        how = draw(st.sampled_from(sorted(PLACES)))
        places, right = PLACES[how]
        for name, mesh in meshes.items():
            given = mesh.copy()
            given.vertices = places(np.asarray(mesh.vertices))
            if "mirrored" in how or "exchanged" in how:
                given = inside_out(given)
            meshes[name] = given
    elif kind == "shape":
        how = draw(st.sampled_from(sorted(SHAPES)))
        change, right = SHAPES[how]
        meshes = {name: change(mesh) for name, mesh in meshes.items()}
    elif kind == "names":
        how = draw(st.sampled_from(NAMES))
        meshes, named, right = renamed(meshes, how, draw)
    elif kind == "parts":
        how = draw(st.sampled_from(PARTS))
        meshes, right = parts(meshes, how, dict(other.case.model), draw)
    elif kind == "patient":
        how, meshes, right = "another patient's", dict(other.case.model), False
    export(meshes, folder / "model", style)
    path = folder / "model"
    if style == "one glb":
        path = path / "spine.glb"
    file = path if path.is_file() else sorted(path.iterdir())[0]
    spoilt = spoil(draw, file, chance=0.15)
    return Variant(
        "models",
        f"{style}, {how or 'as it is'}{spoilt}",
        (convert(folder / "frame", path),),
        right=right,
        model_places=None if kind == "patient" else places,
        named=named,
    )
