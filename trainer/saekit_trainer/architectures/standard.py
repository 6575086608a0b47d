"""ReLU features under an L1 penalty, of autoencoders and transcoders."""

from __future__ import annotations

from torch import Tensor

from saekit_trainer.architectures.acts import Acts, DenseActs, SparseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.sparse_code import few_above


class StandardSAE(TrainingSAE):
    """ReLU features under λ·‖a·‖W_dec‖‖_p (Bricken et al. 2023; weighting: Conerly et al. 2024)."""

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        acts = self._encode(x)
        y_hat = self.decode(acts, x)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(y, y_hat), "l1_loss": weight * self._penalty(acts) / len(x)}
        return TrainingOutput(terms, acts, y_hat)

    def _encode(self, x: Tensor) -> Acts:
        p = self.pre_activations(x)
        # Other norms than L1 are of whole rows.
        active = few_above(p, 0.0) if self.config.lp_norm == 1.0 else None
        if active is None:
            return DenseActs(p.relu())
        return SparseActs(active, self.pre_activations_at(active, p, x))

    def _penalty(self, acts: Acts) -> Tensor:
        """The sum over rows, a scalar."""
        norms = self.decoder_norms()
        if self.config.lp_norm == 1.0:
            # Sum over rows first: no second [rows, d_sae] array.
            return self.over_features(acts.sum_over_rows() @ norms)
        # The gradient of a root is infinite at a row without features.
        weighted = acts.times(norms).clamp_min(1e-12)
        p = self.config.lp_norm
        penalty: Tensor = weighted.norm(p=p, dim=1)
        if self.feature_ranks.count > 1:
            penalty = self.over_features(penalty.pow(p)).pow(1 / p)
        return penalty.sum()
