"""Features with learnt thresholds, of autoencoders and transcoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saekit_trainer.architectures.acts import DenseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.jumprelu_function import jumprelu
from saekit_trainer.architectures.revival import Leftover, pre_act_loss


class JumpReLUSAE(TrainingSAE):
    """a = p·1[p > θ] under one of three sparsity losses, each a mean over rows:

    - step: λ·L0 (Rajamanoharan et al. 2024b)
    - tanh: λ·Σ tanh(c·a·‖W_dec‖) (Conerly et al. 2025)
    - quadratic: λ·(2/L0*)·(L0 − L0*)², as in sae-lens 6: beyond 1.25 L0* it weighs more than step
    """

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        super().__init__(config, generator=generator, b_dec=b_dec)
        start = math.log(config.jumprelu_init_threshold)
        self.log_threshold = nn.Parameter(torch.full_like(self.b_enc, start))

    @property
    def threshold(self) -> Tensor:
        """θ ``[d_sae]``; the logarithm is learnt, so that θ stays positive."""
        return self.log_threshold.exp()

    @property
    def revives(self) -> bool:
        return self.config.use_ghost_grads or self.config.pre_act_loss_coefficient > 0

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        p = self.pre_activations(x)
        acts, l0 = jumprelu(p, self.threshold.to(p.dtype), self.config.jumprelu_bandwidth)
        y_hat = self.decode(acts, x)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(y, y_hat), "l0_loss": weight * self._penalty(acts, l0)}
        return TrainingOutput(terms, DenseActs(acts.detach()), y_hat)

    def revive(self, x: Tensor, leftover: Leftover, dead: Tensor) -> dict[str, Tensor]:
        terms = super().revive(x, leftover, dead)
        if self.config.pre_act_loss_coefficient:
            p = self.pre_activations(x, dead)
            pull = pre_act_loss(p, self.threshold[dead], self.decoder_norms()[dead])
            terms["pre_act_loss"] = self.config.pre_act_loss_coefficient * self.over_features(pull)
        return terms

    def _saved_parts(self) -> dict[str, Tensor]:
        state = super()._saved_parts()
        state["threshold"] = state.pop("log_threshold").exp()
        return state

    def _penalty(self, acts: Tensor, l0: Tensor) -> Tensor:
        config = self.config
        if config.jumprelu_sparsity_loss_mode == "step":
            return self.over_features(l0).mean()
        if config.jumprelu_sparsity_loss_mode == "quadratic":
            excess = self.over_features(l0) - config.target_l0
            return excess.square().mean() * (2 / config.target_l0)
        scale = config.jumprelu_tanh_scale * self.decoder_norms()
        return self.over_features((acts * scale).tanh().sum()) / len(acts)
