"""The count of a program's operations: loops count as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from e2r.analysis.program_cost import program_cost

ROWS = 64
PRODUCT = 2.0 * ROWS**3


def powers(length, inner=1):
    """A loop of loops of matrix products."""

    def one(matrix, _):
        return jax.lax.scan(lambda m, _: (m @ m, None), matrix, None, length=inner)[0], None

    return lambda matrix: jax.lax.scan(one, matrix, None, length=length)[0]


@pytest.mark.parametrize(("length", "inner"), [(1, 1), (10, 1), (5, 7)])
def test_a_loop_counts_as_often_as_it_runs(length, inner):
    cost = program_cost(powers(length, inner), jnp.ones((ROWS, ROWS)))
    assert cost.flops == pytest.approx(length * inner * PRODUCT, rel=1e-3)
    assert cost.bytes >= length * inner * 2 * 4 * ROWS**2


def test_an_unrolled_program_has_the_same_count():
    def unrolled(matrix):
        for _ in range(6):
            matrix = matrix @ matrix
        return matrix

    matrix = jnp.ones((ROWS, ROWS))
    expected = program_cost(unrolled, matrix)
    found = program_cost(powers(6), matrix)
    assert found.flops == pytest.approx(expected.flops, rel=1e-3)


def test_a_batch_and_a_gradient_count_more():
    matrix = jnp.ones((ROWS, ROWS))
    one = program_cost(powers(4), matrix).flops
    batch = program_cost(jax.vmap(powers(4)), jnp.stack([matrix] * 3)).flops
    gradient = program_cost(jax.grad(lambda m: powers(4)(m).sum()), matrix).flops
    assert batch == pytest.approx(3 * one, rel=1e-3)
    assert gradient == pytest.approx(3 * one, rel=0.02)  # forward, and two products backward


def test_memory_grows_with_what_a_gradient_stores():
    matrix = jnp.ones((ROWS, ROWS))
    few, many = (
        program_cost(jax.grad(lambda m, n=n: powers(n)(m).sum()), matrix).temporary_bytes
        for n in (4, 64)
    )
    assert many - few >= 55 * 4 * ROWS**2
