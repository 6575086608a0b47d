"""Streams of generated text that hold slots."""

from collections.abc import Iterable
from dataclasses import dataclass

from saekit_server.scheduler.errors import expect
from saekit_server.scheduler.job import JobId, SteerJob
from saekit_server.scheduler.limits import Budget
from saekit_server.scheduler.slots import SlotPool
from saekit_server.scheduler.tick import Prefill


@dataclass(slots=True)
class Stream:
    """A running SteerJob."""

    job: SteerJob
    slots: tuple[int, ...]
    prefilled: int = 0
    """Prompt tokens that have been handed out."""

    piece: int = 0
    """How many of them in the last tick, which may have to be taken back."""

    @property
    def remaining(self) -> int:
        return self.job.tokens - self.prefilled

    def take_back(self) -> None:
        """The last piece was not computed."""
        self.prefilled -= self.piece
        self.piece = 0


class Streams:
    """The running streams, in the order of their start, and the slots that they hold."""

    def __init__(self, n_slots: int) -> None:
        self._slots = SlotPool(n_slots)
        self._streams: dict[JobId, Stream] = {}

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._streams

    def get(self, job_id: JobId) -> Stream | None:
        return self._streams.get(job_id)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def free_slots(self) -> int:
        return self._slots.free

    @property
    def used_slots(self) -> int:
        return self._slots.n_slots - self._slots.free

    def start(self, job: SteerJob) -> None:
        self._streams[job.id] = Stream(job, self._slots.take(job.slots))

    def end(self, job_id: JobId) -> None:
        """Frees the slots; nothing happens for a job that is no running stream."""
        stream = self._streams.pop(job_id, None)
        if stream is not None:
            self._slots.give_back(stream.slots)

    def decoding(self) -> tuple[SteerJob, ...]:
        """Those whose prompt is complete."""
        return tuple(stream.job for stream in self._streams.values() if not stream.remaining)

    def prefilling(self) -> list[Stream]:
        """Those whose prompt is not."""
        return [stream for stream in self._streams.values() if stream.remaining]

    def prefill(self, budget: Budget) -> tuple[Prefill, ...]:
        """Hands out the next pieces of prompts."""
        plan = plan_prefill(self.prefilling(), budget)
        for stream in self._streams.values():
            stream.piece = 0
        pieces = []
        for stream, tokens in plan:
            pieces.append(Prefill(stream.job, stream.slots, stream.prefilled, tokens))
            stream.prefilled += tokens
            stream.piece = tokens
        return tuple(pieces)

    def check_integrity(self) -> None:
        """Raises IntegrityError unless every slot is free or held once and prompts add up."""
        self._slots.check_integrity([s for stream in self._streams.values() for s in stream.slots])
        for job_id, stream in self._streams.items():
            expect(stream.job.id == job_id, f"{stream} is filed as {job_id!r}")
            expect(len(stream.slots) == stream.job.slots, f"{stream}: wrong number of slots")
            expect(0 <= stream.piece <= stream.prefilled <= stream.job.tokens, f"{stream}: prefill")


def plan_prefill(streams: Iterable[Stream], budget: Budget) -> list[tuple[Stream, int]]:
    """The next piece of some prompts, oldest streams first, as one padded batch.

    With k streams each piece is cut to budget / rows; k is chosen so that most tokens are useful:
    short ends of prompts share a batch, and one long prompt takes it all.
    """
    chosen: list[Stream] = []
    rows = weight = best = best_count = best_length = 0
    for stream in streams:
        rows += stream.job.slots
        weight += stream.job.slots * stream.job.bytes_per_token
        length = budget.tokens // rows
        if weight and length:
            # Admission has seen to it that one token of a stream fits the bytes; while they are
            # cut after an out-of-memory, it must still be able to move.
            length = min(length, max(budget.bytes // weight, 0 if chosen else 1))
        if length == 0:
            break
        chosen.append(stream)
        useful = sum(each.job.slots * min(each.remaining, length) for each in chosen)
        if useful < best:
            break
        if useful > best:
            best, best_count, best_length = useful, len(chosen), length
    return [(stream, min(stream.remaining, best_length)) for stream in chosen[:best_count]]


def prefill_use(plan: Iterable[tuple[Stream, int]]) -> Budget:
    """What a prefill of these pieces takes, padding included."""
    longest = rows = weight = 0
    for stream, tokens in plan:
        longest = max(longest, tokens)
        rows += stream.job.slots
        weight += stream.job.slots * stream.job.bytes_per_token
    return Budget(longest * rows, longest * weight)
