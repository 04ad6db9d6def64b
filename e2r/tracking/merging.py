"""Several registrations of one wound make one memory: its bone, and how the spine is bent.

All of it runs on the host: an operation of JAX by itself is compiled, and holds up a frame.
"""

from __future__ import annotations

import numpy as np

from e2r.registration.tracking import SeenBone, TrackState
from e2r.tracking import agreement
from e2r.tracking.finder import Found
from e2r.types import Pose


def merge(track: TrackState, found: Found, share: float) -> TrackState:
    """The track after a registration that agrees with it; its poses stay.

    Args:
      track: as it is now.
      found: the registration, of an earlier frame.
      share: of the memory that the registration is to make up, 0 to 1.
    """
    weights = agreement.bone_weights(found, len(found.pose.translation))
    level = int(np.argmax(weights))  # it may move; a posture is how the others lie beside it
    here = Pose(*(np.asarray(leaf)[level] for leaf in track.pose))
    before, after = (_carry(posture, level, here) for posture in (track.posture, found.pose))
    rotation = (1.0 - share) * before.rotation + share * after.rotation
    left, _, right = np.linalg.svd(rotation)
    shift = (1.0 - share) * before.translation + share * after.translation
    taken = np.random.default_rng(found.number).random(len(found.bone.weights)) < share
    mixed = SeenBone(
        *(
            np.where(taken.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
            for new, old in zip(
                map(np.asarray, found.bone), map(np.asarray, track.bone), strict=True
            )
        )
    )
    order = np.argsort(mixed.levels, kind="stable")
    return track._replace(
        posture=Pose((left @ right).astype(np.float32), shift.astype(np.float32)),
        bone=SeenBone(*(leaf[order] for leaf in mixed)),
    )


def _carry(posture: Pose, level: int, here: Pose) -> Pose:
    """A posture, moved so that one level lies in a given pose."""
    rotation, translation = (np.asarray(leaf, np.float64) for leaf in posture)
    turn = here.rotation @ rotation[level].T
    return Pose(turn @ rotation, (translation - translation[level]) @ turn.T + here.translation)
