"""Does end-to-end training help? The same system with masks taught in other ways.

Command:  python -m experiments.studies.ablation --output runs/ablation
Time:     about two hours on two cores; interrupted, the same command goes on
Expect:   median TRE 0.37 mm end to end, 0.46 and 0.76 mm by labels 2 and 5 mm off
          (all arms: experiments/results/ablation.json)

All arms share scenes, networks, coarse stage, search and registration. Only the mask differs:

- all: every point counts; the network of the end-to-end arm finds the initial pose;
- weak D: labels teach the mask. A model is mis-registered by a fixed error, with a standard
  deviation of D mm and D / 2 degrees per axis. Points within 3 mm of it are labelled bone. Both
  classes weigh the same. Of five thresholds, the one that registers validation specimens best is
  used;
- end to end: the pose error teaches the mask, from scratch;
- weak D, then end to end: half of the steps each;
- oracle: the true bone; the network of the end-to-end arm finds the initial pose.

Every arm takes the same number of steps and is repeated from several seeds. There is no second try.

The errors of three seeds are in experiments/results/ablation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS, TrainingConfig
from e2r.datasets.case import Case
from e2r.evaluation.comparison import errors_by_mask, pooled_figures
from e2r.evaluation.study_folder import open_study, plain, run_parts
from e2r.evaluation.text_table import text_table
from e2r.geometry import correspondences, poses
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.cluster import ClusterConfig, leave_devices
from e2r.simulation import simulator
from e2r.training import batches, loop, losses, sources
from e2r.types import Array, Bool, Example, Float, Params

THRESHOLDS = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""Logits above which a point is bone: the candidates."""
LABEL_DISTANCE_MM = 3.0
"""Points nearer than this to a mis-registered model are labelled bone."""
END_TO_END = "end to end"


@dataclass(frozen=True)
class Ablation:
    """Does end-to-end training help? The same system with masks taught in other ways."""

    output: Path
    """folder of all runs, and of ablation.json"""
    seeds: int = 3
    """repetitions"""
    steps: int = 800
    """training steps of each arm"""
    errors: tuple[float, ...] = (2.0, 5.0)
    """errors of the weak labels' models: standard deviation per axis, mm"""
    specimens: int = 64
    """specimens of the training, ten scenes each"""
    held_out: int = 48
    """specimens of the test, two scenes each"""
    validation: int = 12
    """specimens on which thresholds are chosen, two scenes each"""
    where: Annotated[ClusterConfig, tyro.conf.arg(name="")] = ClusterConfig()
    """where the seeds run; on a cluster, every node sees the output, and a seed is one task"""
    again: bool = False
    """where the output's figures were computed by other code: compute all of them anew"""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "specimens", "held_out", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.errors or min(self.errors) < 0:
            raise ValueError("--errors: use one or more, none below 0")

    def weak_arms(self) -> dict[str, float]:
        """Name of each weakly labelled arm -> error of its labels, mm."""
        return {f"weak {error:g} mm": error for error in self.errors}


def weak_labels(example: Example, error: float) -> Bool[Array, "n"]:
    """Labels the points that are near a mis-registered model.

    The random numbers come from the bits of the scene's targets, so a scene keeps its error.

    Args:
      example: one training example.
      error: standard deviation of the model's error: mm, and half as many degrees, per axis.
    """
    targets = example.targets
    bits = jax.lax.bitcast_convert_type(jnp.asarray(targets.points, jnp.float32), jnp.uint32)
    key = jax.random.key(jnp.sum(bits))
    valid = targets.valid[:, None]
    total = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0)
    middle = total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)
    centre = poses.apply_inverse(example.pose, middle)
    motion = poses.perturb(key, poses.identity(), centre, degrees=0.5 * error, mm=error)
    queries = poses.apply_inverse(poses.compose(example.pose, motion), example.cloud.points)
    offsets = queries - correspondences.project(example.surface, queries).points
    return jnp.sum(offsets * offsets, axis=1) < LABEL_DISTANCE_MM**2


def label_loss(logits: Float[Array, "n"], example: Example, *, error: float) -> Float[Array, ""]:
    """Cross-entropy with weak labels; both classes weigh the same.

    Args:
      logits: of the mask.
      example: the training example.
      error: of the labels' model, see :func:`weak_labels`.
    """
    labels, valid = weak_labels(example, error), example.cloud.valid
    entropy = jnp.logaddexp(0.0, jnp.where(labels, -logits, logits))

    def class_mean(members: Array) -> Array:
        total = jnp.sum(jnp.where(members, entropy, 0.0))
        return total / jnp.maximum(jnp.sum(members), 1).astype(total.dtype)

    loss = 0.5 * (class_mean(labels & valid) + class_mean(~labels & valid))
    keep = losses.keep_hinge(logits, valid, least=0.03)
    return loss + keep


def with_threshold(params: Params, threshold: float) -> Params:
    """Parameters whose mask keeps the points above a threshold.

    Args:
      params: of both networks.
      threshold: a logit.
    """
    layers = dict(params["mask"]["params"])
    (last,) = (k for k, leaf in layers.items() if getattr(leaf.get("bias"), "shape", 0) == (2,))
    bias = layers[last]["bias"].at[0].add(-threshold)
    layers[last] = {**layers[last], "bias": bias}
    return {**params, "mask": {"params": layers}}


def choose_threshold(cases: list[Case], config: TrainingConfig, params: Params) -> float:
    """The threshold whose registrations of the cases have the least mean log(1 + TRE).

    Args:
      cases: of validation specimens.
      config: of the training run.
      params: of its networks.
    """

    def mean_loss(threshold: float) -> float:
        shifted = with_threshold(params, threshold)
        errors = errors_by_mask(cases, config, shifted, masks=("learnt",))["learnt"]
        return float(np.mean(np.log1p(errors["tre_mm"])))

    return THRESHOLDS[int(np.argmin([mean_loss(threshold) for threshold in THRESHOLDS]))]


class SeedRun:
    """All arms from one seed. Errors go to ``errors.json`` as soon as an arm is done.

    Attributes:
      errors: arm -> its errors on the test cases, and its threshold where it has one.
    """

    def __init__(self, options: Ablation, seed: int) -> None:
        demo = NAMED_CONFIGS["demo"][1]
        self.options, self.seed = options, seed
        self.config = replace(
            demo,
            seed=seed,
            scenes=replace(demo.scenes, specimens=options.specimens),
            optimisation=replace(demo.optimisation, steps=options.steps),
        )
        self.folder = options.output / f"seed{seed}"
        self._path = self.folder / "errors.json"
        self.errors: dict[str, Any] = (
            json.loads(self._path.read_text()) if self._path.exists() else {}
        )

    def run(self, make_test_cases: Callable[[], list[Case]]) -> dict[str, Any]:
        """Trains and tests the arms that are not done yet.

        Args:
          make_test_cases: called only where an arm is left.

        Returns:
          :attr:`errors`.
        """
        weak = self.options.weak_arms()
        arms = [END_TO_END, *weak, *(f"{name}, then {END_TO_END}" for name in weak)]
        if set(arms) <= set(self.errors):
            return self.errors
        self.folder.mkdir(parents=True, exist_ok=True)
        test_cases = make_test_cases()
        source = sources.simulated(self.config)
        if END_TO_END not in self.errors:
            params = self._train(source, END_TO_END)
            masks = ("all", "learnt", "oracle")
            errors = errors_by_mask(test_cases, self.config, params, masks=masks)
            self._store("all", errors["all"])
            self._store("oracle", errors["oracle"])
            self._store(END_TO_END, errors["learnt"])
        for name, error in weak.items():
            if name not in self.errors:
                params = self._train(source, name, error=error)
                threshold = choose_threshold(self._validation_cases, self.config, params)
                self._test(name, with_threshold(params, threshold), test_cases, threshold=threshold)
            after = f"{name}, then {END_TO_END}"
            if after not in self.errors:
                first = self._train(source, f"{name}, first half", error=error, half=True)
                self._test(after, self._train(source, after, begin=first, half=True), test_cases)
        return self.errors

    def _train(
        self,
        source: sources.ExampleSource,
        arm: str,
        *,
        error: float | None = None,
        begin: Params | None = None,
        half: bool = False,
    ) -> Params:
        """Trains one arm, taught by labels with an error or, without one, by the pose error."""
        config = self.config
        if half:
            steps = -(-self.options.steps // 2)
            config = replace(config, optimisation=replace(config.optimisation, steps=steps))
        inputs = loop.RunInputs(
            config,
            batches.uniform_batches(config, source),
            source=f"ablation, {arm}",
            mask_loss=None if error is None else partial(label_loss, error=error),
            initial_params=begin,
        )
        state = loop.train(inputs, self.folder / arm.replace(" ", "_").replace(",", ""))
        return state.params

    def _test(self, arm: str, params: Params, cases: list[Case], **extra: Any) -> None:
        errors = errors_by_mask(cases, self.config, params, masks=("learnt",))["learnt"]
        self._store(arm, errors, **extra)

    def _store(self, arm: str, errors: Mapping[str, Any], **extra: Any) -> None:
        self.errors[arm] = {**errors, **extra}
        with atomic_write(self._path) as part:
            part.write_text(json.dumps(self.errors))
        median = np.median(errors["tre_mm"])
        print(f"seed {self.seed}, {arm}: median TRE {median:.2f} mm", flush=True)

    @cached_property
    def _validation_cases(self) -> list[Case]:
        return list(
            simulator.held_out_cases(
                self.config.scenes.simulation,
                specimens=self.options.validation,
                frames=2,
                seed=self.seed,
                kind=simulator.CALIBRATION,
            )
        )


def summarise(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of each arm over all seeds, and its gain over the best weakly labelled arm.

    Args:
      seeds: for each seed the errors of all arms.
    """
    figures: dict[str, Any] = {}
    for arm in seeds[0]:
        runs = [errors[arm] for errors in seeds]
        by_seed = [float(np.median(run["tre_mm"])) for run in runs]
        figures[arm] = {**pooled_figures(runs), "by_seed": by_seed}
    best = min(v["median"] for k, v in figures.items() if k.startswith("weak") and "then" not in k)
    for value in figures.values():
        value["less_than_best_weak"] = 1.0 - value["median"] / best
    return figures


def results_table(figures: Mapping[str, Any]) -> str:
    """The arms as text."""
    rows = []
    for arm, value in figures.items():
        low, high = value["interval95"]
        rows.append(
            [
                arm,
                f"{value['median']:.2f} mm",
                f"[{low:.2f}, {high:.2f}]",
                " ".join(f"{median:.2f}" for median in value["by_seed"]),
                f"{value['below_2mm']:.1%}",
                f"{value['below_5mm']:.1%}",
                f"{value['less_than_best_weak']:+.0%}",
            ]
        )
    columns = ["mask taught by", "median TRE", "95 % interval", "by seed", "<2 mm", "<5 mm"]
    return text_table([*columns, "below the best weak"], rows)


@cache
def make_test_cases(held_out: int) -> list[Case]:
    """The test cases of all arms, made once in a process.

    Args:
      held_out: number of specimens.
    """
    scenes = NAMED_CONFIGS["demo"][1].scenes.simulation
    return list(simulator.held_out_cases(scenes, specimens=held_out, frames=2, seed=0))


def run_seed(options: Ablation, seed: int) -> dict[str, Any]:
    """The errors of all arms from one seed.

    Args:
      options: of the command line.
      seed: of the runs.
    """
    return SeedRun(options, seed).run(partial(make_test_cases, options.held_out))


def seed_name(seed: int) -> str:
    """The name of a seed's folder."""
    return f"seed{seed}"


def ablate(options: Ablation) -> int:
    """Runs what is left of the ablation, and writes its figures.

    Args:
      options: of the command line; a later call may ask for more seeds.

    Raises:
      ValueError: the folder holds an ablation with other settings, or by other code.
    """
    leave_devices(options.where)
    settings = plain(asdict(options), without=("output", "seeds", "where", "again"))
    summary = options.output / "ablation.json"
    with open_study(
        options.output / "settings.json",
        settings,
        study=SeedRun,
        again=options.again,
        results=[*options.output.glob("seed*"), summary],
        first=options.output.glob("seed*/errors.json"),
    ) as code:
        placed = replace(options, output=options.output.resolve())
        seeds = run_parts(
            partial(run_seed, placed), range(options.seeds), config=options.where, name=seed_name
        )
        figures = summarise(seeds)
        record = {"arms": figures, **settings, "code": code}
        summary.write_text(json.dumps(record, indent=1))
        print(results_table(figures))
        print(summary)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the ablation."""
    prog = "python -m experiments.studies.ablation"
    return run_command(
        lambda: ablate(parse_options(Ablation, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(import_module("experiments.studies.ablation").main())  # by its name, for workers
