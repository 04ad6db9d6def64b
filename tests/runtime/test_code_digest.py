"""A digest changes with all code and constants that a function reaches, and with nothing else."""

import functools
import importlib
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.registration import iterate
from e2r.registration.schedule import Schedule
from e2r.runtime.code_digest import digest, is_own, take_snapshot

HELPER = """
SCALE = 2.0
TABLE = {"a": [1, 2]}
WEIGHTS = np.arange(3.0)

def doubled(x):
    return SCALE * x
"""
MODULE = """
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import {helper}
from {helper} import TABLE, doubled

POWER = 3

def decorated(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return 1.0 * function(*arguments)
    return wrapper

def cauchy(square, weights, scale):
    return 1.0 / (1.0 + square / scale) ** POWER

def direct(x):
    return x**POWER

def through_a_function(x):
    return doubled(x)

def through_a_module(x):
    return {helper}.SCALE * x

def through_a_table(x):
    return TABLE["a"][0] * x

def through_an_array(x):
    return {helper}.WEIGHTS[0] * x

def inside(x):
    import {helper} as local
    return local.doubled(x)

def by_default(x, *, factor=5.0):
    return factor * x

@jax.jit
def compiled(x):
    return POWER * x

@decorated
def wrapped(x):
    return POWER * x

class Network(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(jnp.tanh(POWER * x))

def build(config):
    return Network(width=3)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch, request):
    """A module of a user and its helper, importable."""
    tag = "".join(c for c in request.node.name if c.isalnum())
    helper, name = f"helper_{tag}", f"module_{tag}"
    (tmp_path / f"{helper}.py").write_text("import numpy as np\n" + HELPER)
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{helper}", helper))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module(name), importlib.import_module(helper)


CHANGES = {
    "direct": lambda module, helper: setattr(module, "POWER", 4),
    "through_a_function": lambda module, helper: setattr(helper, "SCALE", 2.5),
    "through_a_module": lambda module, helper: setattr(helper, "SCALE", 2.5),
    "through_a_table": lambda module, helper: helper.TABLE.update(a=[5, 2]),
    "through_an_array": lambda module, helper: setattr(helper, "WEIGHTS", np.ones(3)),
    "inside": lambda module, helper: setattr(helper, "SCALE", 2.5),
    "by_default": lambda module, helper: module.by_default.__kwdefaults__.update(factor=6.0),
    "compiled": lambda module, helper: setattr(module, "POWER", 4),
    "wrapped": lambda module, helper: setattr(module, "POWER", 4),
    "Network": lambda module, helper: setattr(module, "POWER", 4),
    "build": lambda module, helper: setattr(module, "POWER", 4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_constant_changes_the_digest(modules, name):
    module, helper = modules
    function = getattr(module, name)
    before = take_snapshot(function)
    assert before.is_current() and digest(function) == before.digest
    CHANGES[name](module, helper)
    assert not before.is_current()
    assert digest(function) != before.digest


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_a_package_of_another_folder_of_packages_is_not_walked(tmp_path, monkeypatch, folder):
    """The system's packages, or the user's, below a virtual environment."""
    name = f"installed_in_{folder[:4]}"
    place = tmp_path / "lib" / "python3" / folder
    place.mkdir(parents=True)
    (place / f"{name}.py").write_text("STATE = 0\ndef step(x):\n    return STATE * x\n")
    monkeypatch.syspath_prepend(place)
    importlib.invalidate_caches()
    package = importlib.import_module(name)

    def reached(x):
        return package.step(x)

    before = take_snapshot(reached)
    package.STATE = 1  # the state of a package while it runs
    assert before.is_current() and digest(reached) == before.digest


def test_another_constant_of_the_module_changes_nothing(modules):
    module, _ = modules
    before = take_snapshot(module.through_a_function)
    module.POWER = 17
    assert before.is_current() and digest(module.through_a_function) == before.digest


def test_code_that_is_replaced_in_place_is_noticed(modules):
    """As IPython's autoreload does."""
    module, _ = modules
    before = take_snapshot(module.direct)
    module.direct.__code__ = module.through_a_module.__code__
    assert not before.is_current() and digest(module.direct) != before.digest


def test_closures_partials_and_lambdas_count():
    def scaled(factor):
        return lambda x: factor * x

    assert digest(scaled(2.0)) == digest(scaled(2.0)) != digest(scaled(3.0))
    power = functools.partial(pow, exp=2)
    assert (
        digest(power)
        == digest(functools.partial(pow, exp=2))
        != digest(functools.partial(pow, exp=3))
    )
    assert digest(jnp.arange(3)) != digest(jnp.arange(4))
    assert digest(jax.vmap(scaled(2.0))) != digest(jax.vmap(scaled(3.0)))
    assert digest({1, 2}) == digest({2, 1}) != digest({3})


def test_instances_count_by_class_and_fields():
    class Kernel:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, x):
            return self.scale * x

    assert digest(Kernel(1.0)) == digest(Kernel(1.0)) != digest(Kernel(2.0))
    assert digest(nn.Dense(3)) != digest(nn.Dense(4))


def test_an_object_of_which_nothing_is_known_is_never_the_same():
    class Hidden:
        __slots__ = ("value",)

    assert digest(Hidden()) != digest(Hidden())


def test_a_constant_of_e2r_changes_the_programs_that_read_it(monkeypatch):
    program = functools.partial(iterate.run_unrolled, step=Schedule().bound_step())
    before = take_snapshot(program)
    monkeypatch.setattr(iterate, "IMPLICIT_DAMPING", 0.5)
    assert not before.is_current() and digest(program) != before.digest
    monkeypatch.undo()
    assert before.is_current() and digest(program) == before.digest


def test_settings_count_with_the_functions_that_they_name(modules):
    module, _ = modules
    assert digest(Schedule()) != digest(Schedule(kernel="tukey"))
    chosen = Schedule(kernel=module.cauchy)
    before = take_snapshot(chosen)
    module.POWER = 5
    assert not before.is_current() and digest(chosen) != before.digest


def test_e2rs_own_functions_are_told_from_others(modules):
    module, _ = modules
    assert is_own(iterate.run_unrolled) and is_own(Schedule)
    assert not is_own(module.direct) and not is_own(jnp.sin)
    assert not is_own(functools.partial(iterate.run_unrolled, mode="last"))


def test_two_processes_agree_whatever_their_hash_seed(tmp_path):
    (tmp_path / "helper.py").write_text("import numpy as np\n" + HELPER)
    (tmp_path / "module.py").write_text(MODULE.replace("{helper}", "helper"))
    script = textwrap.dedent(
        """
        import module
        from e2r.runtime.code_digest import digest
        print(digest(module.build, module.wrapped, module.through_a_table, {"b", "a", "c"}))
        """
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**dict(PYTHONHASHSEED=seed), "PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
