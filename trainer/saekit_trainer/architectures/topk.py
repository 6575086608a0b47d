"""The k strongest features of each row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_trainer.architectures.acts import Acts, SparseActs
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.revival import Leftover, aux_k_loss, keep_strongest
from saekit_trainer.architectures.sparse_code import Entries, decode_entries
from saekit_trainer.distributed.feature_shards import strongest_of_row


class TopKSAE(TrainingSAE):
    """ReLU of the k largest pre-activations, with an auxiliary loss on dead features.

    Gao et al. 2024. With `rescale_acts_by_decoder_norm`, p·‖W_dec‖ takes the place of p, and
    W_dec/‖W_dec‖ that of W_dec.
    """

    signed = False
    """Whether features are chosen by absolute value and may be negative."""

    @property
    def revives(self) -> bool:
        return self.config.use_ghost_grads or self.config.aux_k_coefficient > 0

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:  # noqa: ARG002
        acts, entries = self._encode(x)
        parts = decode_entries(acts, entries, self._rows())
        y_hat = self.add_skip(self.over_features(parts) + self.held_by_all(self.b_dec), x)
        return self._output(acts, entries, {"mse_loss": self.mse(y, y_hat)}, y_hat)

    def works_sparsely(self, before: Acts | None = None) -> bool:  # noqa: ARG002
        return True

    def revive(self, x: Tensor, leftover: Leftover, dead: Tensor) -> dict[str, Tensor]:
        """The k_aux = d_in/2 strongest dead features, scaled down where fewer are dead."""
        terms = super().revive(x, leftover, dead)
        if self.config.aux_k_coefficient:
            k_aux = max(self.config.d_in // 2, 1)
            p, rows = self.pre_activations(x, dead), self.W_dec[dead]
            if self.config.rescale_acts_by_decoder_norm:
                norms = torch.linalg.vector_norm(rows, dim=1)
                p, rows = p * norms, rows / norms[:, None]
            n_dead = self.feature_ranks.total(len(dead))
            acts = keep_strongest(
                p, min(k_aux, n_dead), signed=self.signed, ranks=self.feature_ranks
            )
            weight = self.config.aux_k_coefficient * min(n_dead / k_aux, 1.0)
            terms["aux_k_loss"] = weight * aux_k_loss(self.over_features(acts @ rows), leftover)
        return terms

    def _saved_parts(self) -> dict[str, Tensor]:
        state = super()._saved_parts()
        if self.config.rescale_acts_by_decoder_norm:
            # What trained as p·‖W_dec‖ on unit rows becomes p on unit rows.
            norms = torch.linalg.vector_norm(state["W_dec"], dim=1)
            state["W_dec"] /= norms[:, None]
            state["W_enc"] *= norms
            state["b_enc"] *= norms
        return state

    def _encode(self, x: Tensor) -> tuple[Tensor, Entries]:
        """Activations ``[entries]`` and where they are."""
        with torch.no_grad():
            p = self.pre_activations(x)
            if self.config.rescale_acts_by_decoder_norm:
                chosen = self._choose(p * self.decoder_norms())
            else:
                chosen = self._choose(p)
        values = self.pre_activations_at(chosen, p, x)
        if self.config.rescale_acts_by_decoder_norm:
            values = values * self.decoder_norms()[chosen.features]
        return values if self.signed else values.relu(), chosen

    def _choose(self, p: Tensor) -> Entries:
        """Which features are kept, of p ``[rows, d_sae]``."""
        k = int(self.config.k)
        ranked = p.abs() if self.signed else p
        if self.feature_ranks.count > 1:
            rows, features = strongest_of_row(ranked, k, self.feature_ranks)
            return Entries(rows, features, len(p), p.shape[1])
        indices = ranked.topk(k, dim=1, sorted=False).indices
        rows = torch.arange(len(p), device=p.device).repeat_interleave(k)
        return Entries(rows, indices.flatten(), len(p), p.shape[1])

    def _rows(self) -> Tensor:
        """Decoder rows as they are used ``[d_sae, d_out]``."""
        if self.config.rescale_acts_by_decoder_norm:
            return F.normalize(self.W_dec, dim=1)
        return self.W_dec

    def _output(
        self, acts: Tensor, entries: Entries, terms: dict[str, Tensor], y_hat: Tensor
    ) -> TrainingOutput:
        return TrainingOutput(terms, SparseActs(entries, acts), y_hat)


class AbsTopKSAE(TopKSAE):
    """The k pre-activations of largest absolute value, with their signs."""

    signed = True
