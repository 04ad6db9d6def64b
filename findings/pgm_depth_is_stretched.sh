#!/usr/bin/env bash
# Pillow 13.0.0 stretches a 16-bit PGM whose largest value is not 65535; OpenCV 5.0.0 does not.
#
# Expected: a depth camera's PGM of 16 bits gives the numbers in the file, as a PNG does. The header's
#   largest value only says which numbers may come: 4095 for a sensor of 12 bits, 10000 for 10 m.
# Seen: Pillow multiplies each number by 65535 / largest and rounds it. With 4095, 400 mm become 6401,
#   with 10000 they become 2621; with 65535 they stay. It does so for binary (P5) and text (P2) files,
#   without a warning. imageio's default plugin reads by Pillow,
#   so it does the same. OpenCV gives the numbers of a binary file as they are.
# Who meets it: a depth of another scale still looks like a depth, so poses come out at another distance
#   and size, or the same data set differs between a loader by Pillow and one by OpenCV. e2r read such
#   files wrongly, and refuses them now.
# Run: bash findings/pgm_depth_is_stretched.sh    (exit code 0 while it is so)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 imageio==2.38.1 \
  opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import sys
from pathlib import Path

import cv2
import imageio.v3
import numpy as np
import PIL
from PIL import Image

folder = Path(sys.argv[1])
depth = np.array([[400, 1000, 4095], [250, 999, 0]], np.uint16)
found = {}
for largest in (4095, 10000, 65535):
    head = f"3 2\n{largest}\n".encode()
    binary, text = folder / f"{largest}.pgm", folder / f"{largest}_text.pgm"
    binary.write_bytes(b"P5\n" + head + depth.astype(">u2").tobytes())
    text.write_bytes(b"P2\n" + head + " ".join(map(str, depth.ravel())).encode() + b"\n")
    with Image.open(binary) as one, Image.open(text) as other:
        found[largest] = {
            "Pillow": np.asarray(one),
            "Pillow, text": np.asarray(other),
            "imageio": imageio.v3.imread(binary),
            "OpenCV": cv2.imread(str(binary), cv2.IMREAD_UNCHANGED),
        }
    said = {name: int(values[0, 0]) for name, values in found[largest].items()}
    print(f"largest {largest}: 400 becomes", said)
print("Pillow", PIL.__version__, "OpenCV", cv2.__version__)
as_described = True
for largest, readers in found.items():
    stretched = np.round(depth * (65535 / largest))
    as_described &= bool((readers["OpenCV"] == depth).all())
    for name in ("Pillow", "Pillow, text", "imageio"):
        as_described &= bool(np.abs(readers[name] - stretched).max() <= 1)
if not as_described:
    raise SystemExit(f"changed: {found}")
PY
"$folder/venv/bin/python" "$folder/check.py" "$folder"
