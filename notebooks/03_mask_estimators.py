# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # How wrong is straight-through?
#
# A mask that keeps or drops each point has no derivative. Every estimator substitutes one: some are
# biased, some are noisy, some are both. For a dozen points the true gradient can be computed:
# register with each of the 2^n masks, and add up. This page compares the estimators with it.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.analysis import estimator_bias
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import poses, surfaces
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import Schedule, register_cloud
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator, specimens
from e2r.training import examples, losses
from e2r.types import Cloud

SMALL = bool(os.environ.get("E2R_SMALL"))
POINTS = 6 if SMALL else 12
DRAWS = 100 if SMALL else 2000
enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## A dozen points
# Two of three points lie on bone, the others on the tissue around it. The mask keeps each with a
# probability between 0.3 and 0.9. The loss is that of training: the pose error along an unrolled
# registration.

# %%
specimen = specimens.procedural_specimen(jax.random.key(1), "estimators")
settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
(case,) = simulator.simulate_frames(jax.random.key(2), specimen, settings, count=1)
surface = surfaces.build_surface(
    case.model, seed=0, nodes=2**15 if SMALL else surfaces.PROJECTION_NODES
)
surface = jax.tree.map(jnp.asarray, surface)
sample = sample_scene_points(case, NetworkConfig(points=512 if SMALL else 2048), seed=0)
cloud = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), sample.cloud)
bone = oracle_weights(case, sample.rows)[0] > 0
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(3), truth, middle, degrees=1.0, mm=1.0)
schedule = Schedule(step="point_to_plane", steps=4, first_scale_mm=8.0, last_scale_mm=4.0)


def loss(cloud: Cloud, weights):
    """The loss of training, for one initial pose."""
    track = register_cloud(cloud, weights, surface, start, schedule).trajectory
    return losses.trajectory_loss(track, targets, error_scale_mm=1.0)


near = np.linalg.norm(np.asarray(cloud.points) - middle, axis=1)
order = np.argsort(near + np.where(np.asarray(cloud.valid), 0.0, 1e9))
on, off = (order[bone[order] == kind] for kind in (True, False))
share = 2 * POINTS // 3
rows = np.concatenate([on[:: max(1, len(on) // share)][:share], off[: POINTS - share]])
few = jax.tree.map(lambda leaf: leaf[rows], cloud)
logits = jnp.linspace(-0.8, 2.2, POINTS)[::-1]

# %% [markdown]
# ## The truth
# 2^n registrations give the exact gradient of the expected loss. A positive entry means that
# keeping this point increases the loss.

# %%
exact = jax.jit(partial(estimator_bias.enumerate_masks, partial(loss, few)))(logits)
print(f"expected loss over {2**POINTS} masks: {exact.loss:.4f}")
for row, slope in zip(rows, exact.gradient, strict=True):
    print(f"{'bone ' if bone[row] else 'other'} {slope:+.4f}")

# %% [markdown]
# ## Six estimators
# - *bias*: distance of the mean gradient from the exact one.
# - *deviation*: distance of one draw from the mean. Both are relative to the size of the exact
#   gradient.
# - *one draw*: mean cosine between one draw and the exact gradient. A training step follows one
#   draw.


# %%
@jax.jit
def judged(index, temperature):
    drawn = estimator_bias.draw_gradients(
        jax.random.key(7),
        partial(loss, few),
        logits,
        rows=np.arange(POINTS),
        # By index, so that one compiled program serves all estimators.
        estimator=estimator_bias.estimator_by_index(index, temperature),
        draws=DRAWS,
    )
    return estimator_bias.estimator_quality(drawn, exact)


found = {name: judged(jnp.int32(i), 1.0) for i, name in enumerate(mask_estimators.ESTIMATORS)}
print(f"{'':26s} bias  deviation  cosine  one draw  loss off by")
for name, q in found.items():
    print(
        f"{name:25s} {q.bias:5.2f}  {q.deviation:9.2f}  {q.cosine:6.2f}  {q.draw_cosine:8.2f}"
        f"  {q.loss_bias:+.3f}"
    )
figure = go.Figure()
for field, title in (
    ("bias", "bias"),
    ("deviation", "deviation"),
    ("draw_cosine", "cosine, one draw"),
):
    values = [float(getattr(q, field)) for q in found.values()]
    figure.add_bar(x=[*found], y=values, name=title)
plots["estimators"] = figure.update_layout(template="plotly_white", height=380, barmode="group")
plots["estimators"]

# %% [markdown]
# ## Bias against noise: the temperature
# A cold relaxation has little bias and much noise. A hot one has little noise and much bias. The
# curve of `gumbel_straight_through` shows its compromises. `gumbel_rao` has the same bias and less
# noise.

# %%
temperatures = np.geomspace(0.25, 4.0, 4 if SMALL else 9)
figure = go.Figure()
for name in ("gumbel_straight_through", "gumbel_rao"):
    index = jnp.int32([*mask_estimators.ESTIMATORS].index(name))
    curve = [judged(index, float(t)) for t in temperatures]
    figure.add_scatter(
        x=[float(q.bias) for q in curve],
        y=[float(q.deviation) for q in curve],
        text=[f"{t:.2g}" for t in temperatures],
        mode="lines+markers+text",
        name=name,
        textposition="top right",
    )
figure.update_xaxes(title="bias", rangemode="tozero")
figure.update_yaxes(title="deviation of one draw", type="log")
plots["temperature"] = figure.update_layout(template="plotly_white", height=400)
plots["temperature"]

# %% [markdown]
# ## And on a whole frame?
# The 2^2048 masks of a frame cannot be enumerated. Instead, flip one point of a random mask and
# register again. The mean difference over many masks estimates the gradient of that point without
# bias, and with a known standard error. Here are a few points near the bone, and all estimators.

# %%
every = jnp.where(jnp.asarray(bone), 1.5, -1.5)
picked = np.concatenate([on[:4], off[:4]]) if SMALL else np.concatenate([on[:24:2], off[:24:2]])
many = 16 if SMALL else 64
reference = jax.jit(partial(estimator_bias.sample_masks, loss=partial(loss, cloud), draws=many))(
    jax.random.key(9), logits=every, rows=picked
)
figure = go.Figure()
figure.add_scatter(
    x=np.arange(len(picked)),
    y=np.asarray(reference.gradient),
    name="many masks",
    mode="markers",
    error_y={"array": 2.0 * np.asarray(reference.standard_error)},
    marker={"size": 9, "color": "#222"},
)


@jax.jit
def drawn_by(index):
    estimator = estimator_bias.estimator_by_index(index)
    return estimator_bias.draw_gradients(
        jax.random.key(10),
        partial(loss, cloud),
        every,
        rows=picked,
        estimator=estimator,
        draws=many,
    )


for i, name in enumerate(mask_estimators.ESTIMATORS):
    drawn = drawn_by(jnp.int32(i))
    q = estimator_bias.estimator_quality(drawn, reference)
    print(
        f"{name:25s} bias {q.bias:5.2f}  deviation {q.deviation:6.2f}"
        f"  one draw {q.draw_cosine:5.2f}"
    )
    mean = np.asarray(drawn.gradients.mean(0))
    figure.add_scatter(x=np.arange(len(picked)), y=mean, name=name, mode="lines")
figure.update_xaxes(title=f"point: the first {len(picked) // 2} on bone")
figure.update_yaxes(title="d expected loss / d logit")
plots["frame"] = figure.update_layout(template="plotly_white", height=380)
plots["frame"]

# %% [markdown]
# ## Your turn
# Write an estimator, `(key, logits) -> weights`, and put it into `judged`. REINFORCE is one line:
# its "gradient" is `loss(mask) * (mask - keep)`. How many draws does it need to equal one draw of
# straight-through? Or begin with a worse initial pose (`degrees=4.0, mm=4.0`): which estimator
# suffers most?
