"""Matching pursuit: features are chosen one after the other, each from what the last ones left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.weights import Weights


class MatchingPursuit:
    """The encoder of matching pursuit SAEs (Costa et al. 2025, "From Flat to Hierarchical").

    Per step and row: f = argmax of residual·W_decᵀ, v = ReLU(residual·w_f), a_f += v,
    residual −= v·w_f. There is no W_enc, and no pre-activation.
    """

    def encode(self, cfg: SAEConfig, weights: Weights, x_tilde: Tensor) -> Tensor:
        """Feature activations ``[..., d_sae]`` of x̃ ``[..., d_in]``; gradients flow through v.

        A row is done after `max_iterations` steps (d_in of them unless told otherwise), or, as
        far as the configuration asks for it, when a step has added no feature that was not active
        yet or has left a residual whose norm is below `residual_threshold`.
        """
        W_dec = weights["W_dec"]
        # Rounding adds up over the steps, so what is carried from one to the next is not 16 bit.
        wide = torch.promote_types(x_tilde.dtype, torch.float32)
        residual = x_tilde.reshape(-1, x_tilde.shape[-1]).to(wide, copy=True)
        acts = residual.new_zeros((len(residual), cfg.d_sae))
        rows = torch.arange(len(residual), device=residual.device)
        for _ in range(cfg.max_iterations or cfg.d_in):
            left = residual[rows]
            with torch.no_grad():
                chosen = (left.to(W_dec.dtype) @ W_dec.mT).argmax(dim=-1)
            directions = W_dec[chosen].to(wide)
            values = F.relu((left * directions).sum(dim=-1))
            with torch.no_grad():
                is_new = (acts[rows, chosen] == 0) & (values != 0)
            acts.index_put_((rows, chosen), values, accumulate=True)
            left = left - values[:, None] * directions
            residual.index_put_((rows,), left)
            with torch.no_grad():
                rows = rows[self._goes_on(cfg, left, is_new)]
            if not len(rows):
                break
        return acts.to(x_tilde.dtype).view(*x_tilde.shape[:-1], cfg.d_sae)

    def _goes_on(self, cfg: SAEConfig, residual: Tensor, is_new: Tensor) -> Tensor:
        goes_on = is_new if cfg.stop_on_duplicate_support else torch.ones_like(is_new)
        if cfg.residual_threshold:
            goes_on = goes_on & (residual.norm(dim=-1) >= cfg.residual_threshold)
        return goes_on
