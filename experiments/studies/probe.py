"""Look into one case: what its gradient is made of, and how far to trust it.

Command:  python -m experiments.studies.probe --case cases/specimen0000_000 --checkpoint runs/demo
Time:     two minutes on two cores, most of it compilation
Expect:   a table of every probe of e2r.probes, and all figures in probe.json

The registration starts near the truth, as in training, so the case needs a truth.json. Everything
runs in double precision.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from e2r.analysis import (
    conditioning,
    estimator_bias,
    gradient_paths,
    influence,
    loss_landscape,
    nan_tracing,
)
from e2r.analysis.stages import GRADIENT_PATHS, Stages, level_paths, run_stages, stage_gradients
from e2r.cli.errors import run_command
from e2r.config import TrainingConfig
from e2r.datasets import case_folder
from e2r.evaluation.preparation import level_centres
from e2r.geometry import poses, surfaces
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network, mask_logits
from e2r.registration import iterate
from e2r.registration.schedule import Schedule, apply_mask, run_schedule
from e2r.runtime.provenance import versions
from e2r.training import examples, losses
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Array, Example, MaskObjective, Params, Pose

REACH = 15.0
"""mm: half a side of the landscape, which shifts the start along the model's x and y."""
PARTS = ("faults", "influence", "steps", "paths", "estimators", "landscape")


@dataclass(frozen=True)
class Probe:
    """Look into one case: what its gradient is made of, and how far to trust it."""

    case: Path
    """a case folder with truth.json"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    output: Path = Path("probe.json")
    """file for all figures"""
    schedule: Schedule | None = None
    """the registration; the checkpoint's own, of training, without it"""
    points: int = 256
    """points that are left out, one after the other, for their exact influence"""
    rows: int = 32
    """points whose gradient the mask estimators are judged by"""
    draws: int = 64
    """masks drawn of each estimator, and for the reference"""
    grid: int = 9
    """places along each side of the landscape"""
    degrees: float = 4.0
    """standard deviation of the start's rotation per axis"""
    mm: float = 4.0
    """standard deviation of the start's translation per axis"""
    seed: int = 0
    """of the sample, the start and all draws"""
    parts: tuple[str, ...] = PARTS
    """some of faults, influence, steps, paths, estimators, landscape"""

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"--parts: use some of {', '.join(PARTS)}")
        for name, least in (("points", 2), ("rows", 1), ("draws", 2), ("grid", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; use {least} or more")
        for name in ("degrees", "mm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} is {getattr(self, name)}; use 0 or more")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; use 0 or more")


def read_example(options: Probe, config: TrainingConfig) -> tuple[Example, np.ndarray]:
    """The case as training sees it, and the middle of each level (L, 3)."""
    case = case_folder.read_case(options.case)
    if case.truth is None:
        raise ValueError(f"{options.case}: has no truth.json, which a registration error needs")
    example = examples.make_example(case, config.network, seed=options.seed, close=True)
    exact = (options.schedule or config.schedule).correspondence == "closest"
    surface = surfaces.build(case.model, seed=0, nodes=surfaces.COARSE, exact=exact)
    return example._replace(surface=surface), level_centres(case.model)


def doubled(tree: Any) -> Any:
    """The same pytree in double precision, on the device."""

    def one(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(one, tree)


def examine(
    options: Probe, config: TrainingConfig, params: Params, example: Example, centres: Array
) -> dict[str, Any]:
    """The chosen probes of one example, each a pytree of arrays; call it where x64 is on."""
    schedule = options.schedule or config.schedule
    cloud, targets, surface = example.cloud, example.targets, example.surface
    k_start, k_rows, k_chain, k_masks = jax.random.split(jax.random.key(options.seed), 4)
    middle = jnp.mean(targets.goals[np.asarray(targets.valid)], axis=0)
    start = poses.perturb(k_start, example.pose, middle, degrees=options.degrees, mm=options.mm)
    module = build_mask_network(config.network)
    logits = jax.jit(partial(mask_logits, module))(params["mask"], cloud, example.pyramid)
    weights = mask_estimators.soft(k_masks, logits)
    scene = apply_mask(cloud, weights)

    def track(weights: Array, start: Pose) -> Pose:
        masked = apply_mask(cloud, weights)
        return run_schedule(masked, surface, start, schedule).trajectory

    final = gradient_paths.final_error(targets)

    def loss(weights: Array) -> Array:
        return losses.trajectory_loss(
            track(weights, start), targets, error_scale_mm=config.optimisation.error_scale_mm
        )

    @jax.jit
    def follow() -> tuple[gradient_paths.Steps, gradient_paths.Modes, conditioning.Conditioning]:
        where, step = (scene, surface, start, schedule.scales()), schedule.bound_step()
        found = gradient_paths.gradient_by_step(final, *where, step=step)
        modes = gradient_paths.gradient_by_mode(final, *where, found, step=step, last=schedule.last)
        return found, modes, conditioning.along_trajectory(scene, surface, start, schedule)

    order = jax.random.permutation(k_rows, np.flatnonzero(cloud.valid))
    side = jnp.linspace(-REACH, REACH, options.grid)
    axes = jnp.eye(6)
    of_start = loss_landscape.of_poses(
        lambda pose: final(track(weights, pose)), example.pose, jnp.mean(surface.points, axis=0)
    )
    probes: dict[str, Callable[[], Any]] = {
        "faults": lambda: first_fault(config, schedule, params, k_chain, example, centres, start),
        "influence": lambda: jax.jit(
            partial(influence.influence, lambda weights: final(track(weights, start)))
        )(logits, order[: options.points]),
        "steps": follow,
        "paths": lambda: jax.jit(partial(level_paths, config.network, schedule))(
            params, k_chain, example, centres
        ),
        "estimators": lambda: qualities(k_masks, loss, logits, order[: options.rows], options),
        "landscape": lambda: jax.jit(partial(loss_landscape.plane, of_start))(
            jnp.zeros(6), axes[3], axes[4], side, side
        ),
    }
    before = losses.mean_target_error(start, targets)
    after = final(jax.jit(track)(weights, start))
    keep = jnp.mean(weights[np.asarray(cloud.valid)])
    found: dict[str, Any] = {"tre_mm": jnp.stack([before, after]), "keep": keep}
    return found | {name: probes[name]() for name in options.parts}


def first_fault(
    config: TrainingConfig,
    schedule: Schedule,
    params: Params,
    key: Array,
    example: Example,
    centres: Array,
    start: Pose,
) -> nan_tracing.Fault | None:
    """The first value that is not finite, on the way there or back."""

    @jax.jit
    @jax.vmap
    def stages(params: Params, example: Example, start: Pose) -> tuple[Stages, dict[str, Any]]:
        copies = (params["mask"],) * len(GRADIENT_PATHS)
        there = run_stages(
            config.network, schedule, copies, params["coarse"], key, example, centres, start=start
        )
        return there, stage_gradients(config.network, schedule, params, key, example, start)

    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (params, example, start))
    there, back = stages(*one)
    return nan_tracing.first_fault(there) or nan_tracing.first_fault(back)


def qualities(
    key: Array, loss: MaskObjective, logits: Array, rows: Array, options: Probe
) -> dict[str, estimator_bias.EstimatorQuality]:
    """Every mask estimator against many draws, on the points of ``rows``."""
    k_reference, k_draws = jax.random.split(key)
    many = jax.jit(partial(estimator_bias.many_masks, loss=loss, draws=options.draws))
    reference = many(k_reference, logits=logits, rows=rows)

    @jax.jit
    def judged(index: Array) -> estimator_bias.EstimatorQuality:
        drawn = estimator_bias.draw_gradients(
            k_draws,
            loss,
            logits,
            rows,
            estimator_bias.estimator_by_index(index),
            draws=options.draws,
        )
        return estimator_bias.estimator_quality(drawn, reference)

    return {name: judged(jnp.int32(i)) for i, name in enumerate(mask_estimators.ESTIMATORS)}


def table(options: Probe, found: dict[str, Any]) -> str:
    """The probes as text."""
    begin, end = found["tre_mm"]
    lines = [f"{options.case}: TRE {begin:.2f} -> {end:.2f} mm; the mask keeps {found['keep']:.1%}"]
    if "faults" in found:
        fault = found["faults"]
        name = "none" if fault is None else f"{fault.stage}, {fault.leaf}: {fault.numbers} numbers"
        lines.append(f"first value that is not finite: {name}")
    if "influence" in found:
        rank = found["influence"].rank_correlation
        lines.append(f"influence of points: rank correlation with leaving them out {rank:.3f}")
    if "steps" in found:
        steps, modes, track = found["steps"]
        lines += ["", "step   share    cos  from here on  cos      gap  effective  condition"]
        for k in range(len(steps.share_norms)):
            lines.append(
                f"{k + 1:4d}  {steps.share_norms[k]:.1e} {steps.share_cosines[k]:5.2f}"
                f"       {steps.truncated_norms[k]:.1e} {steps.truncated_cosines[k]:5.2f}"
                f"  {track.gap[k]:7.4f}  {track.effective[k]:9.1f}  {track.condition[k]:9.1f}"
            )
        lines += ["", "mode        norm     cosine with unrolled"]
        for i, mode in enumerate(iterate.GRADIENT_MODES):
            norm, cosine = modes.comparison.norms[i], modes.comparison.cosines[0, i]
            lines.append(f"{mode:10s}  {norm:.1e}  {cosine:5.2f}")
    if "paths" in found:
        by = found["paths"]
        lines += ["", "level       TRE" + "".join(f"{name:>13s}   cos" for name in GRADIENT_PATHS)]
        for i in map(int, np.flatnonzero(by.errors > 0)):
            shares = zip(by.norms[i], by.cosines[i], strict=True)
            text = "".join(f"{norm:13.1e} {cosine:5.2f}" for norm, cosine in shares)
            lines.append(f"{i + 1:5d}  {by.errors[i]:5.2f} mm{text}")
    if "estimators" in found:
        lines += ["", "estimator                  bias  deviation  cosine  one draw   scale"]
        for name, q in found["estimators"].items():
            lines.append(
                f"{name:25s} {q.bias:5.2f}  {q.deviation:9.2f}  {q.cosine:6.2f}  {q.single:8.2f}"
                f"  {q.scale:6.2f}"
            )
    if "landscape" in found:
        below = np.mean(found["landscape"] < 2.0)
        lines += ["", f"of starts up to {REACH:g} mm to each side, {below:.0%} end below 2 mm"]
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """Named tuples and arrays as JSON values; what is not finite becomes null."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return plain(np.asarray(value, np.float64).tolist())


def probe(options: Probe) -> int:
    """Runs the probes."""
    config, params = load_trained(options.checkpoint)
    example, centres = read_example(options, config)
    with jax.enable_x64(True):
        arguments = doubled((params, example, centres))
        found = examine(options, config, *arguments)
        found = {
            name: value if name == "faults" else jax.tree.map(np.asarray, value)
            for name, value in found.items()
        }
    print(table(options, found))
    settings = {"checkpoint": str(options.checkpoint), "case": str(options.case)}
    about = {"settings": settings, "versions": versions(), "figures": plain(found)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(about))
    print(options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and probes."""
    options = tyro.cli(
        Probe, args=arguments, prog="python -m experiments.studies.probe", description=__doc__
    )
    return run_command(lambda: probe(options))


if __name__ == "__main__":
    sys.exit(main())
