"""The strongest features of a whole batch (Bussmann et al. 2024, 2025)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saekit_trainer.architectures.base import TrainingOutput
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.sparse_code import Entries, decode_entries, entries_at
from saekit_trainer.architectures.topk import TopKSAE
from saekit_trainer.distributed.feature_shards import largest_of_all
from saekit_trainer.distributed.ranks import ALONE, Ranks


class BatchTopKSAE(TopKSAE):
    """The ⌊k·rows⌋ largest pre-activations of a batch, as far as they are positive.

    A row alone has no batch: a moving average of the smallest activation of each batch becomes the
    threshold of the jumprelu SAE that is saved.

    Attributes:
        threshold: that average, a scalar.
    """

    whole_batches = True
    threshold: Tensor
    _least: Tensor | None = None
    """Of the batch whose step is not done yet."""

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

    def _saved_parts(self) -> dict[str, Tensor]:
        state = super()._saved_parts()
        threshold = (
            self.threshold if self.threshold.isfinite() else torch.zeros_like(self.threshold)
        )
        return {**state, "threshold": threshold.expand(self.n_features).clone()}

    def _choose(self, p: Tensor) -> Entries:
        n = int(self.config.k * self.row_ranks.total(len(p)))
        places = _largest_places(p, n, float(self.threshold), self._others)
        return entries_at(places, p)

    @property
    def _others(self) -> Ranks:
        """Those that have the rest of the batch's activations, be it other rows or features."""
        return self.row_ranks if self.feature_ranks.count == 1 else self.feature_ranks

    def _output(
        self, acts: Tensor, entries: Entries, terms: dict[str, Tensor], y_hat: Tensor
    ) -> TrainingOutput:
        if self.training:
            least = acts.detach().min() if len(acts) else acts.new_full((), torch.inf)
            self._others.all_min(least)
            self._least = least.to(self.threshold.dtype)
        return super()._output(acts, entries, terms, y_hat)

    @torch.no_grad()
    def constrain(self) -> None:
        super().constrain()
        if self._least is not None:
            self._move_threshold(self._least)
            self._least = None

    def _move_threshold(self, least: Tensor) -> None:
        moved = torch.lerp(self.threshold, least, self.config.topk_threshold_lr)
        moved = torch.where(self.threshold.isfinite(), moved, least)
        # A batch without any activation leaves it where it is.
        self.threshold.copy_(torch.where(least.isfinite(), moved, self.threshold))


class MatryoshkaBatchTopKSAE(BatchTopKSAE):
    """Every prefix of the features has to reconstruct by itself (Bussmann et al. 2025).

    The squared errors of the prefixes are added; `mse_loss` is that of all features.
    """

    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:  # noqa: ARG002
        acts, entries = self._encode(x)
        widths = torch.tensor(self.config.matryoshka_widths, device=x.device)
        # A level is what a prefix adds to the one before it. Entries of a row ascend by feature,
        # so those of a level are neighbours, and one sum over entries gives every level.
        first = self.feature_ranks.share(self.config.d_sae).start
        level = torch.searchsorted(widths, entries.features + first, right=True)
        levels = Entries(
            entries.rows * len(widths) + level,
            entries.features,
            len(x) * len(widths),
            entries.d_sae,
        )
        parts = self.over_features(decode_entries(acts, levels, self._rows()))
        prefixes = parts.view(len(x), len(widths), -1).cumsum(dim=1) + self.held_by_all(self.b_dec)
        terms = {"mse_loss": self.mse(y, prefixes[:, -1])}
        for i, width in enumerate(self.config.matryoshka_widths[:-1]):
            terms[f"inner_mse_loss_{width}"] = self.mse(y, prefixes[:, i])
        return self._output(acts, entries, terms, prefixes[:, -1])


def _largest_places(p: Tensor, n: int, guess: float, ranks: Ranks = ALONE) -> Tensor:
    """Flat places of the `n` largest values of `p` that are positive, ascending.

    Where each of several ranks has a `p`, those here that are among the `n` largest of all.

    Args:
        guess: about the smallest of them. Only values above nine tenths of it are sorted, unless
            these turn out to be too few.
    """
    flat = p.reshape(-1)
    places = _places_above(flat, 0.9 * guess) if 0 < guess < float("inf") else flat[:0].long()
    found = ranks.total(len(places))
    if found < n:
        places = _places_above(flat, 0.0)
        found = ranks.total(len(places))
    if found <= n:
        return places
    kept = largest_of_all(flat[places], n, ranks)
    return places[kept.sort().values]


def _places_above(flat: Tensor, bound: float) -> Tensor:
    mask = flat > bound
    if mask.device.type == "cpu":
        # Several times faster than torch.nonzero on masks that are almost empty.
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
