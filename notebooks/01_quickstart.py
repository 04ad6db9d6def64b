# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a scene to a pose, and to the gradient that teaches the mask
#
# A spine, a wound, a depth camera; which points of the picture should a registration use? This page
# simulates one frame, registers it with every point and with the true bone, and then asks the
# registration error itself which points it would rather have. That answer, and no label, is what
# e2r's network learns from.
#
# Open with jupytext (`jupytext --to notebook notebooks/01_quickstart.py`), or run as a script.

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
from e2r.simulation import simulator
from e2r.training import examples, losses
from e2r.visualisation import figures as draw

enable_cache()  # compiled once, for all notebooks
figures = {}

# %% [markdown]
# ## A case
# One specimen that does not exist, photographed once. The model (the "CT") has all five levels; the
# wound exposes a few of them.

# %%
specimen = simulator.procedural_specimen(jax.random.key(1), "quickstart")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build(case.model, seed=0, nodes=surfaces.COARSE)
print(f"{len(case.points)} points, {case.bone.mean():.0%} of them bone; exposed: {[*case.targets]}")
figures["picture"] = go.Figure(go.Image(z=case.image.color)).update_layout(height=420)
figures["picture"]

# %% [markdown]
# ## Register it
# The start is 3 degrees and 3 mm off per axis. `weights` say how much each point counts.

# %%
seen = sample_scene_points(case, NetworkConfig(points=2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), seen.cloud)
bone = jnp.asarray(oracle_weights(case, seen.rows)[0])
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(3), truth, middle, degrees=3.0, mm=3.0)


@jax.jit
def error(weights):
    """TRE in mm after 15 unrolled steps."""
    result = register_cloud(cloud, weights, surface, start, Schedule(steps=15))
    return losses.mean_target_error(result.pose, targets)


print(f"start       {losses.mean_target_error(start, targets):6.2f} mm")
print(f"all points  {error(jnp.ones_like(bone)):6.2f} mm")
print(f"true bone   {error(bone):6.2f} mm")

# %% [markdown]
# The scene, with the bone in red and the surfaces where the true bone puts them. Turn it; click on
# a name to hide it.

# %%
found = register_cloud(cloud, bone, surface, start, Schedule(steps=15))
thin = {name: draw.thinned(mesh, 2000) for name, mesh in case.model.items()}
figures["registered"] = draw.scene_figure(
    cloud.points, cloud.colors, weights=bone, surfaces=thin, poses=found.pose
)
figures["registered"]

# %% [markdown]
# ## Which points does the error reward?
# The derivative of the TRE with respect to each weight, where all count half. Its sign says whether
# more or less of a point would help this one pose; its size says how much the point matters at all.
# It reaches points that are in and points that are out.

# %%
gradient = np.abs(np.asarray(jax.grad(error)(jnp.full_like(bone, 0.5))))
on_bone = np.asarray(bone) > 0
near = gradient > 0
influence = gradient[on_bone & near].mean() / gradient[~on_bone & near].mean()
print(f"a bone point matters {influence:.1f} times as much as another one")
figures["influence"] = draw.scene_figure(
    cloud.points, cloud.colors, error=gradient / gradient.max()
)
figures["influence"]

# %% [markdown]
# ## Learn from it
# A mask of free logits, one a point, improved by nothing but that gradient.

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
print(f"{raised.sum()} points raised; bone is {share:.0%} of them, and {on_bone.mean():.0%} of all")
figures["learning"] = go.Figure(go.Scatter(y=errors)).update_layout(
    template="plotly_white", height=320, xaxis_title="step", yaxis_title="TRE, mm"
)
figures["learning"]

# %%
weights = np.asarray(jax.nn.sigmoid(logits))
lifted = np.clip(2.0 * weights - 1.0, 0.0, 1.0) / (2.0 * weights - 1.0).max()
figures["mask"] = go.Figure(go.Image(z=draw.overlay(case, lifted, seen.rows[0])))
figures["mask"].update_layout(height=420)
figures["mask"]

# %% [markdown]
# ## Your turn
# Start farther off (`degrees=8.0`), let the robust scale begin at 16 mm
# (`pipeline.Schedule(steps=15, first_scale=16.0)`), or take `step="point_to_point"`. Which of them
# still learns bone?
