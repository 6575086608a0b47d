"""Temporal SAEs, whose formula the tests of the architecture hold."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.core.sae.foreign.case import D_IN, save_tensors

from saekit_core.sae import SAE, SAEConfig

NAMES = {"W_dec": "D", "W_enc": "E", "b_dec": "b"}


def temporal(root: Path, *, tied: bool = False) -> tuple[Path, SAE]:
    """The folder, and the SAE that it holds."""
    cfg = SAEConfig(
        architecture="temporal",
        d_in=D_IN,
        d_sae=4 * D_IN,
        n_heads=2,
        n_attn_layers=1,
        bottleneck_factor=4,
        kval_topk=3,
        tied_weights=tied,
        normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=0.25,
    )
    sae = SAE.from_config(cfg).requires_grad_(False)
    generator = torch.Generator().manual_seed(15)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    folder = root / "temporalSAEs" / "gemma-2-2B" / "layer_12" / "temporal"
    renamed = {NAMES.get(name, name): tensor for name, tensor in sae.weights().items()}
    save_tensors(renamed, folder / "latest_ckpt.safetensors")
    (folder / "conf.yaml").write_text(
        f"llm: {{dimin: {D_IN}, name: gemma-2-2b}}\n"
        "data: {dtype: float32}\n"
        "sae: {exp_factor: 4, n_heads: 2, n_attn_layers: 1, bottleneck_factor: 4,\n"
        f"  sae_diff_type: topk, kval_topk: 3, tied_weights: {str(tied).lower()},\n"
        "  scaling_factor: 0.25}\n"
    )
    return folder, sae
