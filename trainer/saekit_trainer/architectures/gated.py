"""Features whose gate and magnitude are separate (Rajamanoharan et al. 2024a)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saekit_trainer.architectures.acts import Acts, DenseActs, SparseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.sparse_code import few_above


class GatedSAE(TrainingSAE):
    """a = 1[π > 0]·ReLU(m), with π = x̃W_enc + b_gate and m = x̃(W_enc·e^r) + b_mag.

    λ·ΣReLU(π)·‖W_dec‖ keeps gates shut, and since the gate itself has no gradient, ReLU(π) has to
    reconstruct y by itself through a decoder that this term cannot change (equations 8 and 9).

    Attributes:
        b_enc: b_gate.
        b_mag, r_mag: ``[d_sae]``.
    """

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        super().__init__(config, generator=generator, b_dec=b_dec)
        self.b_mag = nn.Parameter(torch.zeros_like(self.b_enc))
        self.r_mag = nn.Parameter(torch.zeros_like(self.b_enc))

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        gates, acts = self._encode(x)
        y_hat = self.decode(acts, x)
        y_gate = self.over_features(gates.decode(self.W_dec.detach())) + self.b_dec.detach()
        weight = self.config.sparsity_coefficient * sparsity
        l1 = self.over_features(gates.sum_over_rows() @ self.decoder_norms()) / len(x)
        terms = {
            "mse_loss": self.mse(y, y_hat),
            "l1_loss": weight * l1,
            "aux_loss": self.mse(y, y_gate),
        }
        return TrainingOutput(terms, acts, y_hat)

    def _encode(self, x: Tensor) -> tuple[Acts, Acts]:
        """ReLU(π) and a."""
        gate = self.pre_activations(x)
        # x̃(W·e^r) = (x̃W)·e^r: one product serves both paths.
        scale = self.r_mag.exp()
        bias = self.b_mag - self.b_enc * scale
        open_ = few_above(gate, 0.0)
        if open_ is not None:
            gates = SparseActs(open_, self.pre_activations_at(open_, gate, x))
            magnitude = gates.times(scale) + bias.index_select(0, open_.features)
            return gates, gates.with_values(magnitude.relu())
        magnitude = torch.addcmul(bias, gate, scale)
        acts = gate.detach().sign().relu_() * magnitude.relu()
        return DenseActs(gate.relu()), DenseActs(acts)

    def _saved_parts(self) -> dict[str, Tensor]:
        state = super()._saved_parts()
        state["b_gate"] = state.pop("b_enc")
        return state
