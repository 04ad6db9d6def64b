"""Probes the gradient of one case: what it is made of, and how far it can be trusted.

Command:  python -m experiments.studies.probe --case cases/seed0_0000_000
Time:     two minutes on two cores, most of it compilation
Expect:   figures of 6 parts, with cosine 1.00 of mode unrolled with itself, and all of them in
          probe.json; the other figures depend on the case

The registration begins near the truth, as in training, so the case needs a truth.json. Everything
runs in double precision.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis import (
    conditioning,
    estimator_bias,
    gradient_paths,
    influence,
    loss_landscape,
    nan_tracing,
)
from e2r.analysis.probed_registration import (
    ProbedRegistration,
    in_double_precision,
    make_probed_registration,
)
from e2r.analysis.stages import (
    GRADIENT_PATHS,
    StageConfig,
    Stages,
    level_paths,
    run_stages,
    stage_gradients,
)
from e2r.cli.errors import parse_options, run_command
from e2r.config import TrainingConfig
from e2r.datasets import case_folder
from e2r.evaluation.preparation import level_centres
from e2r.evaluation.text_table import text_table
from e2r.geometry import surfaces
from e2r.networks import mask_estimators
from e2r.registration import iterate
from e2r.registration.schedule import Schedule, apply_mask
from e2r.runtime import outputs
from e2r.runtime.provenance import versions
from e2r.runtime.seeds import require_seed
from e2r.training import examples, losses
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Array, Example, Params, Pose

LANDSCAPE_MM = 15.0
"""Half a side of the landscape, which shifts the initial pose along the model's x and y."""


@dataclass(frozen=True)
class Probe:
    """Probes the gradient of one case: what it is made of, and how far it can be trusted."""

    case: Path
    """a case folder with truth.json"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; by default the packaged model"""
    output: Path = Path("probe.json")
    """file for all figures"""
    schedule: Schedule | None = None
    """the registration; by default that of the checkpoint's training"""
    points: int = 256
    """influence: points that are left out, one after the other"""
    rows: int = 32
    """estimators: points whose gradient is compared"""
    draws: int = 64
    """estimators: masks that are drawn of each, and for the reference"""
    grid: int = 9
    """landscape: points along each side"""
    degrees: float = 4.0
    """standard deviation of the initial pose's rotation per axis, degrees"""
    mm: float = 4.0
    """standard deviation of the initial pose's translation per axis, mm"""
    seed: int = 0
    """seed of the sample, the initial pose and all draws"""
    parts: tuple[str, ...] = ("faults", "influence", "steps", "paths", "estimators", "landscape")
    """probes to run: faults, influence, steps, paths, estimators, landscape"""

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) - set(PROBES):
            raise ValueError(f"--parts: use some of {', '.join(PROBES)}")
        for name, least in (("points", 2), ("rows", 1), ("draws", 2), ("grid", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; use {least} or more")
        for name in ("degrees", "mm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} is {getattr(self, name)}; use 0 or more")
        require_seed(self.seed)


def read_example(options: Probe, config: TrainingConfig) -> tuple[Example, np.ndarray]:
    """The case as training sees it, and the centre of each level (L, 3), mm, model frame.

    Args:
      options: of the command line.
      config: of the training run.

    Raises:
      ValueError: the case has no truth.
    """
    case = case_folder.read_case(options.case)
    if case.truth is None:
        raise ValueError(f"{options.case}: has no truth.json, which a registration error needs")
    example = examples.make_example(case, config.network, seed=options.seed, cropped=True)
    exact = (options.schedule or config.schedule).needs_triangles
    surface = surfaces.build_surface(
        case.model, seed=0, nodes=surfaces.PROJECTION_NODES, exact=exact
    )
    return example._replace(surface=surface), level_centres(case.model)


# Probes -------------------------------------------------------------------------------------------


def probe_faults(case: ProbedRegistration, options: Probe) -> nan_tracing.Fault | None:
    """The first value that is not finite, in the forward or in the backward pass."""
    del options
    key, config, centres = case.keys.stages, case.config, case.centres

    @jax.jit
    @jax.vmap
    def stages(params: Params, example: Example, start: Pose) -> tuple[Stages, dict[str, Any]]:
        forward = run_stages(params, key, example, config=config, centres=centres, start=start)
        return forward, stage_gradients(params, key, example, config=config, start=start)

    batch = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[None], (case.params, case.example, case.start)
    )
    forward, backward = stages(*batch)
    return nan_tracing.first_fault(forward) or nan_tracing.first_fault(backward)


def tell_faults(fault: nan_tracing.Fault | None) -> str:
    """The fault as text."""
    name = (
        "none" if fault is None else f"{fault.stage}, {fault.array}: {fault.num_nonfinite} numbers"
    )
    return f"first value that is not finite: {name}"


def probe_influence(case: ProbedRegistration, options: Probe) -> Any:
    """The influence of single points on the final TRE, exact and by the gradient."""
    final_tre = partial(case.final_tre, start=case.start)
    measure = jax.jit(partial(influence.influence, final_tre))
    return measure(case.logits, case.order[: options.points])


def tell_influence(figures: Any) -> str:
    """The agreement of both as text."""
    rank = figures.rank_correlation
    return f"influence of points: rank correlation with leaving them out {rank:.3f}"


def probe_steps(case: ProbedRegistration, options: Probe) -> tuple[Any, ...]:
    """The gradient by step and by mode, and the conditioning of each step."""
    del options
    schedule, start = case.config.schedule, case.start
    scene = apply_mask(case.example.cloud, case.weights)
    surface = case.example.surface
    error = gradient_paths.final_error(case.example.targets)
    scales, step = schedule.scales(), schedule.bound_step()

    @jax.jit
    def follow() -> tuple[Any, ...]:
        by_step = gradient_paths.gradient_by_step(
            scene, surface, start, scales=scales, step=step, error=error
        )
        by_mode = gradient_paths.gradient_by_mode(
            scene,
            surface,
            start,
            scales=scales,
            step=step,
            error=error,
            by_step=by_step,
            last=schedule.last,
        )
        track = conditioning.along_trajectory(scene, surface, start, schedule=schedule)
        return by_step, by_mode, track

    return follow()


def tell_steps(figures: tuple[Any, ...]) -> str:
    """The steps and the modes as two tables."""
    steps, modes, track = figures
    columns = ["step", "share", "cosine", "from here on", "cosine", "gap"]
    rows = [
        [
            k + 1,
            f"{steps.share_norms[k]:.1e}",
            f"{steps.share_cosines[k]:.2f}",
            f"{steps.truncated_norms[k]:.1e}",
            f"{steps.truncated_cosines[k]:.2f}",
            f"{track.gap[k]:.4f}",
            f"{track.effective_points[k]:.1f}",
            f"{track.condition[k]:.1f}",
        ]
        for k in range(len(steps.share_norms))
    ]
    by_step = text_table([*columns, "effective points", "condition"], rows)
    norms, cosines = modes.comparison.norms, modes.comparison.cosines[0]
    by_mode = text_table(
        ["mode", "norm", "cosine with unrolled"],
        [
            [mode, f"{norms[i]:.1e}", f"{cosines[i]:.2f}"]
            for i, mode in enumerate(iterate.GRADIENT_MODES)
        ],
    )
    return f"{by_step}\n\n{by_mode}"


def probe_paths(case: ProbedRegistration, options: Probe) -> Any:
    """The gradient of each level's error by its path through the network."""
    del options
    measure = jax.jit(partial(level_paths, config=case.config))
    return measure(case.params, case.keys.stages, case.example, centres=case.centres)


def tell_paths(figures: Any) -> str:
    """The levels as a table: norm and cosine of the share of each path."""
    rows = []
    for i in map(int, np.flatnonzero(figures.errors > 0)):
        shares = zip(figures.norms[i], figures.cosines[i], strict=True)
        cells = [cell for norm, cosine in shares for cell in (f"{norm:.1e}", f"{cosine:.2f}")]
        rows.append([i + 1, f"{figures.errors[i]:.2f} mm", *cells])
    paths = [column for name in GRADIENT_PATHS for column in (name, "cosine")]
    return text_table(["level", "TRE", *paths], rows)


def probe_estimators(
    case: ProbedRegistration, options: Probe
) -> dict[str, estimator_bias.EstimatorQuality]:
    """Bias and variance of every mask estimator, against an unbiased reference."""
    draws, rows = options.draws, case.order[: options.rows]
    k_reference, k_draws = jax.random.split(case.keys.masks)

    sample = jax.jit(partial(estimator_bias.sample_masks, loss=case.loss, draws=draws))
    reference = sample(k_reference, logits=case.logits, rows=rows)

    @jax.jit
    def quality(index: Array) -> estimator_bias.EstimatorQuality:
        drawn = estimator_bias.draw_gradients(
            k_draws,
            case.loss,
            case.logits,
            rows=rows,
            estimator=estimator_bias.estimator_by_index(index),
            draws=draws,
        )
        return estimator_bias.estimator_quality(drawn, reference)

    return {name: quality(jnp.int32(i)) for i, name in enumerate(mask_estimators.ESTIMATORS)}


def tell_estimators(figures: Mapping[str, Any]) -> str:
    """The estimators as a table."""
    columns = ["estimator", "bias", "deviation", "cosine", "cosine of one draw", "scale"]
    rows = [
        [name, *(f"{x:.2f}" for x in (q.bias, q.deviation, q.cosine, q.draw_cosine, q.scale))]
        for name, q in figures.items()
    ]
    return text_table(columns, rows)


def probe_landscape(case: ProbedRegistration, options: Probe) -> Array:
    """The final TRE over shifts of the initial pose from the true one, (grid, grid) mm."""
    side = jnp.linspace(-LANDSCAPE_MM, LANDSCAPE_MM, options.grid)
    axes = jnp.eye(6)
    of_twist = loss_landscape.loss_of_twist(
        partial(case.final_tre, case.weights),
        case.example.pose,
        jnp.mean(case.example.surface.points, axis=0),
    )
    measure = jax.jit(partial(loss_landscape.plane, of_twist))
    return measure(jnp.zeros(6), directions=(axes[3], axes[4]), offsets=(side, side))


def tell_landscape(figures: np.ndarray) -> str:
    """The share of initial poses that succeed, as text."""
    below = np.mean(figures < 2.0)
    return f"initial poses up to {LANDSCAPE_MM:g} mm to each side: {below:.0%} end below 2 mm"


PROBES: dict[str, tuple[Callable[[ProbedRegistration, Probe], Any], Callable[[Any], str]]] = {
    "faults": (probe_faults, tell_faults),
    "influence": (probe_influence, tell_influence),
    "steps": (probe_steps, tell_steps),
    "paths": (probe_paths, tell_paths),
    "estimators": (probe_estimators, tell_estimators),
    "landscape": (probe_landscape, tell_landscape),
}
"""Name -> the probe, and its figures as text."""


def plain(value: Any) -> Any:
    """Named tuples and arrays as JSON values; a number that is not finite becomes null."""
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
    """Runs the chosen probes, and writes their figures."""
    outputs.require_file(options.output)
    config, params = load_trained(options.checkpoint)
    example, centres = read_example(options, config)
    with jax.enable_x64(True):
        params, example, centres = in_double_precision((params, example, centres))
        case = make_probed_registration(
            options.seed,
            example,
            params,
            config=StageConfig(config.network, options.schedule or config.schedule),
            centres=centres,
            error_scale_mm=config.optimisation.error_scale_mm,
            degrees=options.degrees,
            mm=options.mm,
        )
        before = losses.mean_target_error(case.start, example.targets)
        after = jax.jit(case.final_tre)(case.weights, case.start)
        keep = float(jnp.mean(case.weights[np.asarray(example.cloud.valid)]))
        figures: dict[str, Any] = {"tre_mm": [float(before), float(after)], "keep": keep}
        print(f"{options.case}: TRE {before:.2f} -> {after:.2f} mm; the mask keeps {keep:.1%}")
        for name in options.parts:
            measure, tell = PROBES[name]
            found = measure(case, options)
            figures[name] = found if name == "faults" else jax.tree.map(np.asarray, found)
            print(f"\n{tell(figures[name])}")
    settings = {"checkpoint": str(options.checkpoint), "case": str(options.case)}
    record = {"settings": settings, "versions": versions(), "figures": plain(figures)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record))
    print(options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and probes."""
    prog = "python -m experiments.studies.probe"
    return run_command(
        lambda: probe(parse_options(Probe, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
