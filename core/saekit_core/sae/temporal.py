"""Temporal SAEs: attention over the context predicts a part, sparse features carry the rest."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.weights import Shapes, Weights

_PROJECTIONS: Final = ("q_target", "k_ctx", "v_ctx", "c_proj")
_EPS: Final = 1e-6


class Temporal:
    """The encoder of temporal SAEs (Lubana et al. 2025, arXiv 2511.01836, as in SAELens 6).

    Per attention layer, on what the layers before it have left of x̃ (λ = 1/(4·d_in)):
    z = ReLU(λ·left·W_enc); z attends to the z of earlier positions (shifted by one, causal);
    c = ReLU of what the attention gives; the part predicted is the projection of `left` on c·W_dec.
    The novel features are ReLU(λ·left·W_enc) of the final rest, or the k largest of them.
    """

    def shapes(self, cfg: SAEConfig) -> Shapes:
        """Names and shapes of the tensors."""
        shapes: Shapes = {"W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}
        if not cfg.tied_weights:
            shapes["W_enc"] = (cfg.d_in, cfg.d_sae)
        narrow = cfg.d_sae // (cfg.bottleneck_factor or 1)
        for layer in range(cfg.n_attn_layers or 0):
            for projection in _PROJECTIONS:
                width = narrow if projection in ("q_target", "k_ctx") else cfg.d_sae
                name = f"attn_layers.{layer}.{projection}"
                shapes[f"{name}.weight"] = (width, cfg.d_sae)
                shapes[f"{name}.bias"] = (width,)
        return shapes

    def encode(self, cfg: SAEConfig, weights: Weights, x_tilde: Tensor) -> tuple[Tensor, Tensor]:
        """Novel features ``[..., P, d_sae]`` of sequences x̃ ``[..., P, d_in]``, and what the
        context predicts, ``[..., P, d_in]``.

        A position depends on itself and on earlier ones, so padding at the end changes nothing.
        """
        p, predicted = self.pre_activations(cfg, weights, x_tilde)
        return self.activate(cfg, p), predicted

    def pre_activations(
        self, cfg: SAEConfig, weights: Weights, x_tilde: Tensor
    ) -> tuple[Tensor, Tensor]:
        """λ·left·W_enc ``[..., P, d_sae]`` of the final rest, and what the context predicts."""
        W_dec = weights["W_dec"]
        encoder = W_dec.mT if cfg.tied_weights else weights["W_enc"]
        scale = 1 / (4 * cfg.d_in)
        left = x_tilde[None].flatten(0, -3)
        predicted = torch.zeros_like(left)
        for layer in range(cfg.n_attn_layers or 0):
            z = F.relu((left * scale) @ encoder)
            context = F.pad(z[:, :-1], (0, 0, 1, 0))
            codes = F.relu(self._attend(cfg, weights, f"attn_layers.{layer}", z, context))
            direction = codes @ W_dec
            norm = direction.norm(dim=-1, keepdim=True) + _EPS
            along = (direction * left).sum(dim=-1, keepdim=True) / norm.square()
            predicted = predicted + along * direction
            left = left - along * direction
        p = (left * scale) @ encoder
        return p.view(*x_tilde.shape[:-1], cfg.d_sae), predicted.view(x_tilde.shape)

    def activate(self, cfg: SAEConfig, p: Tensor) -> Tensor:
        """Novel features of their pre-activations, both ``[..., d_sae]``."""
        acts = F.relu(p)
        if cfg.sae_diff_type != "topk" or cfg.kval_topk is None:
            return acts
        values, indices = acts.topk(cfg.kval_topk, dim=-1, sorted=False)
        return torch.zeros_like(acts).scatter(-1, indices, values)

    def _attend(
        self, cfg: SAEConfig, weights: Weights, layer: str, z: Tensor, context: Tensor
    ) -> Tensor:
        def project(name: str, x: Tensor) -> Tensor:
            weight, bias = weights[f"{layer}.{name}.weight"], weights[f"{layer}.{name}.bias"]
            return F.linear(x, weight, bias)

        def heads(x: Tensor) -> Tensor:
            n_heads = cfg.n_heads or 1
            return x.view(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads(project("q_target", z)),
            heads(project("k_ctx", context)),
            heads(project("v_ctx", context)),
            is_causal=True,
        )
        return project("c_proj", attended.transpose(1, 2).flatten(2))
