"""A mistake in a user's plug-in: the command line names it, its file and its line."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.cli.errors import run_command
from e2r.config import OptimisationConfig
from e2r.networks.build import NetworkConfig, build_mask_network
from e2r.registration.schedule import Schedule
from e2r.types import Cloud

MINE = """
import flax.linen as nn
import jax.numpy as jnp

from e2r.registration.schedule import Schedule
import helper_of_mine


def divided(square, weights, scale):
    return square * (1 / 0)  # line 10


def branching(square, weights, scale):
    if square[0] > 1.0:  # line 14: a traced array has no truth
        return square
    return weights


def borrowed(key, logits):
    return helper_of_mine.weigh(logits)


def refused(inputs):
    return Schedule(steps=0).steps  # line 24


class Net(nn.Module):
    @nn.compact
    def __call__(self, cloud, pyramid):
        return nn.Dense(2)(cloud.no_such_field)  # line 30


def network(config):
    return Net()
"""
HELPER = """
def weigh(logits):
    return {}["temperature"]  # line 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mistaken.py").write_text(MINE)
    (tmp_path / "helper_of_mine.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("mistaken", "helper_of_mine"):
        sys.modules.pop(name, None)


def weigh_with(name):
    kernel = Schedule(kernel=name).chosen_kernel()
    return jax.jit(kernel)(jnp.ones(3), jnp.ones(3), 1.0)


def draw_with(name):
    estimator = OptimisationConfig(estimator=name).mask_estimator()
    return jax.vmap(estimator)(jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3)))


def add_to_loss(name):
    (term,) = OptimisationConfig(loss_terms=(name,)).chosen_loss_terms()
    return jax.grad(lambda value: value * term(None))(1.0)


def build(name):
    network = build_mask_network(NetworkConfig(mask_network=name))
    points = jnp.zeros((4, 3))
    return network.init(jax.random.key(0), Cloud(points, points, points, jnp.ones(4, bool)), None)


@pytest.mark.parametrize(
    ("use", "name", "words"),
    [
        (weigh_with, "divided", ("kernel mistaken:divided raised ZeroDivisionError: div", 10)),
        (weigh_with, "branching", ("kernel mistaken:branching raised TracerBoolConv", 14)),
        (draw_with, "borrowed", ("estimator mistaken:borrowed raised KeyError: 'temperature'", 3)),
        (add_to_loss, "refused", ("loss_term mistaken:refused raised ValueError: schedule.st", 24)),
        (build, "network", ("mask_network mistaken:network raised AttributeError: 'Cloud'", 30)),
    ],
)
def test_one_sentence_names_plug_in_exception_file_and_line(use, name, words, mine, capsys):
    begins, line = words
    assert run_command(lambda: use(f"mistaken:{name}")) == 2
    said = capsys.readouterr().err
    file = mine / ("helper_of_mine.py" if name == "borrowed" else "mistaken.py")
    assert said.startswith(f"e2r: {begins}") and said.count("\n") == 1
    assert f"in {file}, line {line}; mend it there, or set E2R_DEBUG=1" in said


def test_the_whole_traceback_is_shown_on_request_and_to_python(mine, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        weigh_with("mistaken:divided")
    monkeypatch.setenv("E2R_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: weigh_with("mistaken:divided"))


def test_a_mistake_of_e2r_itself_stays_a_traceback(mine):
    """Also while a plug-in is in use that has no part in it."""
    assert np.isfinite(Schedule(kernel="mistaken:divided").steps)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
