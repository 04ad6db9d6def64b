"""What depends on a model alone is made once, and anew where the model or the targets differ."""

import numpy as np

from e2r.evaluation import shared_models
from e2r.evaluation.metrics import is_deep
from e2r.evaluation.shared_models import MAX_MODELS, SharedModels


def moved(ball, x):
    mesh = ball.copy()
    mesh.apply_translation([x, 0.0, 0.0])
    return {"L1": mesh}


def test_cases_of_one_model_share_it_and_only_the_latest_are_held(ball):
    models = SharedModels(exact=False)
    first = models.get(moved(ball, 0.0))
    assert models.get(moved(ball, 0.0)) is first
    others = [models.get(moved(ball, 1.0 + number)) for number in range(MAX_MODELS)]
    assert len({id(model) for model in (first, *others)}) == MAX_MODELS + 1
    assert models.get(moved(ball, 0.0)) is not first  # the oldest was let go
    assert models.get(moved(ball, float(MAX_MODELS))) is others[-1]


def test_deep_targets_are_asked_for_once_and_again_where_they_change(ball, rng, monkeypatch):
    asked = []

    def counted(mesh, points):
        asked.append(len(points))
        return is_deep(mesh, points)

    monkeypatch.setattr(shared_models, "is_deep", counted)
    model = SharedModels(exact=False).get({"L1": ball})
    surface_and_centre = {"L1": np.concatenate([np.asarray(ball.vertices)[:5], np.zeros((1, 3))])}
    for _ in range(3):
        assert model.deep(surface_and_centre)["L1"].tolist() == [False] * 5 + [True]
    assert asked == [6]
    inside = rng.normal(size=(4, 3))
    assert model.deep({"L1": inside})["L1"].all() and asked == [6, 4]
