"""The cases of a calibration go through their file unchanged, and give the same calibration."""

import dataclasses

import numpy as np
import pytest

from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.calibration_fit import fit_calibration
from e2r.evaluation.fitted_cases import CASES_FILE, load_cases, save_cases
from e2r.training.trained_model import PACKAGED


def test_the_packaged_cases_give_the_packaged_calibration():
    cases, calibration = load_cases(PACKAGED), load_calibration(PACKAGED)
    assert len(cases) == calibration.cases
    found = dataclasses.asdict(fit_calibration(cases))
    for name, value in dataclasses.asdict(calibration).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3)


def test_cases_of_any_number_of_hypotheses_and_levels_come_back(tmp_path):
    assert load_cases(tmp_path) == ()
    packaged = load_cases(PACKAGED)
    cases = sorted(packaged, key=lambda case: len(case.errors))[::40]
    assert len({(len(case.errors), len(case.level_tre)) for case in cases}) > 1
    save_cases(cases, tmp_path)
    for before, after in zip(cases, load_cases(tmp_path), strict=True):
        np.testing.assert_array_equal(after.features, before.features)
        np.testing.assert_array_equal(after.errors, before.errors)
        np.testing.assert_array_equal(np.array(after.precision), np.array(before.precision))
        np.testing.assert_array_equal(after.level_tre, before.level_tre)
        assert after.tre == before.tre


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / CASES_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"calibration_cases\.npz: is broken; delete it"):
        load_cases(tmp_path)


def test_a_file_with_an_array_missing_is_refused(tmp_path):
    np.savez(tmp_path / CASES_FILE, hypotheses=np.array([1]))
    with pytest.raises(ValueError, match="is broken"):
        load_cases(tmp_path)
