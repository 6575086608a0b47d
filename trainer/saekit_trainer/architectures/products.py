"""The dense products of a step, with the gradients that training needs, and no others."""

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
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor, Tensor | None]:
        (grad_p,) = grads
        x_tilde, W_enc = ctx.saved_tensors
        # Autocast chooses a narrower dtype for the products alone.
        grad_W_enc = gradient_product(W_enc, x_tilde.to(grad_p.dtype).T, grad_p)
        grad_b_enc = grad_p.new_ones(len(grad_p)) @ grad_p
        grad_b_enc = grad_b_enc.to(W_enc.dtype)
        return None, grad_W_enc, grad_b_enc, -(W_enc @ grad_b_enc) if ctx.shifts else None


class Decode(torch.autograd.Function):
    """acts · W_dec, ``[rows, d_out]``."""

    @staticmethod
    def forward(ctx: Any, acts: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(acts, W_dec)
        return acts @ W_dec

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        (grad,) = grads
        acts, W_dec = ctx.saved_tensors
        grad_acts = grad @ W_dec.to(grad.dtype).T
        return grad_acts.to(acts.dtype), gradient_product(W_dec, acts.T, grad)


def encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> Tensor:
    """`Encode` with types; `b_dec` is None where it is not subtracted."""
    p: Tensor = Encode.apply(x, W_enc, b_enc, b_dec)  # type: ignore[no-untyped-call]
    return p


def decode(acts: Tensor, W_dec: Tensor) -> Tensor:
    """`Decode` with types; W_dec may be one that is not learnt from."""
    if not W_dec.requires_grad:
        return acts @ W_dec
    y: Tensor = Decode.apply(acts, W_dec)  # type: ignore[no-untyped-call]
    return y


def gradient_product(parameter: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    """a · b, which is the gradient of `parameter`, or a block's part of it.

    Where a gradient is there already, the product is added to it as it is made, and there is
    nothing left to return: a matrix of its own and a sum would go through memory four times more.
    So a step has to begin without gradients, and `backward` has to be what asks for them.
    """
    # The layout of the parameter: each decoder row, and each encoder column, lies in one piece.
    across = parameter.stride(0) == 1 and parameter.dim() > 1
    if across:
        a, b = b.T, a.T
    there = (
        parameter.grad if parameter.is_leaf and not torch.compiler.is_dynamo_compiling() else None
    )
    if there is None or there.dtype != a.dtype or b.dtype != a.dtype:
        product = (a @ b.to(a.dtype)).to(parameter.dtype)
        return product.T if across else product
    (there.T if across else there).addmm_(a, b)
    return None
