# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Which step carries the gradient?
#
# An unrolled registration is a deep network without parameters: K steps, one after the other, each
# of which uses the mask's weights. The error at its end is differentiated through all of them. Does
# the gradient really come through all of them? That depends on what a step remembers of the one
# before.
#
# The probe gives every step its own copy of the weights. The gradient with respect to copy k is
# what step k contributes, and their sum is the whole gradient.

# %%
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.analysis import conditioning, gradient_paths
from e2r.datasets import meshes
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import correspondences, poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration import iterate, steps
from e2r.registration.schedule import Schedule, apply_mask
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator
from e2r.training import examples, losses
from e2r.visualisation import figures as draw

SMALL = bool(os.environ.get("E2R_SMALL"))  # a minute less, pictures less fine
enable_cache()  # compiled once, for all notebooks
figures = {}

# %% [markdown]
# ## A scene
# One simulated frame; of a real spine where its surfaces lie beside the project, else of one that
# does not exist. The mask is a good one, not a perfect one: bone weighs 0.9, everything else 0.05.

# %%
folders = [Path(up) / "shared/data/anatomy/lumbar_mean" for up in ("..", "../..")]
real = [folder for folder in folders if folder.is_dir() and not SMALL]
if real:
    specimen = simulator.specimen_from_surfaces(meshes.read_meshes(real[0]), "lumbar_mean")
else:
    specimen = simulator.procedural_specimen(jax.random.key(1), "paths")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build(case.model, seed=0, nodes=2**15 if SMALL else surfaces.COARSE)
surface = jax.tree.map(jnp.asarray, surface)
seen = sample_scene_points(case, NetworkConfig(points=512 if SMALL else 2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), seen.cloud)
bone = jnp.asarray(oracle_weights(case, seen.rows)[0])
scene = apply_mask(cloud, 0.05 + 0.85 * bone)
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(5), truth, middle, degrees=2.0, mm=2.0)
off = losses.mean_target_error(start, targets)
print(f"{specimen.name}: {len(case.points)} points; the start is {off:.2f} mm off")

# %% [markdown]
# ## Five ways to take a step
# All with Welsch's kernel, annealed, its robust weights **detached**, as everywhere in e2r.
#
# - *points, hard matches*: point-to-point ICP, each point matched with the centre of a triangle.
# - *points, projected*: the same, matched with the nearest point **on** the surface.
# - *planes, hard matches* and *planes, projected*: point-to-plane.
# - *symmetric*: what e2r evaluates with.
#
# The damping prior is off, since its virtual points remember the pose before, a little.

# %%
K = 8 if SMALL else 12
scales = iterate.annealed_scales(8.0, 2.0, K)
hard, project = correspondences.nearest, correspondences.project
ways = {
    "points, hard matches": partial(steps.point_to_point, correspond=hard),
    "points, projected": partial(steps.point_to_point, correspond=project),
    "planes, hard matches": partial(steps.point_to_plane, correspond=hard),
    "planes, projected": partial(steps.point_to_plane, correspond=project),
    "symmetric": partial(steps.symmetric, correspond=project),
}
if SMALL:
    ways = {name: ways[name] for name in (*[*ways][:1], *[*ways][2:3])}
error = gradient_paths.final_error(targets)
found = {}
for name, step in ways.items():
    probe = jax.jit(
        partial(
            gradient_paths.gradient_by_step, error, scales=scales, step=partial(step, prior=0.0)
        )
    )
    found[name] = jax.tree.map(np.asarray, probe(scene, surface, start))

# %% [markdown]
# ## Who carries it
# The size of each step's contribution, as a share of the last step's; the axis is logarithmic.
#
# **Hard-match point-to-point is nothing but rounding until the last step.** Between two changes of
# the matches, Procrustes does not care where it began: move the start a little, and the same points
# are matched with the same triangles, and end in the same pose. So the pose after step k has no
# derivative with respect to the pose before it, and K unrolled steps teach what one teaches. (The
# *value* at the end comes from all steps; only the derivative is blind.)
#
# A tangent plane lets a point slide: where it slides to depends on the pose, and the gradient goes
# on to the steps before, a few per cent of it each time, for a step that converges fast forgets
# fast. Projected matches slide, too, whatever the step.

# %%
shares = {name: one.share_norms / one.share_norms[-1] for name, one in found.items()}
figure = go.Figure()
for name, share in shares.items():
    shown = np.maximum(share, 1e-9)  # so that zero has a place on the axis
    figure.add_scatter(x=np.arange(1, K + 1), y=shown, name=name, mode="lines+markers")
figure.update_xaxes(title="unrolled step", dtick=1)
figure.update_yaxes(title="gradient by this step, last step = 1", type="log", exponentformat="e")
figures["shares"] = figure.update_layout(template="plotly_white", height=380)
figures["shares"]

# %%
for name, share in shares.items():
    print(f"{name:22s} all steps but the last: {share[:-1].max():8.1e} of the last at most")

# %% [markdown]
# ## How many steps must be differentiated?
# The cosine of the truncated gradient with the whole one. Where it is near 1 after a few steps, the
# mode `last` is as good a teacher as `unrolled`, and needs the memory of those few.

# %%
figure = go.Figure()
for name, one in found.items():
    figure.add_scatter(
        x=np.arange(1, K + 1), y=one.truncated_cosines[::-1], name=name, mode="lines+markers"
    )
figure.update_xaxes(title="steps differentiated, from the end", dtick=1)
figure.update_yaxes(title="cosine with the whole gradient")
figures["truncated"] = figure.update_layout(template="plotly_white", height=380)
figures["truncated"]

# %% [markdown]
# ## Four modes, side by side
# `unrolled`, `last`, `one_step` and `implicit` (the derivative of the fixed point): same
# registration, same pose, four gradients.

# %%
name = [*ways][-1]
modes = jax.jit(partial(gradient_paths.gradient_by_mode, error, scales=scales, step=ways[name]))(
    scene, surface, start, found=found[name]
)
figures["modes"] = draw.heat_maps(
    {name: modes.comparison.cosines},
    iterate.GRADIENT_MODES,
    iterate.GRADIENT_MODES,
    x_title="",
    y_title="",
    unit="cosine",
    limits=(-1.0, 1.0),
)
figures["modes"]

# %% [markdown]
# ## Where the gradient is, and how firm the ground is
# The points coloured by the size of their gradient, with the true surfaces; and along the
# trajectory the Procrustes gap and the effective number of points.

# %%
size = np.abs(found[name].truncated[0])
figures["scene"] = draw.scene_figure(
    cloud.points,
    cloud.colors,
    weights=bone,
    error=size / size.max(),
    surfaces={name: draw.thinned(mesh, 2000) for name, mesh in case.model.items()},
    poses=truth,
)
figures["scene"]

# %%
schedule = Schedule(step="point_to_plane", steps=K, first_scale_mm=8.0, last_scale_mm=2.0)
track = jax.jit(partial(conditioning.along_trajectory, schedule=schedule))(scene, surface, start)
figure = go.Figure()
for title, values in {
    "effective number of points": track.effective,
    "condition": track.condition,
    "gap x 1000": 1e3 * track.gap,
}.items():
    figure.add_scatter(x=np.arange(1, K + 1), y=np.asarray(values), name=title)
figure.update_xaxes(title="unrolled step", dtick=1)
figure.update_yaxes(type="log")
figures["conditioning"] = figure.update_layout(template="plotly_white", height=320)
figures["conditioning"]

# %% [markdown]
# ## Your turn
# Put the prior back (`prior=1.0`): how much does it leak to the steps before? Take
# `correspondences.soft`. Give `paths.by_step` another error: `lambda track:
# losses.trajectory_loss(track, targets, knee=1.0)` judges every step, as training does, and then
# even hard matches learn from all of them. Why?
