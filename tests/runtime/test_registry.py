"""Plug-ins: names of functions in settings, and what is refused."""

import functools
import importlib
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest

from e2r.config import (
    LOSS_TERMS,
    NAMED_CONFIGS,
    OptimisationConfig,
    TrainingConfig,
    changed_plugins,
    config_from_json,
    config_to_json,
)
from e2r.networks.build import NetworkConfig
from e2r.pipeline import ProgramConfig
from e2r.registration.kernels import KERNELS, trimmed
from e2r.registration.schedule import Schedule
from e2r.runtime import registry
from e2r.runtime.registry import KINDS, UnknownPluginError, plugin, plugin_digests, settle_plugins

MODULE = """
SCALE = 1.0

def cauchy(square, weights, scale):
    return 1.0 / (1.0 + SCALE * square / (scale * scale))

def entropy(inputs):
    return 0.0 * inputs.logits.sum()
"""


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    """Other tests of this process go through all that is registered."""
    before = {kind: dict(functions) for kind, functions in registry._registered.items()}
    yield
    for kind, functions in registry._registered.items():
        functions.clear()
        functions.update(before.get(kind, {}))


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """A user's module that is not imported yet; gives its name."""
    name = "user_" + "".join(c for c in request.node.name if c.isalnum())
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


def test_a_function_becomes_its_name_and_its_digest(module):
    by_name = Schedule(kernel=f"{module}:cauchy")
    function = sys.modules[module].cauchy
    by_function = Schedule(kernel=function)
    assert by_function == by_name and by_function.kernel == f"{module}:cauchy"
    assert by_function.chosen_kernel() is function
    assert list(plugin_digests(by_name)) == [f"kernel {module}:cauchy"]
    assert Schedule(kernel=KERNELS["tukey"]) == Schedule(kernel="tukey")
    assert plugin_digests(Schedule()) == {}


def test_settings_with_other_code_are_other_settings(module):
    before = Schedule(kernel=f"{module}:cauchy")
    first = before.chosen_kernel()
    sys.modules[module].SCALE = 2.0
    after = replace(before, steps=before.steps)
    assert after != before and len({before, after}) == 2

    def cauchy(square, weights, scale):  # as a cell of a notebook that is run again
        return square

    cauchy.__module__, cauchy.__qualname__ = module, "cauchy"
    sys.modules[module].cauchy = cauchy
    again = Schedule(kernel=cauchy)
    assert str(again.kernel) == str(before.kernel) and again not in (before, after)
    assert again.chosen_kernel() is cauchy and before.chosen_kernel() is first


def test_a_decorator_gives_a_short_name():
    @plugin("kernel")
    def flat(square, weights, scale):
        return square * 0.0 + 1.0

    assert Schedule(kernel="flat").chosen_kernel() is flat
    assert Schedule(kernel=flat).kernel == "flat" and "flat" in KERNELS
    plugin("kernel", name="half")(functools.partial(trimmed, share=0.5))
    plugin("kernel", name="third")(functools.partial(trimmed, share=0.33))
    half, third = Schedule(kernel="half"), Schedule(kernel="third")
    assert half.kernel.digest and half.kernel.digest != third.kernel.digest
    with pytest.raises(ValueError, match="'welsch' is a kernel of e2r"):
        plugin("kernel", name="welsch")(flat)
    with pytest.raises(ValueError, match=f"use one of {', '.join(KINDS)}"):
        plugin("kernels")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("welsh", "did you mean 'welsch'"),
        ("missing_module:kernel", "missing_module cannot be imported"),
        ("{module}:cauchi", "has no function 'cauchi'"),
        ("{module}:SCALE", "has no function 'SCALE'"),
        (lambda square, weights, scale: square, 'e2r.plugin("kernel", name="...")'),
    ],
)
def test_what_cannot_be_found_is_refused(module, choice, words):
    if isinstance(choice, str):
        choice = choice.format(module=module)
    with pytest.raises(UnknownPluginError, match=r"^schedule\.kernel is") as refused:
        Schedule(kernel=choice)
    assert words in str(refused.value)


def test_a_module_that_raises_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownPluginError, match="ZeroDivisionError"):
        Schedule(kernel="broken_plugin:kernel")
    assert str(tmp_path) not in sys.path


def test_settings_of_a_file_import_nothing(module, monkeypatch):
    schedule = Schedule(kernel=f"{module}:cauchy")
    optimisation = OptimisationConfig(loss_terms=(f"{module}:entropy",))
    config = TrainingConfig(schedule=schedule, optimisation=optimisation)
    written = config_to_json(config)
    assert config_from_json(written) == config and changed_plugins(written, config) == []
    sys.modules.pop(module)
    with pytest.raises(UnknownPluginError, match=f"register {module}:cauchy first"):
        config_from_json(written)
    assert module not in sys.modules
    monkeypatch.setenv("E2R_PLUGINS", module)
    read = config_from_json(written)
    assert read == config and module in sys.modules
    sys.modules[module].SCALE = 3.0
    assert changed_plugins(written, config_from_json(written)) == [f"kernel {module}:cauchy"]
    monkeypatch.setenv("E2R_PLUGINS", "not_there")
    with pytest.raises(UnknownPluginError, match="E2R_PLUGINS names 'not_there'"):
        config_from_json(written)


def test_settings_without_plugins_are_written_as_before():
    for _, config in NAMED_CONFIGS.values():
        written = config_to_json(config)
        assert all("plugins" not in written[name] for name in ("network", "schedule"))
        assert "plugins" not in written["optimisation"]


def test_settings_go_to_another_process(module):
    schedule = Schedule(kernel=f"{module}:cauchy")
    script = (
        "import pickle, sys; s = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "print(s.chosen_kernel().__name__)"
    )
    command = [sys.executable, "-c", script, pickle.dumps(schedule).hex()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "cauchy\n"
    path = importlib.import_module(module).__file__
    with open(path, "a") as file:
        file.write("\nSCALE = 5.0\n")
    changed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "has other code than when its settings were made" in changed.stderr


def test_settings_of_a_file_name_no_function_of_python():
    written = config_to_json(TrainingConfig())
    written["network"]["mask_network"] = "os:fspath"
    with pytest.raises(UnknownPluginError, match="register os:fspath first"):
        config_from_json(written)


def test_a_name_of_e2rs_own_stays_its_own_whatever_comes_first():
    plugin("kernel", name="not_yet_built_in")(lambda square, weights, scale: square)
    with pytest.raises(ValueError, match="'not_yet_built_in' is a kernel of e2r"):
        registry.Registry("kernel", {"not_yet_built_in": trimmed})


def test_functions_of_other_arguments_are_refused(module):
    class Net:
        pass

    plugin("mask_network", name="a_class")(Net)
    plugin("kernel", name="two")(lambda square, weights: square)
    plugin("estimator", name="three")(lambda key, logits, temperature: logits)
    plugin("estimator", name="three_with_default")(lambda key, logits, heat=1.0: heat * logits)
    with pytest.raises(ValueError, match=r"'two', which takes \(square, weights\); give"):
        Schedule(kernel="two")
    with pytest.raises(ValueError, match="which is a class; give a function of config that"):
        NetworkConfig(mask_network="a_class")
    with pytest.raises(ValueError, match="which takes"):
        OptimisationConfig(estimator="three")
    assert OptimisationConfig(estimator="three_with_default")
    plugin("estimator", name="needy")(lambda key, logits, *, temperature: logits)
    with pytest.raises(ValueError, match="which takes"):
        ProgramConfig(estimator="needy")
    plugin("step", name="plain")(lambda cloud, surface, pose, scale: None)
    with pytest.raises(ValueError, match="'plain', which takes no keyword kernel; give it one"):
        Schedule(step="plain")
    plugin("step", name="cut")(lambda cloud, surface, pose, scale, *, kernel, correspond: None)
    assert Schedule(step="cut")
    with pytest.raises(ValueError, match="takes no keyword detach_robust_weights"):
        Schedule(step="cut", detach_robust_weights=False)


def test_one_loss_term_or_a_list_will_do(module):
    @dataclass(frozen=True)
    class Settings:  # those of e2r have their types checked in the tests
        terms: Any = ()

        def __post_init__(self):
            settle_plugins(self, "settings", terms=LOSS_TERMS)

    wanted = Settings(terms=(f"{module}:entropy",))
    function = sys.modules[module].entropy
    assert Settings(terms=[function]) == Settings(terms=function) == wanted
    assert wanted.terms[0].digest


def test_every_kind_names_the_setting_that_is_wrong():
    for kind, settings in {
        "network.mask_network": lambda: NetworkConfig(mask_network="no_such"),
        "network.coarse_network": lambda: NetworkConfig(coarse_network="no_such"),
        "schedule.step": lambda: Schedule(step="no_such"),
        "schedule.correspondence": lambda: Schedule(correspondence="no_such"),
        "optimisation.estimator": lambda: OptimisationConfig(estimator="no_such"),
        "optimisation.loss_terms": lambda: OptimisationConfig(loss_terms=("no_such",)),
        "optimisation.augmentations": lambda: OptimisationConfig(augmentations=("no_such",)),
    }.items():
        with pytest.raises(UnknownPluginError, match=f"{kind} is 'no_such'"):
            settings()
