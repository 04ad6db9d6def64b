# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own kernel, estimator, network and loss
#
# Nothing in e2r is edited here. Four functions of yours go into the settings, a small network is
# trained with them, and the trained model is evaluated. Then one constant changes, and so do the
# figures: a compiled program belongs to the code that it was made from.

# %%
import os
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

import e2r
from e2r.networks.mask_network import MaskOutput

SMALL = bool(os.environ.get("E2R_SMALL"))
plots = {}

# %% [markdown]
# ## Four functions
# In a file of your own they would be named `mine:cauchy` and so on, in the shell as well.


# %%
TAIL = 1.0
BRAKE = 0.05


def cauchy(square, weights, scale):
    """A robust kernel: squared distances in mm^2, mask weights, scale in mm -> weights."""
    return 1.0 / (1.0 + TAIL * square / (scale * scale))


def warm(key, logits):
    """A mask estimator: random key, mask logits -> mask weights."""
    return jax.nn.sigmoid(2.0 * logits)


class PointMlp(nn.Module):
    """It sees colour and normal of a point, and none of its neighbours."""

    @nn.compact
    def __call__(self, cloud, pyramid):
        hidden = nn.gelu(nn.Dense(32)(jnp.concatenate([cloud.normals, cloud.colors], axis=1)))
        hidden = nn.gelu(nn.Dense(32)(hidden))
        out = nn.Dense(2)(hidden)
        return MaskOutput(logits=out[:, 0] + 1.0, interest=out[:, 1], features=hidden)


def point_mlp(config):
    """A mask network: the network's settings -> a Linen module."""
    return PointMlp()


def sparse(inputs):
    """A loss term: a mask that keeps fewer points costs less."""
    return BRAKE * jnp.mean(inputs.weights)


# %% [markdown]
# ## The kernels beside each other
# A far point still pulls under Cauchy's kernel; under Welsch's it does not.

# %%
distance = np.linspace(0.0, 8.0, 60)
flat = np.ones_like(distance)
shown = go.Figure()
for name, kernel in {"welsch": e2r.Schedule().chosen_kernel(), "cauchy": cauchy}.items():
    weights = np.asarray(kernel(distance**2, flat, 2.0))
    shown.add_scatter(x=distance, y=weights, name=name)
shown.update_layout(title="Robust weight", xaxis_title="distance, mm", yaxis_title="weight")
plots["kernels"] = shown

# %% [markdown]
# ## Train with them
# The settings take the functions themselves. `on_log` gets each line of the log.

# %%
config = e2r.NAMED_CONFIGS["tiny"][1]
config = replace(
    config,
    network=replace(config.network, mask_network=point_mlp),
    schedule=replace(config.schedule, kernel=cauchy),
    optimisation=replace(
        config.optimisation,
        estimator=warm,
        loss_terms=(sparse,),
        steps=8 if SMALL else 200,
        learning_rate=6e-3,
    ),
)
print(config.schedule.kernel, config.network.mask_network)
cases = e2r.simulate(1 if SMALL else 6, seed=7)
lines = []
model = e2r.train(config, cases, on_log=lines.append, log_every=2 if SMALL else 10)

# %%
story = go.Figure()
for name in ("loss", "tre_mm", "keep"):
    story.add_scatter(
        x=[line["step"] for line in lines], y=[line[name] for line in lines], name=name
    )
story.update_layout(title="Training", xaxis_title="step", yaxis_type="log")
plots["training"] = story

# %% [markdown]
# ## Evaluate with them
# The learnt mask beside all points and the true bone, on specimens of another seed. Each case
# begins near its true pose, because a network this small finds no wound.

# %%
unseen = e2r.simulate(1 if SMALL else 6, seed=8)
schedule = e2r.Schedule(kernel=cauchy, step="point_to_plane", steps=10 if SMALL else 40)
program = e2r.ProgramConfig(schedule=schedule, per_level=False, num_samples=1)
job = e2r.EvaluationConfig(program=program, start="truth", batch=1)
masks = ("all", "learnt", "oracle")
evaluation = e2r.evaluate(unseen, model, masks=masks, estimator=warm, job=job)
print(evaluation.to_table())

# %% [markdown]
# ## Another constant, other figures
# The same settings are evaluated again. The kernel's tail is shorter now, and nothing else.

# %%
TAIL = 9.0
again = e2r.evaluate(unseen, model, masks=masks, estimator=warm, job=job)
print(again.to_table())
errors = {
    "TAIL = 1": [row["tre_mm"] for row in evaluation.rows],
    "TAIL = 9": [row["tre_mm"] for row in again.rows],
}
compared = go.Figure()
labels = [f"{row['id']} {row['mask']}" for row in evaluation.rows]
for name, values in errors.items():
    compared.add_bar(x=labels, y=values, name=name)
compared.update_layout(title="TRE", yaxis_title="mm")
plots["errors"] = compared

# %% [markdown]
# ## Your turn
# Give `PointMlp` the neighbours as well: `pyramid.within[0]` has their indices. Does the mask get
# better? Or write a kernel that is zero beyond twice the scale, and look where training fails.
