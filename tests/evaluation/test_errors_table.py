"""The flat table of a job's errors: every case and mask, with units, whole or not at all."""

import csv
from dataclasses import replace

import pytest
from made_up_job import made_up_job, made_up_result

from e2r.evaluation.errors_table import COLUMNS, table_rows, write_errors_table


@pytest.fixture(scope="module")
def job():
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 9.0))]
    results.append(made_up_result(2, 1.0, truth=False, case_id='odd, "named"'))
    _, predictions, scores = made_up_job(results, [("lost", "lost: no, scene")])
    return predictions, scores


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_case_and_mask_has_a_row(job, tmp_path):
    predictions, scores = job
    oracle = [replace(one, accepted=False, expected_tre_mm=None) for one in predictions]
    rows = table_rows({"learnt": predictions, "oracle": oracle}, scores)
    found = read(write_errors_table(tmp_path, rows))
    names = ["case0", "case1", 'odd, "named"', "lost"]
    assert [(row["id"], row["mask"]) for row in found] == [
        (name, mask) for name in names for mask in ("learnt", "oracle")
    ]
    assert tuple(found[0]) == COLUMNS
    assert [path.name for path in tmp_path.iterdir()] == ["errors.csv"]
    by_key = {(row["id"], row["mask"]): row for row in found}
    for score in scores:
        for mask in ("learnt", "oracle"):
            row = by_key[score.id, mask]
            assert row["specimen"] == score.source
            assert float(row["keep_share"]) == score.keep[mask]
            if score.errors:
                assert float(row["tre_mm"]) == score.errors[mask].tre_mm
                assert float(row["rotation_deg"]) == score.errors[mask].rotation_deg
                assert float(row["translation_mm"]) == score.errors[mask].translation_mm
            else:
                assert row["tre_mm"] == row["rmse_mm"] == ""
    one = by_key["case1", "learnt"]
    assert one["accepted"] == str(predictions[1].accepted).lower()
    assert float(one["expected_tre_mm"]) == predictions[1].expected_tre_mm
    assert float(one["seconds"]) == predictions[1].seconds and one["failure"] == ""
    assert by_key["case1", "oracle"]["accepted"] == "false"
    assert by_key["case1", "oracle"]["expected_tre_mm"] == ""
    lost = by_key["lost", "oracle"]
    assert lost["failure"] == "lost: no, scene" and lost["accepted"] == "false"
    assert lost["tre_mm"] == lost["seconds"] == lost["keep_share"] == ""


def test_a_mask_without_predictions_still_has_its_errors(job):
    """A job of an earlier version kept those of one mask only."""
    predictions, scores = job
    rows = table_rows({"learnt": predictions, "oracle": []}, scores)
    second = rows[1]
    assert second["mask"] == "oracle" and second["tre_mm"] == scores[0].errors["oracle"].tre_mm
    assert second["accepted"] is None and second["seconds"] is None


def test_columns_say_their_unit():
    plain = {"id", "specimen", "mask", "accepted", "failure", "seconds"}
    assert all(name in plain or name.endswith(("_mm", "_deg", "_share")) for name in COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)
