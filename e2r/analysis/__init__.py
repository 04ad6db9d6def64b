"""Questions to a registration that learns: pure functions that return small pytrees of figures.

Notebooks, training and ``experiments.studies.probe`` use them. Each works on one case; batch it
with ``vmap``. Compare small differences in double precision.
"""

from e2r.analysis.gradient_check import GradientCheck, gradient_check

__all__ = ["GradientCheck", "gradient_check"]
