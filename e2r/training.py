"""Learning the mask from the registration error: state, loss, step, loop.

The step is pure, ``(state, batch, key) -> (state, metrics)``, and compiles for CPU, GPU and TPU
as it stands. Batches hold no label of bone: the pose is the only teacher.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from e2r import checkpoints, confidence, devices, files, losses, pipeline, stopping, streams
from e2r.banks import augment, shape_example
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


Probe: TypeAlias = Callable[[Params, Example, Array, Array], Any]
"""(params, batch, the run's key, step) -> figures (), a named tuple; see `probes.learning`."""


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
    skipped: Array  # () 1 where loss or gradient is not finite: that step is not taken


class NotFiniteError(FloatingPointError):
    """A step's loss or gradient is not finite; holds what is needed to find out why."""

    def __init__(self, step: int, state: TrainState, batch: Example, names: list[str]) -> None:
        super().__init__(
            f"the loss or its gradient is not finite in step {step}, of the cases "
            f"{', '.join(names)}; the steps before it are saved: lower optimisation.learning_rate, "
            "leave the case out, or skip such steps with optimisation.skip_not_finite"
        )
        self.step, self.state, self.batch, self.names = step, state, batch, names


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
        skipped=jnp.zeros(()),
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
    """AdamW with clipping, warm-up and a cosine; on one vector, for its step compiles sooner."""
    warm = min(30, max(1, options.steps // 10))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, warm, max(options.steps, warm + 1),
        0.02 * options.learning_rate,
    )  # fmt: skip
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(options.clip),
            optax.adamw(rate, weight_decay=options.weight_decay),
        )
    )


def init_state(config: Config) -> TrainState:
    """The state before the first step; under ``jit`` one program, else three hundred small ones."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    example = shape_example(config.network)
    params = pipeline.init(key, config.network, example.cloud, example.pyramid)
    optimiser = make_optimiser(config.optimisation).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser)


def batch_gradient(
    params: Params,
    keys: Array,
    batch: Example,
    *,
    config: Config,
    teacher: Teacher | None = None,
    axis: str | None = None,
) -> tuple[Params, Metrics]:
    """Gradient of the mean loss, and the metrics of each example (leading axis B).

    Args:
      params: of both networks.
      keys: (B,), consumed.
      batch: leading axis B; taken in ``optimisation.accumulate`` parts, one after the other.
      config, teacher: of the run.
      axis: of the mesh, where these are one device's rows: the gradient is that of all devices'.
    """
    module = pipeline.network(config.network)
    parts = config.optimisation.accumulate
    one = partial(example_loss, module=module, config=config, teacher=teacher)

    def part(rows: tuple[Array, Example]) -> tuple[Params, Metrics]:
        def mean_loss(params: Params) -> tuple[jax.Array, Metrics]:
            loss, metrics = jax.vmap(partial(one, params))(*rows)
            return jnp.mean(loss), metrics

        return jax.grad(mean_loss, has_aux=True)(params)

    if parts == 1:
        gradient, metrics = part((keys, batch))
    else:
        split = jax.tree.map(
            lambda leaf: leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:]), (keys, batch)
        )
        zero = jax.tree.map(jnp.zeros_like, params)

        def add(total: Params, rows: tuple[Array, Example]) -> tuple[Params, Metrics]:
            gradient, metrics = part(rows)
            return jax.tree.map(lambda a, b: a + b / parts, total, gradient), metrics

        gradient, metrics = jax.lax.scan(add, zero, split)
        metrics = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), metrics)
    return (gradient if axis is None else jax.lax.pmean(gradient, axis)), metrics


def train_step(
    state: TrainState,
    batch: Example,
    key: Array,
    *,
    config: Config,
    teacher: Teacher | None = None,
    over: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on a batch (leading axis B); pure.

    A step whose loss or gradient is not finite changes nothing but the number of steps.

    Args:
      state: before it.
      batch: leading axis B.
      key: consumed.
      config, teacher: of the run.
      over: the mesh among whose devices the batch is divided; without it, one device has it all.
    """
    keys = jax.random.split(key, batch.pose.translation.shape[0])
    how = partial(batch_gradient, config=config, teacher=teacher)
    if over is not None:
        how = jax.shard_map(
            partial(how, axis=devices.AXIS), mesh=over, check_vma=False,
            in_specs=(devices.SHARED, devices.DIVIDED, devices.DIVIDED),
            out_specs=(devices.SHARED, devices.DIVIDED),
        )  # fmt: skip
    gradient, metrics = how(state.params, keys, batch)
    loss, norm = jnp.mean(metrics.loss), optax.global_norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, optimiser = make_optimiser(config.optimisation).update(
        gradient, state.optimiser, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params, optimiser = choose(finite, (params, optimiser), (state.params, state.optimiser))
    return TrainState(state.step + 1, params, optimiser), Metrics(
        loss=loss,
        tre_mm=jnp.median(metrics.tre_mm),
        start_mm=jnp.median(metrics.start_mm),
        coarse_mm=jnp.median(metrics.coarse_mm),
        keep=jnp.mean(metrics.keep),
        effective=jnp.mean(metrics.effective),
        spread_mm=jnp.mean(metrics.spread_mm),
        entropy=jnp.mean(metrics.entropy),
        gradient=norm,
        skipped=jnp.where(finite, 0.0, 1.0),
    )


def choose(which: Array, a: Any, b: Any) -> Any:
    """The one pytree or the other, by a flag ()."""
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


@lru_cache(maxsize=4)
def make_update(
    config: Config,
    teacher: Teacher | None = None,
    over: Mesh | None = None,
) -> Callable[[TrainState, Example, Array, Array], tuple[TrainState, Metrics]]:
    """The compiled update: (state, batch, the run's key, step to take) -> the state after it.

    Kept for the last few configurations, so that their runs share it. Its keys come from the run's
    key and ``state.step``, so a resumed run repeats the whole one. The state stays before the first
    step that is not finite, unless the run skips such steps.
    """
    skips = config.optimisation.skip_not_finite

    def update(
        state: TrainState, batch: Example, key: Array, step: Array
    ) -> tuple[TrainState, Metrics]:
        _, k_step = jax.random.split(jax.random.fold_in(key, state.step))
        after, metrics = train_step(state, batch, k_step, config=config, teacher=teacher, over=over)
        if not skips:
            taken = (state.step == step - 1) & (metrics.skipped == 0.0)
            after = choose(taken, after, state)
        return after, metrics

    return jax.jit(update, donate_argnums=0)


def train(
    config: Config,
    stream: streams.Stream,
    output: Path,
    *,
    stop_after: int | None = None,
    source: str = "simulated",
    teacher: Teacher | None = None,
    begin: Params | None = None,
    probe: Probe | None = None,
    probe_every: int = 50,
    log_every: int = 10,
) -> TrainState:
    """Trains to the end of ``config``, from the newest checkpoint in ``output`` if there is one.

    Runs on all devices of all processes (see :func:`e2r.devices.join`), each of which calls it; the
    first one writes. Results depend on the number of devices by rounding only, and a run goes on
    with any number of them. Writes ``config.json``, ``metrics.jsonl`` and ``checkpoint/``.

    Args:
      config: the run.
      stream: its batches.
      output: folder of the run.
      stop_after: stop (with a checkpoint) once this many steps are done in all.
      source: where the scenes come from; a run goes on with its own scenes only.
      teacher: of the mask, the pose error without it; name it in ``source``.
      begin: parameters to begin with, random ones without them.
      probe: figures to put into ``metrics.jsonl`` as ``probe_...``; it changes nothing.
      probe_every: steps between probes.
      log_every: steps between lines of ``metrics.jsonl``, which hold means over them.

    Raises:
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the step at hand is done and saved.
      NotFiniteError: a loss is not finite; the steps before it are saved.
      ValueError: ``output`` holds a run of other settings, or the batch cannot be divided among the
        devices.
    """
    over = devices.mesh(config.optimisation.batch)
    share, parts = config.optimisation.batch // over.size, config.optimisation.accumulate
    if share % parts:
        raise ValueError(
            f"optimisation.accumulate is {parts}, and a device's share of the batch {share}; use a "
            "divisor of it"
        )
    fresh = partial(init_state, config)
    settings = _settings(config, source)
    folder = output / "checkpoint"
    if not checkpoints.steps(folder):
        state = jax.jit(fresh)()
        if begin is not None:
            state = state._replace(params=jax.tree.map(jnp.copy, begin))
    else:

        def shapes(found: dict[str, Any], _: dict[str, Any]) -> TrainState:
            _check_same(found, settings, output)
            return jax.eval_shape(fresh)

        saved = checkpoints.restore(folder, shapes)
        state = saved.state
        devices.wait("restored")
        if devices.leads():
            checkpoints.set_aside(folder, saved.step)
    done = int(state.step)
    end = config.optimisation.steps if stop_after is None else stop_after
    log = _open_log(output, done, {**settings, "versions": versions()})
    state, key = devices.share((state, streams.keys(config)), over)  # new and restored alike
    update = make_update(config, teacher, over)
    alone = jax.process_count() == 1
    began, waited = time.perf_counter(), 0.0
    with (
        log,
        checkpoints.writer(folder, keep=2) as writer,
        tqdm(
            total=end, initial=done, desc="train", unit="step", disable=not devices.leads()
        ) as bar,
        stopping.asked() as asked,
        closing(stream.batches(done + 1, end)) as batches,
    ):
        pending: list[Metrics] = []
        for step in range(done + 1, end + 1):
            before = time.perf_counter()
            batch = devices.divide(next(batches), over)
            waited += time.perf_counter() - before
            state, metrics = update(state, batch, key, np.int32(step))
            pending.append(metrics)
            # Processes agree where all of them look at their figures anyway.
            stops = (alone or step % log_every == 0) and devices.any_says(asked())
            saves = step % config.optimisation.checkpoint_every == 0 or step == end or stops
            figures: Any = ()
            if probe is not None and step % probe_every == 0:
                figures = probe(state.params, batch, key, np.int32(step))
            if step % log_every and not saves and not figures:
                continue
            found = [jax.tree.map(float, one) for one in pending]
            good = [one for one in found if not one.skipped]
            bad = next((i for i, one in enumerate(found) if one.skipped), None)
            if bad is not None and not config.optimisation.skip_not_finite:
                at = step - len(found) + 1 + bad
                checkpoints.save(writer, at - 1, state, settings)
                with closing(stream.batches(at, at)) as again:
                    raise NotFiniteError(at, state, next(again), stream.names(at))
            pending = []
            took = time.perf_counter() - began
            line: dict[str, float] = {"step": step, "seconds": took, "waited": waited / took}
            if good:
                line |= jax.tree.map(lambda *each: float(np.mean(each)), *good)._asdict()
            line["skipped"] = len(found) - len(good)
            log.write(json.dumps({**line, **_plain(figures)}) + "\n")
            log.flush()
            bar.update(step - bar.n)
            bar.set_postfix({
                name: f"{line[name]:.2f}" for name in ("tre_mm", "keep", "coarse_mm", "waited")
                if name in line
            })  # fmt: skip
            if saves:
                checkpoints.save(writer, step, state, settings)
            if stops:
                raise KeyboardInterrupt
    return state


def progress(config: Config, output: Path, *, source: str = "simulated") -> int:
    """How many steps the run in ``output`` has done, 0 where none has begun. Reads no state.

    Args:
      config, output, source: of :func:`train`; to ask before its scenes are made.

    Raises:
      ValueError: ``output`` holds a run of other settings.
    """
    found = checkpoints.peek(output / "checkpoint")
    if found is None:
        return 0
    done, settings = found
    _check_same(settings, _settings(config, source), output)
    return done


def _settings(config: Config, source: str) -> dict[str, Any]:
    """What a run is known by."""
    return {**to_settings(config), "source": source}


def _check_same(found: dict[str, Any], settings: dict[str, Any], output: Path) -> None:
    if found != settings:
        raise ValueError(
            f"{output}: holds a run with other settings; name another output folder, or delete "
            "this one"
        )


def _open_log(output: Path, done: int, about: dict[str, Any]) -> TextIO:
    """``metrics.jsonl`` to append to, after ``config.json`` is written; nowhere, for a process that
    does not write."""
    if not devices.leads():
        return open(os.devnull, "a", encoding="utf-8")
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(about, indent=1))
    _drop_after(output / "metrics.jsonl", done)
    return (output / "metrics.jsonl").open("a")


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


def parameters(folder: Path, config: Config) -> Params:
    """Parameters of a trained run, or of an exported one, for a run of ``config`` to begin with.

    Raises:
      ValueError: no usable checkpoint in ``folder``, or its network has other sizes.
    """
    _, params = load(folder)
    wanted = jax.eval_shape(partial(init_state, config)).params
    sizes = [jax.tree.map(jnp.shape, tree) for tree in (params, wanted)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{folder}: its network has other sizes; give this run the same --network settings"
        )
    return params


def restore(folder: Path) -> checkpoints.Saved[TrainState]:
    """The newest whole checkpoint of a trained run, or of an exported one, without its optimiser.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """

    def shapes(settings: dict[str, Any], stored: dict[str, Any]) -> TrainState:
        config = from_settings(settings)
        if settings.get("exported") and {"step", "params"} <= set(stored):
            return TrainState(stored["step"], stored["params"], ())  # a second sooner than:
        return jax.eval_shape(partial(init_state, config))

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
