"""What the tests of camera files share: one camera, its reader, and a check of refusals."""

import json

import numpy as np
import pytest

from e2r.formats import camera_files

GOAL = (600.0, 603.0, 321.0, 242.5)
SIZE = (640, 480)
ROWS = [[600.0, 0.0, 321.0], [0.0, 603.0, 242.5], [0.0, 0.0, 1.0]]
COLUMNS = np.transpose(ROWS).tolist()
FLAT = [n for row in ROWS for n in row]
FLAT_COLUMNS = [n for row in COLUMNS for n in row]
BENT = [-0.2, 0.05, 1e-3, -5e-4, 0.02]
PLAIN = {"fx": 600.0, "fy": 603.0, "cx": 321.0, "cy": 242.5}


def refused(read, words, content, name="camera.json", size=SIZE):
    with pytest.raises(ValueError, match=words) as caught:
        read(content, name, size)
    text = str(caught.value)
    assert name in text and "\n" not in text and (";" in text or "," in text), text


def reader(folder, caplog):
    """Writes a file, and reads the lens; what is said is in ``caplog``."""

    def write_and_read(content, name="camera.json", size=SIZE, **more):
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        caplog.clear()
        return camera_files.read_lens(path, size, **more)

    return write_and_read
