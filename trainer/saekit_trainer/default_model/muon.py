"""Muon (Jordan et al., 2024): momentum whose update is orthogonalised, for weight matrices.

The PyTorch class runs its Newton-Schulz iteration in bfloat16 and one matrix at a time, which costs
twenty times as much on a CPU without bfloat16 units as this one, in float32 and batched by shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Moves the singular values of `matrices` [n, rows, cols] close to 1 (about 0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    transposed = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if transposed else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if transposed else x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised and scaled by sqrt(max(1, rows / cols))."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; all of them are matrices."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for (rows, cols), weights in by_shape.items():
                nesterov = []
                for weight in weights:
                    grad = cast(Tensor, weight.grad)
                    velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                    velocity.lerp_(grad, 1 - momentum)
                    nesterov.append(grad.lerp(velocity, momentum))
                updates = orthogonalize(torch.stack(nesterov)) * max(1.0, rows / cols) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
