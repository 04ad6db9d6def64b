"""Pickles: plain data of every protocol is read, and no code is run."""

import pickle

import numpy as np
import pytest
from conftest import refused
from test_spinealign import by_hand

from e2r.datasets import safe_pickle


def test_pickles_of_old_numpy_and_of_every_number_type_are_read(tmp_path):
    """What numpy 1 wrote names numpy.core; values come back as they were, bit for bit."""
    path = tmp_path / "a.pkl"
    for array in (
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
        np.array([True, False]),
    ):
        for protocol in range(6):
            data = pickle.dumps({"x": [array], "y": {1, 2}}, protocol)
            if protocol < 4:  # from 4 on a name's length stands before it
                data = data.replace(b"numpy._core", b"numpy.core")
            path.write_bytes(data)
            read = safe_pickle.read(path)
            np.testing.assert_array_equal(read["x"][0], array)
            assert read["x"][0].dtype == array.dtype
            assert read["y"] == {1, 2}


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Built:
    def __init__(self):
        self.x = 1


TRICKS = {
    "a call": lambda trap: pickle.dumps({0: Trap(trap)}),
    "a call, old": lambda trap: pickle.dumps({0: Trap(trap)}, 0),
    "a system call": lambda trap: f"cos\nsystem\n(S'touch {trap}'\ntR.".encode(),
    "eval": lambda trap: f'c__builtin__\neval\n(S\'open("{trap}", "w")\'\ntR.'.encode(),
    "an object": lambda _: pickle.dumps(Built()),
    "an array of objects": lambda _: pickle.dumps(np.array([{}], object)),
    "a call in an array": lambda trap: pickle.dumps(np.array([Trap(trap)], object)),
    "an array of records": lambda _: pickle.dumps(np.zeros(2, "i4,O")),
    "a path": pickle.dumps,
    "a function": lambda _: pickle.dumps(np.sum),
    "a persistent name": lambda _: b"Pname\n.",
    "a codec": lambda _: b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
    "a huge array": lambda _: pickle.dumps(np.zeros(3)).replace(b"\x85", b"\x86", 1),
    "endless nesting": lambda _: b"]" * 20_000 + b"a" * 19_999 + b".",
    "itself": lambda _: b"]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_pickle_runs_code(name, tmp_path, capsys):
    """The sentence names the file and what to do; what the code would make is not there."""
    trap = tmp_path / "trap"
    by_hand(tmp_path / "in")
    path = tmp_path / "in" / "CT_DATA" / "index_data_map_x.pkl"
    path.write_bytes(TRICKS[name](trap))
    refused(capsys, f"{path}: ", "convert", "spinealign", tmp_path / "in", tmp_path / "out")
    assert not trap.exists()
