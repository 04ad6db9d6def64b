"""How long the parts take: scenes, models, training steps, registrations.

Command:  python -m experiments.benchmark
Time:     a minute and a half on two cores
Expect:   more than 10 simulated scenes a second

Prints a table and writes it as JSON, a list of {name, ours_ms, per_second}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from e2r import banks, configs, console, pipeline, training
from e2r.datasets import simulated
from e2r.geometry import surfaces
from e2r.synthetic import scene


@dataclass(frozen=True)
class Benchmark:
    """Time the parts on this machine."""

    output: Path = Path("runs/benchmark.json")
    """JSON file to write"""
    repeats: int = 7
    """each figure is the median of so many runs"""


def median_ms(function: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def benchmark(options: Benchmark) -> int:
    """Runs the benchmark."""
    config = configs.CONFIGS["demo"][1]
    key = jax.random.key(0)
    specimen = simulated.procedural(key, "benchmark")
    render = jax.jit(
        jax.vmap(
            lambda k, bones: scene.photograph(k, bones, width=96, height=72, fill=(0.05, 0.8)),
            (0, None),
        )
    )
    keys = jax.random.split(key, 16)
    group = simulated.photograph(key, specimen, config.scenes.simulation, count=8)
    bank = jax.tree.map(jnp.asarray, banks.make_bank([group], config))
    batch = banks.draw_batch(bank, key, config.optimisation.batch)
    state = training.init_state(config, jax.tree.map(lambda leaf: leaf[0], bank.examples))
    step = jax.jit(lambda s, b, k: training.train_step(s, b, k, config=config))
    weights = jnp.ones(batch.cloud.points.shape[:2])
    register = jax.jit(
        jax.vmap(
            lambda cloud, w, surface, start: pipeline.register(
                cloud, w, surface, start, pipeline.Schedule()
            )
        )
    )
    size = config.optimisation.batch
    rows = []
    for name, count, call in (
        ("simulated scenes, 96x72", 16, lambda: render(keys, specimen.bones)),
        ("specimen: signed distance grids", 1, lambda: simulated.procedural(key, "b").bones),
        ("model: samples and nearest-sample grid", 1,
         lambda: surfaces.build(specimen.model, seed=0).cells),
        ("training step, a scene of 8", size, lambda: step(state, batch, key)),
        ("registration, 2,048 points, 60 steps", size,
         lambda: register(batch.cloud, weights, batch.surface, batch.pose)),
    ):  # fmt: skip
        ms = median_ms(call, options.repeats) / count
        rows.append({"name": name, "ours_ms": ms, "per_second": 1e3 / ms})
        print(f"{name:42s} {ms:9.2f} ms   {1e3 / ms:8.1f} a second")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and measures."""
    options = tyro.cli(
        Benchmark, args=arguments, prog="python -m experiments.benchmark", description=__doc__
    )
    return console.run(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
