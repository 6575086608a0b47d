"""What sae-lens and saekit both evaluate: a GPT-2-type model, SAEs, tokens and text, all seeded.

``python -m tests.trainer.eval_cases FOLDER`` writes them for `tests/parity/sae_lens_evals.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.models import build_gpt2, story
from tests.saes import random_sae
from torch import Tensor

from saekit_core.sae import SAE

CONTEXT: Final = 24
PROMPTS: Final = 12
D_MODEL: Final = 32

STORES: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "one document per context": {"disable_concat_sequences": True},
    "EOS between documents": {"sequence_separator_token": "eos"},
    "an id between documents": {"sequence_separator_token": 7},
    "nothing between documents": {"sequence_separator_token": None},
}
"""Options of `ActivationsStore.from_sae` that decide which tokens come."""


THEIR_NAMES: Final = {
    "l0": "l0",
    "l1": "l1",
    "explained_variance": "explained_variance",
    "mse": "mse",
    "cosine_similarity": "cossim",
    "l2_ratio": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias",
    "ce_loss_clean": "ce_loss_without_sae",
    "ce_loss_sae": "ce_loss_with_sae",
    "ce_loss_zero": "ce_loss_with_ablation",
    "ce_loss_score": "ce_loss_score",
    "kl_sae": "kl_div_with_sae",
    "kl_zero": "kl_div_with_ablation",
    "kl_score": "kl_div_score",
}
"""Our figure → theirs."""
TOLERANCE: Final = {
    **dict.fromkeys(THEIR_NAMES, 2e-5),
    "ce_loss_score": 1e-3,
    "kl_score": 1e-3,
    "kl_sae": 1e-4,
    "kl_zero": 1e-4,
}
"""Relative, per figure of ours; where a score divides small differences, it is off by more."""


def eval_saes() -> dict[str, SAE]:
    """SAEs by name, at hook points of all kinds."""
    return {
        "standard": _near_identity("blocks.1.hook_resid_pre"),
        "topk": random_sae("blocks.1.hook_mlp_out", D_MODEL, "topk", seed=1),
        "jumprelu": random_sae(
            "blocks.2.hook_resid_pre", D_MODEL, "jumprelu", seed=2, normalization="layer_norm"
        ),
        "gated": random_sae(
            "blocks.1.attn.hook_z", D_MODEL, "gated", seed=3, reshape_activations="hook_z"
        ),
        "one head": _of_head(2),
    }


def eval_tokens(bos: int, eos: int) -> Tensor:
    """int64 ``[PROMPTS, CONTEXT]``, some with an EOS or marks of a chat inside."""
    rows = torch.randint(10, 380, (PROMPTS, CONTEXT), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = bos
    rows[::3, 9] = eos
    rows[::4, 11:13] = torch.tensor([2, 3])  # marks of a chat
    return rows


def eval_texts() -> list[str]:
    """Documents from far below to far above a context; one begins with a special token."""
    texts = [story(n, seed) for seed, n in enumerate((40, 3, 25, 60, 9, 31, 80, 14, 50, 33))]
    return [*texts[:2], "<s>" + texts[2], *texts[3:]]


def store_options(**options: Any) -> dict[str, Any]:
    return {"context_size": CONTEXT, "store_batch_size_prompts": 5, **options}


def fingerprint(model_folder: Path, saes: dict[str, SAE], tokens: Tensor) -> dict[str, float]:
    """A number for all of each input, that other seeds would not give; processors may round."""
    weights = [t for sae in saes.values() for _, t in sorted(sae.weights().items())]
    model = [t for _, t in sorted(load_file(model_folder / "model.safetensors").items())]
    made = {"model": model, "saes": weights, "tokens": [tokens]}
    return {name: sum(_weighted_sum(t) for t in tensors) for name, tensors in made.items()}


def write_cases(folder: Path) -> None:
    """Everything that the peer needs."""
    model = build_gpt2(folder / "model")
    saes, tokens = eval_saes(), eval_tokens(0, 1)
    for name, sae in saes.items():
        sae.save_model(folder / "saes" / name)
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    stores = {
        name: {"texts": eval_texts(), "options": store_options(**options)}
        for name, options in STORES.items()
    }
    cases = {"saes": list(saes), "stores": stores, "inputs": fingerprint(model, saes, tokens)}
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


def _near_identity(hook_name: str) -> SAE:
    """A standard SAE that reconstructs well: a feature for each direction and its opposite."""
    sae = random_sae(hook_name, D_MODEL, "standard", d_sae=2 * D_MODEL)
    noise = torch.randn(2 * D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(5))
    both = torch.cat([torch.eye(D_MODEL), -torch.eye(D_MODEL)]) + 0.05 * noise
    with torch.no_grad():
        sae.W_dec.copy_(both)
        sae.W_enc.copy_(both.T)
        assert sae.b_enc is not None
        sae.b_enc.fill_(-0.02)
    return sae


def _of_head(head: int) -> SAE:
    sae = random_sae("blocks.2.attn.hook_z", D_MODEL // 4, "standard", d_sae=40, seed=4)
    values = sae.cfg.to_dict()
    values["metadata"]["hook_head_index"] = head
    return SAE.from_state(type(sae.cfg).from_dict(values), sae.weights())


def _weighted_sum(tensor: Tensor) -> float:
    flat = tensor.detach().double().flatten()
    return float(flat @ torch.linspace(1, 2, len(flat), dtype=torch.float64))


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
