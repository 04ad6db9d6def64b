# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The mask finds the bone
#
# Nobody tells the network what bone is. It chooses points, a registration uses them, and the
# network learns how far off the pose ended. This page trains a small network for a minute. It
# watches one frame outside the training set: which points does the network choose, step by step?

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

from e2r.analysis import training_probe
from e2r.config import OptimisationConfig, ScenesConfig, TrainingConfig
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import poses, surfaces
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig, build_mask_network, mask_logits
from e2r.registration.schedule import Schedule, register_cloud
from e2r.runtime.compile_cache import FAST_COMPILE, enable_cache
from e2r.simulation import simulator, specimens
from e2r.training import batches, examples, losses, sources
from e2r.training.step import init_state, train_step
from e2r.visualisation.overlays import mask_overlay

SMALL = bool(os.environ.get("E2R_SMALL"))
enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## A small run
# A network of a few thousand parameters, a few specimens, and a few unrolled steps. For real runs,
# see `e2r train demo` and `base`.

# %%
coarse = {"tokens": 32, "samples": 64, "coarse_width": 16, "coarse_layers": 1}
close = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
config = TrainingConfig(
    network=NetworkConfig(points=1024, widths=(16, 32, 48), neighbours=8, **coarse),
    scenes=ScenesConfig(specimens=6, frames=5, simulation=close, nodes=2**16),
    schedule=Schedule(step="point_to_plane", steps=6, first_scale_mm=8.0, last_scale_mm=2.0),
    optimisation=OptimisationConfig(steps=240, batch=6, learning_rate=6e-3),
)
if SMALL:
    config = TrainingConfig(
        network=NetworkConfig(points=256, widths=(8, 16), neighbours=4, **coarse),
        scenes=ScenesConfig(specimens=1, frames=4, simulation=close, nodes=2**15),
        schedule=Schedule(step="point_to_plane", steps=3, last_scale_mm=2.0),
        optimisation=OptimisationConfig(steps=8, batch=2),
    )
bank = sources.simulated(config)
print(f"{len(bank.names)} examples, of {config.scenes.specimens} specimens")

# %% [markdown]
# ## A frame to watch
# It shows a specimen outside the training set. The simulator knows its bone, which only the curves
# below use.

# %%
specimen = specimens.procedural_specimen(jax.random.key(21), "watched")
case, *_ = simulator.simulate_frames(
    jax.random.key(22), specimen, close, count=config.scenes.frames
)
surface = surfaces.build_surface(case.model, seed=0, nodes=config.scenes.nodes, exact=False)
sample = sample_scene_points(case, config.network, seed=0)
cloud, pyramid = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (sample.cloud, sample.pyramid))
rows = sample.rows[0]
bone = oracle_weights(case, sample.rows)[0] > 0
valid = np.asarray(cloud.valid)
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(23), truth, middle, degrees=3.0, mm=3.0)
module = build_mask_network(config.network)
how = Schedule(steps=8 if SMALL else 20)


@jax.jit
def watch(params):
    """Logits of the watched frame, and the TRE with their mask."""
    logits = mask_logits(module, params["mask"], cloud, pyramid)
    weights = mask_estimators.deterministic(jax.random.key(0), logits)
    pose = register_cloud(cloud, weights, surface, start, how).pose
    return logits, losses.mean_target_error(pose, targets)


# %% [markdown]
# ## Train, and watch
# The step and the probe are those of `experiments.train`. The probe examines the gradient that the
# step follows. It has random keys of its own, so the run ends with the same parameters, bit for
# bit, with and without it.

# %%
compiled = partial(jax.jit, compiler_options=FAST_COMPILE)  # 240 steps need not be the fastest
update = compiled(partial(train_step, config=config))
probe = compiled(training_probe.make_probe(config))
state, key = compiled(partial(init_state, config))(), batches.run_key(config)
stream = batches.uniform_batches(config, bank).iterate(1, config.optimisation.steps + 1)
every = 2 if SMALL else 15
story = []
for step in range(config.optimisation.steps + 1):
    batch = next(stream)
    if step % every == 0:
        logits, tre = watch(state.params)
        at = jax.tree.map(float, probe(state.params, batch, key, jnp.int32(step)))
        story.append((step, np.asarray(logits), float(tre), at))
    if step < config.optimisation.steps:
        state, metrics = update(state, batch, key)
watched = [step for step, *_ in story]
print(f"after {watched[-1]} steps: TRE of the watched frame {story[-1][2]:.2f} mm")

# %% [markdown]
# ## The mask, step by step
# Move the slider. The keep probability is shown in red.

# %%
images = [
    mask_overlay(case, np.asarray(jax.nn.sigmoid(logits)) * valid, rows) for _, logits, *_ in story
]
figure = go.Figure(
    data=[go.Image(z=images[-1])],
    frames=[
        go.Frame(data=[go.Image(z=image)], name=str(step))
        for step, image in zip(watched, images, strict=True)
    ],
)
moves = [
    {
        "label": str(step),
        "method": "animate",
        "args": [[str(step)], {"mode": "immediate", "frame": {"duration": 0}}],
    }
    for step in watched
]
figure.update_layout(
    sliders=[{"steps": moves, "active": len(moves) - 1, "currentvalue": {"prefix": "step "}}],
    height=480,
)
plots["mask"] = figure.update_xaxes(visible=False).update_yaxes(visible=False)
plots["mask"]

# %% [markdown]
# ## Does it find bone?
# Precision is the share of bone among the points kept. Recall is the share of bone that is kept.
# The first mask keeps nearly all points, because the network begins with a positive bias. Otherwise
# the mask could empty before it has a gradient. Then tissue is dropped, and recall falls a little:
# a registration does not need all of the bone.

# %%
kept = [(logits > 0) & valid for _, logits, *_ in story]
curves = {
    "share kept": [k.sum() / valid.sum() for k in kept],
    "precision": [(k & bone).sum() / max(k.sum(), 1) for k in kept],
    "recall": [(k & bone).sum() / max(bone.sum(), 1) for k in kept],
}
figure = go.Figure()
for name, values in curves.items():
    figure.add_scatter(x=watched, y=values, name=name)
tres = [tre for _, _, tre, _ in story]
figure.add_scatter(x=watched, y=tres, name="TRE, mm (right)", yaxis="y2", line={"dash": "dot"})
figure.update_layout(
    template="plotly_white",
    height=380,
    yaxis={"range": [0, 1.02], "title": "share"},
    yaxis2={"overlaying": "y", "side": "right", "title": "TRE, mm", "rangemode": "tozero"},
    xaxis={"title": "training step"},
    legend={"orientation": "h", "y": 1.12},
)
plots["curves"] = figure
plots["curves"]

# %% [markdown]
# ## One distribution becomes two
# The logits of bone and of everything else: at the beginning, half way, and at the end.

# %%
figure = go.Figure()
for index, opacity in ((0, 0.25), (len(story) // 2, 0.5), (len(story) - 1, 0.9)):
    step, logits, *_ = story[index]
    for name, which, color in (("bone", bone, "#2e86ab"), ("other", ~bone & valid, "#d1495b")):
        figure.add_histogram(
            x=logits[which],
            name=f"{name}, step {step}",
            opacity=opacity,
            marker_color=color,
            histnorm="probability",
            nbinsx=40,
        )
figure.update_xaxes(title="logit: kept above 0")
plots["logits"] = figure.update_layout(template="plotly_white", height=360, barmode="overlay")
plots["logits"]

# %% [markdown]
# ## The gradient behind it
# - *draws*: cosine between the gradients of two draws of the mask. It is 1 without noise.
# - *coarse*: cosine between the gradients of the mask's loss and of the coarse stage's loss. Below
#   0 they disagree about the network that they share.
# - *last step*: cosine between the last step's gradient and the whole gradient, with respect to the
#   weights.

# %%
figure = go.Figure()
for name, field in (
    ("draws: cosine", "draws_cosine"),
    ("coarse: cosine", "coarse_cosine"),
    ("last step: cosine", "last_cosine"),
):
    values = [getattr(at, field) for *_, at in story]
    figure.add_scatter(x=watched, y=values, name=name, mode="lines+markers")
figure.update_xaxes(title="training step")
figure.update_yaxes(range=[-1.05, 1.05])
plots["gradient"] = figure.update_layout(template="plotly_white", height=340)
plots["gradient"]

# %% [markdown]
# ## Your turn
# Empty the mask on purpose: `OptimisationConfig(min_keep_ratio=0.0, learning_rate=2e-2)`. Train
# with `estimator="soft"`: the curves look better, but the deterministic mask is worse. Why? Or
# begin with worse initial poses (`start_noise_deg=10.0, start_noise_mm=10.0`). What is left to
# learn beyond the basin of notebook 04?
