"""Each second counts once, in the innermost timed block."""

import threading
import time

from e2r.runtime.timing import collect_timings, timed, timing_table


def test_each_second_counts_once():
    def elsewhere():
        with timed("thread"):
            time.sleep(0.05)

    with collect_timings() as found, timed("outer"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        with timed("inner"):
            time.sleep(0.1)
        thread.join()
    assert list(found) == ["thread", "inner", "outer"]
    assert found["inner"] >= 0.1 and found["thread"] >= 0.05
    assert found["outer"] < found["inner"]  # the inner block's seconds are not its own
    with timed("nobody asks"):
        pass
    assert "nobody asks" not in found
    rows = timing_table(found).splitlines()
    assert [row.split()[0] for row in rows] == ["thread", "inner", "outer", "in"]
