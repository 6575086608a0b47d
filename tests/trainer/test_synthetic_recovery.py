"""Each architecture finds the features of data whose true features are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.plan import optimization_config, sae_config
from saekit_trainer.trainer import SAETrainer
from saekit_trainer.training_sae import new_training_sae

D_IN, N_FEATURES, ACTIVE, STEPS, ROWS = 24, 48, 3, 700, 1024


def truth() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(N_FEATURES, D_IN, generator=generator))


def batch(directions: Tensor, generator: torch.Generator) -> Tensor:
    """Three features active per row in superposition, of strength 1 to 2; mean norm √d_in."""
    scores = torch.rand(ROWS, N_FEATURES, generator=generator)
    chosen = scores.topk(ACTIVE, dim=1).indices
    strength = 1 + torch.rand(ROWS, ACTIVE, generator=generator)
    x = torch.zeros(ROWS, N_FEATURES).scatter(1, chosen, strength) @ directions
    return x * (D_IN**0.5 / x.norm(dim=1).mean())


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_recovers_the_true_features_at_its_preset(architecture: str) -> None:
    directions = truth()
    generator = torch.Generator().manual_seed(2)
    cfg = LanguageModelSAERunnerConfig(
        architecture=architecture,
        d_sae=2 * N_FEATURES,
        k=ACTIVE if architecture == "topk" else None,
        training_tokens=ROWS * STEPS,
    )
    sae_cfg = sae_config(cfg, D_IN)
    trainer = SAETrainer(
        new_training_sae(sae_cfg, generator=generator), optimization_config(cfg, sae_cfg, STEPS)
    )
    for _ in range(STEPS):
        last = trainer.train_step(batch(directions, generator), STEPS)
    learnt = F.normalize(trainer.sae.state()["W_dec"])
    best = (directions @ learnt.T).max(dim=1).values
    assert (best > 0.9).float().mean() >= 0.95, best.sort().values
    assert last.explained_variance > 0.88
    assert last.l0 < 5 * ACTIVE
