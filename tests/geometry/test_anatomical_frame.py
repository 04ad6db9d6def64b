"""The canonical frame of a model."""

import jax
import numpy as np
import pytest
import trimesh

from e2r.geometry import anatomical_frame, poses
from e2r.simulation import specimens


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1.0) / 2.0, -1.0, 1.0)))


def test_the_canonical_frame_does_not_depend_on_the_models_axes(simulated_cases, rng):
    model = simulated_cases[0].model
    found = anatomical_frame.estimate_frame(model)
    turn = trimesh.transformations.random_rotation_matrix(rng.random(3))
    moved = {name: mesh.copy().apply_transform(turn) for name, mesh in model.items()}
    again = anatomical_frame.estimate_frame(moved)
    assert degrees_between(again.rotation @ turn[:3, :3], found.rotation) < 3.0  # another grid
    part = anatomical_frame.estimate_frame({name: model[name] for name in ("L2", "L3", "L4")})
    assert degrees_between(part.rotation, found.rotation) < 15.0
    one = anatomical_frame.estimate_frame({"L3": model["L3"]})
    assert np.isfinite(one.rotation).all()
    assert np.linalg.det(one.rotation) == pytest.approx(1.0, abs=1e-5)


def test_other_names_do_not_turn_the_spine_over(simulated_cases):
    model = dict(simulated_cases[0].model)
    found = anatomical_frame.estimate_frame(model)
    rib = trimesh.creation.icosphere(2, 15.0)
    top = poses.apply_inverse(found, np.array([40.0, 0.0, 150.0], np.float32))
    rib.apply_translation(np.asarray(top))
    for name in ("left_rib", "skull"):
        again = anatomical_frame.estimate_frame({name: rib, **model})
        assert degrees_between(again.rotation, found.rotation) < 1.0
    two = {"upper": model["L2"], "lower": model["L3"]}
    named = anatomical_frame.estimate_frame({"L2": model["L2"], "L3": model["L3"]})
    np.testing.assert_allclose(
        anatomical_frame.estimate_frame(two).rotation, named.rotation, atol=1e-6
    )


def test_the_frame_of_a_procedural_spine_is_estimated(monkeypatch):
    for i in range(3):
        specimen = specimens.procedural_specimen(jax.random.key(i), "x")
        found = anatomical_frame.estimate_frame(specimen.model)
        assert degrees_between(found.rotation, specimen.canonical.rotation) < 15.0
        # The same of all levels in one surface, as some data sets have them.
        whole = {"spine": trimesh.util.concatenate(list(specimen.model.values()))}
        again = anatomical_frame.estimate_frame(whole)
        assert degrees_between(again.rotation, found.rotation) < 3.0
        assert np.linalg.norm(found.translation - again.translation) < 5.0
        # A vertebra by name is one level, in however many pieces.
        level = specimen.model["L3"]
        cut = trimesh.intersections.slice_faces_plane(
            level.vertices, level.faces, found.rotation[1], level.center_mass
        )
        rest = trimesh.intersections.slice_faces_plane(
            level.vertices, level.faces, -found.rotation[1], level.center_mass
        )
        halves = [trimesh.Trimesh(*half[:2]) for half in (cut, rest)]
        pieces = {"L3": trimesh.util.concatenate(halves)}
        assert len(pieces["L3"].split(only_watertight=False)) >= 2
        turned = degrees_between(
            anatomical_frame.estimate_frame(pieces).rotation,
            anatomical_frame.estimate_frame({"L3": level}).rotation,
        )
        assert turned < 5.0
        # And where they are grown together; then head and tail may be taken for each other.
        with monkeypatch.context() as patch:
            patch.setattr(trimesh.Trimesh, "split", lambda *_, **__: [])
            fused = anatomical_frame.estimate_frame(whole).rotation @ found.rotation.T
        assert abs(fused[2, 2]) > 0.99 and fused[1, 1] > 0.99
