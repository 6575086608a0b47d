"""What the device does next."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from saekit_server.scheduler.job import ForwardJob, Job, SAEJob, SteerJob


class DropReason(Enum):
    """Why a job ended without having been finished."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Drop(NamedTuple):
    """A job that has ended; the slots of a stream are free, and may be another's in this tick."""

    job: Job
    reason: DropReason


class Prefill(NamedTuple):
    """The next piece of a stream's prompt: positions `start` .. `start + tokens` in every slot.

    The piece that reaches the prompt's end yields the first generated token of each slot.
    """

    job: SteerJob
    slots: tuple[int, ...]
    start: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Tick:
    """One turn of the device: the fields are worked off in this order, each as one batch."""

    dropped: tuple[Drop, ...] = ()
    forward: tuple[ForwardJob, ...] = ()
    sae: tuple[SAEJob, ...] = ()
    prefill: tuple[Prefill, ...] = ()
    decode: tuple[SteerJob, ...] = ()
    """Streams whose prompt is complete: one token for each of their slots."""

    @property
    def has_work(self) -> bool:
        """Whether the device has anything to do."""
        return bool(self.forward or self.sae or self.prefill or self.decode)

    @property
    def forward_tokens(self) -> int:
        """Tokens of the forward batch that are not padding."""
        return sum(job.cost for job in self.forward)

    @property
    def forward_padded_tokens(self) -> int:
        """Tokens that the forward batch computes, padding included."""
        longest = max((job.tokens for job in self.forward), default=0)
        return longest * sum(job.rows for job in self.forward)

    @property
    def prefill_padded_tokens(self) -> int:
        """Tokens that the prefill computes, padding included."""
        longest = max((piece.tokens for piece in self.prefill), default=0)
        return longest * sum(len(piece.slots) for piece in self.prefill)

    @property
    def decode_rows(self) -> int:
        """Rows of the decode step."""
        return sum(job.slots for job in self.decode)
