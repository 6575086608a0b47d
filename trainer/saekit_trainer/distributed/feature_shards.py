"""SAEs whose features are divided among ranks: what each holds, and the sums over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saekit_trainer.distributed.ranks import Ranks

_OF_NO_FEATURE = frozenset({"b_dec", "W_skip"})


def feature_axis(name: str, tensor: Tensor) -> int | None:
    """The axis of an SAE's tensor that counts features; None if none does, so all ranks have it."""
    if name in _OF_NO_FEATURE or tensor.dim() == 0:
        return None
    return 1 if name == "W_enc" else 0


def part_of(name: str, whole: Tensor, ranks: Ranks) -> Tensor:
    """This rank's part of a tensor of the whole SAE: a copy, unless it is all of it."""
    axis = feature_axis(name, whole)
    if axis is None or ranks.count == 1:
        return whole
    part = whole.narrow(axis, *_bounds(ranks, whole.shape[axis]))
    return part.T.clone(memory_format=torch.contiguous_format).T if axis else part.clone()


def whole_of(name: str, part: Tensor, ranks: Ranks) -> Tensor:
    """The tensor of the whole SAE, on every rank, of the parts that they have."""
    axis = feature_axis(name, part)
    if axis is None or ranks.count == 1:
        return part
    if axis == 0:
        return torch.cat(tuple(ranks.gather_rows(part)))
    return torch.cat(tuple(ranks.gather_rows(part.T))).T


def _bounds(ranks: Ranks, n: int) -> tuple[int, int]:
    share = ranks.share(n)
    return share.start, share.stop - share.start


class _SumOfParts(torch.autograd.Function):
    """Σ over ranks; all go on with the same sum, so the gradient of a part is that of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks) -> Tensor:
        del ctx
        sum_ = part.clone(memory_format=torch.contiguous_format)
        ranks.all_sum(sum_)
        return sum_

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grads[0], None


class _SharedGradient(torch.autograd.Function):
    """The value itself; of its gradient, one of `count` equal shares."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int) -> Tensor:
        ctx.count = count
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] / ctx.count, None


def sum_of_parts(part: Tensor, ranks: Ranks) -> Tensor:
    """Σ of `part` over the ranks, each of which has some of the features."""
    if ranks.count == 1:
        return part
    if part.dtype in (torch.bfloat16, torch.float16):  # of autocast's products
        part = part.float()
    sum_: Tensor = _SumOfParts.apply(part, ranks)  # type: ignore[no-untyped-call]
    return sum_


def shared_gradient(value: Tensor, ranks: Ranks) -> Tensor:
    """A parameter that every rank has, where all use it alike.

    Its gradient is summed over the ranks in the end, so each of them contributes a share.
    """
    if ranks.count == 1:
        return value
    same: Tensor = _SharedGradient.apply(value, ranks.count)  # type: ignore[no-untyped-call]
    return same


def strongest_of_row(ranked: Tensor, k: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """This rank's columns that are among the `k` largest of a row over all ranks.

    Args:
        ranked: ``[rows, n]``, n another on each rank.
        k: not more than the ranks have columns.

    Returns:
        Rows, ascending, and columns: int64 ``[entries]`` each.
    """
    mine = ranked.topk(min(k, ranked.shape[1]), dim=1)
    offered = ranks.gather_rows(mine.values.T)
    before = sum(len(values) for values in offered[: ranks.index])
    everything = torch.cat(tuple(offered)).T
    taken = torch.zeros_like(everything, dtype=torch.bool)
    taken.scatter_(1, everything.topk(k, dim=1, sorted=False).indices, True)
    rows, places = taken[:, before : before + mine.values.shape[1]].nonzero(as_tuple=True)
    return rows, mine.indices[rows, places]


def largest_of_all(values: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Which of this rank's `values` ``[m]`` are among the `n` largest of all ranks: indices."""
    if ranks.count == 1:
        return values.topk(n, sorted=False).indices
    mine = values.topk(min(n, len(values)))
    offered = ranks.gather_rows(mine.values)
    before = sum(len(part) for part in offered[: ranks.index])
    chosen = torch.cat(tuple(offered)).topk(n, sorted=False).indices - before
    return mine.indices[chosen[(chosen >= 0) & (chosen < len(mine.values))]]
