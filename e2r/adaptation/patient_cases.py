"""The simulated frames of an adaptation: the patient's own, and some of the base's specimens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property

import jax
import trimesh

from e2r.adaptation.settings import AdaptationConfig
from e2r.datasets.case import Case
from e2r.simulation import simulator
from e2r.simulation.simulator import SimulationConfig
from e2r.simulation.specimens import Specimen, specimen_from_surfaces

OWN, HELD_OUT, OTHERS = range(3)
"""Folded into the key of an adaptation: its frames share no draw."""


class PatientCases:
    """Makes the frames of an adaptation, each group when it is asked for. Fixed by the seed.

    Args:
      surfaces: level -> surface of the patient, mm; two levels or more.
      scenes: settings of the patient's frames.
      base: settings of the base's own frames.
      config: numbers of frames, seed.
    """

    def __init__(
        self,
        surfaces: Mapping[str, trimesh.Trimesh],
        *,
        scenes: SimulationConfig,
        base: SimulationConfig,
        config: AdaptationConfig,
    ) -> None:
        self._surfaces, self._scenes, self._base, self._config = surfaces, scenes, base, config
        self._key = jax.random.fold_in(jax.random.key(config.seed), 0xADA97)

    @cached_property
    def _specimen(self) -> Specimen:
        return specimen_from_surfaces(self._surfaces, "patient")

    def to_train_on(self) -> list[Case]:
        """The patient's frames, and those of the base's specimens."""
        config = self._config
        others = simulator.simulate_specimens(
            jax.random.fold_in(self._key, OTHERS),
            self._base,
            specimens=config.specimens,
            frames=2,
            prefix="other",
        )
        own = self._own(OWN, "patient", config.frames)
        return [*own, *itertools.chain.from_iterable(others)]

    def held_out(self) -> list[Case]:
        """Frames of the patient that are not trained on."""
        return self._own(HELD_OUT, "heldout", self._config.held_out)

    def _own(self, group: int, name: str, count: int) -> list[Case]:
        return simulator.simulate_frames(
            jax.random.fold_in(self._key, group),
            self._specimen._replace(name=name),
            self._scenes,
            count=count,
        )
