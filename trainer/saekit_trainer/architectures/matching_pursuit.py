"""Features chosen one after the other, each for what the earlier ones left over."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_trainer.architectures.acts import Acts, SparseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.sparse_code import Entries


class MatchingPursuitSAE(TrainingSAE):
    """Again and again the decoder row that the residual points along most, and its share taken out.

    Costa et al. 2025. There is no encoder: W_dec is all that is learnt, and b_dec where it is
    subtracted first. Which features are chosen has no gradient; how strong they are does.
    """

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        super().__init__(config, generator=generator, b_dec=b_dec)
        del self.W_enc, self.b_enc
        if not config.apply_b_dec_to_input:
            self.b_dec.requires_grad_(False).zero_()

    @property
    def revives(self) -> bool:
        return False

    def works_sparsely(self, before: Acts | None = None) -> bool:  # noqa: ARG002
        return False  # it keeps [rows, steps, d_in]

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:  # noqa: ARG002
        residual = x - self.b_dec
        chosen, taken = self._choose(residual.detach())
        # Chosen without a graph, computed once more with one: a single gather of decoder rows, and
        # no [rows, d_sae] array is kept for the gradient.
        directions = F.embedding(chosen, self.W_dec)  # [rows, steps, d_in]
        values: list[Tensor] = []
        for step in range(chosen.shape[1]):
            direction = directions[:, step]
            value = torch.linalg.vecdot(residual, direction).relu() * taken[:, step]
            residual = residual - value[:, None] * direction
            values.append(value)
        y_hat = x - residual
        acts = self._merged(chosen, torch.stack(values, dim=1).detach())
        return TrainingOutput({"mse_loss": self.mse(y, y_hat)}, acts, y_hat)

    def _merged(self, chosen: Tensor, values: Tensor) -> SparseActs:
        """Every feature of a row once, with the sum where it was chosen twice."""
        n, d_sae = len(chosen), self.config.d_sae
        rows = torch.arange(n, device=chosen.device)[:, None]
        places, entry = torch.unique(rows * d_sae + chosen, return_inverse=True)
        sums = values.new_zeros(len(places)).index_add_(0, entry.flatten(), values.flatten())
        return SparseActs(Entries(places // d_sae, places % d_sae, n, d_sae), sums)

    @torch.no_grad()
    def _choose(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[rows, steps]`` in the order of choice; and 1 where a row took them, or 0."""
        config = self.config
        going = residual.new_ones(len(residual))
        has = torch.zeros(len(residual), config.d_sae, dtype=torch.bool, device=residual.device)
        chosen: list[Tensor] = []
        taken: list[Tensor] = []
        for _ in range(config.max_iterations):
            best, feature = (residual @ self.W_dec.T).max(dim=1)
            value = best.relu() * going
            chosen.append(feature)
            taken.append(going)
            residual = residual - value[:, None] * self.W_dec[feature]
            had = has.gather(1, feature[:, None]).squeeze(1)
            adds = (value > 0) & ~had
            has.scatter_(1, feature[:, None], (had | adds)[:, None])
            if config.stop_on_duplicate_support:
                going = going * adds
            if config.residual_threshold > 0:
                length = torch.linalg.vector_norm(residual, dim=1)
                going = going * (length >= config.residual_threshold)
            if not going.any():
                break
        return torch.stack(chosen, dim=1), torch.stack(taken, dim=1)
