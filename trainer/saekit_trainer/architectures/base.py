"""`TrainingSAE`: an SAE while it is trained, its parameters and its loss.

Everything works on activations that are normalised already (see `activation_scaling`): x
``[rows, d_in]`` is encoded, and y ``[rows, d_out]`` is what should come out, which is x itself but
for a transcoder. MSE is the sum over d_out (or the mean, `mse_reduction`), averaged over rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saekit_trainer.architectures.acts import Acts, SparseActs
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.products import encode
from saekit_trainer.architectures.revival import Leftover, ghost_grad_loss
from saekit_trainer.architectures.sparse_code import Entries, encode_entries
from saekit_trainer.distributed.feature_shards import (
    part_of,
    shared_gradient,
    sum_of_parts,
    whole_of,
)
from saekit_trainer.distributed.ranks import ALONE, Ranks


class TrainingOutput(NamedTuple):
    """One forward pass."""

    terms: dict[str, Tensor]
    """The loss terms, scalars, weights included; their sum is to be minimised."""
    acts: Acts
    """Feature activations ``[rows, d_sae]``, with the graph of their gradients."""
    y_hat: Tensor
    """Reconstructions ``[rows, d_out]``."""

    @property
    def loss(self) -> Tensor:
        """The sum of `terms`."""
        return torch.stack(tuple(self.terms.values())).sum()


class TrainingSAE(nn.Module, ABC):
    """Encoder and decoder with a loss; subclasses say how pre-activations become features.

    Attributes:
        config: sizes and losses.
        W_enc: ``[d_in, d_sae]``, laid out like its transpose, as gradients of single features are.
        W_dec: ``[d_sae, d_out]``.
        b_enc: ``[d_sae]``.
        b_dec: ``[d_out]``.
        W_skip: ``[d_out, d_in]``; None without a skip connection.
        row_ranks: the processes that have the other rows of a batch.
        feature_ranks: those that have the other features; d_sae above is then this one's part.
    """

    row_ranks: Ranks = ALONE
    feature_ranks: Ranks = ALONE

    _norms: Tensor | None = None
    """Of `fixed_norms`."""

    whole_batches: bool = False
    """Whether the loss needs all rows of a batch at once: it is no mean over rows."""

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        """Random decoder directions, and the encoder their transpose, scaled.

        A transcoder, whose two sides are different spaces, draws other ones for its encoder. A
        short encoder begins with weak features, so that the first steps need not undo what too many
        strong ones add up to.

        Args:
            config: sizes and losses.
            generator: source of the directions, on the CPU; torch's global one without it.
            b_dec: initial decoder bias ``[d_out]``; zeros without it.
        """
        super().__init__()
        self.config = config
        rows = columns = _directions(config.d_sae, config.target_width, config.dtype, generator)
        if config.transcodes:
            columns = _directions(config.d_sae, config.d_in, config.dtype, generator)
        norm = 1.0 if config.normalize_sae_decoder else config.decoder_init_norm
        self.W_dec = nn.Parameter(norm * rows)
        self.W_enc = nn.Parameter((config.decoder_init_norm * columns).T)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae, dtype=config.dtype))
        start = torch.zeros(config.target_width) if b_dec is None else b_dec
        self.b_dec = nn.Parameter(start.to(config.dtype, copy=True))
        self.W_skip = (
            nn.Parameter(torch.zeros(config.target_width, config.d_in, dtype=config.dtype))
            if config.skip
            else None
        )

    def share_rows(self, ranks: Ranks) -> None:
        """From now on each of `ranks` has some rows of every batch."""
        self.row_ranks = ranks

    def share_features(self, ranks: Ranks) -> None:
        """Keep this rank's part of the features; from now on the others have the rest."""
        self.feature_ranks = ranks
        for name, parameter in self.named_parameters():
            parameter.data = part_of(name, parameter.data, ranks)

    @property
    def n_features(self) -> int:
        """Features that are here: d_sae, unless other ranks have some."""
        return len(self.W_dec)

    @property
    def revives(self) -> bool:
        """Whether `revive` has a term."""
        return self.config.use_ghost_grads

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor, *, sparsity: float) -> TrainingOutput:
        """Encode x, reconstruct y, and weigh the outcome.

        Args:
            x: ``[rows, d_in]``.
            y: ``[rows, d_out]``.
            sparsity: warm-up factor of λ, 0 to 1.
        """

    def works_sparsely(self, before: Acts | None = None) -> bool:
        """Whether `forward` will make no array ``[rows, d_sae]`` but that of pre-activations.

        Args:
            before: what the last rows of the batch gave; None for its first ones.
        """
        return isinstance(before, SparseActs)

    def revive(self, x: Tensor, leftover: Leftover, dead: Tensor) -> dict[str, Tensor]:
        """Loss terms that bring features back which no longer fire, means over rows.

        Args:
            x: ``[rows, d_in]``.
            leftover: what the forward pass did not reconstruct of these rows.
            dead: indices of the silent features ``[n]``; one at least, counting those of other
                ranks.
        """
        if not self.config.use_ghost_grads:
            return {}
        p = self.pre_activations(x, dead)
        scale = 1 / self.config.target_width if self.config.mse_reduction == "mean" else 1.0
        loss = ghost_grad_loss(p, self.W_dec[dead], leftover, self.feature_ranks)
        return {"ghost_grad_loss": scale * loss}

    def pre_activations(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """p = (x − b_dec) W_enc + b_enc, ``[rows, d_sae]``, or only that of some `features`."""
        if features is None:
            return encode(x, self.W_enc, self.b_enc, self.input_bias)
        return encode(x, self.W_enc[:, features], self.b_enc[features], self.input_bias)

    @property
    def input_bias(self) -> Tensor | None:
        """What is subtracted from x, if anything."""
        return self.b_dec if self.config.apply_b_dec_to_input else None

    def pre_activations_at(self, entries: Entries, p: Tensor, x: Tensor) -> Tensor:
        """Those of p ``[rows, d_sae]``, the `pre_activations` of x, at some entries.

        Their gradient reaches the encoder by sums over the entries, not through `p`.
        """
        return encode_entries(
            p.detach(), entries, x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.input_bias
        )

    def decode(self, acts: Acts, x: Tensor) -> Tensor:
        """ŷ ``[rows, d_out]`` of the features of all ranks."""
        y_hat = self.over_features(acts.decode(self.W_dec)) + self.held_by_all(self.b_dec)
        return self.add_skip(y_hat, x)

    def add_skip(self, y_hat: Tensor, x: Tensor) -> Tensor:
        """ŷ with the skip connection's share, if there is one."""
        return y_hat if self.W_skip is None else y_hat + x @ self.held_by_all(self.W_skip).T

    def over_features(self, part: Tensor) -> Tensor:
        """A sum over the features here, completed by those of other ranks."""
        return sum_of_parts(part, self.feature_ranks)

    def held_by_all(self, parameter: Tensor) -> Tensor:
        """b_dec or W_skip, which every rank has, where all ranks compute the same from it."""
        return shared_gradient(parameter, self.feature_ranks)

    def mse(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Squared error, reduced over d_out as configured and averaged over rows."""
        per_row = (y_hat - y).square().sum(dim=1)
        if self.config.mse_reduction == "mean":
            per_row = per_row / self.config.target_width
        return per_row.mean()

    def decoder_norms(self) -> Tensor:
        """‖W_dec‖ of each row, ``[d_sae]``."""
        if not torch.compiler.is_dynamo_compiling() and self._norms is not None:
            return self._norms
        norms: Tensor = torch.linalg.vector_norm(self.W_dec, dim=1)
        return norms

    @contextmanager
    def fixed_norms(self) -> Iterator[None]:
        """Until the end, `decoder_norms` are the same ones, and their gradient is summed up.

        Then it reaches W_dec, once for all blocks of a batch.
        """
        norms = self.decoder_norms()
        self._norms = norms.detach().requires_grad_()
        try:
            yield
            of_norms = self._norms.grad
        finally:
            self._norms = None
        if of_norms is not None:
            norms.backward(of_norms)  # type: ignore[no-untyped-call]

    def saved_state(self) -> dict[str, Tensor]:
        """The finished SAE's tensors by name, copies, for normalised activations.

        They are of all features, on every rank.
        """
        parts = self._saved_parts()
        return {name: whole_of(name, part, self.feature_ranks) for name, part in parts.items()}

    def _saved_parts(self) -> dict[str, Tensor]:
        """`saved_state` of the features that are here."""
        return {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.named_parameters()
        }

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Drop the part of the gradient of unit decoder rows that would change their norm."""
        if self.config.normalize_sae_decoder and self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(along[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        """After a step, bring parameters back to where they may be."""
        if self.config.normalize_sae_decoder:
            self.W_dec.div_(self.decoder_norms().clamp_min_(1e-8)[:, None])


def _directions(
    n: int, width: int, dtype: torch.dtype, generator: torch.Generator | None
) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=generator, dtype=dtype))
