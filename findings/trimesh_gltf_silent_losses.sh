#!/usr/bin/env bash
# trimesh 5.2.0 reads four kinds of valid glTF 2.0 files as another shape, or none, without a word.
#
# Each file below is a tetrahedron as the specification describes it. Expected: the shape that the
# file describes, or an error. Seen:
#   a sparse accessor          its replaced vertex is ignored: (0, 0, 1) in place of (0, 0, 7)
#   a morph target, weight 1   it is ignored: (0, 0, 1) in place of (0, 0, 7)
#   a node with mesh and camera  the mesh is not in the scene
#   an unknown extension in extensionsRequired   the file is read; a loader must refuse it
# Who meets it: whoever reads surfaces of a modelling program by trimesh. e2r refuses the first two
#   and the last, and takes the camera out before trimesh sees the file (e2r/formats/glb.py).
# Run: bash findings/trimesh_gltf_silent_losses.sh    (exit code 0 while it is so)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check trimesh==5.2.0 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import base64
import io
import json

import numpy as np
import trimesh

corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], "<f4")
faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "<u2")
moved = np.array([[0, 0, 7]], "<f4")
offsets = np.array([[0, 0, 0]] * 3 + [[0, 0, 6]], "<f4")
row = np.array([3], "<u2")


def document():
    """The tetrahedron, and the data of all changes."""
    views, data = [], b""
    for array in (corners, faces, moved, offsets, row):
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        data += array.tobytes() + bytes(-array.nbytes % 4)
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    place = {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"}
    place |= {"min": [0, 0, 0], "max": [1, 1, 7]}
    index = {"bufferView": 1, "componentType": 5123, "count": 12, "type": "SCALAR"}
    return {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": uri, "byteLength": len(data)}],
        "bufferViews": views,
        "accessors": [place, index],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "nodes": [{"mesh": 0, "name": "L3"}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }


def highest(content):
    """The largest z of what trimesh reads; None where it reads no surface."""
    file = io.BytesIO(json.dumps(content).encode())
    scene = trimesh.load_scene(file, file_type="gltf")
    return float(scene.bounds[1][2]) if scene.geometry and scene.graph.nodes_geometry else None


plain = document()
sparse = document()
sparse["accessors"][0]["sparse"] = {
    "count": 1,
    "indices": {"bufferView": 4, "componentType": 5123},
    "values": {"bufferView": 2},
}
morphed = document()
morphed["accessors"].append(
    {"bufferView": 3, "componentType": 5126, "count": 4, "type": "VEC3"}
    | {"min": [0, 0, 0], "max": [0, 0, 6]}
)
morphed["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": 2}]
morphed["meshes"][0]["weights"] = [1.0]
seen = document()
seen["nodes"][0]["camera"] = 0
seen["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}]
required = document()
required["extensionsUsed"] = required["extensionsRequired"] = ["EXAMPLE_other_shape"]

found = {
    "plain": highest(plain),
    "sparse": highest(sparse),
    "morphed": highest(morphed),
    "with a camera": highest(seen),
    "unknown extension required": highest(required),
}
print(found)
assert found == {
    "plain": 1.0,
    "sparse": 1.0,
    "morphed": 1.0,
    "with a camera": None,
    "unknown extension required": 1.0,
}, "changed"
print("as described")
PY
"$folder/venv/bin/python" "$folder/check.py"
