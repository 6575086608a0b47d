"""SAEs to upload, and what arrived."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tests.core.sae.hub_server import Hub
from tests.core.sae.reference import random_sae

from saekit_core.sae import SAE, FeaturesFile, SAEConfig, Snippet, write_sae_folder

HOOK = "blocks.8.hook_resid_pre"
FEATURES = FeaturesFile(
    density=np.full(40, 0.1, np.float32),
    labels={3: "dragons"},
    examples={3: (Snippet(("a", " dragon"), (0.0, 2.0), 1),)},
    l0=12.34,
    explained_variance=0.8765,
)


def at(hook: str, kind: str = "standard", **metadata: object) -> SAE:
    sae = random_sae(kind)
    values = {**sae.cfg.to_dict(), "metadata": {"hook_name": hook, **metadata}}
    return SAE(SAEConfig.from_dict(values), sae.weights(), sae.sparsity)


def recorded(folder: Path, kind: str = "jumprelu") -> Path:
    """A folder with everything that an SAE's folder may have, and more."""
    sae = at(HOOK, kind, model_name="gpt2-small", neuronpedia_id="gpt2-small/8-res-jb")
    sae.sparsity = torch.linspace(-10, 0, 40)
    write_sae_folder(sae, folder, features=FEATURES)
    for name in ("optimizer.pt", "runner_cfg.json", "training_state.safetensors"):
        (folder / name).write_bytes(b"not for inference")
    return folder


def uploaded(hub: Hub, repo_id: str = "user/saes", branch: str = "main") -> dict[str, bytes]:
    return hub.repos[repo_id].files(branch)
