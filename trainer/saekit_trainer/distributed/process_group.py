"""`ProcessGroup`: ranks that talk through torch.distributed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from saekit_trainer.distributed.ranks import Ranks
from saekit_trainer.errors import PeerLostError

BUCKET_NUMBERS: Final = 2**18
"""Tensors with fewer numbers are summed in one go, as copies side by side; larger ones in place."""

_PLACE: Final = re.compile(r"^\[[^\]]*:\d+\] ")
"""Where in gloo's sources an error arose."""

F = TypeVar("F", bound=Callable[..., Any])


def _not_compiled(method: F) -> F:
    """torch.compile goes around it."""
    return cast(F, torch.compiler.disable(method))  # type: ignore[no-untyped-call]


class Counters(Protocol):
    """What all processes count with, a store of torch.distributed."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number that is 0 at first: the new one."""


class ProcessGroup(Ranks):
    """The processes of torch.distributed's default group, which has to be there.

    What is summed comes out the same, bit for bit, in every process.
    """

    def __init__(self, device: torch.device | str, store: Counters | None = None) -> None:
        """
        Args:
            device: on which this process's tensors are.
            store: shared by the processes, outlives each of them.
        """
        self.index, self.count = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(device)
        self._store = store

    @property
    def label(self) -> str:
        return f"rank {self.index} of {self.count}"

    def device_for(self, asked: str) -> str:
        del asked  # it was asked for when the processes joined
        return str(self.device)

    @_not_compiled
    def all_sum(self, *tensors: Tensor) -> None:
        small: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel() >= BUCKET_NUMBERS:
                self._reduce(tensor, dist.ReduceOp.SUM)
            else:
                small.setdefault(tensor.dtype, []).append(tensor)
        for bucket in small.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._reduce(flat, dist.ReduceOp.SUM)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    @_not_compiled
    def all_min(self, tensor: Tensor) -> None:
        self._reduce(tensor, dist.ReduceOp.MIN)

    @_not_compiled
    def all_max(self, tensor: Tensor) -> None:
        self._reduce(tensor, dist.ReduceOp.MAX)

    @_not_compiled
    def total(self, n: int) -> int:
        sum_ = torch.tensor(n, device=self.device)
        self._reduce(sum_, dist.ReduceOp.SUM)
        return int(sum_)

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        set_ = torch.tensor(flags, dtype=torch.int32, device=self.device)
        self.all_max(set_)
        return tuple(bool(flag) for flag in set_.tolist())

    @_not_compiled
    def gather_rows(self, rows: Tensor) -> Sequence[Tensor]:
        lengths = [int(n) for n in self._gather(torch.tensor(len(rows), device=rows.device))]
        longest = max(lengths)
        padded = rows.contiguous()
        if len(rows) < longest:
            padded = rows.new_zeros(longest, *rows.shape[1:])
            padded[: len(rows)] = rows
        parts = self._gather(padded)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def main_clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        def read() -> float:
            now = torch.tensor(clock(), dtype=torch.float64, device=self.device)
            with _answered():
                dist.broadcast(now, src=0)
            return float(now)

        return read

    def is_first_to_fail(self) -> bool:
        if self._store is None:
            return True
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:  # it went with the process that kept it
            return True

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        # A gradient may be laid out as its transpose.
        given = tensor if tensor.is_contiguous() else tensor.T
        with _answered():
            dist.all_reduce(given, operation)

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each process, all of one shape."""
        everyones = [torch.empty_like(tensor) for _ in range(self.count)]
        with _answered():
            dist.all_gather(everyones, tensor)
        return everyones


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = _PLACE.sub("", str(error)).partition("\n")[0].partition(". ")[0]
        raise PeerLostError(f"another process of the run no longer answers ({reason})") from error
