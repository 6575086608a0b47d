"""Small random SAEs in real folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from saekit_core.sae import SAE, FeaturesFile, SAEConfig, write_sae_folder

ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")
FURTHER: dict[str, dict[str, object]] = {
    "abstopk": {"k": 8},
    "matching_pursuit": {"max_iterations": 5},
    "temporal": {"n_heads": 2, "bottleneck_factor": 8, "kval_topk": 9},
    "transcoder": {},
    "skip_transcoder": {},
    "jumprelu_transcoder": {},
    "jumprelu_skip_transcoder": {},
    "topk_skip_transcoder": {"k": 8},
}
"""The other architectures, with what their configuration says besides the sizes."""


def random_sae(
    hook_name: str,
    d_in: int,
    architecture: str = "jumprelu",
    *,
    d_sae: int = 96,
    seed: int = 0,
    normalization: str = "none",
    **settings: object,
) -> SAE:
    """An SAE of which some tenth of the features fire on activations of about unit size."""
    generator = torch.Generator().manual_seed(seed)
    metadata = {"hook_name": hook_name, "prepend_bos": True, "context_size": 64}
    if architecture == "topk":
        settings.setdefault("k", 8)
    cfg = SAEConfig.from_dict(
        {
            "architecture": architecture,
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": "float32",
            "normalize_activations": normalization,
            "apply_b_dec_to_input": "jumprelu" not in architecture and "code" not in architecture,
            "metadata": {**metadata, **settings.pop("metadata", {})},  # type: ignore[dict-item]
            **settings,
        }
    )
    state = {
        name: torch.randn(tensor.shape, generator=generator) * (0.2 if tensor.dim() == 1 else 1.0)
        for name, tensor in SAE.from_config(cfg).weights().items()
    }
    if "W_enc" in state:
        state["W_enc"] /= d_in**0.5
    state["W_dec"] /= d_in**0.5
    for name in ("b_enc", "b_gate"):
        if name in state:
            state[name] -= 1.0
    if "threshold" in state:
        state["threshold"].abs_()
    for name in state:
        if name.startswith("attn_layers") or name == "W_skip":
            state[name] /= state[name].shape[-1] ** 0.5
    return SAE.from_state(cfg, state)


def write_sae(folder: Path, sae: SAE, *, max_activation: float | None = None) -> Path:
    """Its folder, with recorded maxima if asked for."""
    features = None
    if max_activation is not None:
        features = FeaturesFile(
            max_activation=np.full(sae.cfg.d_sae, max_activation, np.float32),
            density=np.full(sae.cfg.d_sae, 0.1, np.float32),
            labels={3: "a cat", 5: "the end of a story"},
        )
    return write_sae_folder(sae, folder, features=features)
