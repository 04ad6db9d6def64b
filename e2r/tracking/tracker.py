"""The tracker: registers a frame once, follows the next ones, and knows when it is lost."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from e2r.formats.scenes import RgbdImage
from e2r.registration import tracking
from e2r.registration.tracking import Evidence, TrackState
from e2r.tracking import agreement
from e2r.tracking.beside import Beside
from e2r.tracking.finder import Finder, Found
from e2r.tracking.frame_program import FramePrograms
from e2r.tracking.merging import merge
from e2r.tracking.past_frames import FrameError, PastFrame, PastFrames, check_unit, take_frame
from e2r.tracking.recall import Remembered, recall_track
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.tracked_frame import State, TrackedFrame
from e2r.tracking.trust import Trust
from e2r.types import Pose

MIN_REFERENCE = 0.5
"""A registration is dropped unless so much of the bone that it saw agrees in its own frame."""
STRIDE = 3
"""Of the frames that came during a registration, so many are taken as one."""
MERGED = 4
"""The remembered bone is that of the last registrations, about so many."""
WORSE = 0.9
"""A registration that is not accepted replaces another one if its evidence is no worse than so much
of the other's."""


class _Caught(NamedTuple):
    """A registration, followed to a later frame."""

    found: Found
    frame: PastFrame  # in which it was found
    track: TrackState
    reference: float  # share of the bone that agreed in the frame of the registration
    agreeing: float  # share that agrees in the frame that was reached
    number: int  # of that frame
    seconds: float


class Tracker:
    """Follows a patient's levels from frame to frame.

    Frames may come from any camera whose picture has no distortion. Use it as a context manager,
    or call :meth:`close`. Until then, Python's garbage collector spares the objects that were there
    before (``gc.freeze``), for it would hold up the frames.

    Args:
      finder: registers whole frames.
      config: thresholds and times.
      beside: register beside the frames, in a thread, as a live camera needs it; otherwise a
        frame waits for its registration, and the results depend on the frames alone.
    """

    failure: str | None = None
    """why the latest registration failed, if it did"""

    def __init__(
        self, finder: Finder, *, config: TrackerConfig = TrackerConfig(), beside: bool = True
    ) -> None:
        self._config, self._names = config, list(finder.levels)
        self._finder = finder
        self._programs = FramePrograms(finder.surface, config.tracking)
        self._beside, self._closed = beside, False
        gc.collect()
        gc.freeze()  # the collector would walk all of jax's objects, for 100 to 400 ms
        self._registering, self._recalling = (
            Beside[_Caught | str](thread=beside),
            Beside[_Caught](thread=beside),
        )
        self._past = PastFrames()  # since what runs beside began
        self._track: TrackState | None = None
        self._trust = Trust(self._names, config)
        self._registered = -np.inf  # seconds of the frame that was last registered
        self._recalled = -np.inf  # seconds of the frame in which the track was last looked for
        self._tries = 0  # to recall the track, in vain, since it was lost or the last registration
        self._merged = 1  # registrations that make up the remembered bone
        self._remembered: Remembered | None = None  # the last track that was confirmed
        self._agreed = -np.inf  # seconds of the last frame that agreed
        self._covered = -np.inf  # seconds of the last frame that was covered
        self._state: State = "searching"
        self._number = 0
        self._seconds = 0.0

    def __enter__(self) -> Tracker:
        """The tracker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Waits for what still runs beside."""
        self._closed = True
        self._registering.close()
        self._recalling.close()
        gc.unfreeze()

    def update(self, image: RgbdImage, seconds: float) -> TrackedFrame:
        """Takes the next frame, and keeps nothing of its memory.

        Args:
          image: without distortion.
          seconds: when it was taken; later than the frame before.

        Raises:
          FrameError: the frame is not later than the one before, or its depth does not lie on its
            colour or is not in mm.
          ValueError: the tracker is closed.
        """
        began = time.perf_counter()
        if self._closed:
            raise ValueError("the tracker is closed; make another one")
        if not np.isfinite(seconds) or (self._number and not seconds > self._seconds):
            raise FrameError(
                f"taken at {seconds} s, and the frame before at {self._seconds} s; give the frames "
                "in order"
            )
        frame = take_frame(image, self._number, seconds)
        if self._trust.found is None:
            check_unit(frame)
        if not self._number:
            self._seconds = seconds
        self._take_results()
        state, evidence = self._advance(frame)
        if state != "tracking":
            self._trust.shake(seconds)
        frame, self._state = self._keep(frame, state), state
        if not (frame.depth > 0).any():
            self._tries = 0
        else:
            self._look(image, frame, state)
            if not self._beside and self._take_results():
                self._seconds = seconds  # the new track has come to this frame
                state, evidence = self._advance(frame)
        pose = self._pose(state)
        self._number, self._seconds, self._state = self._number + 1, seconds, state
        return self._report(state, evidence, pose, frame=frame, began=began)

    def _pose(self, state: State) -> Pose | None:
        """Of each level in the present frame; None where they are not followed."""
        if self._track is None or state not in ("tracking", "occluded"):
            return None
        return Pose(*map(np.asarray, self._track.pose))

    def _keep(self, frame: PastFrame, state: State) -> PastFrame:
        """The frame with its poses; it is kept for what runs beside and began before it."""
        if state == "tracking":
            frame = frame._replace(pose=self._pose(state))
        if self._registering.busy or self._recalling.busy:
            self._past.add(frame)
        else:
            self._past.clear()
        return frame

    def _advance(self, frame: PastFrame) -> tuple[State, Evidence | None]:
        """Follows the levels into a frame."""
        if self._track is None:
            return ("searching" if self._trust.found is None else "lost"), None
        config, seconds = self._config, frame.seconds
        self._track, evidence = self._programs.follow(self._track, frame, seconds - self._seconds)
        evidence = jax.tree.map(np.asarray, evidence)
        if seconds - self._agreed > config.gap_seconds:
            self._trust.withdraw(seconds)
        covered = float(evidence.covered) >= config.occluded_share
        # What is covered cannot agree; it only counts against the track where it is most.
        least = config.tracking_share * self._trust.reference
        least *= 1.0 if covered else 1.0 - float(evidence.covered)
        if float(evidence.agreeing) >= least:
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

    def _look(self, image: RgbdImage, frame: PastFrame, state: State) -> None:
        """Looks for the remembered track in a frame, or registers it, where that is due."""
        config, seconds = self._config, frame.seconds
        gone = state in ("lost", "occluded") and self._remembered is not None
        self._tries = self._tries if gone else 0
        if self._registering.busy or self._recalling.busy:
            return  # both at once would hold up the frames
        calm = state == "tracking" and self._trust.calm(seconds)
        period = config.check_seconds if calm else config.retry_seconds
        if gone and self._tries < config.recalls:
            if seconds - self._recalled >= config.recall_seconds:
                self._recalled, self._tries = seconds, self._tries + 1
                self._recalling.start(partial(self._recall, frame))
        elif seconds - self._registered >= period:
            self._registered, self._tries = seconds, 0
            image = image._replace(color=np.array(image.color), depth=frame.depth)
            self._registering.start(partial(self._search, image, frame))

    def _search(self, image: RgbdImage, frame: PastFrame) -> _Caught | str:
        """Registers a frame, and follows its levels to the latest one; or why that fails."""
        found = self._finder.find(image, frame.number)
        if isinstance(found, str):
            return found
        track = tracking.start_track(found.pose, found.bone)
        track, evidence = self._programs.follow(track, frame, 0.0)
        reference = float(evidence.agreeing)
        if reference < MIN_REFERENCE:
            return f"frame{frame.number}: the levels that were found do not fit the depth"
        if self._remembered is None:  # compiles, while nothing waits for it
            self._programs.recall(frame, found.pose, found.bone, frame)
        caught = _Caught(found, frame, track, reference, reference, frame.number, frame.seconds)
        return self._catch_up(caught)

    def _recall(self, frame: PastFrame) -> _Caught | None:
        """The remembered track in a frame, followed through those that came since."""
        old = self._remembered
        if old is None:
            return None
        recalled = recall_track(old, frame, programs=self._programs, config=self._config)
        if recalled is None:
            return None
        track, agreeing = recalled
        return self._catch_up(
            _Caught(old.found, frame, track, old.reference, agreeing, frame.number, frame.seconds)
        )

    def _catch_up(self, caught: _Caught) -> _Caught:
        """Follows a registration to the latest frame, and leaves most of those between out."""
        while later := self._past.after(caught.number):
            one = later[min(STRIDE, len(later)) - 1]
            track, evidence = self._programs.follow(caught.track, one, one.seconds - caught.seconds)
            caught = caught._replace(
                track=track,
                agreeing=float(evidence.agreeing),
                number=one.number,
                seconds=one.seconds,
            )
        return caught

    def _take_results(self) -> bool:
        """Takes what is done; whether a track begins with it."""
        recalled, caught = self._recalling.take(), self._registering.take()
        again = recalled is not None and self._take_recalled(recalled)
        if caught is None:
            return again
        self.failure = caught if isinstance(caught, str) else None
        if isinstance(caught, str):
            self._trust.shake(self._seconds)
            return again
        return self._take_registration(caught) or again

    def _take_recalled(self, recalled: _Caught) -> bool:
        """Takes a recalled track; whether it begins. One that is followed already is compared."""
        if self._track is None or self._state != "tracking":
            return self._begin(recalled)
        there = self._catch_up(recalled)
        apart = agreement.distances(there.track.pose, self._track.pose, self._finder.surface)
        elsewhere = agreement.over_bone(recalled.found, apart) > self._config.agree_mm
        if elsewhere and self._holds(there):
            self._trust.withdraw(self._seconds)
        return False

    def _holds(self, caught: _Caught) -> bool:
        """Whether enough of its bone agrees in the frame that it has come to."""
        return caught.agreeing >= self._config.tracking_share * caught.reference

    def _take_registration(self, caught: _Caught) -> bool:
        """Takes a registration; whether a track begins with it."""
        found, sure = caught.found, caught.found.prediction.accepted
        before = self._trust.found
        if self._track is None:
            # A hand, or what is left of the wound, is worse evidence than the wound was.
            worse = before is not None and found.evidence < WORSE * before.evidence and not sure
            return not worse and self._begin(caught)
        if self._state != "tracking":
            return sure and self._begin(caught)
        then = caught.frame.pose
        if then is None:  # it was covered then, and is followed now
            return False
        apart = agreement.distances(then, found.pose, self._finder.surface)
        if agreement.over_bone(found, apart) <= self._config.agree_mm:
            self._track = self._confirm(self._track, caught, then)
            self._trust.agree(found, apart, caught.frame.seconds)
            return False
        better = before is None or found.evidence > before.evidence
        if (sure or (better and not self._trust.accepted)) and self._begin(caught):
            return True
        self._trust.disagree(found)
        return False

    def _begin(self, caught: _Caught) -> bool:
        """Begins a track with a registration, if it can be followed to the latest frame."""
        caught = self._catch_up(caught)
        if not self._holds(caught):
            return False
        if self._trust.found is None:
            gc.freeze()  # what was compiled for the first registration
        if caught.found is not self._trust.found:
            self._merged = 1
        self._trust.begin(caught.found, caught.reference)
        self._track, self._agreed = caught.track, caught.seconds
        self._state = "tracking"
        return True

    def _confirm(self, track: TrackState, caught: _Caught, then: Pose) -> TrackState:
        """The track with a registration that agrees with it, in whose frame it had some poses."""
        found, trust = caught.found, self._trust
        sure, known = found.prediction.accepted, trust.accepted
        if sure or not known:
            self._merged = 1 if sure and not known else self._merged + 1
            share = 1.0 / min(self._merged, MERGED)
            track = merge(track, found, share)
            trust.reference += share * (caught.reference - trust.reference)
            trust.found = found
        if trust.found is not None:
            self._remembered = Remembered(trust.found, track, trust.reference, caught.frame, then)
        return track

    def _report(
        self,
        state: State,
        evidence: Evidence | None,
        pose: Pose | None,
        *,
        frame: PastFrame,
        began: float,
    ) -> TrackedFrame:
        """The answer for a frame."""
        levels = {}
        if pose is not None and evidence is not None:
            levels = self._trust.levels(
                pose, evidence, seconds=frame.seconds, followed=state == "tracking"
            )
        return TrackedFrame(
            number=frame.number,
            seconds=frame.seconds,
            state=state,
            levels=levels,
            accepted=any(level.accepted for level in levels.values()),
            agreeing=0.0 if evidence is None else float(evidence.agreeing),
            covered=0.0 if evidence is None else float(evidence.covered),
            latency=time.perf_counter() - began,
        )
