"""What one asks of a registration that learns: pure functions that return small pytrees of figures.

They are for notebooks, for training (every so many steps) and for ``experiments.studies.probe``, and are
written for one case, as everything is; batch them with ``vmap``. Where small differences are
compared, give them double precision.
"""
