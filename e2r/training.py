"""Learning the mask from the registration error: state, loss, step, loop.

The step is pure, ``(state, batch, key) -> (state, metrics)``, and compiles for CPU, GPU and TPU
as it stands. Batches hold no label of bone: the pose is the only teacher.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from e2r import checkpoints, confidence, files, losses, pipeline, stopping
from e2r.banks import Bank, augment, draw_batch, shape_example
from e2r.configs import Config, Optimisation, from_settings, to_settings, versions
from e2r.geometry import poses
from e2r.registration import coarse
from e2r.segmentation import masks
from e2r.segmentation.network import MaskNetwork, Reading
from e2r.types import Array, Example, MaskEstimator, Params, Pose

PACKAGED = Path(__file__).resolve().parent / "models" / "base"
"""The trained model in the package; its README says which command made it."""


class TrainState(NamedTuple):
    """All that a step changes; keys derive from the seed and the step."""

    step: Array  # () int32, steps done
    params: Params
    optimiser: optax.OptState


Teacher: TypeAlias = Callable[[Array, Example], Array]
"""(mask logits (N,), example) -> loss of the mask, in place of the pose error."""


Probe: TypeAlias = Callable[[Params, Bank, Array, Array], Any]
"""(params, scenes, the run's key, step) -> figures (), a named tuple; see `probes.learning`."""


class Terms(NamedTuple):
    """The parts of an example's loss; their sum is the loss."""

    mask: Array  # () pose error along the steps, or the teacher's
    keep: Array  # () what holds an emptying mask
    interest: Array  # ()
    coarse: Array  # () weighed


class Metrics(NamedTuple):
    """Figures of one step, of the masks and poses it trained on."""

    loss: Array  # ()
    tre_mm: Array  # () median over the batch, after the last unrolled step
    start_mm: Array  # () median over the batch, at the start
    coarse_mm: Array  # () median over the batch, of the coarse stage
    keep: Array  # () mean share of points kept
    effective: Array  # () mean effective number of points kept
    spread_mm: Array  # () mean spread of the points kept
    entropy: Array  # () mean entropy of a keep probability, bits
    gradient: Array  # () global norm before clipping


def example_loss(
    params: Params,
    key: Array,
    example: Example,
    *,
    module: MaskNetwork,
    config: Config,
    estimator: MaskEstimator | None = None,
    teacher: Teacher | None = None,
) -> tuple[jax.Array, Metrics]:
    """Loss of one example: pose error along the unrolled registration of its sampled mask.

    With another ``teacher`` the mask learns from that alone, and the registration only tells how
    well it does.
    """
    k_mask, k_coarse, example, start = posed(key, example, config)
    terms, metrics = example_terms(
        params, (k_mask, k_coarse), example, start,
        module=module, config=config, estimator=estimator, teacher=teacher,
    )  # fmt: skip
    loss = terms.mask + terms.keep + terms.interest + terms.coarse
    return loss, metrics._replace(loss=loss)


def posed(key: Array, example: Example, config: Config) -> tuple[Array, Array, Example, Pose]:
    """Keys of mask and coarse stage, the example augmented, and a start near its pose."""
    k_augment, k_mask, k_start, k_coarse = jax.random.split(key, 4)
    example = augment(k_augment, example)
    targets, options = example.targets, config.optimisation
    valid = targets.valid[:, None]
    middle = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0) / jnp.maximum(jnp.sum(valid), 1)
    start = poses.perturb(k_start, example.pose, middle, degrees=options.degrees, mm=options.mm)
    return k_mask, k_coarse, example, start


def example_terms(
    params: Params,
    keys: tuple[Array, Array],
    example: Example,
    start: Pose,
    *,
    module: MaskNetwork,
    config: Config,
    estimator: MaskEstimator | None = None,
    teacher: Teacher | None = None,
) -> tuple[Terms, Metrics]:
    """The parts of :func:`example_loss`, of an augmented example; consumes both keys."""
    options = config.optimisation
    if estimator is None:
        estimator = masks.named(options.estimator, temperature=options.temperature)
    k_mask, k_coarse = keys
    cloud, targets = example.cloud, example.targets
    reading = module.apply(params["mask"], cloud, example.pyramid)
    logits = reading.logits
    weights = estimator(k_mask, logits)
    if teacher is not None:
        weights = jax.lax.stop_gradient(weights)
    result = pipeline.register(cloud, weights, example.surface, start, config.schedule)
    if teacher is None:
        taught = losses.trajectory_loss(result.trajectory, targets, knee=options.knee)
        keep = losses.keep_hinge(logits, cloud.valid, least=options.least_keep)
    else:
        taught, keep = teacher(logits, example), jnp.zeros(())
    located, guess = _coarse_loss(params, k_coarse, example, reading, config)
    terms = Terms(
        taught,
        keep,
        losses.interest_loss(reading.interest, cloud.points, cloud.valid, targets),
        options.coarse * located,
    )
    mask = masks.diagnose(weights, logits, cloud.points, cloud.valid)
    return terms, Metrics(
        loss=jnp.zeros(()),
        tre_mm=losses.mean_target_error(result.pose, targets),
        start_mm=losses.mean_target_error(start, targets),
        coarse_mm=losses.mean_target_error(guess, targets),
        keep=mask.keep,
        effective=mask.effective,
        spread_mm=mask.spread_mm,
        entropy=mask.entropy,
        gradient=jnp.zeros(()),
    )


def _coarse_loss(
    params: Params, key: Array, example: Example, reading: Reading, config: Config
) -> tuple[jax.Array, Pose]:
    """Loss and pose of the coarse stage, shown the scene at a roll near the true one."""
    k_tokens, k_roll, k_turn, k_shift = jax.random.split(key, 4)
    options, surface = config.optimisation, example.surface
    tokens = pipeline.tokens_of(k_tokens, example.cloud, reading, config.network)
    off = jnp.deg2rad(options.roll) * jax.random.uniform(k_roll, (), minval=-1.0)
    roll = coarse.roll_of(example.pose, surface) + off
    # The anatomical frame is found a little differently of every model.
    turn = jnp.deg2rad(options.frame) * jax.random.normal(k_turn, (3,))
    shift = jnp.array([2.0, 2.0, options.middle]) * jax.random.normal(k_shift, (3,))
    nudge = Pose(poses.exp_rotation(turn), shift)
    surface = surface._replace(upright=poses.compose(nudge, surface.upright))
    pose, found = pipeline.locate(config.network, params, tokens, surface, roll)
    goals = poses.apply(surface.upright, poses.apply_inverse(example.pose, tokens.points))
    loss = losses.coarse_loss(
        found.places, found.confidence, goals, pose, example.targets, knee=options.coarse_knee
    )
    return loss, pose


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
    params = pipeline.init(key, config.network, example.cloud, example.pyramid)
    optimiser = make_optimiser(config.optimisation).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser)


def train_step(
    state: TrainState,
    batch: Example,
    key: Array,
    *,
    config: Config,
    teacher: Teacher | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on a batch (leading axis B); pure."""
    module = pipeline.network(config.network)
    keys = jax.random.split(key, batch.pose.translation.shape[0])

    def batch_loss(params: Params) -> tuple[jax.Array, Metrics]:
        one = partial(example_loss, params, module=module, config=config, teacher=teacher)
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
        coarse_mm=jnp.median(metrics.coarse_mm),
        keep=jnp.mean(metrics.keep),
        effective=jnp.mean(metrics.effective),
        spread_mm=jnp.mean(metrics.spread_mm),
        entropy=jnp.mean(metrics.entropy),
        gradient=optax.global_norm(gradient),
    )


@lru_cache(maxsize=4)
def make_update(
    config: Config,
    teacher: Teacher | None = None,
) -> Callable[[TrainState, Bank, Array], tuple[TrainState, Metrics]]:
    """The compiled update: draws the step's batch from the bank, and steps.

    Kept for the last few configurations, so that their runs share it. Its keys come from the run's
    key and ``state.step``, so a resumed run repeats the whole one.
    """

    def update(state: TrainState, bank: Bank, key: Array) -> tuple[TrainState, Metrics]:
        k_batch, k_step = jax.random.split(jax.random.fold_in(key, state.step))
        batch = draw_batch(bank, k_batch, config.optimisation.batch)
        return train_step(state, batch, k_step, config=config, teacher=teacher)

    return jax.jit(update, donate_argnums=0)


def train(
    config: Config,
    bank: Bank,
    output: Path,
    *,
    stop_after: int | None = None,
    source: str = "simulated",
    teacher: Teacher | None = None,
    begin: Params | None = None,
    probe: Probe | None = None,
    probe_every: int = 50,
) -> TrainState:
    """Trains to the end of ``config``, from the newest checkpoint in ``output`` if there is one.

    Writes ``config.json``, ``metrics.jsonl`` and ``checkpoint/``.

    Args:
      config: the run.
      bank: its scenes.
      output: folder of the run.
      stop_after: stop (with a checkpoint) once this many steps are done in all.
      source: where the scenes come from; a run goes on with its own scenes only.
      teacher: of the mask, the pose error without it; name it in ``source``.
      begin: parameters to begin with, random ones without them.
      probe: figures to put into ``metrics.jsonl`` as ``probe_...``; it changes nothing.
      probe_every: steps between probes.

    Raises:
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the step at hand is done and saved.
      FloatingPointError: the loss is no longer finite; the message names the step.
      ValueError: ``output`` holds a run of other settings.
    """
    example = jax.tree.map(lambda leaf: leaf[0], bank.examples)
    fresh = partial(init_state, config, example)
    settings = {**to_settings(config), "source": source}
    folder = output / "checkpoint"
    if not checkpoints.steps(folder):
        state = jax.jit(fresh)()
        if begin is not None:
            state = state._replace(params=jax.tree.map(jnp.copy, begin))
    else:

        def shapes(found: dict[str, Any]) -> TrainState:
            if found != settings:
                raise ValueError(
                    f"{output}: holds a run with other settings; name another output folder, "
                    "or delete this one"
                )
            return jax.eval_shape(fresh)

        saved = checkpoints.restore(folder, shapes)
        checkpoints.set_aside(folder, saved.step)
        state = saved.state
    output.mkdir(parents=True, exist_ok=True)
    about = {**settings, "versions": versions()}
    (output / "config.json").write_text(json.dumps(about, indent=1))
    state = jax.device_put(state, jax.devices()[0])  # new and restored alike, for one program
    update = make_update(config, teacher)
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
        stopping.asked() as asked,
    ):
        pending: list[Metrics] = []
        for step in range(done + 1, end + 1):
            state, metrics = update(state, bank, key)
            pending.append(metrics)
            stops = asked()
            saves = step % config.optimisation.checkpoint_every == 0 or step == end or stops
            figures: Any = ()
            if probe is not None and step % probe_every == 0:
                figures = probe(state.params, bank, key, jnp.int32(step))
            if step % 10 and not saves and not figures:
                continue
            line = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *pending)
            if not (math.isfinite(line.loss) and math.isfinite(line.gradient)):
                raise FloatingPointError(
                    f"the loss or its gradient is not finite in the {len(pending)} steps up to "
                    f"{step}; the last checkpoint is whole: lower optimisation.learning_rate"
                )
            pending = []
            about = {"step": step, "seconds": time.perf_counter() - began, **line._asdict()}
            log.write(json.dumps({**about, **_plain(figures)}) + "\n")
            log.flush()
            bar.update(step - bar.n)
            bar.set_postfix(
                tre_mm=f"{line.tre_mm:.2f}", keep=f"{line.keep:.2f}",
                coarse_mm=f"{line.coarse_mm:.1f}",
            )  # fmt: skip
            if saves:
                checkpoints.save(writer, step, state, settings)
            if stops:
                raise KeyboardInterrupt
    return state


def _plain(figures: Any) -> dict[str, float]:
    """A probe's figures for ``metrics.jsonl``, as far as they are finite."""
    found = figures._asdict() if figures else {}
    plain = {f"probe_{name}": float(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def curve(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``, as far as it is there and whole."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _drop_after(path: Path, step: int) -> None:
    """Drops the lines of ``metrics.jsonl`` that a killed run wrote after its last checkpoint."""
    kept = [json.dumps(line) for line in curve(path.parent) if line["step"] <= step]
    if path.exists():
        with files.whole(path) as part:
            part.write_text("".join(line + "\n" for line in kept))


def load(folder: Path) -> tuple[Config, Params]:
    """Configuration and parameters of a trained run, or of an exported one.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """
    saved = restore(folder)
    return from_settings(saved.settings), saved.state.params


def restore(folder: Path) -> checkpoints.Saved[TrainState]:
    """The newest whole checkpoint of a trained run, or of an exported one, without its optimiser.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """

    def shapes(settings: dict[str, Any]) -> TrainState:
        config = from_settings(settings)
        found = jax.eval_shape(partial(init_state, config), shape_example(config.network))
        return found._replace(optimiser=()) if settings.get("exported") else found

    return checkpoints.restore(folder, shapes)


def export(folder: Path, output: Path) -> int:
    """Writes a trained run without its optimiser, to give away, and returns its step.

    Args:
      folder: of the run; its calibration goes along.
      output: new folder, which :func:`load` reads.

    Raises:
      ValueError: no usable checkpoint in ``folder``, or ``output`` holds one already.
    """
    saved = restore(folder)
    if checkpoints.steps(output / "checkpoint"):
        raise ValueError(f"{output}: holds a checkpoint; name another folder, or delete this one")
    state = saved.state._replace(optimiser=())
    with checkpoints.writer(output / "checkpoint", keep=1) as writer:
        checkpoints.save(writer, saved.step, state, {**saved.settings, "exported": True})
    calibration = confidence.load(folder)
    if calibration is not None:
        confidence.save(calibration, output)
    lines = curve(folder)
    with (output / "metrics.jsonl").open("w") as log:
        for line in lines[:: max(1, len(lines) // 500)]:
            log.write(json.dumps({k: round(v, 4) for k, v in line.items()}) + "\n")
    return saved.step
