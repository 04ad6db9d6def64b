"""The settings of a tracker."""

from __future__ import annotations

from dataclasses import dataclass

from e2r.registration.tracking import TrackingSettings


@dataclass(frozen=True)
class TrackerConfig:
    """When a tracker registers anew, and what it takes for lost."""

    check_seconds: float = 3.0
    """while a pose is accepted, a registration of a whole frame checks it so often"""
    retry_seconds: float = 0.3
    """without an accepted pose, a frame is registered so often"""
    recall_seconds: float = 0.1
    """a lost or covered track is looked for, where it was seen before, so often"""
    recalls: int = 10
    """after so many vain looks a whole frame is registered"""
    recall_score: float = 0.35
    """a remembered frame is found again where it fits so well, 0 to 1"""
    tracking_share: float = 0.5
    """a frame is tracked while so much of the bone agrees that agreed at the registration; a level
    is accepted while so much of its own does"""
    accept_share: float = 0.7
    """no level is accepted below this share of the whole bone"""
    occluded_share: float = 0.4
    """the wound counts as occluded where something covers so much of the remembered bone"""
    lost_seconds: float = 0.2
    """the track is lost when nothing agrees for so long, and nothing covers the wound"""
    occluded_seconds: float = 3.0
    """and when the wound is covered for so long"""
    gap_seconds: float = 0.5
    """where nothing agreed for so long, a registration has to confirm the track again"""
    expire_seconds: float = 10.0
    """no pose is accepted when no registration agreed for so long; longer than check_seconds"""
    agree_mm: float = 3.0
    """a registration confirms a track whose levels it finds so near, mm; no pose is accepted before
    one did"""
    accept_mm: float = 2.0
    """a level is not accepted from this expected TRE on, mm: the worst of the last three
    registrations that agreed, or its distance from one of them; one in twenty errors is 2.7 times
    as large as expected"""
    points: int = 2048
    """scene points that are remembered"""
    tracking: TrackingSettings = TrackingSettings()

    def __post_init__(self) -> None:
        for name in (
            "check_seconds",
            "retry_seconds",
            "recall_seconds",
            "lost_seconds",
            "occluded_seconds",
            "gap_seconds",
            "expire_seconds",
            "agree_mm",
            "accept_mm",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"tracker.{name} is {getattr(self, name)}; use more than 0")
        if not self.expire_seconds > self.check_seconds:
            raise ValueError(
                f"tracker.expire_seconds is {self.expire_seconds}; use more than check_seconds, "
                f"which is {self.check_seconds}"
            )
        for name in ("recall_score", "tracking_share", "accept_share", "occluded_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"tracker.{name} is {getattr(self, name)}; use more than 0, and 1 at most"
                )
        if self.recalls < 0:
            raise ValueError(f"tracker.recalls is {self.recalls}; use 0 or more")
        if not 64 <= self.points <= 2**15:
            raise ValueError(f"tracker.points is {self.points}; use 64 to 32768")
