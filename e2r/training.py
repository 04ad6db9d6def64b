"""Learning the mask from the registration error: state, loss, step, loop.

The step is pure, ``(state, batch, key) -> (state, metrics)``, and compiles for CPU, GPU and TPU
as it stands. Batches hold no label of bone: the pose is the only teacher.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from e2r import checkpoints, losses, pipeline
from e2r.datasets import cases, simulated
from e2r.geometry import poses, surfaces
from e2r.segmentation import masks
from e2r.segmentation.network import MaskNetwork
from e2r.types import Array, Example, MaskEstimator, Params, Pose, Surface, Targets

TARGETS = 96
"""Targets of an example, padded or thinned to this."""


@dataclass(frozen=True)
class Scenes:
    """The scenes to train on."""

    specimens: int = 64
    """procedural specimens"""
    frames: int = 10
    """scenes of each specimen"""
    simulation: simulated.Simulation = simulated.Simulation(fill=(0.2, 0.8), least_bone=0.02)
    samples: int = 16384
    """surface samples of a model"""
    cells: int = 2**17
    """grid cells of a model"""


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and teacher."""

    steps: int = 1800
    """training steps"""
    batch: int = 8
    """scenes a step"""
    learning_rate: float = 3e-3
    """peak of the learning rate: short warm-up, then a cosine"""
    weight_decay: float = 1e-4
    clip: float = 1.0
    """largest global norm of a gradient"""
    degrees: float = 4.0
    """standard deviation of the start's rotation per axis, degrees"""
    mm: float = 4.0
    """standard deviation of the start's translation per axis, mm"""
    knee: float = 1.0
    """mm: errors well above it count by their order of magnitude"""
    temperature: float = 1.0
    """of the Gumbel-softmax mask"""
    least_keep: float = 0.03
    """a mask that is expected to keep less is pushed back"""
    checkpoint_every: int = 200
    """steps between checkpoints"""


@dataclass(frozen=True)
class Config:
    """One training run, whole."""

    seed: int = 0
    """of the scenes, the starting parameters and every step"""
    network: pipeline.Network = pipeline.Network()
    scenes: Scenes = Scenes()
    schedule: pipeline.Schedule = pipeline.Schedule(steps=10, first_scale=8.0, last_scale=1.5)
    optimisation: Optimisation = Optimisation()


CONFIGS: dict[str, tuple[str, Config]] = {
    "demo": (
        "Minutes on two cores: 64 specimens in close-up scenes.",
        Config(),
    ),
    "base": (
        "Two hours on two cores: 512 specimens, every distance.",
        Config(
            network=pipeline.Network(widths=(48, 96, 144), blocks=2),
            scenes=Scenes(
                specimens=512, frames=8, simulation=simulated.Simulation(least_bone=0.01)
            ),
            optimisation=Optimisation(steps=12000, learning_rate=2e-3),
        ),
    ),
}


class TrainState(NamedTuple):
    """All that a step changes; keys derive from the seed and the step."""

    step: Array  # () int32, steps done
    params: Params
    optimiser: optax.OptState


class Metrics(NamedTuple):
    """Figures of one step, of the masks and poses it trained on."""

    loss: Array  # ()
    tre_mm: Array  # () median over the batch, after the last unrolled step
    start_mm: Array  # () median over the batch, at the start
    keep: Array  # () mean share of points kept
    gradient: Array  # () global norm before clipping


class Bank(NamedTuple):
    """Scenes held in memory: examples with a leading axis, models once a specimen."""

    examples: Example  # surface: None
    surfaces: Surface
    specimen: Array  # (scenes,) int32, row of `surfaces`


# Data ---------------------------------------------------------------------------------------------


def make_targets(case: cases.Case) -> Targets:
    """The points a case is judged at, in both frames, padded."""
    model, goals = [], []
    for name, points in cases.scored_targets(case).items():
        model.append(points)
        goals.append(np.asarray(poses.apply(case.truth[name], points.astype(np.float32))))  # type: ignore[index]
    rows, ends = np.concatenate(model), np.concatenate(goals)
    if len(rows) > TARGETS:
        pick = np.linspace(0, len(rows) - 1, TARGETS).astype(int)
        rows, ends = rows[pick], ends[pick]
    pad = ((0, TARGETS - len(rows)), (0, 0))
    return Targets(
        np.pad(rows, pad).astype(np.float32),
        np.pad(ends, pad).astype(np.float32),
        np.arange(TARGETS) < len(rows),
    )


def make_example(case: cases.Case, settings: pipeline.Network, *, seed: int) -> Example:
    """A training example of a case that has a truth, without its surface."""
    seen = pipeline.see(case, settings, seed=seed)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (seen.cloud, seen.pyramid))
    return Example(cloud, pyramid, None, make_targets(case), cases.true_pose(case))  # type: ignore[arg-type]


def make_bank(
    groups: Iterable[Sequence[cases.Case]],
    config: Config,
    *,
    total: int | None = None,
) -> Bank:
    """Prepares scenes for training.

    Args:
      groups: cases that share one model, a group a specimen.
      config: network and scene sizes.
      total: number of groups, for the progress bar.
    """
    examples: list[Example] = []
    models: list[Surface] = []
    specimen: list[int] = []
    for group in tqdm(groups, total=total, desc="scenes", unit="specimen"):
        models.append(
            surfaces.build(
                group[0].model,
                seed=config.seed,
                samples=config.scenes.samples,
                cells=config.scenes.cells,
            )
        )
        for case in group:
            examples.append(make_example(case, config.network, seed=len(examples)))
            specimen.append(len(models) - 1)

    def stack(*leaves: Array) -> np.ndarray:
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return Bank(
        jax.tree.map(stack, *examples),
        jax.tree.map(stack, *models),
        np.array(specimen, np.int32),
    )


def simulated_bank(config: Config) -> Bank:
    """The scenes that ``config`` describes; the same for the same seed."""
    settings = config.scenes
    groups = simulated.simulate(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        settings.simulation,
        specimens=settings.specimens,
        frames=settings.frames,
        prefix="train",
    )
    return make_bank(groups, config, total=settings.specimens)


def read_bank(folder: Path, config: Config) -> Bank:
    """Scenes from case folders, one model a case.

    Raises:
      ValueError: a case is broken or has no truth to learn from.
    """

    def groups() -> Iterable[list[cases.Case]]:
        for path in cases.find(folder):
            case = cases.read(path)
            if case.truth is None:
                raise ValueError(f"{path}: has no truth.json, which training needs; leave it out")
            yield [case]

    return make_bank(groups(), config)


def draw_batch(bank: Bank, key: Array, batch: int) -> Example:
    """Draws ``batch`` examples evenly from the bank."""
    pick = jax.random.randint(key, (batch,), 0, bank.specimen.shape[0])
    examples = jax.tree.map(lambda leaf: jnp.asarray(leaf)[pick], bank.examples)
    row = jnp.asarray(bank.specimen)[pick]
    return examples._replace(
        surface=jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], bank.surfaces)
    )


def augment(key: Array, example: Example) -> Example:
    """Turns the scene about its middle (any roll, a little tilt) and changes its colours."""
    k_roll, k_tilt, k_gain = jax.random.split(key, 3)
    valid = example.cloud.valid[:, None]
    centre = jnp.sum(jnp.where(valid, example.cloud.points, 0.0), 0) / jnp.maximum(valid.sum(), 1)
    roll = jax.random.uniform(k_roll, (), maxval=2 * jnp.pi)
    tilt = jnp.deg2rad(8.0) * jax.random.normal(k_tilt, (2,))
    turn = poses.exp_rotation(jnp.append(tilt, 0.0)) @ poses.exp_rotation(
        jnp.stack([0.0 * roll, 0.0 * roll, roll])
    )
    motion = poses.about(Pose(turn, jnp.zeros(3)), centre)
    gain = jnp.exp(0.15 * jax.random.normal(k_gain, (4,)))
    colors = jnp.clip(example.cloud.colors * gain[:3] * gain[3], 0.0, 1.0)
    cloud = example.cloud._replace(
        points=poses.apply(motion, example.cloud.points),
        normals=poses.rotate(motion, example.cloud.normals),
        colors=colors,
    )
    targets = example.targets._replace(goals=poses.apply(motion, example.targets.goals))
    return example._replace(cloud=cloud, targets=targets, pose=poses.compose(motion, example.pose))


# Loss and step ------------------------------------------------------------------------------------


def example_loss(
    params: Params,
    key: Array,
    example: Example,
    *,
    module: MaskNetwork,
    config: Config,
    estimator: MaskEstimator | None = None,
) -> tuple[jax.Array, Metrics]:
    """Loss of one example: pose error along the unrolled registration of its sampled mask."""
    options = config.optimisation
    if estimator is None:
        estimator = partial(masks.gumbel_straight_through, temperature=options.temperature)
    k_augment, k_mask, k_start = jax.random.split(key, 3)
    example = augment(k_augment, example)
    cloud, targets = example.cloud, example.targets
    logits = pipeline.logits(module, params, cloud, example.pyramid)
    weights = estimator(k_mask, logits)
    valid = targets.valid[:, None]
    middle = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0) / jnp.maximum(jnp.sum(valid), 1)
    start = poses.perturb(k_start, example.pose, middle, degrees=options.degrees, mm=options.mm)
    result = pipeline.register(cloud, weights, example.surface, start, config.schedule)
    loss = losses.trajectory_loss(result.trajectory, targets, knee=options.knee)
    loss = loss + losses.keep_hinge(logits, cloud.valid, least=options.least_keep)
    kept = jnp.sum(weights * cloud.valid) / jnp.maximum(jnp.sum(cloud.valid), 1)
    return loss, Metrics(
        loss=loss,
        tre_mm=losses.mean_target_error(result.pose, targets),
        start_mm=losses.mean_target_error(start, targets),
        keep=kept,
        gradient=jnp.zeros(()),
    )


def make_optimiser(options: Optimisation) -> optax.GradientTransformation:
    """AdamW with clipping, warm-up and a cosine."""
    warm = min(30, max(1, options.steps // 10))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, warm, max(options.steps, warm + 1),
        0.02 * options.learning_rate,
    )  # fmt: skip
    return optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.adamw(rate, weight_decay=options.weight_decay),
    )


def init_state(config: Config, example: Example) -> TrainState:
    """The state before the first step; ``example`` gives shapes only (no leading axis)."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    params = pipeline.network(config.network).init(key, example.cloud, example.pyramid)
    optimiser = make_optimiser(config.optimisation).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser)


def train_step(
    state: TrainState, batch: Example, key: Array, *, config: Config
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on a batch (leading axis B); pure."""
    module = pipeline.network(config.network)
    keys = jax.random.split(key, batch.pose.translation.shape[0])

    def batch_loss(params: Params) -> tuple[jax.Array, Metrics]:
        one = partial(example_loss, params, module=module, config=config)
        loss, metrics = jax.vmap(one)(keys, batch)
        return jnp.mean(loss), metrics

    (loss, metrics), gradient = jax.value_and_grad(batch_loss, has_aux=True)(state.params)
    updates, optimiser = make_optimiser(config.optimisation).update(
        gradient, state.optimiser, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, optimiser), Metrics(
        loss=loss,
        tre_mm=jnp.median(metrics.tre_mm),
        start_mm=jnp.median(metrics.start_mm),
        keep=jnp.mean(metrics.keep),
        gradient=optax.global_norm(gradient),
    )


def make_update(
    config: Config,
) -> Callable[[TrainState, Bank, Array], tuple[TrainState, Metrics]]:
    """The compiled update: draws the step's batch from the bank, and steps.

    Its keys come from the run's key and ``state.step``, so a resumed run repeats the whole one.
    """

    def update(state: TrainState, bank: Bank, key: Array) -> tuple[TrainState, Metrics]:
        k_batch, k_step = jax.random.split(jax.random.fold_in(key, state.step))
        batch = draw_batch(bank, k_batch, config.optimisation.batch)
        return train_step(state, batch, k_step, config=config)

    return jax.jit(update, donate_argnums=0)


# Loop ---------------------------------------------------------------------------------------------


def to_settings(config: Config) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_settings(settings: dict[str, Any]) -> Config:
    """The configuration that :func:`to_settings` wrote.

    Raises:
      ValueError: fields are missing or unknown (written by another version).
    """

    def build(kind: type, value: dict[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})

    try:
        scenes = dict(settings["scenes"])
        scenes["simulation"] = build(simulated.Simulation, scenes["simulation"])
        return Config(
            seed=settings["seed"],
            network=build(pipeline.Network, settings["network"]),
            scenes=Scenes(**scenes),
            schedule=build(pipeline.Schedule, settings["schedule"]),
            optimisation=build(Optimisation, settings["optimisation"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the checkpoint's settings are of another version of e2r ({error}); train again"
        ) from None


def train(config: Config, bank: Bank, output: Path, *, stop_after: int | None = None) -> TrainState:
    """Trains to the end of ``config``, from the newest checkpoint in ``output`` if there is one.

    Writes ``config.json``, ``metrics.jsonl`` and ``checkpoint/``.

    Args:
      config: the run.
      bank: its scenes.
      output: folder of the run.
      stop_after: stop (with a checkpoint) once this many steps are done in all.

    Raises:
      FloatingPointError: the loss is no longer finite; the message names the step.
      ValueError: ``output`` holds a run of other settings.
    """
    example = jax.tree.map(lambda leaf: leaf[0], bank.examples)
    fresh = partial(init_state, config, example)
    settings = to_settings(config)
    folder = output / "checkpoint"
    if checkpoints.latest_step(folder) is None:
        state = jax.jit(fresh)()
    else:
        if checkpoints.settings(folder) != settings:
            raise ValueError(
                f"{output}: holds a run with other settings; name another output folder, "
                "or delete this one"
            )
        state = checkpoints.restore(folder, jax.eval_shape(fresh))
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(settings, indent=1))
    update = make_update(config)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    bank = jax.tree.map(jnp.asarray, bank)
    done = int(state.step)
    end = config.optimisation.steps if stop_after is None else stop_after
    _drop_after(output / "metrics.jsonl", done)
    began = time.perf_counter()
    with (
        checkpoints.writer(folder, keep=2) as writer,
        (output / "metrics.jsonl").open("a") as log,
        tqdm(total=end, initial=done, desc="train", unit="step") as bar,
    ):
        pending: list[Metrics] = []
        for step in range(done + 1, end + 1):
            state, metrics = update(state, bank, key)
            pending.append(metrics)
            if step % 10 and step != end:
                continue
            line = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *pending)
            pending = []
            if not math.isfinite(line.loss):
                raise FloatingPointError(
                    f"the loss is not finite between steps {max(1, step - 9)} and {step}; the last "
                    "checkpoint is whole: lower optimisation.learning_rate and start again"
                )
            seconds = time.perf_counter() - began
            log.write(json.dumps({"step": step, "seconds": seconds, **line._asdict()}) + "\n")
            log.flush()
            bar.update(step - bar.n)
            bar.set_postfix(tre_mm=f"{line.tre_mm:.2f}", keep=f"{line.keep:.2f}")
            if step % config.optimisation.checkpoint_every == 0 or step == end:
                checkpoints.save(writer, step, state, settings)
    return state


def _drop_after(path: Path, step: int) -> None:
    """Drops the lines of ``metrics.jsonl`` that a killed run wrote after its last checkpoint."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))


def load(folder: Path) -> tuple[Config, Params]:
    """Configuration and parameters of a trained run.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """
    config = from_settings(checkpoints.settings(folder))
    shapes = shape_example(config.network)
    state = checkpoints.restore(folder, jax.eval_shape(partial(init_state, config), shapes))
    return config, state.params


def shape_example(settings: pipeline.Network) -> Example:
    """An example of zeros with the shapes of ``settings``, without a surface."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(settings.points, 3)) + np.array([0.0, 0.0, 500.0])
    case = cases.Case(id="shape", model={}, points=points, colors=np.zeros_like(points))
    seen = pipeline.see(case, settings, seed=0)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (seen.cloud, seen.pyramid))
    targets = Targets(np.zeros((TARGETS, 3)), np.zeros((TARGETS, 3)), np.zeros(TARGETS, bool))
    return Example(cloud, pyramid, None, targets, poses.identity())  # type: ignore[arg-type]
