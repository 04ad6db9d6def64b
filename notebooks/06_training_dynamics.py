# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The mask finds the bone
#
# Nobody tells the network what bone is. It is told, after a registration with the points that it
# chose, how far off the pose ended. This page trains a small network for a minute and watches one
# frame that it never trains on: which points does it choose, step by step?

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
from e2r.simulation import simulator
from e2r.training import batches, examples, losses
from e2r.training.step import init_state, make_update
from e2r.visualisation import figures as draw

SMALL = bool(os.environ.get("E2R_SMALL"))
enable_cache()  # compiled once, for all notebooks
figures = {}

# %% [markdown]
# ## A small run
# A network of a few thousand parameters, a few specimens, a few unrolled steps. The real ones are
# `python -m experiments.train demo` and `base`.

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
bank = examples.simulated_bank(config)
print(f"{len(bank.names)} examples, of {config.scenes.specimens} specimens")

# %% [markdown]
# ## A frame to watch
# Of a specimen that is not among them. Its bone is known to the simulator, and used for the curves
# below only.

# %%
specimen = simulator.procedural_specimen(jax.random.key(21), "watched")
case, *_ = simulator.simulate_frames(
    jax.random.key(22), specimen, close, count=config.scenes.frames
)
surface = surfaces.build(case.model, seed=0, nodes=config.scenes.nodes, exact=False)
seen = sample_scene_points(case, config.network, seed=0)
cloud, pyramid = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (seen.cloud, seen.pyramid))
rows = seen.rows[0]
bone = oracle_weights(case, seen.rows)[0] > 0
valid = np.asarray(cloud.valid)
targets = examples.make_targets(case)
truth = true_pose(case)
middle = targets.goals[targets.valid].mean(0)
start = poses.perturb(jax.random.key(23), truth, middle, degrees=3.0, mm=3.0)
module = build_mask_network(config.network)
how = Schedule(steps=8 if SMALL else 20)


@jax.jit
def watch(params):
    """Logits of the watched frame, and the TRE with the mask that they make."""
    logits = mask_logits(module, params["mask"], cloud, pyramid)
    weights = mask_estimators.deterministic(jax.random.key(0), logits)
    pose = register_cloud(cloud, weights, surface, start, how).pose
    return logits, losses.mean_target_error(pose, targets)


# %% [markdown]
# ## Train, and watch
# The update and the probe are the trainer's own. The probe looks at the gradient that the step
# follows; it draws with keys of its own, so the run ends in the same parameters, bit for bit, with
# it and without.

# %%
compiled = partial(jax.jit, compiler_options=FAST_COMPILE)  # 240 steps need not be the fastest
update, probe = compiled(make_update(config)), compiled(training_probe.make_probe(config))
state, key = compiled(partial(init_state, config))(), batches.run_key(config)
batches = batches.from_bank(config, bank).batches(1, config.optimisation.steps + 1)
every = 2 if SMALL else 15
story = []
for step in range(config.optimisation.steps + 1):
    batch = next(batches)
    if step % every == 0:
        logits, tre = watch(state.params)
        at = jax.tree.map(float, probe(state.params, batch, key, jnp.int32(step)))
        story.append((step, np.asarray(logits), float(tre), at))
    if step < config.optimisation.steps:
        state, metrics = update(state, batch, key, jnp.int32(step + 1))
watched = [step for step, *_ in story]
print(f"after {watched[-1]} steps: TRE of the watched frame {story[-1][2]:.2f} mm")

# %% [markdown]
# ## The mask, step by step
# Move the slider. The keep probability in red, over the picture.

# %%
images = [
    draw.overlay(case, np.asarray(jax.nn.sigmoid(logits)) * valid, rows) for _, logits, *_ in story
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
figures["mask"] = figure.update_xaxes(visible=False).update_yaxes(visible=False)
figures["mask"]

# %% [markdown]
# ## Does it find bone?
# Precision: the share of bone among the points kept. Recall: the share of bone that is kept. The
# first step keeps nearly all (a positive bias at the start, so that the mask cannot die before it
# has seen a gradient); then tissue goes. Recall pays a little for it: a registration does not need
# all of the bone.

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
figures["curves"] = figure
figures["curves"]

# %% [markdown]
# ## Two heaps
# The logits of bone and of everything else, at the start, half way and at the end: one heap becomes
# two.

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
figures["logits"] = figure.update_layout(template="plotly_white", height=360, barmode="overlay")
figures["logits"]

# %% [markdown]
# ## The gradient behind it
# `draws`: the cosine between the gradients of two draws of the mask, the signal in the noise.
# `coarse`: does the coarse stage, which shares the network, pull the same way? `last step`: how
# much of the gradient one differentiated step would have had.

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
figures["gradient"] = figure.update_layout(template="plotly_white", height=340)
figures["gradient"]

# %% [markdown]
# ## Your turn
# Empty the mask on purpose: `Optimisation(least_keep=0.0, learning_rate=2e-2)`. Train with
# `estimator="soft"`: the curves look better, and the deterministic mask is worse; why? Or start
# farther off (`degrees=10.0, mm=10.0`): beyond the basin of notebook 04, what is left to learn
# from?
