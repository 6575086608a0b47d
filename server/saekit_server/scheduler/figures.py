"""What the scheduler has to say to metrics and health checks."""

from collections.abc import Mapping
from dataclasses import dataclass

from saekit_server.scheduler.job import Kind


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits of one kind."""

    jobs: int
    tokens: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The scheduler at one moment."""

    queued: Mapping[Kind, Depth]
    running_jobs: int
    """Jobs handed out and not finished, streams included."""

    decoding_rows: int
    """Slots of streams whose prompt is complete."""

    slots_used: int
    slots_free: int
    forward_share: float
    """Share of the forward budget in use; below 1 for a while after an out-of-memory."""

    sae_share: float

    @property
    def queued_jobs(self) -> int:
        return sum(depth.jobs for depth in self.queued.values())

    @property
    def queued_tokens(self) -> int:
        return sum(depth.tokens for depth in self.queued.values())

    @property
    def oldest_age_s(self) -> float:
        """Seconds that the longest waiting job has waited; 0 when nothing waits."""
        return max(depth.oldest_age_s for depth in self.queued.values())
