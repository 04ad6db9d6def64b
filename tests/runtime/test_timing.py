"""Each second counts once, in the innermost timed block."""

import threading
import time

import jax
import jax.numpy as jnp

from e2r.runtime.timing import Stopwatch, collect_timings, timed, timing_table


def test_each_second_counts_once():
    def elsewhere():
        with timed("thread"):
            time.sleep(0.05)

    with collect_timings() as found, timed("outer"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        with timed("inner"):
            time.sleep(0.1)
        thread.join()
    assert list(found) == ["thread", "inner", "outer"]
    assert found["inner"] >= 0.1 and found["thread"] >= 0.05
    assert found["outer"] < found["inner"]  # the inner block's seconds are not its own
    with timed("nobody asks"):
        pass
    assert "nobody asks" not in found
    rows = timing_table(found).splitlines()
    assert [row.split()[0] for row in rows] == ["thread", "inner", "outer", "in"]


def test_a_stopwatch_stands_still_while_jax_compiles():
    def slow_to_compile(x):
        for number in range(60):
            x = jnp.tanh(x @ x) + number
        return x

    program = jax.jit(slow_to_compile)
    lowered = program.trace(jnp.zeros((8, 8))).lower()
    watch, began = Stopwatch(), time.perf_counter()
    lowered.compile({"xla_embed_ir_in_executable": True})  # no other test's, so in no cache
    wall = time.perf_counter() - began
    assert wall > 0.05
    assert watch.seconds() < 0.3 * wall
    time.sleep(0.1)
    assert watch.seconds() >= 0.1
    with_compiling, elsewhere = Stopwatch(), []

    def compile_elsewhere():
        jax.jit(lambda x: slow_to_compile(x) + 1)(jnp.zeros((7, 7)))
        elsewhere.append(True)

    thread = threading.Thread(target=compile_elsewhere)
    began = time.perf_counter()
    thread.start()
    thread.join()
    wall = time.perf_counter() - began
    assert elsewhere and with_compiling.seconds() >= 0.9 * wall  # another thread's is not its own
