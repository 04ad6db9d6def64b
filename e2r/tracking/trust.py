"""How far a track is believed: what the registrations behind it say of each level."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from e2r.registration.tracking import Evidence
from e2r.tracking import agreement
from e2r.tracking.finder import Found
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.tracked_frame import TrackedLevel
from e2r.types import Float, Pose

REMEMBERED = 3
"""A level is doubted by the worst of so many registrations: one alone may be sure and wrong."""
LEAST_HELD = 0.05
"""A level's error grows until so much of its bone is left."""
AGAINST = 2
"""So many registrations in a row that find the levels elsewhere withdraw the confirmation, although
none of them is accepted by itself."""


class Trust:
    """The registrations behind a track.

    Args:
      names: of the levels.
      config: the shares and distances from which a level is accepted.
    """

    def __init__(self, names: Sequence[str], config: TrackerConfig) -> None:
        self._names, self._config = names, config
        self.found: Found | None = None  # the latest one behind the track
        self.reference = 1.0  # share of the bone that agreed in the frames of the registrations
        self.confirmed = False  # whether another one agreed
        self._since = -np.inf  # one that began earlier confirms nothing, s
        self._agreed = -np.inf  # when the frame of the latest one that agreed was taken, s
        self._shaken = -np.inf  # when something happened that one should look at soon, s
        self._against = 0  # in a row
        self._doubts: deque[np.ndarray] = deque(maxlen=REMEMBERED)  # mm, of each level
        self._bounds: deque[np.ndarray] = deque(maxlen=REMEMBERED)  # mm, of each level

    @property
    def accepted(self) -> bool:
        """Whether the registration behind the track was accepted."""
        return self.found is not None and self.found.prediction.accepted

    def calm(self, seconds: float) -> bool:
        """Whether nothing is in doubt.

        Args:
          seconds: of the present frame.
        """
        looked = self._agreed >= self._shaken
        return self._confirmed_at(seconds) and not self._against and looked

    def _confirmed_at(self, seconds: float) -> bool:
        """Whether the track is confirmed and accepted, and a registration agreed lately."""
        fresh = seconds - self._agreed <= self._config.expire_seconds
        return self.confirmed and self.accepted and fresh

    def begin(self, found: Found, reference: float) -> None:
        """A track begins with a registration, perhaps with the same one as before.

        Args:
          found: the registration.
          reference: share of the bone that agreed in its frame.
        """
        if found is not self.found:
            self._doubts.clear()
            self._bounds.clear()
            self._doubts.append(agreement.expected(found, self._names))
            self._bounds.append(agreement.bounds(found, self._names))
        self.found, self.reference = found, reference
        self.confirmed, self._against = False, 0

    def agree(self, found: Found, apart: Float[np.ndarray, "l"], seconds: float) -> None:
        """Another registration finds the levels where they are followed.

        Args:
          found: the registration.
          apart: distance of each level, mm.
          seconds: when its frame was taken.
        """
        for kept, figure in ((self._doubts, agreement.expected), (self._bounds, agreement.bounds)):
            new = figure(found, self._names)  # of a level that it does not see, the last one holds
            kept.append(np.fmax(apart, np.where(np.isnan(new), kept[-1], new)))
        self._against = 0
        self._agreed = max(self._agreed, seconds)
        self.confirmed = self.confirmed or seconds >= self._since

    def disagree(self, found: Found) -> None:
        """Another registration finds the levels elsewhere, and the track does not move there.

        Args:
          found: the registration.
        """
        self._against += 1
        if found.prediction.accepted or self._against >= AGAINST:
            self.confirmed = False

    def shake(self, seconds: float) -> None:
        """Something happened: a registration of a later frame should look soon.

        Args:
          seconds: of the present frame.
        """
        self._shaken = seconds

    def withdraw(self, seconds: float) -> None:
        """The track may be wrong: a later frame has to confirm it.

        Args:
          seconds: of the present frame.
        """
        self.confirmed, self._since = False, seconds

    def levels(
        self, pose: Pose, evidence: Evidence, *, seconds: float, followed: bool
    ) -> dict[str, TrackedLevel]:
        """The levels in a frame, and which of them may be used.

        An error grows as the square root of the bone that holds a level falls.

        Args:
          pose: of each level, leading axis L, camera from model.
          evidence: of the frame.
          seconds: when it was taken.
          followed: whether the levels are tracked; the frame says nothing of them otherwise.
        """
        config, found = self._config, self.found
        if found is None:
            return {}
        held = np.asarray(evidence.of_levels, np.float64) / self.reference
        grown = 1.0 / np.sqrt(np.clip(held, LEAST_HELD, 1.0))
        doubts = grown * np.fmax.reduce(list(self._doubts))
        bounds = np.fmax(grown * np.fmax.reduce(list(self._bounds)), doubts)
        agreeing = float(evidence.agreeing) >= config.accept_share * self.reference
        usable = followed and agreeing and self._confirmed_at(seconds)
        supported = held >= config.tracking_share
        estimates = [found.prediction.levels.get(name) for name in self._names]
        levels = {}
        for i, (name, known) in enumerate(zip(self._names, estimates, strict=True)):
            seen = followed and known is not None and known.expected_tre_mm is not None
            bounded = followed and known is not None and known.bound95_mm is not None
            levels[name] = TrackedLevel(
                Pose(pose.rotation[i], pose.translation[i]),
                float(doubts[i]) if seen else None,
                float(bounds[i]) if bounded else None,
                bool(usable and seen and supported[i] and doubts[i] <= config.accept_mm),
            )
        return levels
