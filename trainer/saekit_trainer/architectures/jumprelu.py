"""Features with learnt thresholds, of autoencoders and transcoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saekit_trainer.architectures.acts import Acts, DenseActs, SparseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.jumprelu_function import jumprelu, jumprelu_entries
from saekit_trainer.architectures.revival import Leftover, pre_act_loss
from saekit_trainer.architectures.sparse_code import few_above


class JumpReLUSAE(TrainingSAE):
    """a = p·1[p > θ] under one of three sparsity losses, each a mean over rows:

    - step: λ·L0 (Rajamanoharan et al. 2024b)
    - tanh: λ·Σ tanh(c·a·‖W_dec‖) (Conerly et al. 2025)
    - quadratic: λ·(2/L0*)·(L0 − L0*)², as in sae-lens 6: beyond 1.25 L0* it weighs more than step

    θ is learnt as it is, and kept from going below 0, as in sae-lens. Of its logarithm, which the
    paper learns, Adam's steps of one size change small thresholds by next to nothing.

    Attributes:
        threshold: θ ``[d_sae]``.
    """

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        super().__init__(config, generator=generator, b_dec=b_dec)
        start = torch.full_like(self.b_enc, config.jumprelu_init_threshold)
        self.threshold = nn.Parameter(start)

    @property
    def revives(self) -> bool:
        return self.config.use_ghost_grads or self.config.pre_act_loss_coefficient > 0

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        acts, l0 = self._encode(x)
        y_hat = self.decode(acts, x)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(y, y_hat), "l0_loss": weight * self._penalty(acts, l0)}
        return TrainingOutput(terms, acts, y_hat)

    def revive(self, x: Tensor, leftover: Leftover, dead: Tensor) -> dict[str, Tensor]:
        terms = super().revive(x, leftover, dead)
        if self.config.pre_act_loss_coefficient:
            p = self.pre_activations(x, dead)
            pull = pre_act_loss(p, self.threshold[dead], self.decoder_norms()[dead])
            terms["pre_act_loss"] = self.config.pre_act_loss_coefficient * self.over_features(pull)
        return terms

    @torch.no_grad()
    def constrain(self) -> None:
        super().constrain()
        self.threshold.clamp_(min=0.0)

    def _encode(self, x: Tensor) -> tuple[Acts, Tensor]:
        """a, and L0 ``[rows]``."""
        p, bandwidth = self.pre_activations(x), self.config.jumprelu_bandwidth
        threshold = self.threshold.to(p.dtype)
        # Features that are not active but near it have a part in the gradient.
        near = few_above(p, threshold.detach() - bandwidth / 2)
        if near is None:
            acts, l0, counts = jumprelu(p, threshold, bandwidth)
            return DenseActs(acts, positive=counts), l0
        at_entries = self.pre_activations_at(near, p, x)
        values, l0 = jumprelu_entries(at_entries, self.threshold, near, bandwidth)
        return SparseActs(near, values), l0

    def _penalty(self, acts: Acts, l0: Tensor) -> Tensor:
        config = self.config
        if config.jumprelu_sparsity_loss_mode == "step":
            return self.over_features(l0).mean()
        if config.jumprelu_sparsity_loss_mode == "quadratic":
            excess = self.over_features(l0) - config.target_l0
            return excess.square().mean() * (2 / config.target_l0)
        weighted = acts.times(config.jumprelu_tanh_scale * self.decoder_norms())
        return self.over_features(weighted.tanh().sum()) / len(l0)
