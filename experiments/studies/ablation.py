"""Does it pay to learn the mask for the registration? The same system, taught in other ways.

Command:  python -m experiments.studies.ablation --output runs/ablation
Time:     about two hours on two cores; interrupted, the same command goes on
Expect:   median TRE 0.37 mm end to end, 0.46 and 0.76 mm by labels 2 and 5 mm off (more: README)

All arms share scenes, networks, coarse stage, search and registration; only the mask differs:

- all: every point counts (the end-to-end arm's network finds the start);
- weak D: the mask is taught by labels: a point is bone where a model that is mis-registered by a
  fixed error (standard deviation D mm and half as many degrees per axis, at the exposed levels)
  comes within 3 mm of it. Classes are balanced, and the threshold is the one of five that
  registers validation specimens best;
- end to end: the mask is taught by the pose error, from scratch;
- weak D, then end to end: half the steps each;
- oracle: the true bone (the end-to-end arm's network finds the start).

Every arm takes the same number of steps, and is repeated from several seeds. No frame is tried
again, whatever its first result.

The errors of three seeds are in experiments/results/ablation: copied to the output before, they are
not run again, and more seeds go on from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.config import NAMED_CONFIGS, EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case
from e2r.evaluation import metrics, runner
from e2r.evaluation.predictions import Registered
from e2r.geometry import correspondences, poses
from e2r.runtime.atomic_files import atomic_write, check_settings
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training import batches, examples, loop, losses
from e2r.types import Array, Example, Params

THRESHOLDS = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""Logits from which on a point is bone, to choose among."""
TOUCH = 3.0
"""mm from a mis-registered model that a point is labelled bone."""


@dataclass(frozen=True)
class Ablation:
    """Does it pay to learn the mask for the registration?"""

    output: Path
    """folder of all runs, of ablation.json and of the table"""
    seeds: int = 3
    """repetitions"""
    steps: int = 800
    """training steps of each arm"""
    errors: tuple[float, ...] = (2.0, 5.0)
    """mm: how far the weak labels' models are mis-registered, standard deviation per axis"""
    specimens: int = 64
    """specimens of training, ten scenes each"""
    held_out: int = 48
    """specimens of the test, two scenes each"""
    validation: int = 12
    """specimens on which thresholds are chosen, two scenes each"""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "specimens", "held_out", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.errors or min(self.errors) < 0:
            raise ValueError("--errors: use one or more, none below 0")


def weak_labels(example: Example, error: float) -> Array:
    """Labels (N,) bool of a model mis-registered by a fixed error of ``error`` mm (see above).

    The error of a scene never changes: its random numbers come from the bits of its targets.
    """
    targets = example.targets
    bits = jax.lax.bitcast_convert_type(jnp.asarray(targets.points, jnp.float32), jnp.uint32)
    key = jax.random.key(jnp.sum(bits))
    valid = targets.valid[:, None]
    middle = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0) / jnp.maximum(jnp.sum(valid), 1)
    place = poses.apply_inverse(example.pose, middle)
    still = poses.identity()
    motion = poses.perturb(key, still, place, degrees=0.5 * error, mm=error)
    queries = poses.apply_inverse(poses.compose(example.pose, motion), example.cloud.points)
    apart = queries - correspondences.project(example.surface, queries).points
    return jnp.sum(apart * apart, axis=1) < TOUCH**2


def label_loss(logits: Array, example: Example, *, error: float) -> Array:
    """Cross-entropy with weak labels, both classes of equal weight."""
    labels, valid = weak_labels(example, error), example.cloud.valid
    each = jnp.logaddexp(0.0, jnp.where(labels, -logits, logits))

    def mean(which: Array) -> Array:
        return jnp.sum(jnp.where(which, each, 0.0)) / jnp.maximum(jnp.sum(which), 1)

    loss = 0.5 * (mean(labels & valid) + mean(~labels & valid))
    keep = losses.keep_hinge(logits, valid, least=0.03)
    return loss + keep


def shifted(params: Params, threshold: float) -> Params:
    """Parameters whose mask keeps what lies above ``threshold`` logits."""
    layers = dict(params["mask"]["params"])
    (last,) = (k for k, leaf in layers.items() if getattr(leaf.get("bias"), "shape", 0) == (2,))
    bias = layers[last]["bias"].at[0].add(-threshold)
    layers[last] = {**layers[last], "bias": bias}
    return {**params, "mask": {"params": layers}}


def score(
    source: list[Case], config: TrainingConfig, params: Params, masks: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Errors over cases, fully automatic: mask -> ``{"tre_mm": [...], "source": [...]}``."""
    job = EvaluationConfig(masks=masks, per_level=False, retry_below=0.0)
    done = [r for r in runner.run(source, config, params, job) if isinstance(r, Registered)]
    return {
        mask: {
            "tre_mm": [r.errors[mask]["tre_mm"] for r in done],
            "source": [r.case.source for r in done],
        }
        for mask in masks
    }


def choose_threshold(source: list[Case], config: TrainingConfig, params: Params) -> float:
    """The threshold whose registrations of validation cases have the least mean log(1 + TRE)."""
    losses_ = [
        np.mean(
            np.log1p(score(source, config, shifted(params, t), ("learnt",))["learnt"]["tre_mm"])
        )
        for t in THRESHOLDS
    ]
    return THRESHOLDS[int(np.argmin(losses_))]


def run_seed(options: Ablation, seed: int, test: Callable[[], list[Case]]) -> dict[str, Any]:
    """All arms from one seed: arm -> errors on the test cases; kept in a file when done."""
    folder = options.output / f"seed{seed}"
    path = folder / "errors.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    demo = NAMED_CONFIGS["demo"][1]
    config = replace(
        demo,
        seed=seed,
        scenes=replace(demo.scenes, specimens=options.specimens),
        optimisation=replace(demo.optimisation, steps=options.steps),
    )
    half = replace(config, optimisation=replace(config.optimisation, steps=-(-options.steps // 2)))
    weak = [f"weak {error:g} mm" for error in options.errors]
    arms = ["end to end", *weak, *(f"{name}, then end to end" for name in weak)]
    if set(arms) <= set(found):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    bank = examples.simulated_bank(config)
    validation = list(
        simulator.held_out_cases(
            config.scenes.simulation,
            specimens=options.validation,
            frames=2,
            seed=seed,
            kind=simulator.CALIBRATION,
        )
    )

    def keep(arm: str, errors: Mapping[str, Any], **more: Any) -> None:
        found[arm] = {**errors, **more}
        with atomic_write(path) as part:
            part.write_text(json.dumps(found))
        print(f"seed {seed}, {arm}: median TRE {np.median(errors['tre_mm']):.2f} mm", flush=True)

    def taught(
        arm: str, settings: TrainingConfig, error: float | None, begin: Params | None
    ) -> Params:
        teacher = None if error is None else partial(label_loss, error=error)
        state = loop.train(
            settings,
            batches.from_bank(settings, bank),
            folder / arm.replace(" ", "_").replace(",", ""),
            teacher=teacher,
            begin=begin,
            source=f"ablation, {arm}",
        )
        return state.params

    if "end to end" not in found:
        params = taught("end to end", config, None, None)
        scores = score(test(), config, params, ("all", "learnt", "oracle"))
        keep("all", scores["all"])
        keep("oracle", scores["oracle"])
        keep("end to end", scores["learnt"])
    for name, error in zip(weak, options.errors, strict=True):
        if name not in found:
            params = taught(name, config, error, None)
            threshold = choose_threshold(validation, config, params)
            errors = score(test(), config, shifted(params, threshold), ("learnt",))["learnt"]
            keep(name, errors, threshold=threshold)
        after = f"{name}, then end to end"
        if after not in found:
            begin = taught(f"{name}, first half", half, error, None)
            params = taught(after, half, None, begin)
            keep(after, score(test(), config, params, ("learnt",))["learnt"])
    return found


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Median TRE of each arm over all seeds, with an interval over specimens, and what it saves."""
    figures: dict[str, Any] = {}
    for arm in found[0]:
        tre = np.concatenate([one[arm]["tre_mm"] for one in found])
        groups = [s for one in found for s in one[arm]["source"]]
        figures[arm] = {
            "median": float(np.median(tre)),
            "interval95": metrics.bootstrap(tre, groups, lambda v: float(np.median(v)), seed=0),
            "by_seed": [float(np.median(one[arm]["tre_mm"])) for one in found],
            "below_2mm": float(np.mean(tre < 2.0)),
            "below_5mm": float(np.mean(tre < 5.0)),
        }
    best = min(v["median"] for k, v in figures.items() if k.startswith("weak") and "then" not in k)
    for value in figures.values():
        value["less_than_best_weak"] = 1.0 - value["median"] / best
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """The arms as text."""
    lines = [
        f"{'mask taught by':32s} median TRE [95 % interval]      by seed              <2 mm  <5 mm"
    ]
    for arm, value in figures.items():
        low, high = value["interval95"]
        seeds = " ".join(f"{v:.2f}" for v in value["by_seed"])
        lines.append(
            f"{arm:32s} {value['median']:5.2f} mm [{low:.2f}, {high:.2f}]   {seeds:24s} "
            f"{value['below_2mm']:6.1%} {value['below_5mm']:6.1%}   "
            f"{value['less_than_best_weak']:+.0%} against the best weak"
        )
    return "\n".join(lines)


def ablate(options: Ablation) -> int:
    """Runs the ablation, as far as it has not been run already; more seeds may be asked for later.

    Raises:
      ValueError: the folder holds an ablation with other settings.
    """
    settings = asdict(options)
    for name in ("output", "seeds"):
        del settings[name]
    options.output.mkdir(parents=True, exist_ok=True)
    check_settings(options.output / "settings.json", settings)
    scenes = NAMED_CONFIGS["demo"][1].scenes.simulation

    @cache
    def test() -> list[Case]:  # made if a seed is still to be run
        return list(simulator.held_out_cases(scenes, specimens=options.held_out, frames=2, seed=0))

    found = [run_seed(options, seed, test) for seed in range(options.seeds)]
    figures = summarise(found)
    whole = {"arms": figures, **settings, "versions": versions()}
    (options.output / "ablation.json").write_text(json.dumps(whole, indent=1))
    print(table(figures))
    print(options.output / "ablation.json")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the ablation."""
    options = tyro.cli(
        Ablation, args=arguments, prog="python -m experiments.studies.ablation", description=__doc__
    )
    return run_command(lambda: ablate(options))


if __name__ == "__main__":
    sys.exit(main())
