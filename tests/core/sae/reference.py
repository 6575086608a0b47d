"""The formulas of an SAE, written out in float64 as they are published, and SAEs to try them on."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae import SAE, SAEConfig

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 5},
    "topk_rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 5},
    "abstopk_rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "matching_pursuit": {"max_iterations": 6, "residual_threshold": 1.0},
    "matching_pursuit_long": {"stop_on_duplicate_support": False, "residual_threshold": 0.0},
    "temporal": {"n_heads": 2, "bottleneck_factor": 5, "n_attn_layers": 2, "kval_topk": 7},
    "temporal_untied": {
        "n_heads": 1,
        "bottleneck_factor": 1,
        "sae_diff_type": "relu",
        "tied_weights": False,
    },
}
"""Name of a case → what its configuration says besides the sizes."""
TRANSCODERS: dict[str, dict[str, Any]] = {
    "transcoder": {"d_out": 9},
    "skip_transcoder": {"d_out": 9},
    "jumprelu_transcoder": {"d_out": 15},
    "jumprelu_skip_transcoder": {},
    "topk_transcoder": {"k": 5, "d_out": 9},
    "topk_skip_transcoder": {"k": 5},
}
SETTINGS = {**AUTOENCODERS, **TRANSCODERS}
KINDS = tuple(SETTINGS)
NORMALIZATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
CELLS = tuple(itertools.product(KINDS, NORMALIZATIONS))


def architecture_of_kind(kind: str) -> str:
    """The architecture of a case."""
    return kind if kind in TRANSCODERS else re.sub("_(rescaled|long|untied)$", "", kind)


def random_sae(
    kind: str,
    normalization: str = "none",
    *,
    d_in: int = 12,
    d_sae: int = 40,
    dtype: str = "float32",
    reshape: str = "none",
    apply_b_dec_to_input: bool = True,
    seed: int = 0,
) -> SAE:
    """An SAE whose every tensor is random, biases and thresholds included."""
    settings = dict(SETTINGS[kind])
    if "k" in settings:
        settings["k"] = min(settings["k"], d_sae)
    if architecture_of_kind(kind) == "temporal" and d_sae % 10:
        settings |= {"n_heads": 1, "bottleneck_factor": 1, "kval_topk": None}
    cfg = SAEConfig(
        architecture=architecture_of_kind(kind),
        d_in=d_in,
        d_sae=d_sae,
        dtype=dtype,
        normalize_activations=normalization,
        reshape_activations="none" if kind in TRANSCODERS else reshape,
        apply_b_dec_to_input=apply_b_dec_to_input and kind not in TRANSCODERS,
        **settings,
    )
    sae = SAE.from_config(cfg).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    # A pursuit along rows that are longer than unit vectors does not come to an end.
    size = 0.9 / d_in**0.5 if cfg.architecture == "matching_pursuit" else 0.5
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return sae


def random_activations(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double() * 2 + 0.5


def reference_encode(sae: SAE, x: Tensor) -> Tensor:
    """x ``[N, d_in]`` float64 → feature activations ``[N, d_sae]`` float64.

    For a temporal SAE the rows are the positions of one sequence.
    """
    w = {name: tensor.double() for name, tensor in sae.weights().items()}
    x = _normalized(sae, x)
    if sae.cfg.apply_b_dec_to_input:
        x = x - w["b_dec"]
    architecture = sae.cfg.architecture
    if architecture == "matching_pursuit":
        return torch.stack([_pursue(sae.cfg, w["W_dec"], row) for row in x])
    if architecture == "temporal":
        return _temporal(sae.cfg, w, x)[0]
    if architecture == "gated":
        gate = (x @ w["W_enc"] + w["b_gate"] > 0).double()
        magnitude = x @ (w["W_enc"] * torch.exp(w["r_mag"])) + w["b_mag"]
        return gate * magnitude.clamp(min=0)
    p = x @ w["W_enc"] + w["b_enc"]
    if architecture in ("standard", "transcoder", "skip_transcoder"):
        return p.clamp(min=0)
    if "jumprelu" in architecture:
        return p.clamp(min=0) * (p > w["threshold"])
    if sae.cfg.rescale_acts_by_decoder_norm:
        p = p * (w["W_dec"] ** 2).sum(dim=1).sqrt()
    rank = p.abs() if architecture == "abstopk" else p
    kth = rank.sort(dim=1, descending=True).values[:, sae.cfg.k - 1 : sae.cfg.k]  # type: ignore[operator]
    kept = torch.where(rank >= kth, p, 0.0)
    return kept if architecture == "abstopk" else kept.clamp(min=0)


def reference_decode(sae: SAE, acts: Tensor, x: Tensor) -> Tensor:
    """Activations ``[N, d_sae]`` → reconstruction ``[N, d_out]`` of the x that they came from."""
    w = {name: tensor.double() for name, tensor in sae.weights().items()}
    rows = w["W_dec"]
    if sae.cfg.rescale_acts_by_decoder_norm:
        rows = rows / (rows**2).sum(dim=1, keepdim=True).sqrt()
    y = acts @ rows
    tied = sae.cfg.architecture == "matching_pursuit" or sae.cfg.tied_weights
    if sae.cfg.apply_b_dec_to_input or not tied:
        y = y + w["b_dec"]
    if sae.cfg.architecture == "temporal":
        x_tilde = _normalized(sae, x) - (w["b_dec"] if sae.cfg.apply_b_dec_to_input else 0)
        y = y + _temporal(sae.cfg, w, x_tilde)[1]
    if sae.cfg.architecture in TRANSCODERS:
        return y + x @ w["W_skip"].T if "W_skip" in w else y
    if sae.cfg.normalize_activations == "layer_norm":
        mean = x.mean(dim=1, keepdim=True)
        std = (((x - mean) ** 2).sum(dim=1, keepdim=True) / (x.shape[1] - 1)).sqrt()
        return y * std + mean
    if sae.cfg.normalize_activations == "constant_norm_rescale":
        norm: Tensor = (x**2).sum(dim=1, keepdim=True).sqrt()
        return y * norm / math.sqrt(x.shape[1])
    if sae.cfg.normalize_activations == "constant_scalar_rescale":
        return y / sae.cfg.activation_normalization_factor
    return y


def _normalized(sae: SAE, x: Tensor) -> Tensor:
    normalization = sae.cfg.normalize_activations
    if normalization == "layer_norm":
        x = x - x.mean(dim=1, keepdim=True)
        return x / (((x**2).sum(dim=1, keepdim=True) / (x.shape[1] - 1)).sqrt() + 1e-5)
    if normalization == "constant_norm_rescale":
        return x * (x.shape[1] ** 0.5 / (x**2).sum(dim=1, keepdim=True).sqrt())
    if normalization == "constant_scalar_rescale":
        return x * sae.cfg.activation_normalization_factor
    return x


def _pursue(cfg: SAEConfig, W_dec: Tensor, x: Tensor) -> Tensor:
    """One row, one feature after the other."""
    residual, acts = x.clone(), torch.zeros(len(W_dec), dtype=x.dtype)
    for _ in range(cfg.max_iterations or cfg.d_in):
        support = acts != 0
        scores = W_dec @ residual
        best = int(scores.argmax())
        step = max(float(scores[best]), 0.0)
        acts[best] += step
        residual = residual - step * W_dec[best]
        if cfg.stop_on_duplicate_support and torch.equal(acts != 0, support):
            break
        if cfg.residual_threshold and float((residual**2).sum()) ** 0.5 < cfg.residual_threshold:
            break
    return acts


def _temporal(cfg: SAEConfig, w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Novel features, and the predicted part, of one sequence ``[P, d_in]``, head by head."""
    encoder = w["W_dec"].T if cfg.tied_weights else w["W_enc"]
    left, predicted = x, torch.zeros_like(x)
    for layer in range(cfg.n_attn_layers or 0):
        at = f"attn_layers.{layer}."
        z = (left / (4 * cfg.d_in) @ encoder).clamp(min=0)
        earlier = torch.cat([torch.zeros_like(z[:1]), z[:-1]])
        q = z @ w[at + "q_target.weight"].T + w[at + "q_target.bias"]
        k = earlier @ w[at + "k_ctx.weight"].T + w[at + "k_ctx.bias"]
        v = earlier @ w[at + "v_ctx.weight"].T + w[at + "v_ctx.bias"]
        attended = []
        for q_h, k_h, v_h in zip(
            *(t.chunk(cfg.n_heads or 1, dim=1) for t in (q, k, v)), strict=True
        ):
            scores = q_h @ k_h.T / q_h.shape[1] ** 0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            attended.append(scores.softmax(dim=1) @ v_h)
        mixed = torch.cat(attended, dim=1) @ w[at + "c_proj.weight"].T + w[at + "c_proj.bias"]
        direction = mixed.clamp(min=0) @ w["W_dec"]
        norm = (direction**2).sum(dim=1, keepdim=True).sqrt() + 1e-6
        part = direction * (direction * left).sum(dim=1, keepdim=True) / norm**2
        predicted, left = predicted + part, left - part
    acts = (left / (4 * cfg.d_in) @ encoder).clamp(min=0)
    if cfg.sae_diff_type == "topk" and cfg.kval_topk is not None:
        kth = acts.sort(dim=1, descending=True).values[:, cfg.kval_topk - 1 : cfg.kval_topk]
        acts = torch.where(acts >= kth, acts, 0.0)
    return acts, predicted
