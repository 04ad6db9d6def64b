"""Surfaces in glTF files. glTF is in metres; its axes are kept as they are.

trimesh 5.2.0 reads them, and places each node rightly. What it reads wrongly without a word is
taken out or refused here. It ignores sparse and normalised vertices, skins, mixed shapes and
required extensions. It leaves out fans, and the surface of a node that is a camera as well. It
renames nodes: so they are numbered before, for a node's name is its level.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import trimesh

from e2r.formats import file_checks
from e2r.formats.model_checks import LEVEL_PATTERN, MAX_SPINE_MM

GLTF_SUFFIXES = (".glb", ".gltf")
MM_PER_METRE = 1000.0
HARMLESS = (
    *("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_mesh_quantization"),
)
"""Beginnings of extensions that may be required: trimesh reads the same shape without them."""
INSTANCES = "EXT_mesh_gpu_instancing"
TRIANGLE_FAN = 6
BROKEN = "cannot be read as glTF"
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"


class Scene(NamedTuple):
    """The surfaces of a file."""

    levels: dict[str, trimesh.Trimesh]  # by name, in alphabetical order; mm
    notes: tuple[str, ...]  # sentences for the user


def read_bytes(path: Path) -> bytes:
    """A file's content; that of a ``.gltf`` with the files that it names put into it.

    Args:
      path: a ``.glb`` or ``.gltf`` file.

    Raises:
      ValueError: the file is no glTF, or a file that it names is missing or cut short.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".glb" or content.startswith(b"glTF"):
        return content
    document = _parse_json(content)
    buffers = document.get("buffers", ())
    if not isinstance(buffers, list) or not all(isinstance(one, dict) for one in buffers):
        raise ValueError(f"{path}: {BROKEN} (buffers is no list of objects); export it again")
    for buffer in buffers:
        address = str(buffer.get("uri", ""))
        if address.startswith("data:"):
            continue
        named = path.parent / unquote(address)
        if "://" in address or not named.is_file():
            raise ValueError(f"{path}: names {address!r}, which is not there; copy it beside it")
        data = named.read_bytes()
        if not isinstance(buffer.get("byteLength"), int) or len(data) < buffer["byteLength"]:
            raise ValueError(f"{named}: is cut short; copy or export it again")
        coded = base64.b64encode(data).decode()
        buffer["uri"] = f"data:application/octet-stream;base64,{coded}"
    return json.dumps(document).encode()


def read_scene(content: bytes) -> Scene:
    """The levels of a file. A level is named by its node, its mesh, or a node above it.

    Args:
      content: of a ``.glb``, or of a ``.gltf`` that names no other files.

    Raises:
      ValueError: the file is broken, holds no surface or a nameless one, or is not in metres.
    """
    document, binary, notes = _split(content)
    try:
        _check(document)
        if not document.get("scenes"):  # as glTF allows; trimesh then reads nothing
            document["scenes"] = [{"nodes": _roots(document)}]
            notes += ("names no scene; all its surfaces were read",)
        names = _name_nodes(document)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{BROKEN} ({error}); export it again") from None
    parts = dict[tuple[str, str], list[trimesh.Trimesh]]()
    for node, mesh in _load(document, binary):
        if not len(mesh.faces):
            continue
        if not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
            raise ValueError("has triangles of vertices that are not there; export it again")
        parts.setdefault(names.get(node, ("", "")), []).append(mesh)
    if not parts:
        raise ValueError("holds no surface; export the levels' surfaces as triangles")
    levels = [name for name, _ in parts]
    for name in levels:
        if levels.count(name) > 1:
            raise ValueError(f"names the level {name!r} twice; name each node by its level")
    whole = {name: trimesh.util.concatenate(some) for (name, _), some in sorted(parts.items())}
    for mesh in whole.values():
        with np.errstate(all="ignore"):  # whoever reads the surface refuses infinite vertices
            extent = float(mesh.extents.max())
        if MAX_SPINE_MM < extent < np.inf:
            raise ValueError(
                f"is {extent / MM_PER_METRE:.3g} metres large, the unit of glTF, "
                "which no spine is; export it in metres, or as STL in mm"
            )
    scenes = len(document.get("scenes", ()))
    if scenes > 1:
        notes += (f"holds {scenes} scenes; number {document.get('scene', 0) + 1} was read",)
    return Scene(whole, notes)


def read_levels(content: bytes) -> Scene:
    """The levels of a file that is a whole model.

    Args:
      content: see :func:`read_scene`.

    Raises:
      ValueError: see :func:`read_scene`; or a surface has no name.
    """
    scene = read_scene(content)
    if "" in scene.levels:
        raise ValueError("holds surfaces without names; name each node by its level, such as L3")
    return scene


def read_whole(content: bytes) -> tuple[trimesh.Trimesh, tuple[str, ...]]:
    """The surfaces of a file that is one level, as one, mm; and what is to be said about it.

    Args:
      content: see :func:`read_scene`.

    Raises:
      ValueError: see :func:`read_scene`; or the file holds several levels.
    """
    levels, notes = read_scene(content)
    found = sorted({name.upper() for text in levels for name in LEVEL_PATTERN.findall(text)})
    if len(found) > 1:
        raise ValueError(
            f"holds {' and '.join(found)}; name this file itself as the model, "
            "or export one file a level"
        )
    return trimesh.util.concatenate(list(levels.values())), notes


def write_scene(scene: trimesh.Scene, frame: str) -> bytes:
    """A scene as GLB, in metres, with its frame in the file's ``asset.extras``.

    Args:
      scene: mm.
      frame: what the axes are.
    """

    def tell(document: dict[str, Any]) -> None:
        document["asset"]["extras"] = {"frame": frame, "unit": "m"}

    content = scene.scaled(1.0 / MM_PER_METRE).export(file_type="glb", tree_postprocessor=tell)
    return bytes(content)


def add_extras(content: bytes, extras: dict[str, str]) -> bytes:
    """A GLB whose ``asset.extras`` say more.

    Args:
      content: a GLB.
      extras: name -> text.
    """
    document, binary, _ = _split(content)
    document["asset"].setdefault("extras", {}).update(extras)
    return _pack(document, binary)


# Inside -------------------------------------------------------------------------------------------


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        document = file_checks.parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{BROKEN} ({error}); export it again") from None
    if not isinstance(document, dict) or "asset" not in document:
        raise ValueError(f"{BROKEN} (it names no asset); export it again")
    return document


def _split(content: bytes) -> tuple[dict[str, Any], bytes, tuple[str, ...]]:
    """The JSON and the binary part of a file, and what is to be said."""
    if not content.startswith(b"glTF"):
        return _parse_json(content), b"", ()
    if len(content) < 20:
        raise ValueError(f"is cut short: it holds {len(content)} bytes; export it again")
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise ValueError(f"{BROKEN} of version 2; export it again")
    if length > len(content):
        raise ValueError(
            f"is cut short: of {length} bytes it holds {len(content)}; copy or export it again"
        )
    notes: tuple[str, ...] = ()
    if length < len(content):
        file_checks.check_binary(content[12:])
        notes = (f"has {len(content) - length} bytes after its end; they were left out",)
    chunks, at = dict[bytes, bytes](), 12
    while at + 8 <= length:
        (size,) = struct.unpack_from("<I", content, at)
        chunks.setdefault(content[at + 4 : at + 8], content[at + 8 : min(at + 8 + size, length)])
        at += 8 + size
    return _parse_json(chunks.get(JSON_CHUNK, b"")), chunks.get(BINARY_CHUNK, b""), notes


def _pack(document: dict[str, Any], binary: bytes) -> bytes:
    """A GLB of a JSON and a binary part."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I", len(text)) + JSON_CHUNK + text
    if binary:
        binary += bytes(-len(binary) % 4)
        chunks += struct.pack("<I", len(binary)) + BINARY_CHUNK + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _check(document: dict[str, Any]) -> None:
    """Refuses what trimesh 5.2.0 reads wrongly, and takes out what is no shape."""
    for name in document.get("extensionsRequired", ()):
        if not name.startswith(HARMLESS):
            raise ValueError(f"needs {name}, which is not read; export it without this extension")
    accessors = document.get("accessors", ())
    for node in document.get("nodes", ()):
        node.pop("camera", None)
        if "skin" in node:
            raise ValueError("is moved by a skeleton; apply its pose, and export it without")
        if INSTANCES in node.get("extensions", {}):
            raise ValueError(f"places copies by {INSTANCES}; export it without this extension")
    for mesh in document.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            if primitive.get("targets"):
                raise ValueError("holds shapes to be mixed (morph targets); export one shape")
            if primitive.get("mode") == TRIANGLE_FAN:
                raise ValueError("holds fans of triangles; export it as triangles")
            place = primitive.get("attributes", {}).get("POSITION")
            for number in (place, primitive.get("indices")):
                used = accessors[number] if number is not None else {}
                if used.get("normalized"):
                    raise ValueError("has quantised vertices; export it without quantisation")
                if "sparse" in used or (used and "bufferView" not in used):
                    raise ValueError("has sparse or packed vertices; export it without compression")
            primitive.pop("extensions", None)
            primitive.pop("material", None)
            primitive["attributes"] = {} if place is None else {"POSITION": place}
        mesh["primitives"] = [one for one in mesh["primitives"] if one["attributes"]]
    for key in ("materials", "textures", "images", "samplers", "animations", "cameras"):
        document.pop(key, None)


def _roots(document: dict[str, Any]) -> list[int]:
    """The nodes that lie below no other one."""
    nodes = document.get("nodes", ())
    below = {child for node in nodes for child in node.get("children", ())}
    return [i for i in range(len(nodes)) if i not in below]


def _name_nodes(document: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Node -> its level's name, and which node or mesh gave the name.

    A name that holds a level, such as L3, goes before others; then the node's goes before the
    mesh's, and that before those of the nodes above.
    """
    nodes, meshes = document.get("nodes", ()), document.get("meshes", ())
    above = {child: i for i, node in enumerate(nodes) for child in node.get("children", ())}
    found = dict[int, tuple[str, str]]()
    for i, node in enumerate(nodes):
        if not isinstance(node.get("mesh"), int) or node["mesh"] >= len(meshes):
            continue
        named = [(str(node.get("name") or ""), f"node {i}")]
        named.append((str(meshes[node["mesh"]].get("name") or ""), f"mesh of node {i}"))
        at = above.get(i)
        for _ in nodes:
            if at is None:
                break
            named.append((str(nodes[at].get("name") or ""), f"node {at}"))
            at = above.get(at)
        levels = [one for one in named if LEVEL_PATTERN.search(one[0])]
        found[i] = (levels or [one for one in named[:2] if one[0]] or [("", "")])[0]
    return found


def _load(document: dict[str, Any], binary: bytes) -> list[tuple[int, trimesh.Trimesh]]:
    """The surfaces of the scene, mm, each with the number of its node.

    Trimesh gives nodes of several primitives, or of equal names, names of its own. So all nodes
    are numbered before.
    """
    for i, node in enumerate(document.get("nodes", ())):
        node["name"] = f"n{i}"
    for mesh in document.get("meshes", ()):
        mesh["name"] = "m"
    try:
        with np.errstate(all="ignore"):  # a matrix may overflow
            file = io.BytesIO(_pack(document, binary))
            scene = trimesh.load_scene(file, file_type="glb", process=False)
            found = []
            for name in sorted(scene.graph.nodes_geometry):
                matrix, geometry = scene.graph[name]
                mesh = scene.geometry[geometry].copy()
                if isinstance(mesh, trimesh.Trimesh):
                    mesh.apply_transform(matrix)
                    vertices = np.asarray(mesh.vertices) * MM_PER_METRE
                    mesh = trimesh.Trimesh(vertices, mesh.faces, process=False)
                    found.append((int(name[1:].split("_")[0]), mesh))
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"{BROKEN} ({file_checks.one_line(error)}); export it again") from None
    return found
