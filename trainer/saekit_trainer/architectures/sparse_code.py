"""Encoding and decoding where only a few features per row are active.

Every product here is a sum of a few weighted rows of a table, `weighted_sum`: decoding sums decoder
rows, and the gradients of encoder and decoder sum rows of x and of the reconstruction's gradient.
For 32 of 2,048 features the five products of a training step cost less than one dense one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Where more than this share of a block's activations is not 0, dense products cost less.
SPARSE_SHARE: Final = 1 / 8
LOOKED_AT: Final = 32


@dataclass(frozen=True, eq=False)
class Entries:
    """Which features are active in which row, ordered by row."""

    rows: Tensor
    """int64 ``[entries]``, ascending."""
    features: Tensor
    """int64 ``[entries]``"""
    n_rows: int
    d_sae: int

    @cached_property
    def row_starts(self) -> Tensor:
        """Where the entries of each row begin, ``[n_rows]``."""
        return _starts(self.rows, self.n_rows)

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor]:
        """The entries ordered by feature, and where those of each feature begin, ``[d_sae]``."""
        return _sorting(self.features, self.d_sae), _starts(self.features, self.d_sae)

    def sum_by_row(self, weights: Tensor, table: Tensor) -> Tensor:
        """Σ of weight·table[feature] over the entries of each row, ``[n_rows, width]``."""
        return weighted_sum(weights, self.features, self.row_starts, table)

    def sum_by_feature(self, weights: Tensor, table: Tensor) -> Tensor:
        """Σ of weight·table[row] over the entries of each feature, ``[d_sae, width]``."""
        order, starts = self.by_feature
        return weighted_sum(weights[order], self.rows[order], starts, table)


def few_above(p: Tensor, bound: float | Tensor) -> Entries | None:
    """The entries of `p` ``[rows, d_sae]`` above `bound`, if sums over them are what costs less.

    None on other devices than a CPU, where to count them is to wait for the device, and while
    torch.compile looks on.

    Args:
        bound: one for all, or of each feature ``[d_sae]``.
    """
    if p.device.type != "cpu" or torch.compiler.is_dynamo_compiling():
        return None
    p = p.detach()
    # A look at some rows first: where it says no, that is all it costs.
    for rows in (p[:LOOKED_AT], p):
        mask = (rows > bound).numpy()
        if np.count_nonzero(mask) > SPARSE_SHARE * mask.size:
            return None
    return entries_at(torch.from_numpy(np.flatnonzero(mask)), p)


def entries_at(places: Tensor, p: Tensor) -> Entries:
    """Those at flat, ascending `places` of ``[rows, d_sae]``."""
    rows = places // p.shape[1]
    return Entries(rows, places - rows * p.shape[1], len(p), p.shape[1])


def _sorting(ids: Tensor, n: int) -> Tensor:
    """What puts `ids` below `n` in order, and keeps equal ones in theirs."""
    if ids.device.type == "cpu" and n <= 1 << 16:
        # Numbers of 16 bits are sorted digit by digit, several times faster.
        return torch.from_numpy(np.argsort(ids.numpy().astype(np.uint16), kind="stable"))
    return torch.argsort(ids, stable=True)


def _starts(ids: Tensor, n: int) -> Tensor:
    counts = torch.bincount(ids, minlength=n)
    return counts.cumsum(0) - counts


def weighted_sum(weights: Tensor, index: Tensor, starts: Tensor, table: Tensor) -> Tensor:
    """Sums of weighted rows of `table` ``[n, width]``: one for each start, up to the next one."""
    return F.embedding_bag(
        index, table, starts, mode="sum", per_sample_weights=weights.to(table.dtype)
    )


class EncodeEntries(torch.autograd.Function):
    """Pre-activations of the chosen entries, from those of all features.

    The gradients are those of p = (x − b_dec) W_enc + b_enc at the entries; x has none.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes by position
        ctx: Any,
        p: Tensor,
        entries: Entries,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x if b_dec is None else x - b_dec, W_enc)
        ctx.entries, ctx.shifts = entries, b_dec is not None
        del b_enc
        return p[entries.rows, entries.features].to(W_enc.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x_tilde, W_enc = ctx.saved_tensors
        entries: Entries = ctx.entries
        grad_W_enc = entries.sum_by_feature(grad, x_tilde).T
        grad_b_enc = torch.zeros(entries.d_sae, dtype=grad.dtype, device=grad.device)
        grad_b_enc.index_add_(0, entries.features, grad)
        grad_b_dec = -(W_enc @ grad_b_enc) if ctx.shifts else None
        return None, None, None, grad_W_enc, grad_b_enc, grad_b_dec


class DecodeEntries(torch.autograd.Function):
    """Σ of value·W_dec[feature] over the entries of each group of entries.

    A group is a row, or part of one where `Entries.rows` counts parts.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, entries: Entries, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.entries = entries
        return entries.sum_by_row(values, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        values, W_dec = ctx.saved_tensors
        entries: Entries = ctx.entries
        grad = grads[0].contiguous()
        grad_W_dec = entries.sum_by_feature(values, grad)
        return _dots(grad, W_dec, entries), None, grad_W_dec


def encode_entries(
    p: Tensor,
    entries: Entries,
    x: Tensor,
    *,
    W_enc: Tensor,
    b_enc: Tensor,
    b_dec: Tensor | None,
) -> Tensor:
    """`EncodeEntries` with types: values ``[entries]``; p ``[rows, d_sae]`` needs no gradient."""
    values: Tensor = EncodeEntries.apply(  # type: ignore[no-untyped-call]
        p, entries, x, W_enc, b_enc, b_dec
    )
    return values


def decode_entries(values: Tensor, entries: Entries, W_dec: Tensor) -> Tensor:
    """`DecodeEntries` with types: ``[n_rows, d_out]``."""
    y: Tensor = DecodeEntries.apply(values, entries, W_dec)  # type: ignore[no-untyped-call]
    return y


def _dots(grad: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
    """grad[row]·W_dec[feature] of each entry, without gathering the rows."""
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, W_dec, entries.features, entries.row_starts, entries.rows, 0
    )
    return dots
