# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A registration and its basin of convergence
#
# With the true bone, a registration that begins near enough is nearly exact. How near is near
# enough? And where does it end otherwise? A spine is special here, because every vertebra resembles
# the next.

# %%
import os
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.analysis import conditioning, loss_landscape
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import correspondences, poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration import kernels, steps
from e2r.registration.schedule import Schedule, apply_mask, run_schedule
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator, specimens
from e2r.training import examples, losses
from e2r.visualisation import figures as draw
from e2r.visualisation.plots import heat_maps

SMALL = bool(os.environ.get("E2R_SMALL"))
enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## A scene, and the bone in it

# %%
specimen = specimens.procedural_specimen(jax.random.key(1), "basin")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build_surface(
    case.model, seed=0, nodes=2**15 if SMALL else surfaces.PROJECTION_NODES
)
surface = jax.tree.map(jnp.asarray, surface)
sample = sample_scene_points(case, NetworkConfig(points=512 if SMALL else 2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), sample.cloud)
bone = jnp.asarray(oracle_weights(case, sample.rows)[0])
scene = apply_mask(cloud, bone)
targets = examples.make_targets(case)
truth = jax.tree.map(jnp.asarray, true_pose(case))
centre = poses.apply_inverse(truth, jnp.asarray(targets.goals[targets.valid].mean(0)))
thin = {name: draw.simplify_mesh(mesh, 2000) for name, mesh in case.model.items()}
plots["scene"] = draw.scene_figure(
    cloud.points, cloud.colors, weights=bone, surfaces=thin, poses=truth
)
plots["scene"]

# %% [markdown]
# ## One registration, step by step
# Twenty symmetric steps begin 10 mm up the spine. The robust scale falls from 8 mm to 1 mm. The
# effective degrees of freedom (dof) count the directions that the points determine, rather than the
# damping. At 6, the points determine all of them.

# %%
axes = surface.canonical_from_model.rotation  # rows: to the left, posterior, cranial
up = jnp.concatenate([jnp.zeros(3), axes[2]])
lean = jnp.concatenate([axes[0], jnp.zeros(3)])
schedule = Schedule(steps=10 if SMALL else 20, first_scale_mm=8.0)
begin = steps.apply_twist(truth, 10.0 * up, centre)
result = jax.jit(partial(run_schedule, schedule=schedule))(scene, surface, begin)
track = jax.jit(partial(conditioning.along_trajectory, schedule=schedule))(scene, surface, begin)
tre = [
    float(
        losses.mean_target_error(
            jax.tree.map(lambda leaf, k=k: leaf[k], result.trajectory), targets
        )
    )
    for k in range(schedule.steps)
]
figure = go.Figure()
for name, values in {
    "TRE, mm": tre,
    "residual, mm": track.residual,
    "effective dof": track.effective_dof,
    "motion, mm": track.motion,
}.items():
    figure.add_scatter(x=np.arange(1, len(tre) + 1), y=np.asarray(values), name=name)
figure.update_xaxes(title="step")
figure.update_yaxes(type="log")
plots["steps"] = figure.update_layout(template="plotly_white", height=360)
plots["steps"]

# %% [markdown]
# ## Local minima
# The model is shifted along the spine, and everything else is right. The plot shows the share of
# the bone that is off the model, at three robust scales. A wide scale has one broad valley without
# detail. A narrow scale has a sharp valley at the truth, and shallower ones a vertebra up and down.
# Annealing leads from the wide scale to the narrow one.

# %%
shifts = np.linspace(-50.0, 50.0, 41 if SMALL else 161).astype(np.float32)


def missing(scale, pose):
    """Share of the bone that is not on the model."""
    queries = poses.apply_inverse(pose, scene.points)
    match = correspondences.project(surface, queries)
    square = jnp.sum(jnp.square(queries - match.points), axis=1)
    on = jnp.sum(scene.weights * kernels.welsch(square, scene.weights, scale))
    return 1.0 - on / jnp.sum(scene.weights)


@jax.jit
def valley(scale):
    loss = loss_landscape.loss_of_twist(partial(missing, scale), truth, centre)
    offsets = (jnp.asarray(shifts), jnp.zeros(1))
    return loss_landscape.plane(loss, jnp.zeros(6), directions=(up, lean), offsets=offsets)[:, 0]


figure = go.Figure()
for scale in (8.0, 3.0, 1.0):
    figure.add_scatter(x=shifts, y=np.asarray(valley(scale)), name=f"scale {scale:g} mm")
figure.update_xaxes(title="shift along the spine, mm")
figure.update_yaxes(title="share of the bone off the model")
plots["valleys"] = figure.update_layout(template="plotly_white", height=380)
plots["valleys"]

# %% [markdown]
# ## The basin
# The TRE after the registration, by initial pose: shifted along the spine, and leant forward or
# back. Blue poses converge to the truth. The dark stripe ends well before half a vertebra. Beyond
# it, the registration ends one level off. So e2r searches before it registers, and the mask learns
# from initial poses within the basin.

# %%
count = 5 if SMALL else 13
side = np.linspace(-40.0, 40.0, count).astype(np.float32)
angles = np.linspace(-30.0, 30.0, count).astype(np.float32)
maps = {}
every = ("point_to_point", "point_to_plane", "symmetric")
for step in every[2:] if SMALL else every:
    how = replace(schedule, step=step)

    def ends(pose, how=how):
        found = run_schedule(scene, surface, pose, how)
        return losses.mean_target_error(found.pose, targets)

    loss = loss_landscape.loss_of_twist(ends, truth, centre)
    plane = jax.jit(partial(loss_landscape.plane, loss))
    offsets = (steps.LEVER * jnp.deg2rad(angles), jnp.asarray(side))
    maps[step] = np.asarray(plane(jnp.zeros(6), directions=(lean, up), offsets=offsets))
for step, values in maps.items():
    print(f"{step:15s} {np.mean(values < 2.0):4.0%} of these initial poses end below 2 mm")
plots["basin"] = heat_maps(
    maps,
    side.round().tolist(),
    angles.round().tolist(),
    x_title="shift along the spine, mm",
    y_title="lean, degrees",
    unit="mm",
    limits=(0.0, 20.0),
)
plots["basin"]

# %% [markdown]
# ## And with a worse mask?
# The same line along the spine, with more and more tissue in the mask.

# %%
begins = shifts[:: 4 if SMALL else 2]


@jax.jit
def along_the_spine(weights):
    def ends(pose):
        dirty = apply_mask(cloud, weights)
        found = run_schedule(dirty, surface, pose, schedule)
        return losses.mean_target_error(found.pose, targets)

    loss = loss_landscape.loss_of_twist(ends, truth, centre)
    offsets = (jnp.asarray(begins), jnp.zeros(1))
    return loss_landscape.plane(loss, jnp.zeros(6), directions=(up, lean), offsets=offsets)[:, 0]


figure = go.Figure()
for tissue in (0.0, 0.1, 0.5):
    values = np.asarray(along_the_spine(jnp.maximum(bone, tissue)))
    figure.add_scatter(x=begins, y=values, name=f"tissue at {tissue:.0%}")
figure.update_xaxes(title="initial shift along the spine, mm")
figure.update_yaxes(title="TRE after the registration, mm")
plots["tissue"] = figure.update_layout(template="plotly_white", height=360)
plots["tissue"]

# %% [markdown]
# ## Your turn
# Let the robust scale begin at 16 mm (`first_scale_mm=16.0`): does the stripe widen? Try
# `kernel="tukey"` or `"huber"`. Replace `lean` by a turn about the cranial axis (`axes[2]` in its
# first three entries). Or give weight to the bone of one vertebra only: which direction is lost
# first?
