"""JumpReLU with a gradient for its thresholds, which the function itself does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class JumpReLU(torch.autograd.Function):
    """Feature activations and their number per row, with straight-through gradients.

    a = p·1[p > θ] (θ > 0) and L0 = Σ_f 1[p > θ]. Both jump at θ; a rectangle of width ε around it
    stands in for the jump, so that ∂a/∂θ = −θ/ε and ∂L0/∂θ = −1/ε for |p−θ| < ε/2, and 0
    elsewhere; ∂a/∂p = 1[p > θ] and ∂L0/∂p = 0. Rajamanoharan et al. 2024b, equations 11 and 12.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        """`p` ``[rows, d_sae]``, `threshold` ``[d_sae]`` → a ``[rows, d_sae]``, L0 ``[rows]``."""
        # 1 above the threshold and 0 elsewhere, written as numbers: comparing and converting
        # booleans takes several times as long.
        active = torch.gt(p, threshold, out=torch.empty_like(p))
        ctx.save_for_backward(p, threshold, active)
        ctx.bandwidth = bandwidth
        return p * active, active @ active.new_ones(active.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_acts, grad_l0 = grads
        p, threshold, active = ctx.saved_tensors
        near = (p - threshold).abs_().lt_(ctx.bandwidth / 2)
        of_l0 = grad_l0.to(near.dtype) @ near
        pull = near.mul_(grad_acts)
        of_acts = pull.new_ones(len(pull)) @ pull
        grad_threshold = -(threshold * of_acts + of_l0) / ctx.bandwidth
        return grad_acts * active, grad_threshold, None


def jumprelu(p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """`JumpReLU` with types."""
    acts, l0 = JumpReLU.apply(p, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return acts, l0
