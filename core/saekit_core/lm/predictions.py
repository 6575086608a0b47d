"""What a model predicts, and how far a changed run is from the clean one.

Everything works on blocks of rows: beside the logits themselves, ``[n, d_vocab]``, nothing of that
size is ever held.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_BLOCK_NUMBERS: Final = 2**24
"""Logits that are worked on at a time: 64 MiB of float32."""


def to_log_probabilities_(logits: Tensor) -> Tensor:
    """Logits ``[n, d_vocab]`` turned into log-probabilities, in place; the same tensor."""
    for block in torch.split(logits, _rows(logits)):
        block.copy_(block.log_softmax(dim=-1))
    return logits


def kl_divergences(clean: Tensor, changed: Tensor) -> Tensor:
    """KL(clean ‖ changed) of the next token's distribution per row, nats ``[n]``.

    Args:
        clean, changed: log-probabilities ``[n, d_vocab]``.
    """
    rows = _rows(clean)
    pairs = zip(torch.split(clean, rows), torch.split(changed, rows), strict=True)
    return torch.cat([(p.exp() * (p - q)).sum(dim=-1) for p, q in pairs])


def ce_loss_score(*, clean: float, spliced: float, ablated: float) -> float:
    """(CE_ablated − CE_spliced)/(CE_ablated − CE_clean): 1 if nothing is lost, 0 if as much as by
    the ablation; nan where the ablation changes nothing."""
    span = ablated - clean
    return (ablated - spliced) / span if span else math.nan


def kl_score(*, spliced: float, ablated: float) -> float:
    """(KL_ablated − KL_spliced)/KL_ablated; nan where the ablation changes nothing."""
    return ce_loss_score(clean=0.0, spliced=spliced, ablated=ablated)


def _rows(logits: Tensor) -> int:
    return max(1, _BLOCK_NUMBERS // logits.shape[-1])
