# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a scene to a pose, and to the gradient that teaches the mask
#
# A depth camera sees a spine in an open wound. Which points of the frame should a registration use?
# This page simulates one frame and registers it with all points and with the true bone. Then it
# asks the registration error which points it rewards. e2r's network learns from that answer alone,
# without any label.
#
# Open this page with jupytext (`jupytext --to notebook notebooks/01_quickstart.py`), or run it as a
# script.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import Schedule, register_cloud
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator, specimens
from e2r.training import examples, losses
from e2r.visualisation import figures as draw
from e2r.visualisation.overlays import mask_overlay

enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## A case
# One procedural specimen and one frame of it. The model (the "CT") has all five levels. The wound
# exposes a few of them.

# %%
specimen = specimens.procedural_specimen(jax.random.key(1), "quickstart")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build_surface(case.model, seed=0, nodes=surfaces.PROJECTION_NODES)
print(f"{len(case.points)} points, {case.bone.mean():.0%} of them bone; exposed: {[*case.targets]}")
plots["frame"] = go.Figure(go.Image(z=case.image.color)).update_layout(height=420)
plots["frame"]

# %% [markdown]
# ## Register it
# The initial pose is wrong by 3 degrees and 3 mm per axis (standard deviation). The mask weights
# say how much each point counts.

# %%
sample = sample_scene_points(case, NetworkConfig(points=2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), sample.cloud)
bone = jnp.asarray(oracle_weights(case, sample.rows)[0])
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(3), truth, middle, degrees=3.0, mm=3.0)


@jax.jit
def error(weights):
    """TRE in mm after 15 unrolled steps."""
    result = register_cloud(cloud, weights, surface, start, Schedule(steps=15))
    return losses.mean_target_error(result.pose, targets)


print(f"initial     {losses.mean_target_error(start, targets):6.2f} mm")
print(f"all points  {error(jnp.ones_like(bone)):6.2f} mm")
print(f"true bone   {error(bone):6.2f} mm")

# %% [markdown]
# The scene points, with the bone in red, and the surfaces as registered with the true bone. Turn
# the plot with the mouse. Click on a name to hide it.

# %%
found = register_cloud(cloud, bone, surface, start, Schedule(steps=15))
thin = {name: draw.simplify_mesh(mesh, 2000) for name, mesh in case.model.items()}
plots["registered"] = draw.scene_figure(
    cloud.points, cloud.colors, weights=bone, surfaces=thin, poses=found.pose
)
plots["registered"]

# %% [markdown]
# ## Which points does the error reward?
# The derivative of the TRE with respect to each weight, where all weights are one half. Its sign
# says whether a larger or a smaller weight would help this pose. Its size says how much the point
# matters. Points inside and outside the mask both have a derivative.

# %%
gradient = np.abs(np.asarray(jax.grad(error)(jnp.full_like(bone, 0.5))))
on_bone = np.asarray(bone) > 0
near = gradient > 0
influence = gradient[on_bone & near].mean() / gradient[~on_bone & near].mean()
print(f"a bone point matters {influence:.1f} times as much as another one")
plots["influence"] = draw.scene_figure(cloud.points, cloud.colors, error=gradient / gradient.max())
plots["influence"]

# %% [markdown]
# ## Learn from it
# A mask with one free logit for each point. Only that gradient improves it.

# %%
update = jax.jit(jax.value_and_grad(lambda logits: error(jax.nn.sigmoid(logits))))
logits = jnp.zeros_like(bone)
errors = []
for step in range(40):
    value, slope = update(logits)
    errors.append(float(value))
    logits = logits - 40.0 * slope / (jnp.linalg.norm(slope) + 1e-9)
    if step % 10 == 0:
        print(f"step {step:2d}: TRE {value:5.2f} mm")
raised = np.asarray(logits) > 0.3
share = on_bone[raised].mean()
print(f"{raised.sum()} points have a raised logit; {share:.0%} of them are bone")
print(f"of all points {on_bone.mean():.0%} are bone")
plots["learning"] = go.Figure(go.Scatter(y=errors)).update_layout(
    template="plotly_white", height=320, xaxis_title="step", yaxis_title="TRE, mm"
)
plots["learning"]

# %%
weights = np.asarray(jax.nn.sigmoid(logits))
lifted = np.clip(2.0 * weights - 1.0, 0.0, 1.0) / (2.0 * weights - 1.0).max()
plots["mask"] = go.Figure(go.Image(z=mask_overlay(case, lifted, sample.rows[0])))
plots["mask"].update_layout(height=420)
plots["mask"]

# %% [markdown]
# ## Your turn
# Begin with a worse initial pose (`degrees=8.0`). Let the robust scale begin at 16 mm
# (`Schedule(steps=15, first_scale_mm=16.0)`). Or use `step="point_to_point"`. Which of them still
# learns bone?
