"""x̃ W_enc + b_enc with the gradients that training needs, and no others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Encode(torch.autograd.Function):
    """p = (x − b_dec) W_enc + b_enc, ``[rows, d_sae]``; x has no gradient.

    Differentiating the formula as it stands takes one product of ``[rows, d_sae]`` with W_encᵀ to
    reach b_dec. Its gradient is −W_enc times that of b_enc, which takes none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> Tensor:
        x_tilde = x if b_dec is None else x - b_dec
        ctx.save_for_backward(x_tilde, W_enc)
        ctx.shifts = b_dec is not None
        return torch.addmm(b_enc, x_tilde, W_enc)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:
        (grad_p,) = grads
        x_tilde, W_enc = ctx.saved_tensors
        # Autocast chooses a narrower dtype for the product alone.
        x_tilde, wide = x_tilde.to(grad_p.dtype), W_enc.dtype
        grad_W_enc = (grad_p.T @ x_tilde).T.to(wide)
        grad_b_enc = grad_p.new_ones(len(grad_p)) @ grad_p
        grad_b_enc = grad_b_enc.to(wide)
        return None, grad_W_enc, grad_b_enc, -(W_enc @ grad_b_enc) if ctx.shifts else None


def encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> Tensor:
    """`Encode` with types; `b_dec` is None where it is not subtracted."""
    p: Tensor = Encode.apply(x, W_enc, b_enc, b_dec)  # type: ignore[no-untyped-call]
    return p
