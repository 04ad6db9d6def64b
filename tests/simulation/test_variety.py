"""Variety of frames: each kind does what its name says, and the plain frame stays as it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.simulation import sensor, wound
from e2r.simulation.bone_grids import bake_specimen
from e2r.simulation.lighting import LitPoints, _unshadowed
from e2r.simulation.materials import BONE
from e2r.simulation.rendering import photograph
from e2r.simulation.simulator import SimulationConfig
from e2r.simulation.spine import sample_spine
from e2r.simulation.variety import VARIETIES

SHAPE = (72, 96)


@pytest.fixture(scope="module")
def bones():
    return jax.jit(bake_specimen)(jax.random.key(4))


@pytest.fixture(scope="module")
def clean_depth():
    """A ramp with a step, mm."""
    depth = jnp.linspace(480.0, 520.0, SHAPE[1])[None] + jnp.zeros((SHAPE[0], 1))
    return depth.at[:, 48:].add(30.0)


def test_an_unknown_kind_of_variety_is_refused():
    config = SimulationConfig()
    object.__setattr__(config, "variety", ("colour",))  # as without the tests' type checks
    with pytest.raises(ValueError, match="use some of light, paint"):
        config.__post_init__()


def test_frames_of_all_varieties_are_sound_and_differ_from_the_plain_one(bones):
    def take(variety):
        one = partial(photograph, width=96, height=72, wound_fraction=(0.3, 0.8), variety=variety)
        return jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(8), 6), bones)

    frames, plain = take(VARIETIES), take(())
    color, depth = np.asarray(frames.color), np.asarray(frames.depth)
    assert np.isfinite(color).all() and np.isfinite(depth).all()
    assert color.min() >= 0 and color.max() <= 1
    assert 0.01 < (depth == 0).mean() < 0.5
    bone = (np.asarray(frames.material) == BONE) & (depth > 0)
    assert bone.mean() > 0.005
    error = np.abs(depth - np.asarray(frames.clean))[bone]
    assert 0.05 < np.median(error) < 2.0
    # The camera does not depend on what it looks at being varied: its poses differ only by its aim.
    assert float(jnp.abs(frames.pose.rotation - plain.pose.rotation).max()) < 1e-5
    assert float(jnp.abs(frames.color - plain.color).mean()) > 0.05


def test_neighbouring_pixels_of_some_cameras_err_together(clean_depth):
    """The plain sensor's noise is white; a matching window makes it smooth."""

    def correlation(sense):
        keys = jax.random.split(jax.random.key(0), 24)
        seen = np.asarray(jax.jit(jax.vmap(sense))(keys))
        result = []
        for image in seen:
            error = np.where(image > 0, image - np.asarray(clean_depth), np.nan)[:, :40]
            error = error - np.nanmedian(error, axis=0, keepdims=True)
            pairs = np.stack([error[:-1].ravel(), error[1:].ravel()])
            pairs = pairs[:, np.isfinite(pairs).all(0)]
            result.append(np.corrcoef(pairs)[0, 1])
        return np.array(result)

    shiny, facing = jnp.zeros(SHAPE, bool), jnp.ones(SHAPE)
    white = correlation(lambda key: sensor.sense_depth(key, clean_depth, shiny))
    varied = correlation(lambda key: sensor.sense_any_depth(key, clean_depth, shiny, facing))
    assert np.median(varied) > np.median(white) + 0.2
    assert varied.max() > 0.7 and varied.min() < 0.5


def test_surfaces_at_a_slant_are_lost_to_some_cameras(clean_depth):
    shiny = jnp.zeros(SHAPE, bool)
    facing = jnp.full(SHAPE, 0.9).at[:, :24].set(0.1)
    seen = jax.vmap(lambda key: sensor.sense_any_depth(key, clean_depth, shiny, facing))(
        jax.random.split(jax.random.key(1), 16)
    )
    lost = np.asarray(seen == 0).mean((1,))  # frame, column
    assert np.median(lost[:, 2:22]) > np.median(lost[:, 26:44]) + 0.3


def test_one_colour_image_in_twelve_is_lost_and_the_others_keep_their_mean():
    color = 0.2 + 0.6 * jax.random.uniform(jax.random.key(2), (*SHAPE, 3))
    seen = jax.vmap(sensor.degrade_color, (0, None))(
        jax.random.split(jax.random.key(3), 240), color
    )
    spread = np.asarray(seen).std((1, 2, 3))
    gone = spread < 1e-6
    assert 0.04 < gone.mean() < 0.15
    kept = np.asarray(seen)[~gone]
    np.testing.assert_allclose(kept.mean(), float(color.mean()), atol=0.06)
    assert spread[~gone].min() < 0.6 * float(color.std())  # some are blurred


def test_blurred_noise_has_the_loudness_that_is_returned():
    noise = jax.random.normal(jax.random.key(4), (200, 200))
    for sigma in (0.0, 0.7, 1.5):
        blurred, loudness = sensor._blur(noise, jnp.array(sigma))
        np.testing.assert_allclose(float(blurred.std()), float(loudness), rtol=0.06)


def test_a_blade_throws_a_shadow_and_leaves_what_is_beside_it_in_the_light(bones):
    scene = jax.jit(wound.sample_scene)(jax.random.key(5), bones)
    blade = scene.instruments
    above = scene.look_at + jnp.array([0.0, 150.0, 0.0])
    blade = blade._replace(
        start=blade.start.at[0].set(above),
        end=blade.end.at[0].set(above + jnp.array([0.0, 0.0, 1.0])),
        radius=blade.radius.at[0].set(25.0),
        flat_normal=blade.flat_normal.at[0].set(jnp.array([0.0, 1.0, 0.0])),
        half_thickness=blade.half_thickness.at[0].set(2.0),
        present=jnp.arange(len(blade.present)) == 0,
    )
    places = above[None] + jnp.array([[0.0, -20.0, 0.0], [80.0, -20.0, 0.0]])
    points = jnp.repeat(jnp.repeat(places[None], 2, 1), 4, 0)  # 4 x 4 points, in two halves
    up = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), points.shape)
    lit = LitPoints(points, up, up, jnp.zeros(points.shape[:2], bool))
    share = np.asarray(_unshadowed(scene._replace(instruments=blade), lit, up[0, 0]))
    assert share[:, 0].max() < 0.05
    assert share[:, -1].min() > 0.95


def test_some_spines_are_scoliotic_and_some_have_a_slipped_level():
    keys = jax.random.split(jax.random.key(6), 64)
    varied = jax.jit(jax.vmap(partial(sample_spine, any_shape=True)))(keys)
    plain = jax.jit(jax.vmap(sample_spine))(keys)
    bow = np.asarray(jnp.abs(varied[1].translation[:, :, 0]).max(1))
    plain_bow = np.asarray(jnp.abs(plain[1].translation[:, :, 0]).max(1))
    assert bow.max() > plain_bow.max() + 3.0
    step = np.asarray(jnp.diff((varied[1].translation - plain[1].translation)[:, :, 1], axis=1))
    slipped = np.abs(step).max(1) > 1.5
    assert 0.02 < slipped.mean() < 0.4
    assert float((varied[0].half_size / plain[0].half_size).max()) > 1.2
    assert float((varied[0].amplitude / plain[0].amplitude).min()) >= 1.0
