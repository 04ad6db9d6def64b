"""How cases are evaluated: the settings of a job."""

from __future__ import annotations

from dataclasses import dataclass, replace

from e2r import automatic, pipeline

MASKS = ("all", "learnt", "oracle")


@dataclass(frozen=True)
class Start:
    """Where each registration begins."""

    kind: str = "auto"
    """auto: found, with no start at all; truth: the true pose, perturbed; or the path of a JSON
    file with a 4x4 T_camera_model"""
    degrees: float = 4.0
    """with truth: standard deviation of the rotation per axis"""
    mm: float = 4.0
    """with truth: standard deviation of the translation per axis"""

    def __post_init__(self) -> None:
        for name, value in (("degrees", self.degrees), ("mm", self.mm)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"--start-{name} is {value}; use 0 or more")


@dataclass(frozen=True)
class Job:
    """How cases are evaluated."""

    start: Start = Start()
    schedule: pipeline.Schedule = pipeline.Schedule()
    search: automatic.Search = automatic.Search()
    views: int = 2
    """the scene is seen in so many disjoint samples of the network's number of points"""
    masks: tuple[str, ...] = ("learnt",)
    """which masks: all, learnt, oracle (true bone; simulated cases only)"""
    least_keep: float = 0.1
    """share of the points that the learnt mask keeps at least, by their order"""
    points: int = 2048
    """points of a mask that are registered, at most"""
    retry_below: float = 0.6
    """a frame of whose learnt mask a smaller share agrees with the model is tried again, in other
    samples and under a stricter mask, and the better result stays; 0: never"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of the starts, the search's draws and the bootstrap"""
    per_level: bool = True
    """refine one pose a level, for a spine that is not bent as in the scan"""

    @property
    def head(self) -> str:
        """The mask whose results are the job's: the learnt one, if it runs."""
        return "learnt" if "learnt" in self.masks else self.masks[0]

    @property
    def compiled(self) -> Job:
        """What programs depend on: of jobs whose cases run through the same, the same."""
        start = Start("auto" if self.start.kind == "auto" else "truth")
        return replace(self, start=start, seed=0, retry_below=0.0)

    def __post_init__(self) -> None:
        for name in self.masks:
            if name not in MASKS:
                raise ValueError(f"--masks {name}: use some of {', '.join(MASKS)}")
        if not 0 <= self.least_keep < 1:
            raise ValueError(f"--least-keep is {self.least_keep}; use a share, 0 to below 1")
        if not 0 <= self.retry_below <= 1:
            raise ValueError(f"--retry-below is {self.retry_below}; use a share, 0 to 1")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; use 0 or more")
        if not self.masks:
            raise ValueError("--masks: give at least one")
        for name in ("points", "batch", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
