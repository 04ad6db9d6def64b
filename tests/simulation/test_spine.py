"""A procedural spine: its curve, and how its levels differ."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.simulation.spine import sample_spine


def test_the_lumbar_spine_is_lordotic():
    for seed in range(5):
        _, pose = sample_spine(jax.random.key(seed))
        y, z = np.asarray(pose.translation)[:, 1:].T
        chord = np.interp(-z[2:5], -z[[1, 5]], y[[1, 5]])
        assert (y[2:5] < chord - 3.0).all()  # L2 to L4 lie in front of the line from L1 to L5
        assert np.asarray(pose.rotation)[6, 1, 2] < -0.25  # the sacrum's end plate slopes forward


def test_levels_and_sides_differ():
    shapes, pose = sample_spine(jax.random.key(4))
    widths = shapes.body[:, 0]
    assert float(widths[4]) > float(widths[0])
    mirrored = shapes.centre[:, 5:10] * jnp.array([[[-1.0, 1.0, 1.0]]])
    assert float(jnp.abs(shapes.centre[:, :5] - mirrored).max()) > 0.5
    heights = pose.translation[:, 2]
    assert (np.diff(heights) < -25).all()  # head to tail, a vertebra apart
