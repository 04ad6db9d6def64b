"""Work that is done ahead, by threads."""

import time

import pytest

from e2r.runtime.prefetch import prefetch


def test_prefetch_stays_within_its_lead():
    made = []
    results = prefetch(lambda item: made.append(item) or 10 * item, range(100), workers=2)
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    time.sleep(0.05)
    assert len(made) <= 3 + 2
    results.close()

    def fails(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = prefetch(fails, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
