"""Losses on dead features: reasons to fire again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saekit_trainer.distributed.feature_shards import strongest_of_row, sum_of_parts
from saekit_trainer.distributed.ranks import ALONE, Ranks


class Leftover(NamedTuple):
    """What a forward pass did not reconstruct."""

    residual: Tensor
    """y − ŷ ``[rows, d_out]``, without gradient."""
    variance: Tensor
    """E‖r − E r‖² of the residuals r of the whole batch, a scalar."""

    def rows(self, start: int, stop: int) -> Leftover:
        """That of some rows of the batch."""
        return Leftover(self.residual[start:stop], self.variance)


def aux_k_loss(explained: Tensor, leftover: Leftover) -> Tensor:
    """‖e − ê‖²/E‖e − E e‖²: how badly dead features explain the residual e (Gao et al. 2024, A.2).

    Args:
        explained: ê, what the strongest of them decode to ``[rows, d_out]``.
        leftover: the residual.
    """
    error = (explained - leftover.residual).square().sum(dim=1).mean()
    loss: Tensor = error / leftover.variance.clamp_min(1e-12)
    return loss


def keep_strongest(p: Tensor, k: int, *, signed: bool = False, ranks: Ranks = ALONE) -> Tensor:
    """`p` ``[rows, n]`` where it is among the `k` largest of its row and positive, 0 elsewhere.

    `signed` keeps those of largest absolute value, with their signs. Each of `ranks` has some
    columns.
    """
    if ranks.count > 1:
        chosen = strongest_of_row(p.detach().abs() if signed else p.detach(), k, ranks)
        values = p[chosen]
        return torch.zeros_like(p).index_put(chosen, values if signed else values.relu())
    if signed:
        indices = p.abs().topk(k, dim=1, sorted=False).indices
        return torch.zeros_like(p).scatter(1, indices, p.gather(1, indices))
    values, indices = p.topk(k, dim=1, sorted=False)
    return torch.zeros_like(p).scatter(1, indices, values.relu())


def ghost_grad_loss(p: Tensor, rows: Tensor, leftover: Leftover, ranks: Ranks = ALONE) -> Tensor:
    """Ghost gradients (Jermyn & Templeton, "Ghost Grads", Circuits Updates of January 2024).

    The reconstruction of dead features alone, exp(p) W_dec, is scaled to half the norm of the
    residual, its squared distance from the residual to the squared residual. Neither scale has a
    gradient.

    Args:
        p: pre-activations of the dead features ``[rows, dead]``.
        rows: their decoder rows ``[dead, d_out]``.
        leftover: the residual.
        ranks: each has some of the features.
    """
    # Scaled afterwards anyway, so the largest of a row may be 1: exp does not overflow.
    here = p.detach() if p.shape[1] else p.new_full((len(p), 1), -torch.inf)
    largest = here.amax(dim=1, keepdim=True)
    ranks.all_max(largest)
    ghost = sum_of_parts((p - largest).exp() @ rows, ranks)
    residual = leftover.residual
    norm = torch.linalg.vector_norm(residual, dim=1, keepdim=True)
    ghost_norm = torch.linalg.vector_norm(ghost.detach(), dim=1, keepdim=True)
    ghost = ghost * (norm / (2 * ghost_norm).clamp_min(1e-6))
    error = (ghost - residual).square().sum(dim=1)
    scale = residual.square().sum(dim=1) / error.detach().clamp_min(1e-12)
    loss: Tensor = (scale * error).mean()
    return loss


def pre_act_loss(p: Tensor, threshold: Tensor, norms: Tensor) -> Tensor:
    """Σ ReLU(θ − p)·‖W_dec‖ over dead features, a mean over rows (Conerly et al. 2025).

    Args:
        p: pre-activations of the dead features ``[rows, dead]``.
        threshold, norms: theirs ``[dead]``.
    """
    return ((threshold - p).relu() * norms).sum(dim=1).mean()
