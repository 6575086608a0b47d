"""Architectures that keep the k features of highest rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError
from saekit_core.sae.weights import Weights, decoder_norms


@dataclass(frozen=True)
class TopK:
    """An architecture that keeps the k features of highest rank in each row.

    The values are p, or p·‖W_dec‖ where the configuration rescales by decoder norms.
    """

    signed: bool
    """Whether features rank by magnitude and keep their signs, rather than being positive."""

    def values(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
        """What a feature's activation is if it is kept, ``[..., d_sae]`` (before a ReLU)."""
        if not cfg.rescale_acts_by_decoder_norm:
            return p
        return (p * decoder_norms(weights)).to(p.dtype)

    def rank(self, values: Tensor) -> Tensor:
        """What decides which are kept; the k largest are, if positive."""
        return values.abs() if self.signed else values

    def largest(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> tuple[Tensor, Tensor]:
        """Activations and indices, both ``[..., k]`` in no order, of the k features selected."""
        if cfg.k is None:
            raise SAEError("k: missing", field="k")
        values = self.values(cfg, weights, p)
        if not self.signed:
            kept, indices = values.topk(cfg.k, dim=-1, sorted=False)
            return F.relu(kept), indices
        indices = self.rank(values).topk(cfg.k, dim=-1, sorted=False).indices
        return values.gather(-1, indices), indices

    def activate(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
        """Feature activations of pre-activations p, both ``[..., d_sae]``."""
        values, indices = self.largest(cfg, weights, p)
        return torch.zeros_like(p).scatter(-1, indices, values)
