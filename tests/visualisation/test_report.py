"""The report says what the summary says, escapes every name, and stays small."""

import json
import re
from dataclasses import replace

import pytest
from made_up_job import JOB, ORIGIN, SCRIPT_ID, TINY, largest_snapshot, made_up_job, made_up_result

from e2r.evaluation.predictions import CaseScores, Prediction, failed_prediction
from e2r.evaluation.results import Failed
from e2r.evaluation.summary import summarise_job
from e2r.runtime.provenance import code_record
from e2r.visualisation import report, snapshots


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page.split("<body>")[1], flags=re.S)


def test_five_hundred_cases_make_a_small_page(rng, path):
    summary, few, one = made_up_job([made_up_result(i, 0.2 * (i + 1)) for i in range(5)])
    names = [f"{SCRIPT_ID} {i}" for i in range(500)]
    predictions = [replace(few[i % 5], id=name) for i, name in enumerate(names)]
    predictions += [failed_prediction(Failed(SCRIPT_ID, f"{SCRIPT_ID}: no scene"))] * 150
    log = [{"step": i, "loss": 1.0, "tre_mm": 1.0, "start_mm": 9.0} for i in range(3200)]
    specimens = dict.fromkeys(names[:100], summary.by_specimen["specimen 0"])
    report.write_report(
        path,
        replace(summary, by_specimen=specimens),
        predictions=predictions,
        scores=[replace(one[i % 5], id=name) for i, name in enumerate(names)],
        snapshots=[largest_snapshot(rng)] * snapshots.MAX_SNAPSHOTS,
        training_log=log,
    )
    assert path.stat().st_size <= 20e6
    page = path.read_text()
    assert page.count("* plotly.js v") == 1
    named = len(re.findall(r"&lt;script&gt;alert\((&#34;|&quot;)a(&#34;|&quot;)\)", page))
    assert named == 500 + 150 + 100 + 2 * report.MAX_FAILED_CASES + snapshots.MAX_SNAPSHOTS
    assert "and 50 more" in page
    body = without_scripts(page)
    assert "<img src=x" not in body and 'alert("a")' not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_a_script_as_a_name_is_escaped_everywhere(path):
    """A case, its specimen, a failed case, the data set and the trained model."""
    script = "<script>alert(1)<script>"
    result = made_up_result(0, 3.0, case_id=script)
    result = result._replace(case=replace(result.case, source=script))
    summary, predictions, scores = made_up_job([result], [(script, f"{script}: no scene")])
    settings = {**summary.settings, "cases": script, "checkpoint": script}
    report.write_report(
        path,
        replace(summary, settings=settings, device=script),
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(result, "learnt")],
    )
    page = path.read_text()
    assert script not in page
    assert page.count("&lt;script&gt;alert(1)") >= 9


def test_the_headings_of_a_page(path):
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 9.0))]
    summary, predictions, scores = made_up_job(results, [("lost", "lost: no scene")])
    report.write_report(
        path,
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(results[1], "learnt")],
        training_log=[{"step": 1, "loss": 1.0}],
    )
    assert re.findall(r"<h2>(.*?)</h2>", path.read_text()) == [
        "Summary",
        "Success rate by error threshold",
        "Risk–coverage curve",
        "TRE by level",
        "TRE by specimen",
        "Published results for comparison",
        "Training curves",
        "Worst cases",
        "All cases",
        "Failed cases",
        "Settings and versions",
    ]


def test_the_page_says_what_the_summary_says(path):
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 1.0, 9.0, 1.5))]
    summary, predictions, scores = made_up_job(results)
    report.write_report(
        path,
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(results[2], "learnt")],
    )
    page = path.read_text()
    assert summary.masks["learnt"].tre_mm["median"] == pytest.approx(1.25)
    for cell in ("<b>1.25 mm</b>", "<td>1.83</td>", "<td>2.73</td>", "<td>3.95</td>"):
        assert cell in page
    assert '<span class="tre">TRE 9.00 mm</span>' in page
    order = re.findall(r"<tr><td>(case\d)</td>", page)
    assert order == ["case2", "case3", "case1", "case0"]  # the worst first
    assert set(re.findall(r"<td>(specimen \d)</td>", page)) == {f"specimen {i}" for i in range(4)}


def test_a_card_says_whether_its_pose_may_be_used(path):
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 9.0, 3.0))]
    summary, predictions, scores = made_up_job(results)
    predictions[0] = replace(predictions[0], accepted=True, expected_tre_mm=0.7)
    predictions[1] = replace(predictions[1], accepted=False, expected_tre_mm=21.25)
    predictions[2] = replace(predictions[2], accepted=True, expected_tre_mm=None)
    report.write_report(
        path,
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(result, "learnt") for result in results],
    )
    cards = re.findall(r"<figcaption>(.*?)</figcaption>", path.read_text(), flags=re.S)
    texts = [" ".join(re.sub(r"<.*?>", "", card).split()) for card in cards]
    for text, words in zip(
        texts,
        (
            "case0, TRE 0.50 mm; accepted, expected TRE 0.70 mm.",
            "case1, TRE 9.00 mm; not accepted, expected TRE 21.25 mm.",
            "case2, TRE 3.00 mm; accepted.",
        ),
        strict=True,
    ):
        assert text.startswith(words)


def test_the_table_lists_all_cases_those_that_failed_too(path):
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 9.0))]
    summary, predictions, scores = made_up_job(results, [("lost", "lost: no scene")])
    report.write_report(path, summary, predictions=predictions, scores=scores)
    table = re.search(r'<table id="cases" class="sortable">.*?</table>', path.read_text(), re.S)
    rows = re.findall(r"<tr><td>(.*?)</td>.*?<td>(\w+)</td></tr>", table[0])
    assert [name for name, _ in rows] == ["case1", "case0", "lost"]
    assert rows[-1][1] == "failed"
    assert table[0].count('<button type="button">') == len(report.CASE_COLUMNS)


def test_a_job_without_truth_has_a_page(path):
    results = [made_up_result(0, 1.0, truth=False)]
    summary, predictions, scores = made_up_job(results)
    report.write_report(
        path,
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(results[0], "learnt")],
    )
    assert "no case has a truth" in path.read_text()


def test_a_job_without_results_has_a_page(path):
    summary, predictions, scores = made_up_job([], [("a", "a: no scene")])
    report.write_report(path, summary, predictions=predictions, scores=scores)
    assert "a: no scene" in path.read_text()


def test_a_summary_needs_only_the_files_of_a_job():
    """A job that continues has no results in memory."""
    summary, predictions, scores = made_up_job([made_up_result(i, i + 0.5) for i in range(2)])
    lines = json.loads(json.dumps([one.to_json() for one in predictions]))
    rows = json.loads(json.dumps([one.to_json() for one in scores]))
    again = summarise_job(
        [Prediction.from_json(line) for line in lines],
        [CaseScores.from_json(row) for row in rows],
        job=JOB,
        config=TINY,
        origin=ORIGIN,
        code=code_record(),
    )
    assert json.dumps(again.to_json()) == json.dumps(summary.to_json())
