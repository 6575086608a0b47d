"""JumpReLU with a gradient for its thresholds, which the function itself does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class JumpReLU(torch.autograd.Function):
    """Feature activations and their number, with straight-through gradients.

    a = p·1[p > θ] (θ > 0) and L0 = Σ 1[p > θ]. Both jump at θ; a rectangle of width ε around it
    stands in for the jump, so that ∂a/∂θ = −θ/ε and ∂L0/∂θ = −1/ε for |p−θ| < ε/2, and 0
    elsewhere; ∂a/∂p = 1[p > θ] and ∂L0/∂p = 0. Rajamanoharan et al. 2024b, equations 11 and 12.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        """`p` ``[rows, d_sae]``, `threshold` ``[d_sae]`` → a ``[rows, d_sae]``, L0 as a scalar."""
        # 1 above the threshold and 0 elsewhere, by arithmetic: comparing and converting booleans to
        # numbers takes several times as long.
        active = (p - threshold).sign_().relu_()
        ctx.save_for_backward(p, threshold, active)
        ctx.bandwidth = bandwidth
        return p * active, active.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_acts, grad_l0 = grads
        p, threshold, active = ctx.saved_tensors
        near = (p - threshold).abs_().neg_().add_(ctx.bandwidth / 2).sign_().relu_()
        rows_near = near.new_ones(len(near)) @ near
        pull = near.mul_(grad_acts)
        grad_threshold = -(threshold * pull.sum(dim=0) + grad_l0 * rows_near) / ctx.bandwidth
        return grad_acts * active, grad_threshold, None


def jumprelu(p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """`JumpReLU` with types."""
    acts, l0 = JumpReLU.apply(p, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return acts, l0
