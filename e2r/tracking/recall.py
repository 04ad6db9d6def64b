"""Recalls a track that was lost: finds the frame that is remembered of it in another one."""

from __future__ import annotations

from typing import NamedTuple

from e2r.registration import tracking
from e2r.registration.tracking import TrackState
from e2r.tracking.finder import Found
from e2r.tracking.frame_program import FramePrograms
from e2r.tracking.past_frames import PastFrame
from e2r.tracking.settings import TrackerConfig
from e2r.types import Pose


class Remembered(NamedTuple):
    """A track that a second registration confirmed, and a frame in which the wound was seen."""

    found: Found  # the registration behind the track
    track: TrackState
    reference: float  # share of the bone that agreed in the frame of the registration
    frame: PastFrame
    pose: Pose  # of each level in it


def recall_track(
    remembered: Remembered, frame: PastFrame, *, programs: FramePrograms, config: TrackerConfig
) -> tuple[TrackState, float] | None:
    """The track in a frame, and the share of its bone that agrees there; None if it is not there.

    The scene around the wound says where the levels are, and must fit. The bone must agree as well.

    Args:
      remembered: of the track.
      frame: another one.
      programs: of the track.
      config: the shares from which a track is believed.
    """
    if frame.depth.shape != remembered.frame.depth.shape:
        return None
    bone = remembered.track.bone
    pose, score = programs.recall(remembered.frame, remembered.pose, bone, frame)
    if score < config.recall_score:
        return None
    track = tracking.start_track(pose, bone)._replace(posture=remembered.track.posture)
    track, evidence = programs.follow(track, frame, 0.0)
    agreeing, covered = float(evidence.agreeing), float(evidence.covered)
    least = config.accept_share * remembered.reference * (1.0 - covered)
    fits = covered < config.occluded_share and agreeing >= least
    return (track, agreeing) if fits else None
