"""The tracker: registers a frame once, follows the next ones, and knows when it is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from e2r.formats.scenes import RgbdImage
from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import tracking
from e2r.registration.tracking import Evidence, TrackState
from e2r.tracking import agreement
from e2r.tracking.beside import Beside
from e2r.tracking.finder import Finder, Found
from e2r.tracking.frame_program import FramePrograms
from e2r.tracking.merging import merge
from e2r.tracking.recall import Remembered, recall_track
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.tracked_frame import State, TrackedFrame, TrackedLevel
from e2r.types import Pose

MIN_REFERENCE = 0.5
"""A registration is dropped unless so much of the bone that it saw agrees in its own frame."""
STRIDE = 3
"""Of the frames that came during a registration, so many are taken as one."""
REMEMBERED = 3
"""A level is doubted by the worst of so many registrations: one alone may be sure and wrong."""
MERGED = 4
"""The remembered bone is that of the last registrations, about so many."""
HISTORY = 120
"""Frames that are kept for a registration that began with one of them."""
WORSE = 0.9
"""A registration that is not accepted replaces another one if its evidence is no worse than so much
of the other's."""


class _Past(NamedTuple):
    """A frame that was followed, for registrations that began with it."""

    number: int
    seconds: float
    depth: np.ndarray
    pose: Pose | None  # of each level; None where they were not followed


class _Caught(NamedTuple):
    """A registration, followed to a later frame."""

    found: Found
    track: TrackState
    reference: float  # share of the bone that agreed in the frame of the registration
    agreeing: float  # share that agrees in the frame that was reached
    number: int  # of that frame
    seconds: float


class Tracker:
    """Follows a patient's levels from frame to frame.

    Frames may come from any camera whose picture has no distortion. Use it as a context manager,
    or call :meth:`close`.

    Args:
      finder: registers whole frames.
      config: thresholds and times.
      beside: register beside the frames, in a thread, as a live camera needs it; otherwise a
        frame waits for its registration, and the results depend on the frames alone.
    """

    def __init__(
        self, finder: Finder, *, config: TrackerConfig = TrackerConfig(), beside: bool = True
    ) -> None:
        self._config, self._names = config, list(finder.levels)
        self._finder = finder
        self._programs = FramePrograms(finder.surface, config.tracking)
        self._beside = beside
        self._registering, self._recalling = (
            Beside[_Caught](thread=beside),
            Beside[_Caught](thread=beside),
        )
        self._past: deque[_Past] = deque(maxlen=HISTORY)
        self._lock = threading.Lock()  # of the past frames
        self._track: TrackState | None = None
        self._found: Found | None = None  # the registration behind the track
        self._reference = 1.0  # share of the bone that agreed in the first frame after it
        self._registered = -np.inf  # seconds of the frame that was last registered
        self._recalled = -np.inf  # seconds of the frame in which the track was last looked for
        self._tries = 0  # to recall the track, in vain, since it was lost or the last registration
        self._merged = 1  # registrations that make up the remembered bone
        self._confirmed = False  # whether a second registration agreed
        self._remembered: Remembered | None = None  # the last track that was confirmed
        self._doubts: deque[np.ndarray] = deque(maxlen=REMEMBERED)  # mm, of each level
        self._agreed = -np.inf  # seconds of the last frame that agreed
        self._covered = -np.inf  # seconds of the last frame that was covered
        self._state: State = "searching"
        self._number = 0
        self._seconds = 0.0
        self._camera = Pinhole(*(np.zeros((), np.float32),) * 4)

    def __enter__(self) -> Tracker:
        """The tracker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Waits for what still runs beside."""
        self._registering.close()
        self._recalling.close()

    def update(self, image: RgbdImage, seconds: float) -> TrackedFrame:
        """Takes the next frame.

        Args:
          image: without distortion.
          seconds: when it was taken; later than the frame before.

        Raises:
          ValueError: the frame is not later than the one before.
        """
        began = time.perf_counter()
        if self._number and not seconds > self._seconds:
            raise ValueError(
                f"frame {self._number}: was taken at {seconds} s, and the frame before at "
                f"{self._seconds} s; give the frames in order"
            )
        self._camera = Pinhole(
            *(np.asarray(value, np.float32) for value in (image.fx, image.fy, image.cx, image.cy))
        )
        depth = np.asarray(image.depth, np.float32)
        if not self._number:
            self._seconds = seconds
        self._take_results()
        state, evidence = self._advance(depth, seconds)
        self._state = state
        self._remember(depth, seconds, state)
        if not (depth > 0).any():
            self._tries = 0
        else:
            self._look(image, state, seconds)
            if not self._beside and self._take_results():
                with self._lock:
                    self._past.pop()
                self._seconds = seconds  # the new track has come to this frame
                state, evidence = self._advance(depth, seconds)
                self._remember(depth, seconds, state)
        followed = self._track is not None and state in ("tracking", "occluded")
        pose = jax.tree.map(np.asarray, self._track.pose) if followed and self._track else None
        self._number, self._seconds, self._state = self._number + 1, seconds, state
        return self._report(state, evidence, pose, seconds=seconds, began=began)

    def _remember(self, depth: np.ndarray, seconds: float, state: State) -> None:
        """Keeps a frame for the registrations that begin with it."""
        here = None
        if self._track is not None and state == "tracking":
            here = jax.tree.map(np.asarray, self._track.pose)
        with self._lock:
            self._past.append(_Past(self._number, seconds, depth, here))

    def _advance(self, depth: np.ndarray, seconds: float) -> tuple[State, Evidence | None]:
        """Follows the levels into a frame."""
        if self._track is None:
            return ("searching" if self._found is None else "lost"), None
        passed = seconds - self._seconds
        self._track, evidence = self._follow(self._track, depth, passed)
        evidence = jax.tree.map(float, evidence)
        config = self._config
        covered = evidence.covered >= config.occluded_share
        # What is covered cannot agree; it only counts against the track where it is most.
        least = config.tracking_share * self._reference
        least *= 1.0 if covered else 1.0 - evidence.covered
        if evidence.agreeing >= least:
            self._agreed = seconds
            return "tracking", evidence
        if covered:
            self._covered = seconds
            gone = seconds - self._agreed > config.occluded_seconds
        else:
            gone = seconds - max(self._agreed, self._covered) > config.lost_seconds
        if gone:
            self._track = None
        return ("lost" if gone else "occluded"), evidence

    def _follow(
        self, track: TrackState, depth: np.ndarray, seconds: float
    ) -> tuple[TrackState, Evidence]:
        """Takes a track into a frame."""
        return self._programs.follow(track, depth, seconds, self._camera)

    def _look(self, image: RgbdImage, state: State, seconds: float) -> None:
        """Looks for the remembered track in a frame, or registers it, where that is due."""
        config, number = self._config, self._number
        gone = state in ("lost", "occluded") and self._remembered is not None
        self._tries = self._tries if gone else 0
        if self._registering.busy or self._recalling.busy:
            return  # both at once would hold up the frames
        calm = state == "tracking" and self._confirmed and self._is_known()
        period = config.check_seconds if calm else config.retry_seconds
        if gone and self._tries < config.recalls:
            if seconds - self._recalled >= config.recall_seconds:
                self._recalled, self._tries = seconds, self._tries + 1
                self._recalling.start(partial(self._recall, number))
        elif seconds - self._registered >= period:
            self._registered, self._tries = seconds, 0
            self._registering.start(partial(self._search, image, number))

    def _search(self, image: RgbdImage, number: int) -> _Caught | None:
        """Registers a frame, and follows its levels through the frames that came since."""
        found, first = self._finder.find(image, number), self._frame(number)
        if found is None or first is None:
            return None
        track = tracking.start_track(found.pose, found.bone)
        track, evidence = self._follow(track, first.depth, 0.0)
        reference = float(evidence.agreeing)
        if reference < MIN_REFERENCE:
            return None
        if self._remembered is None:  # compiles, while nothing waits for it
            self._programs.recall((first.depth, found.pose, found.bone), first.depth, self._camera)
        caught = _Caught(found, track, reference, reference, number, first.seconds)
        return caught if self._state == "tracking" else self._catch_up(caught)

    def _recall(self, number: int) -> _Caught | None:
        """The remembered track in a frame, followed through those that came since."""
        first, old = self._frame(number), self._remembered
        if first is None or old is None:
            return None
        recalled = recall_track(
            old, first.depth, self._camera, programs=self._programs, config=self._config
        )
        if recalled is None:
            return None
        track, agreeing = recalled
        return self._catch_up(
            _Caught(old.found, track, old.reference, agreeing, number, first.seconds)
        )

    def _catch_up(self, caught: _Caught) -> _Caught:
        """Follows a registration to the latest frame, and leaves most of those between out."""
        while later := [one for one in self._frames() if one.number > caught.number]:
            one = later[min(STRIDE, len(later)) - 1]
            passed = one.seconds - caught.seconds
            track, evidence = self._follow(caught.track, one.depth, passed)
            caught = caught._replace(
                track=track,
                agreeing=float(evidence.agreeing),
                number=one.number,
                seconds=one.seconds,
            )
        return caught

    def _frames(self) -> list[_Past]:
        with self._lock:
            return list(self._past)

    def _frame(self, number: int) -> _Past | None:
        return next((one for one in self._frames() if one.number == number), None)

    def _take_results(self) -> bool:
        """Takes what is done; whether a track begins with it."""
        recalled = self._recalling.take()
        again = recalled is not None and self._state != "tracking" and self._begin(recalled)
        caught = self._registering.take()
        return (caught is not None and self._take_registration(caught)) or again

    def _take_registration(self, caught: _Caught) -> bool:
        """Takes a registration; whether a track begins with it."""
        found = caught.found
        if self._track is None:
            # A hand, or what is left of the wound, is worse evidence than the wound was.
            before = self._found.evidence if self._found else -np.inf
            worse = found.evidence < WORSE * before and not found.prediction.accepted
            return not worse and self._begin(caught)
        if self._state != "tracking":
            return found.prediction.accepted and self._begin(caught)
        past = self._frame(found.number)
        if past is None or past.pose is None:  # it was covered then, and is followed now
            return False
        apart = agreement.distances(past.pose, found.pose, self._finder.surface)
        weights = agreement.bone_weights(found, len(self._names))
        if float(np.sum(weights * apart) / max(weights.sum(), 1e-6)) <= self._config.agree_mm:
            self._track = self._confirm(self._track, caught, past.depth, past.pose)
            expected = (
                agreement.expected(found, self._names) if found.prediction.accepted else apart
            )
            self._doubts.append(np.fmax(apart, expected))
            return False
        better = self._found is None or found.evidence > self._found.evidence
        if found.prediction.accepted or (better and not self._is_known()):
            return self._begin(caught)
        return False

    def _is_known(self) -> bool:
        """Whether the registration behind the track was accepted."""
        return self._found is not None and self._found.prediction.accepted

    def _begin(self, caught: _Caught) -> bool:
        """Begins a track with a registration, if it can be followed to the latest frame."""
        caught = self._catch_up(caught)
        if caught.agreeing < self._config.tracking_share * caught.reference:
            return False
        if caught.found is not self._found:
            self._merged = 1
            self._doubts.clear()
            self._doubts.append(agreement.expected(caught.found, self._names))
        self._track, self._found, self._agreed = caught.track, caught.found, caught.seconds
        self._reference, self._confirmed = caught.reference, False
        self._state = "tracking"
        return True

    def _confirm(
        self, track: TrackState, caught: _Caught, depth: np.ndarray, then: Pose
    ) -> TrackState:
        """The track with a registration that agrees with it, which saw a depth; its poses then."""
        found, known = caught.found, self._is_known()
        self._confirmed = True
        if found.prediction.accepted or not known:
            self._merged = 1 if found.prediction.accepted and not known else self._merged + 1
            share = 1.0 / min(self._merged, MERGED)
            track = merge(track, found, share)
            self._reference += share * (caught.reference - self._reference)
            self._found = found
        if self._found is not None:
            self._remembered = Remembered(self._found, track, self._reference, depth, then)
        return track

    def _report(
        self,
        state: State,
        evidence: Evidence | None,
        pose: Pose | None,
        *,
        seconds: float,
        began: float,
    ) -> TrackedFrame:
        """The answer for a frame."""
        agreeing = 0.0 if evidence is None else float(evidence.agreeing)
        usable = (
            state == "tracking"
            and self._confirmed
            and self._is_known()
            and agreeing >= self._config.accept_share * self._reference
        )
        found, levels = self._found, {}
        if pose is not None and found is not None:
            doubts = np.fmax.reduce(list(self._doubts))
            for i, name in enumerate(self._names):
                known = found.prediction.levels.get(name)
                seen = known is not None and known.expected_tre_mm is not None
                levels[name] = TrackedLevel(
                    jax.tree.map(lambda leaf, i=i: leaf[i], pose),
                    float(doubts[i]) if seen else None,
                    known.bound95_mm if known is not None else None,
                    usable and seen and bool(doubts[i] <= self._config.agree_mm),
                )
        return TrackedFrame(
            number=self._number - 1,
            seconds=seconds,
            state=state,
            levels=levels,
            accepted=any(level.accepted for level in levels.values()),
            agreeing=agreeing,
            covered=0.0 if evidence is None else float(evidence.covered),
            latency=time.perf_counter() - began,
        )
