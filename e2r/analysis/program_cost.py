"""Floating-point operations and bytes of a compiled program, loops counted as often as they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core


class ProgramCost(NamedTuple):
    """What one run of a program costs, by XLA's count."""

    flops: float
    """floating-point operations"""
    bytes: float
    """bytes that its instructions read and write, whether from memory or from a cache"""
    temporary_bytes: float
    """memory beside arguments and results"""


def program_cost(function: Callable[..., Any], *arguments: Any) -> ProgramCost:
    """Compiles a function and counts what one run of it costs.

    XLA's own count takes the body of a loop once. Here each ``lax.scan`` counts as often as it
    runs. A ``lax.while_loop`` has no fixed number of runs, and counts once.

    Args:
      function: of arrays; it need not be compiled.
      arguments: arrays, or their shapes.
    """
    _, every = _count(jax.jit(function).trace(*arguments).jaxpr)
    return every


def _count(program: core.ClosedJaxpr) -> tuple[ProgramCost, ProgramCost]:
    """The costs with the body of each loop taken once, and as often as it runs."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars]
    compiled = jax.jit(core.jaxpr_as_fun(program)).lower(*shapes).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    once = ProgramCost(
        float(cost.get("flops", 0.0)),
        float(cost.get("bytes accessed", 0.0)),
        float(memory.temp_size_in_bytes if memory else 0),
    )
    flops, moved = once.flops, once.bytes
    for body, length in _loops(program.jaxpr):
        body_once, body_every = _count(body)
        flops += length * body_every.flops - body_once.flops
        moved += length * body_every.bytes - body_once.bytes
    return once, ProgramCost(flops, moved, once.temporary_bytes)


def _loops(program: core.Jaxpr) -> list[tuple[core.ClosedJaxpr, int]]:
    """The outermost scans of a program, with how often each runs."""
    found: list[tuple[core.ClosedJaxpr, int]] = []
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            found.append((equation.params["jaxpr"], equation.params["length"]))
            continue
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if isinstance(value, core.ClosedJaxpr):
                found += _loops(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                found += _loops(value)
    return found


def _is_program(value: object) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)
