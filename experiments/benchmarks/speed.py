"""How long do simulation, training and rotations take on this machine?

Command:  python -m experiments.benchmarks.speed
Time:     one minute on two cores
Expect:   more than 10 simulated scenes a second; 8,192 rotations in 1.2 ms, 16 times faster than
          the SVD and 13 times faster than roma

roma is compared with where it is installed: python -m pip install -e '.[peers]'. Times are medians
of alternating runs. experiments.benchmarks.registration times the registration.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis import training_probe
from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.evaluation.benchmark import Timing, median_times, write_timings
from e2r.geometry import procrustes, surfaces
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.simulation import rendering, simulator, specimens
from e2r.training import sources
from e2r.training.step import init_state, train_step
from e2r.types import Array, Float

PARTS = ("stages", "rotation")
SCENES = 16
"""Scenes that are rendered at a time."""
PROBE_EVERY = 50
"""Training steps between two probes, for the share of time that they take."""


@dataclass(frozen=True)
class Speed:
    """How long do simulation, training and rotations take on this machine?"""

    output: Path = Path("runs/speed.json")
    """JSON file to write"""
    repeats: int = 15
    """runs of which each figure is the median"""
    parts: tuple[str, ...] = PARTS
    """what to measure: stages (simulation, model, training), rotation"""

    def __post_init__(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                raise ValueError(f"--parts {name}: use some of {', '.join(PARTS)}")
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; use 1 or more")


def time_stages(repeats: int) -> list[Timing]:
    """Simulation, model and training step, which have no peer.

    Args:
      repeats: runs of which each time is the median, five at most.
    """
    config = NAMED_CONFIGS["demo"][1]
    batch_size = config.optimisation.batch
    key = jax.random.key(0)
    specimen = specimens.procedural_specimen(key, "benchmark")
    photograph = partial(rendering.photograph, width=96, height=72, wound_fraction=(0.05, 0.8))
    render = jax.jit(jax.vmap(photograph, (0, None)))
    keys = jax.random.split(key, SCENES)
    cases = simulator.simulate_frames(key, specimen, config.scenes.simulation, count=8)
    source = sources.from_cases(cases, config)
    batch = jax.tree.map(jnp.asarray, sources.read_batch(source, range(batch_size)))
    state = jax.jit(partial(init_state, config))()
    step = jax.jit(partial(train_step, config=config))
    probe = training_probe.make_probe(config)
    build = partial(surfaces.build_surface, seed=0, nodes=surfaces.PROJECTION_NODES, exact=False)
    calls: dict[str, tuple[int, Callable[[int], Any]]] = {
        "a simulated scene, 96x72": (SCENES, lambda _: render(keys, specimen.bones)),
        "signed distance grids of a specimen": (
            1,
            lambda _: specimens.procedural_specimen(key, "b").bones,
        ),
        "surface of a model, for projection": (1, lambda _: build(specimen.model).nodes),
        "training step, for each scene": (batch_size, lambda _: step(state, batch, key)),
        "probe of the gradient": (1, lambda _: probe(state.params, batch, key, jnp.int32(0))),
    }
    times = median_times({name: call for name, (_, call) in calls.items()}, min(repeats, 5))
    slower = times["probe of the gradient"] / (PROBE_EVERY * times["training step, for each scene"])
    print(f"A probe every {PROBE_EVERY} steps makes training {slower:.1%} longer.")
    return [Timing(name, times[name] / count) for name, (count, _) in calls.items()]


def svd_rotation(h: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The nearest rotation to a matrix, by its singular value decomposition."""
    u, _, vt = jnp.linalg.svd(h)
    last = jnp.linalg.det(u @ vt)
    return (u * jnp.stack([jnp.ones_like(last), jnp.ones_like(last), last])[None]) @ vt


def time_rotations(repeats: int) -> list[Timing]:
    """8,192 rotations from covariances, forward and with gradient.

    Args:
      repeats: a third of the runs of which each time is the median.
    """
    rng = np.random.default_rng(0)
    h, cotangent = (jnp.asarray(rng.normal(size=(8192, 3, 3)), jnp.float32) for _ in range(2))

    def with_gradient(solve: Callable[[Array], Array]) -> Callable[[Array], Any]:
        def value_and_pullback(x: Array) -> tuple[Array, Array]:
            value, pullback = jax.vjp(jax.vmap(solve), x)
            return value, pullback(cotangent)[0]

        return jax.jit(value_and_pullback)

    solvers: dict[str, Callable[[Array], Array]] = {
        "ours": procrustes.rotation_from_covariance,
        "jnp.linalg.svd": svd_rotation,
    }
    calls: dict[str, Callable[[int], Any]] = {}
    for name, solve in solvers.items():
        calls[name] = partial(_on, jax.jit(jax.vmap(solve)), h)
        calls[f"{name}, gradient"] = partial(_on, with_gradient(solve), h)
    peers = ["jnp.linalg.svd"]
    if importlib.util.find_spec("roma") is None:
        print("roma is not installed; it is left out")
    else:
        calls |= _roma_calls(np.array(h), np.array(cotangent))
        peers.append("roma")
    times = median_times(calls, 3 * repeats)
    return [
        Timing(f"8,192 rotations{end}", times[f"ours{end}"], peer, times[f"{peer}{end}"])
        for end in ("", ", gradient")
        for peer in peers
    ]


def _on(solve: Callable[[Array], Any], h: Array, _: int) -> Any:
    return solve(h)


def _roma_calls(h: np.ndarray, cotangent: np.ndarray) -> dict[str, Callable[[int], Any]]:
    import roma  # noqa: PLC0415
    import torch  # noqa: PLC0415

    matrices, seed = torch.from_numpy(h), torch.from_numpy(cotangent)

    def gradient(_: int) -> None:
        x = matrices.clone().requires_grad_(True)
        roma.special_procrustes(x).backward(seed)

    return {"roma": lambda _: roma.special_procrustes(matrices), "roma, gradient": gradient}


def benchmark(options: Speed) -> int:
    """Measures the chosen parts and writes the table."""
    outputs.require_file(options.output)
    rows: list[Timing] = []
    if "stages" in options.parts:
        rows += time_stages(options.repeats)
    if "rotation" in options.parts:
        rows += time_rotations(options.repeats)
    write_timings(options.output, rows)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    if arguments is None:  # the process is ours; training keeps freed memory, too
        keep_freed_memory()
    prog = "python -m experiments.benchmarks.speed"
    return run_command(
        lambda: benchmark(parse_options(Speed, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
