"""At least sixty kinds of malformed input are tried on the readers of real data."""

import test_ct
import test_rgbd
import test_safe_pickle
import test_spinealign
import test_spinedepth
import test_spinedepth_pairs


def test_at_least_sixty_malformed_inputs_are_tried(tmp_path):
    """The file that holds a kind runs it through the command line; here they are counted."""
    for name in ("one/STL", "Specimen_1/Recordings/Recording0", "Specimen_1/Calib"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("Recordings/Recording0/Poses_0.txt", "Calib/SN10027879.conf"):
        (tmp_path / "Specimen_1" / name).write_text("1,0,0,0\n2,0,0,0\n")
    tables = {
        "ct": test_ct.broken(tmp_path),
        "spinedepth": test_spinedepth.broken(tmp_path),
        "spinedepth's clouds": test_spinedepth.broken_clouds(tmp_path),
        "pairs": test_spinedepth_pairs.BROKEN,
        "rgbd": test_rgbd.BROKEN,
        "clouds": test_rgbd.CLOUDS,
        "spinealign": test_spinealign.BROKEN,
        "pickles": test_safe_pickle.TRICKS,
    }
    counts = {name: len(table) for name, table in tables.items()}
    print(counts, sum(counts.values()))
    assert sum(counts.values()) >= 60
