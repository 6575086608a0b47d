"""Each architecture finds the features of data whose true features are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_trainer.architectures import new_training_sae
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.plan import optimization_config, sae_config
from saekit_trainer.presets import PRESETS, TRANSCODERS
from saekit_trainer.trainer import SAETrainer

ACTIVE, ROWS = 3, 256
# What an architecture cannot know of the data is how many features are active.
KNOWN: dict[str, dict[str, Any]] = {
    "topk": {"k": ACTIVE},
    "abstopk": {"k": ACTIVE},
    "batchtopk": {"k": ACTIVE},
    "matryoshka_batchtopk": {"k": ACTIVE},
    "matching_pursuit": {"max_iterations": ACTIVE},
}
SLOW = {"gated", "jumprelu", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"}


class Data:
    """Three features active per row in superposition, of strength 1 to 2; mean norms √d.

    A linear map from more inputs would carry some features by itself, and leave them to no feature
    of a skip transcoder.
    """

    def __init__(self, *, signed: bool, transcodes: bool) -> None:
        self.signed = signed
        self.n_features, widths = (80, (32, 48)) if transcodes else (64, (48, 48))
        self.generator = torch.Generator().manual_seed(2)
        active = self.activations(20_000)
        self.inputs, self.outputs = (self._scaled(active, width) for width in widths)

    def activations(self, rows: int) -> Tensor:
        scores = torch.rand(rows, self.n_features, generator=self.generator)
        strength = 1 + torch.rand(rows, ACTIVE, generator=self.generator)
        if self.signed:
            strength *= torch.randint(0, 2, strength.shape, generator=self.generator) * 2 - 1
        chosen = scores.topk(ACTIVE, dim=1, sorted=False).indices
        return torch.zeros(rows, self.n_features).scatter(1, chosen, strength)

    def _scaled(self, active: Tensor, width: int) -> Tensor:
        rows = F.normalize(torch.randn(self.n_features, width, generator=self.generator))
        return rows * (width**0.5 / float((active @ rows).norm(dim=1).mean()))


@pytest.mark.parametrize("architecture", sorted(PRESETS))
def test_recovers_the_true_features_at_its_preset(architecture: str) -> None:
    signed, transcodes = architecture == "abstopk", architecture in TRANSCODERS
    data = Data(signed=signed, transcodes=transcodes)
    # So few steps leave some features of those that choose in the wrong place; others fill in.
    spare = 4 if "topk" in architecture else 2
    steps = 1200 if architecture in SLOW else 500
    cfg = LanguageModelSAERunnerConfig(
        architecture=architecture,
        hook_name_out="another" if transcodes else None,
        d_sae=spare * data.n_features,
        training_tokens=ROWS * steps,
        train_batch_size_tokens=ROWS,
        **KNOWN.get(architecture, {}),
    )
    sae_cfg = sae_config(cfg, data.inputs.shape[1], data.outputs.shape[1] if transcodes else None)
    sae = new_training_sae(sae_cfg, generator=torch.Generator().manual_seed(0))
    trainer = SAETrainer(sae, optimization_config(cfg, sae_cfg))
    for _ in range(steps):
        active = data.activations(ROWS)
        y = active @ data.outputs if transcodes else None
        last = trainer.train_step(active @ data.inputs, steps, y)
    truth = data.outputs if transcodes else data.inputs
    if sae.W_skip is not None:
        truth = truth - data.inputs @ sae.W_skip.detach().T  # what is left to the features
    found = F.normalize(sae.saved_state()["W_dec"]) @ F.normalize(truth).T
    best = (found.abs() if signed else found).max(dim=0).values
    assert (best > 0.9).float().mean() >= 0.95, best.sort().values
    assert last.explained_variance > 0.8
    assert last.l0 < 5 * ACTIVE
