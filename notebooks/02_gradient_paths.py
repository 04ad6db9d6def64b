# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Which step carries the gradient?
#
# An unrolled registration is a deep network without parameters: K steps in a row, and each uses the
# mask weights. The error at the end is differentiated through all steps. Does each step really pass
# the gradient on? That depends on what a step keeps of the pose before it.
#
# `gradient_by_step` gives every step its own copy of the weights. The gradient with respect to copy
# k is the contribution of step k. The sum of the contributions is the whole gradient.

# %%
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.analysis import conditioning, gradient_check, gradient_paths
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.formats import meshes
from e2r.geometry import correspondences, poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration import iterate, steps
from e2r.registration.schedule import Schedule, apply_mask
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator, specimens
from e2r.training import examples, losses
from e2r.types import Example
from e2r.visualisation import figures as draw
from e2r.visualisation.plots import heat_maps

SMALL = bool(os.environ.get("E2R_SMALL"))  # quicker, with coarser plots
enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## A scene
# One simulated frame. It shows a real spine if its surfaces lie beside the project, or else a
# procedural one. The mask is good but not perfect: bone weighs 0.9, everything else 0.05.

# %%
folders = [Path(up) / "shared/data/anatomy/lumbar_mean" for up in ("..", "../..")]
real = [folder for folder in folders if folder.is_dir() and not SMALL]
if real:
    specimen = specimens.specimen_from_surfaces(meshes.read_meshes(real[0]), "lumbar_mean")
else:
    specimen = specimens.procedural_specimen(jax.random.key(1), "paths")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build_surface(
    case.model, seed=0, nodes=2**15 if SMALL else surfaces.PROJECTION_NODES
)
surface = jax.tree.map(jnp.asarray, surface)
sample = sample_scene_points(case, NetworkConfig(points=512 if SMALL else 2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), sample.cloud)
bone = jnp.asarray(oracle_weights(case, sample.rows)[0])
scene = apply_mask(cloud, 0.05 + 0.85 * bone)
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(5), truth, middle, degrees=2.0, mm=2.0)
off = losses.mean_target_error(start, targets)
print(f"{specimen.name}: {len(case.points)} points; the initial pose is {off:.2f} mm off")

# %% [markdown]
# ## Five ways to take a step
# All use Welsch's kernel with an annealed scale. Their robust weights are **detached**, as they
# are by default. The end of this notebook keeps their derivative.
#
# - *points, hard matches*: point-to-point ICP. Each point is matched with the centre of a triangle.
# - *points, projected*: the same, but matched with the nearest point **on** the surface.
# - *planes, hard matches* and *planes, projected*: point-to-plane.
# - *symmetric*: the step that e2r uses in evaluations.
#
# The damping prior is off, because its virtual points keep a little of the pose before.

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
    by_step = jax.jit(
        partial(
            gradient_paths.gradient_by_step,
            scales=scales,
            step=partial(step, prior=0.0),
            error=error,
        )
    )
    found[name] = jax.tree.map(np.asarray, by_step(scene, surface, start))

# %% [markdown]
# ## Which step contributes
# The size of each step's contribution, relative to the last step. The axis is logarithmic.
#
# **With hard point-to-point matches, only the last step contributes. The rest is rounding.** Move
# the initial pose a little: the same points match the same triangles, and Procrustes finds the same
# pose. So the pose after a step has no derivative with respect to the pose before it. K unrolled
# steps teach no more than one step. (All steps still determine the *value* at the end.)
#
# A tangent plane lets a point slide, and where it slides to depends on the pose. So the gradient
# goes on to earlier steps. Each earlier step keeps a few per cent of it, because a step that
# converges fast forgets fast. Projected matches slide with every kind of step.

# %%
shares = {name: one.share_norms / one.share_norms[-1] for name, one in found.items()}
figure = go.Figure()
for name, share in shares.items():
    shown = np.maximum(share, 1e-9)  # so that zero has a place on the axis
    figure.add_scatter(x=np.arange(1, K + 1), y=shown, name=name, mode="lines+markers")
figure.update_xaxes(title="unrolled step", dtick=1)
figure.update_yaxes(title="gradient by this step, last step = 1", type="log", exponentformat="e")
plots["shares"] = figure.update_layout(template="plotly_white", height=380)
plots["shares"]

# %%
for name, share in shares.items():
    print(f"{name:22s} all steps but the last: {share[:-1].max():8.1e} of the last at most")

# %% [markdown]
# ## How many steps must be differentiated?
# The cosine between the truncated and the whole gradient. Where it is near 1 after a few steps, the
# mode `last` teaches as well as `unrolled`, and it stores only those few steps.

# %%
figure = go.Figure()
for name, one in found.items():
    figure.add_scatter(
        x=np.arange(1, K + 1), y=one.truncated_cosines[::-1], name=name, mode="lines+markers"
    )
figure.update_xaxes(title="steps differentiated, from the end", dtick=1)
figure.update_yaxes(title="cosine with the whole gradient")
plots["truncated"] = figure.update_layout(template="plotly_white", height=380)
plots["truncated"]

# %% [markdown]
# ## Four modes, side by side
# `unrolled`, `last`, `one_step` and `implicit` (the derivative of the fixed point). The
# registration and its pose are the same; the four gradients differ.

# %%
name = [*ways][-1]
by_mode = partial(gradient_paths.gradient_by_mode, scales=scales, step=ways[name], error=error)
modes = jax.jit(by_mode)(scene, surface, start, by_step=found[name])
plots["modes"] = heat_maps(
    {name: modes.comparison.cosines},
    iterate.GRADIENT_MODES,
    iterate.GRADIENT_MODES,
    x_title="",
    y_title="",
    unit="cosine",
    limits=(-1.0, 1.0),
)
plots["modes"]

# %% [markdown]
# ## Which points have the gradient, and how well is each step determined?
# First the points, coloured by the size of their gradient, with the surfaces at their true pose.
# Then the conditioning of each step: the Procrustes gap and the effective number of points.

# %%
size = np.abs(found[name].truncated[0])
plots["scene"] = draw.scene_figure(
    cloud.points,
    cloud.colors,
    weights=bone,
    error=size / size.max(),
    surfaces={name: draw.simplify_mesh(mesh, 2000) for name, mesh in case.model.items()},
    poses=truth,
)
plots["scene"]

# %%
schedule = Schedule(step="point_to_plane", steps=K, first_scale_mm=8.0, last_scale_mm=2.0)
track = jax.jit(partial(conditioning.along_trajectory, schedule=schedule))(scene, surface, start)
figure = go.Figure()
for title, values in {
    "effective number of points": track.effective_points,
    "condition": track.condition,
    "gap x 1000": 1e3 * track.gap,
}.items():
    figure.add_scatter(x=np.arange(1, K + 1), y=np.asarray(values), name=title)
figure.update_xaxes(title="unrolled step", dtick=1)
figure.update_yaxes(type="log")
plots["conditioning"] = figure.update_layout(template="plotly_white", height=320)
plots["conditioning"]

# %% [markdown]
# ## Is the gradient right?
# Central differences know nothing of derivatives. `gradient_check` compares both for the logits
# with the strongest gradients. Where they differ, it replaces one path after the other by what
# autodiff believes of it: look-up cells that do not change, steps that are not differentiated,
# robust weights that stay as they were. Each bar is the cosine that is then left.
#
# With cut robust weights, the gradient is that of another function. With
# `detach_robust_weights=False` it is that of the registration, over a small step. Over a larger
# one, points change their triangles. No derivative shows such a jump.

# %%
case_example = Example(cloud, None, surface, targets, truth)  # the networks are not needed
mask = 0.05 + 0.85 * bone
checks = {}
for title, eps, settings in (
    ("cut weights", 1e-3, {}),
    ("whole", 1e-3, {"detach_robust_weights": False}),
    ("whole, larger step", 3e-2, {"detach_robust_weights": False}),
)[: 2 if SMALL else 3]:
    checks[title] = gradient_check(
        case_example,
        Schedule("point_to_plane", steps=K, first_scale_mm=8.0, last_scale_mm=2.0, **settings),
        logits=jnp.log(mask) - jnp.log1p(-mask),
        start=start,
        points=8 if SMALL else 30,
        eps=eps,
    )
    print(title, checks[title], sep="\n", end="\n\n")

# %%
figure = go.Figure()
for title, check in checks.items():
    left = [path for path in check.paths if path.used]
    figure.add_bar(
        x=["as it is", *(path.name for path in left)],
        y=[check.cosine, *(path.cosine for path in left)],
        name=title,
    )
figure.update_yaxes(title="cosine with central differences")
plots["check"] = figure.update_layout(template="plotly_white", height=320)
plots["check"]

# %% [markdown]
# ## Your turn
# Turn the prior on (`prior=1.0`): how much of the gradient does it pass to earlier steps? Use
# `correspondences.soft`. Give `gradient_by_step` another error: `lambda trajectory:
# losses.trajectory_loss(trajectory, targets, error_scale_mm=1.0)` judges every step, as training
# does. Then even hard matches learn from all steps. Why?
