"""The formulas of an SAE, written out in float64 as they are published, and SAEs to try them on."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from saekit_core.sae import SAE, SAEConfig

KINDS = ("standard", "gated", "jumprelu", "topk", "topk_rescaled")
NORMALIZATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
CELLS = tuple(itertools.product(KINDS, NORMALIZATIONS))


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
    topk = kind.startswith("topk")
    cfg = SAEConfig(
        architecture="topk" if topk else kind,
        d_in=d_in,
        d_sae=d_sae,
        dtype=dtype,
        normalize_activations=normalization,
        reshape_activations=reshape,
        apply_b_dec_to_input=apply_b_dec_to_input,
        k=min(5, d_sae) if topk else None,
        rescale_acts_by_decoder_norm=kind == "topk_rescaled",
    )
    sae = SAE.from_config(cfg).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return sae


def random_activations(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double() * 2 + 0.5


def reference_encode(sae: SAE, x: Tensor) -> Tensor:
    """x ``[N, d_in]`` float64 → feature activations ``[N, d_sae]`` float64."""
    w = {name: tensor.double() for name, tensor in sae.weights().items()}
    normalization = sae.cfg.normalize_activations
    if normalization == "layer_norm":
        x = x - x.mean(dim=1, keepdim=True)
        x = x / (((x**2).sum(dim=1, keepdim=True) / (x.shape[1] - 1)).sqrt() + 1e-5)
    elif normalization == "constant_norm_rescale":
        x = x * (x.shape[1] ** 0.5 / (x**2).sum(dim=1, keepdim=True).sqrt())
    if sae.cfg.apply_b_dec_to_input:
        x = x - w["b_dec"]
    if sae.cfg.architecture == "gated":
        gate = (x @ w["W_enc"] + w["b_gate"] > 0).double()
        magnitude = x @ (w["W_enc"] * torch.exp(w["r_mag"])) + w["b_mag"]
        return gate * magnitude.clamp(min=0)
    p = x @ w["W_enc"] + w["b_enc"]
    if sae.cfg.architecture == "standard":
        return p.clamp(min=0)
    if sae.cfg.architecture == "jumprelu":
        return p.clamp(min=0) * (p > w["threshold"])
    if sae.cfg.rescale_acts_by_decoder_norm:
        p = p * (w["W_dec"] ** 2).sum(dim=1).sqrt()
    kth = p.sort(dim=1, descending=True).values[:, sae.cfg.k - 1 : sae.cfg.k]  # type: ignore[operator]
    return torch.where(p >= kth, p, 0.0).clamp(min=0)


def reference_decode(sae: SAE, acts: Tensor, x: Tensor) -> Tensor:
    """Activations ``[N, d_sae]`` → reconstruction ``[N, d_in]`` of the x that they came from."""
    w = {name: tensor.double() for name, tensor in sae.weights().items()}
    rows = w["W_dec"]
    if sae.cfg.rescale_acts_by_decoder_norm:
        rows = rows / (rows**2).sum(dim=1, keepdim=True).sqrt()
    y = acts @ rows + w["b_dec"]
    if sae.cfg.normalize_activations == "layer_norm":
        mean = x.mean(dim=1, keepdim=True)
        std = (((x - mean) ** 2).sum(dim=1, keepdim=True) / (x.shape[1] - 1)).sqrt()
        return y * std + mean
    if sae.cfg.normalize_activations == "constant_norm_rescale":
        norm: Tensor = (x**2).sum(dim=1, keepdim=True).sqrt()
        return y * norm / math.sqrt(x.shape[1])
    return y
