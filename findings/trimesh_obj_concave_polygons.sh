#!/usr/bin/env bash
# trimesh 5.2.0 cuts a concave polygon of an OBJ file by a diagonal that lies outside it.
#
# The file is a prism over an arrowhead: four corners, one of them a notch, area 6, height 1.
# Expected: two caps of area 6 each, whichever corner a polygon begins with. Seen: the cap that
# begins beside the notch's neighbours has area 10 (a triangle of 8, and one of 2 turned over, which
# lies in the notch). The mesh still counts as watertight, consistently wound, and of volume 6, so
# none of the usual checks tells. Samples drawn on the surface lie up to one unit outside the solid.
# Who meets it: whoever samples or measures surfaces that a modelling program wrote as polygons.
#   e2r cuts polygons itself (e2r/geometry/polygons.py).
# Run: bash findings/trimesh_obj_concave_polygons.sh    (exit code 0 while it is so)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check trimesh==5.2.0 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import io

import numpy as np
import trimesh

OUTLINE = [(0, 0), (4, 2), (0, 4), (1, 2)]  # the notch is (1, 2); by the shoelace formula, area 6


def cap_areas(first):
    """Areas of bottom and top, where the top begins with corner `first`."""
    turned = OUTLINE[first:] + OUTLINE[:first]
    lines = [f"v {x} {y} {z}" for z in (0, 1) for x, y in turned]
    sides = [(i, i % 4 + 1, i % 4 + 5, i + 4) for i in range(1, 5)]
    for polygon in [(4, 3, 2, 1), (5, 6, 7, 8), *sides]:
        lines.append("f " + " ".join(map(str, polygon)))
    mesh = trimesh.load(io.BytesIO("\n".join(lines).encode()), file_type="obj", force="mesh")
    assert mesh.is_watertight and mesh.is_winding_consistent and abs(mesh.volume - 6) < 1e-9
    heights = mesh.triangles[:, :, 2]
    return tuple(float(mesh.area_faces[(heights == z).all(1)].sum()) for z in (0, 1))


found = [cap_areas(first) for first in range(4)]
print(f"trimesh {trimesh.__version__}: areas of bottom and top, expected 6 and 6:", found)
assert sorted(found) == [(6.0, 10.0), (6.0, 10.0), (10.0, 6.0), (10.0, 6.0)], found
PY
"$folder/venv/bin/python" "$folder/check.py"
