"""The geometric median of activations, where `b_dec` starts."""

from __future__ import annotations

import torch
from torch import Tensor

from saekit_core.sae.statistics import to_float64


def geometric_median(x: Tensor, *, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point with the least sum of distances to the rows of `x`, by Weiszfeld's iteration.

    Unlike the mean it is not moved by the few rows of very large norm, such as attention sinks,
    that residual streams have.

    Args:
        x: ``[rows, d]``.
        iterations: most steps to take.
        tolerance: stop when a step moves less than this share of the median's norm.

    Returns:
        ``[d]`` in the dtype of `x`.
    """
    rows = to_float64(x)
    median = rows.mean(dim=0)
    for _ in range(iterations):
        distance = (rows - median).norm(dim=1).clamp_min(1e-12)
        weight = 1.0 / distance
        moved = (weight @ rows) / weight.sum()
        step = (moved - median).norm()
        median = moved
        if step <= tolerance * median.norm().clamp_min(1e-12):
            break
    return median.to(x)


def initial_decoder_bias(x: Tensor, method: str) -> Tensor:
    """`b_dec` before the first step, by `method`: ``geometric_median``, ``mean`` or ``zeros``."""
    if method == "geometric_median":
        return geometric_median(x)
    if method == "mean":
        return x.mean(dim=0)
    return torch.zeros_like(x[0])
