"""ReLU features under an L1 penalty, of autoencoders and transcoders."""

from __future__ import annotations

from torch import Tensor

from saekit_trainer.architectures.acts import DenseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE


class StandardSAE(TrainingSAE):
    """ReLU features under λ·‖a·‖W_dec‖‖_p (Bricken et al. 2023; weighting: Conerly et al. 2024)."""

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        acts = self.pre_activations(x).relu()
        y_hat = self.decode(acts, x)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(y, y_hat), "l1_loss": weight * self._penalty(acts)}
        return TrainingOutput(terms, DenseActs(acts.detach()), y_hat)

    def _penalty(self, acts: Tensor) -> Tensor:
        norms = self.decoder_norms()
        if self.config.lp_norm == 1.0:
            # Sum over rows first: no second [rows, d_sae] array.
            return self.over_features(acts.sum(dim=0) @ norms) / len(acts)
        # The gradient of a root is infinite at a row without features.
        weighted = (acts * norms).clamp_min(1e-12)
        p = self.config.lp_norm
        penalty: Tensor = weighted.norm(p=p, dim=1)
        if self.feature_ranks.count > 1:
            penalty = self.over_features(penalty.pow(p)).pow(1 / p)
        return penalty.mean()
