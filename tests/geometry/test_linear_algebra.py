"""Inverses of small symmetric matrices."""

import numpy as np

from e2r.geometry import linear_algebra


def test_inverses_equal_lapack(rng):
    root = rng.normal(size=(6, 6)).astype(np.float32)
    matrix = root @ root.T + np.eye(6, dtype=np.float32)
    right = rng.normal(size=6).astype(np.float32)
    np.testing.assert_allclose(
        linear_algebra.inverse_6x6(matrix) @ right, np.linalg.solve(matrix, right), atol=1e-4
    )
    np.testing.assert_allclose(linear_algebra.inverse_6x6(matrix) @ matrix, np.eye(6), atol=1e-3)
