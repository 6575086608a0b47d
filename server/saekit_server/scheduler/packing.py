"""Which waiting jobs share a batch with the leader."""

from collections.abc import Sequence
from operator import attrgetter

from saekit_server.scheduler.backlog import Window
from saekit_server.scheduler.job import ForwardJob, SAEJob
from saekit_server.scheduler.limits import Budget

_by_length = attrgetter("tokens")


def pack_forward(
    leader: ForwardJob, window: Window[ForwardJob], budget: Budget, overhead: int
) -> list[ForwardJob]:
    """The densest batch around the leader that the budget holds; the leader alone must fit it.

    A batch of R rows padded to length L takes time in proportion to R·L + `overhead`, of which
    sum(rows·tokens) is useful; density is the quotient. Sorted by length, the best batch is a run
    of neighbours, and two ends that only move upwards find it in one pass over the window.
    """
    jobs = sorted(window.peers, key=_by_length)
    at = jobs.index(leader)
    longest = leader.tokens
    rows, useful, weight = leader.rows, leader.cost, leader.rows * leader.bytes_per_token

    low = at
    while low > 0:
        job = jobs[low - 1]
        more, heavier = rows + job.rows, weight + job.rows * job.bytes_per_token
        if more * longest > budget.tokens or heavier * longest > budget.bytes:
            break
        if job.tokens * (rows * longest + overhead) <= useful * longest:
            break
        rows, weight, useful = more, heavier, useful + job.cost
        low -= 1
    best = (useful / (rows * longest + overhead), low, at, rows, useful, weight)

    for high in range(at + 1, len(jobs)):
        job = jobs[high]
        longest = job.tokens
        rows += job.rows
        useful += job.cost
        weight += job.rows * job.bytes_per_token
        while low < at and (
            rows * longest > budget.tokens
            or weight * longest > budget.bytes
            or jobs[low].tokens * (rows * longest + overhead) < useful * longest
        ):
            job = jobs[low]
            rows -= job.rows
            useful -= job.cost
            weight -= job.rows * job.bytes_per_token
            low += 1
        if rows * longest > budget.tokens or weight * longest > budget.bytes:
            break
        density = useful / (rows * longest + overhead)
        if density > best[0]:
            best = (density, low, high, rows, useful, weight)

    _, low, high, rows, useful, weight = best
    batch = jobs[low : high + 1]
    longest = batch[-1].tokens
    for job in sorted(window.guests, key=_by_length, reverse=True):
        if job.tokens > longest:
            continue
        if job.tokens * (rows * longest + overhead) <= useful * longest:
            break
        more, heavier = rows + job.rows, weight + job.rows * job.bytes_per_token
        if more * longest <= budget.tokens and heavier * longest <= budget.bytes:
            rows, weight, useful = more, heavier, useful + job.cost
            batch.append(job)
    return batch


def pack_sae(window: Window[SAEJob], budget: Budget) -> list[SAEJob]:
    """The leader, and in the order of turns whoever still fits. Rows need no padding."""
    leader = window.peers[0]
    batch, rows, size = [leader], leader.rows, leader.bytes
    for job in (*window.peers[1:], *window.guests):
        if rows + job.rows <= budget.tokens and size + job.bytes <= budget.bytes:
            rows, size = rows + job.rows, size + job.bytes
            batch.append(job)
    return batch


def forward_use(batch: Sequence[ForwardJob]) -> Budget:
    """What a forward batch takes, padding included."""
    longest = max(job.tokens for job in batch)
    rows = sum(job.rows for job in batch)
    return Budget(longest * rows, longest * sum(job.rows * job.bytes_per_token for job in batch))


def sae_use(batch: Sequence[SAEJob]) -> Budget:
    """What an SAE-only batch takes."""
    return Budget(sum(job.rows for job in batch), sum(job.bytes for job in batch))
