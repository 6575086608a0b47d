"""The strongest features of a whole batch (Bussmann et al. 2024, 2025)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saekit_trainer.architectures.base import TrainingOutput
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.sparse_code import Entries, decode_entries
from saekit_trainer.architectures.topk import TopKSAE


class BatchTopKSAE(TopKSAE):
    """The ⌊k·rows⌋ largest pre-activations of a batch, as far as they are positive.

    A row alone has no batch: a moving average of the smallest activation of each batch becomes the
    threshold of the jumprelu SAE that is saved.

    Attributes:
        threshold: that average, a scalar.
    """

    whole_batches = True
    threshold: Tensor

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        super().__init__(config, generator=generator, b_dec=b_dec)
        # Infinite before the first batch, whose smallest activation it takes over: starting from 0
        # would bias it low for hundreds of steps.
        self.register_buffer("threshold", torch.tensor(torch.inf, dtype=config.dtype))

    def saved_state(self) -> dict[str, Tensor]:
        state = super().saved_state()
        threshold = (
            self.threshold if self.threshold.isfinite() else torch.zeros_like(self.threshold)
        )
        return {**state, "threshold": threshold.expand(self.config.d_sae).clone()}

    def _choose(self, p: Tensor) -> Entries:
        places = _largest_places(p, int(self.config.k * len(p)), float(self.threshold))
        rows = places // p.shape[1]
        return Entries(rows, places - rows * p.shape[1], len(p), p.shape[1])

    def _output(
        self, acts: Tensor, entries: Entries, terms: dict[str, Tensor], y_hat: Tensor
    ) -> TrainingOutput:
        if self.training and len(acts):
            least = acts.detach().min().to(self.threshold.dtype)
            moved = torch.lerp(self.threshold, least, self.config.topk_threshold_lr)
            self.threshold.copy_(torch.where(self.threshold.isfinite(), moved, least))
        return super()._output(acts, entries, terms, y_hat)


class MatryoshkaBatchTopKSAE(BatchTopKSAE):
    """Every prefix of the features has to reconstruct by itself (Bussmann et al. 2025).

    The squared errors of the prefixes are added; `mse_loss` is that of all features.
    """

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:  # noqa: ARG002
        acts, entries = self._encode(x)
        widths = torch.tensor(self.config.matryoshka_widths, device=x.device)
        # A level is what a prefix adds to the one before it. Entries of a row ascend by feature,
        # so those of a level are neighbours, and one sum over entries gives every level.
        level = torch.searchsorted(widths, entries.features, right=True)
        levels = Entries(
            entries.rows * len(widths) + level,
            entries.features,
            len(x) * len(widths),
            entries.d_sae,
        )
        parts = decode_entries(acts, levels, self._rows()).view(len(x), len(widths), -1)
        prefixes = parts.cumsum(dim=1) + self.b_dec
        terms = {"mse_loss": self.mse(y, prefixes[:, -1])}
        for i, width in enumerate(self.config.matryoshka_widths[:-1]):
            terms[f"inner_mse_loss_{width}"] = self.mse(y, prefixes[:, i])
        return self._output(acts, entries, terms, prefixes[:, -1])


def _largest_places(p: Tensor, n: int, guess: float) -> Tensor:
    """Flat places of the `n` largest values of `p` that are positive, ascending.

    Args:
        guess: about the smallest of them. Only values above nine tenths of it are sorted, unless
            these turn out to be too few.
    """
    flat = p.reshape(-1)
    places = _places_above(flat, 0.9 * guess) if 0 < guess < float("inf") else flat[:0].long()
    if len(places) < n:
        places = _places_above(flat, 0.0)
    if len(places) <= n:
        return places
    kept = flat[places].topk(n, sorted=False).indices
    return places[kept.sort().values]


def _places_above(flat: Tensor, bound: float) -> Tensor:
    mask = flat > bound
    if mask.device.type == "cpu":
        # Several times faster than torch.nonzero on masks that are almost empty.
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
