"""JumpReLU with a gradient for its thresholds, which the function itself does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saekit_trainer.architectures.sparse_code import Entries


class JumpReLU(torch.autograd.Function):
    """Feature activations and their number per row, with straight-through gradients.

    a = p·1[p > θ] (θ > 0) and L0 = Σ_f 1[p > θ]. Both jump at θ; a rectangle of width ε around it
    stands in for the jump, so that ∂a/∂θ = −θ/ε and ∂L0/∂θ = −1/ε for |p−θ| < ε/2, and 0
    elsewhere; ∂a/∂p = 1[p > θ] and ∂L0/∂p = 0. Rajamanoharan et al. 2024b, equations 11 and 12.
    """

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, threshold: Tensor, bandwidth: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            p: ``[rows, d_sae]``.
            threshold: ``[d_sae]``.

        Returns:
            a ``[rows, d_sae]``, L0 ``[rows]``, and the number of rows in which each feature is
            active ``[d_sae]``, which has no gradient.
        """
        over = p - threshold
        # `threshold_backward` and `hardtanh_backward` keep what is above a bound, or between two,
        # in one pass; comparing into booleans and multiplying takes several.
        active = torch.ops.aten.threshold_backward(p.new_ones(()).expand_as(p), over, 0)
        ctx.save_for_backward(over, threshold)
        ctx.bandwidth = bandwidth
        l0 = active @ active.new_ones(active.shape[1])
        counts = active.new_ones(len(active)) @ active
        ctx.mark_non_differentiable(counts)
        return active.mul_(p), l0, counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_acts, grad_l0, _ = grads
        over, threshold = ctx.saved_tensors
        half = ctx.bandwidth / 2
        # One array for all of it: to make another is to clear its memory first.
        work = torch.addcmul(grad_l0[:, None].to(over.dtype), grad_acts, threshold)
        torch.ops.aten.hardtanh_backward.grad_input(work, over, -half, half, grad_input=work)
        grad_threshold = (work.new_ones(len(work)) @ work) / -ctx.bandwidth
        torch.ops.aten.threshold_backward.grad_input(grad_acts, over, 0, grad_input=work)
        return work, grad_threshold, None


def jumprelu(p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor, Tensor]:
    """`JumpReLU` with types."""
    acts, l0, counts = JumpReLU.apply(p, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return acts, l0, counts


class JumpReLUEntries(torch.autograd.Function):
    """`JumpReLU` at entries that include all that are active, or so near θ that they count."""

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, threshold: Tensor, entries: Entries, bandwidth: float
    ) -> tuple[Tensor, Tensor]:
        """`p` ``[entries]``, `threshold` ``[d_sae]`` → a ``[entries]``, L0 ``[rows]``."""
        theta = threshold.index_select(0, entries.features)
        active = p > theta
        ctx.save_for_backward(p, theta, active)
        ctx.entries, ctx.bandwidth = entries, bandwidth
        l0 = torch.bincount(entries.rows[active], minlength=entries.n_rows)
        return p * active, l0.to(p.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_acts, grad_l0 = grads
        p, theta, active = ctx.saved_tensors
        entries: Entries = ctx.entries
        near = (p - theta).abs_().lt_(ctx.bandwidth / 2)
        pull = near * (theta * grad_acts + grad_l0.index_select(0, entries.rows))
        grad_threshold = pull.new_zeros(entries.d_sae)
        grad_threshold.index_add_(0, entries.features, pull, alpha=-1 / ctx.bandwidth)
        return grad_acts * active, grad_threshold, None, None


def jumprelu_entries(
    p: Tensor, threshold: Tensor, entries: Entries, bandwidth: float
) -> tuple[Tensor, Tensor]:
    """`JumpReLUEntries` with types."""
    acts, l0 = JumpReLUEntries.apply(  # type: ignore[no-untyped-call]
        p, threshold, entries, bandwidth
    )
    return acts, l0
