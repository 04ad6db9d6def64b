"""The tracker: registers a frame once, follows the next ones, and knows when it is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from e2r.formats.scenes import RgbdImage
from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import tracking
from e2r.registration.tracking import Evidence, TrackState
from e2r.tracking import agreement, recall
from e2r.tracking.finder import Finder, Found
from e2r.tracking.frame_program import FrameProgram
from e2r.tracking.settings import TrackerConfig
from e2r.types import Pose

State: TypeAlias = Literal["searching", "tracking", "occluded", "lost"]
"""``searching``: nothing was found yet. ``tracking``: the levels are followed. ``occluded``:
something covers the wound. ``lost``: the levels are not where they were."""
MIN_REFERENCE = 0.5
"""A registration is dropped unless so much of the bone that it saw agrees in its own frame."""
STRIDE = 3
"""Of the frames that came during a registration, so many are taken as one."""
REMEMBERED = 3
"""A level is doubted by the worst of so many registrations: one alone may be sure and wrong."""
HISTORY = 120
"""Frames that are kept for a registration that began with one of them."""
WORSE = 0.9
"""A registration that is not accepted replaces another one if its evidence is no worse than so much
of the other's."""


class TrackedLevel(NamedTuple):
    """One level in one frame."""

    pose: Pose  # camera from model
    expected_tre_mm: float | None  # None without a calibration, or where the level is not seen
    bound95_mm: float | None  # a larger TRE has a chance of 5 %
    accepted: bool = False  # whether the pose may be used


class TrackedFrame(NamedTuple):
    """What the tracker says of one frame."""

    number: int
    seconds: float
    state: State
    levels: Mapping[str, TrackedLevel]  # empty unless the levels are followed
    accepted: bool  # whether the pose of some level may be used
    agreeing: float  # share of the remembered bone that lies on the model
    covered: float  # share that something covers
    latency: float  # seconds from the frame to its poses


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
        self._program = FrameProgram(finder.surface, config.tracking)
        self._pool = ThreadPoolExecutor(1) if beside else None
        self._pending: Future[_Caught | None] | None = None
        self._past: deque[_Past] = deque(maxlen=HISTORY)
        self._lock = threading.Lock()  # of the past frames
        self._track: TrackState | None = None
        self._found: Found | None = None  # the registration behind the track
        self._reference = 1.0  # share of the bone that agreed in the first frame after it
        self._registered = -np.inf  # seconds of the frame that was last registered
        self._confirmed = False  # whether a second registration agreed
        self._lost: _Caught | None = None  # the last track that was confirmed, when it was lost
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
        """Waits for a registration that still runs beside."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

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
        self._take_result()
        state, evidence = self._advance(depth, seconds)
        self._remember(depth, seconds, state)
        if (depth > 0).any() and self._wants_registration(state, seconds):
            self._register(image, seconds)
            if self._pool is None and self._take_result():
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
            self._lost = self._confirmed_track() or self._lost
            self._track = None
        return ("lost" if gone else "occluded"), evidence

    def _follow(
        self, track: TrackState, depth: np.ndarray, seconds: float
    ) -> tuple[TrackState, Evidence]:
        """Takes a track into a frame."""
        return self._program(track, depth, seconds, self._camera)

    def _wants_registration(self, state: State, seconds: float) -> bool:
        if self._pending is not None:
            return False
        calm = state == "tracking" and self._confirmed and self._is_known()
        period = self._config.check_seconds if calm else self._config.retry_seconds
        return seconds - self._registered >= period

    def _register(self, image: RgbdImage, seconds: float) -> None:
        """Registers a frame, beside the next ones or at once."""
        self._registered = seconds
        if self._pool is not None:
            self._pending = self._pool.submit(self._search, image, self._number)
            return
        self._pending = Future()
        self._pending.set_result(self._search(image, self._number))

    def _search(self, image: RgbdImage, number: int) -> _Caught | None:
        """Registers a frame, and follows its levels through the frames that came since."""
        found = self._finder.find(image, number)
        if found is None:
            return None
        first = next((one for one in self._frames() if one.number == number), None)
        if first is None:
            return None
        recalled = self._recall(found, first)
        if recalled is not None:
            return self._catch_up(recalled)
        track = tracking.start_track(found.pose, found.bone)
        track, evidence = self._follow(track, first.depth, 0.0)
        reference = float(evidence.agreeing)
        if reference < MIN_REFERENCE:
            return None
        caught = _Caught(found, track, reference, reference, number, first.seconds)
        return caught if self._state == "tracking" else self._catch_up(caught)

    def _recall(self, found: Found, first: _Past) -> _Caught | None:
        """The track of before, if a registration that is weak, or some levels off, leads to it."""
        lost = self._confirmed_track() if self._state == "occluded" else self._lost
        if lost is None or self._state not in ("lost", "occluded"):
            return None
        level = int(np.argmax(agreement.bone_weights(found, len(self._names))))
        surface, best = self._finder.surface, None
        for pose in recall.places(found.pose, level, lost.track.posture, surface):
            track = tracking.start_track(pose, lost.found.bone)
            track = track._replace(posture=lost.track.posture)
            track, evidence = self._follow(track, first.depth, 0.0)
            agreeing = float(evidence.agreeing)
            if best is None or agreeing > best.agreeing:
                best = lost._replace(
                    track=track, agreeing=agreeing, number=first.number, seconds=first.seconds
                )
        enough = best is not None and (best.agreeing >= self._config.accept_share * lost.reference)
        return best if enough else None

    def _confirmed_track(self) -> _Caught | None:
        """The track as it is; None if no second registration agreed."""
        track, found = self._track, self._found
        if track is None or found is None or not self._confirmed:
            return None
        return _Caught(found, track, self._reference, 0.0, self._number, self._seconds)

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

    def _take_result(self) -> bool:
        """Takes a registration that is done; whether a track begins with it."""
        if self._pending is None or not self._pending.done():
            return False
        caught, self._pending = self._pending.result(), None
        if caught is None:
            return False
        found = caught.found
        if self._track is None:
            # A hand, or what is left of the wound, is worse evidence than the wound was.
            before = self._found.evidence if self._found else -np.inf
            worse = found.evidence < WORSE * before and not found.prediction.accepted
            return not worse and self._begin(caught)
        if self._state != "tracking":
            return found.prediction.accepted and self._begin(caught)
        then = next((one.pose for one in self._frames() if one.number == found.number), None)
        if then is None:  # it was covered then, and is followed now
            return False
        apart = agreement.distances(then, found.pose, self._finder.surface)
        weights = agreement.bone_weights(found, len(self._names))
        if float(np.sum(weights * apart) / max(weights.sum(), 1e-6)) <= self._config.agree_mm:
            self._track = self._confirm(self._track, caught, then)
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
            self._doubts.clear()
            self._doubts.append(agreement.expected(caught.found, self._names))
        self._track, self._found, self._agreed = caught.track, caught.found, caught.seconds
        self._reference, self._confirmed = caught.reference, False
        return True

    def _confirm(self, track: TrackState, caught: _Caught, then: Pose) -> TrackState:
        """The track with bone and posture of a registration that agrees with it."""
        found = caught.found
        level = int(np.argmax(agreement.bone_weights(found, len(self._names))))
        # On the host: an operation of JAX by itself is compiled, and holds up a frame for a second.
        now, before = (
            Pose(*(np.asarray(leaf)[level] for leaf in pose)) for pose in (track.pose, then)
        )
        turn = now.rotation @ before.rotation.T
        posture = Pose(
            turn @ found.pose.rotation,
            (found.pose.translation - before.translation) @ turn.T + now.translation,
        )
        self._confirmed = True
        if self._is_known() and not found.prediction.accepted:
            return track
        self._found, self._reference = found, caught.reference
        return track._replace(posture=posture, bone=found.bone)

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
