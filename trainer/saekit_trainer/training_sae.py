"""The SAEs while they are trained: parameters, losses, and the way to a finished `SAE`.

Everything here works on activations that are normalised already (see `activation_scaling`); `x` is
``[rows, d_in]``. MSE is the sum over d_in (or the mean, `mse_reduction`), averaged over rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saekit_trainer.jumprelu import jumprelu

MseReduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class TrainingSAEConfig:
    """Sizes and losses of one SAE in training."""

    architecture: str
    d_in: int
    d_sae: int
    sparsity_coefficient: float = 0.0
    """λ: of L1 (standard) or of L0 (jumprelu)."""
    lp_norm: float = 1.0
    """p of the norm over features (standard)."""
    k: int = 0
    """Active features per row (topk)."""
    aux_k_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (topk)."""
    jumprelu_bandwidth: float = 1.0
    """Width ε of the straight-through rectangle."""
    jumprelu_init_threshold: float = 0.2
    """θ before the first step."""
    pre_act_loss_coefficient: float = 0.0
    """Weight of the loss that pulls dead features towards their threshold (jumprelu)."""
    mse_reduction: MseReduction = "sum"
    normalize_sae_decoder: bool = False
    """Keep decoder rows unit vectors."""
    decoder_init_norm: float = 0.1
    """Norm of decoder rows before the first step, where they are not kept at 1."""
    apply_b_dec_to_input: bool = True
    dtype: torch.dtype = torch.float32


class TrainingOutput(NamedTuple):
    """One forward pass."""

    loss: Tensor
    """Scalar to minimise: the sum of `terms`."""
    terms: dict[str, Tensor]
    """The loss terms as they enter `loss`, weights included."""
    acts: Tensor
    """Feature activations ``[rows, d_sae]``."""
    x_hat: Tensor
    """Reconstructions ``[rows, d_in]``."""


class TrainingSAE(nn.Module, ABC):
    """Encoder and decoder with a loss; subclasses say how pre-activations become features."""

    def __init__(
        self,
        config: TrainingSAEConfig,
        *,
        generator: torch.Generator | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        """Random decoder directions, the encoder their transpose.

        Args:
            config: sizes and losses.
            generator: source of the directions, on the CPU; torch's global one without it.
            b_dec: initial decoder bias ``[d_in]``; zeros without it.
        """
        super().__init__()
        self.config = config
        d_in, d_sae, dtype = config.d_in, config.d_sae, config.dtype
        directions = F.normalize(torch.randn(d_sae, d_in, generator=generator, dtype=dtype))
        norm = 1.0 if config.normalize_sae_decoder else config.decoder_init_norm
        self.W_dec = nn.Parameter(directions * norm)
        self.W_enc = nn.Parameter((directions * norm).T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        start = torch.zeros(d_in, dtype=dtype) if b_dec is None else b_dec.to(dtype)
        self.b_dec = nn.Parameter(start.clone())

    @abstractmethod
    def forward(self, x: Tensor, *, sparsity: float, dead: Tensor) -> TrainingOutput:
        """Encode, decode and weigh `x` ``[rows, d_in]``.

        Args:
            x: normalised activations.
            sparsity: warm-up factor of λ, 0 to 1.
            dead: bool ``[d_sae]``, the features that have fallen silent.
        """

    def separable(self, dead: Tensor) -> bool:  # noqa: ARG002 -- the others ask who is dead
        """Whether the loss is a mean over rows, so that blocks of rows may be summed."""
        return True

    def pre_activations(self, x: Tensor) -> Tensor:
        """p = (x − b_dec) W_enc + b_enc, ``[rows, d_sae]``."""
        # The same number as the formula, but x itself needs no gradient then: one product less.
        bias: Tensor = self.b_enc
        if self.config.apply_b_dec_to_input:
            bias = bias - self.b_dec @ self.W_enc
        return torch.addmm(bias, x, self.W_enc)

    def decode(self, acts: Tensor) -> Tensor:
        """a W_dec + b_dec, ``[rows, d_in]``."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def mse(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Squared error, reduced over d_in as configured and averaged over rows."""
        per_row = (x_hat - x).square().sum(dim=1)
        if self.config.mse_reduction == "mean":
            per_row = per_row / self.config.d_in
        return per_row.mean()

    def decoder_norms(self) -> Tensor:
        """‖W_dec‖ of each row, ``[d_sae]``."""
        norms: Tensor = self.W_dec.norm(dim=1)
        return norms

    def state(self) -> dict[str, Tensor]:
        """The finished SAE's tensors by name, copies, for normalised activations."""
        return {
            name: getattr(self, name).detach().clone()
            for name in ("W_enc", "b_enc", "W_dec", "b_dec")
        }

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Drop the part of the decoder's gradient that would only change the norm of its rows."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
            norms = self.W_dec.square().sum(dim=1, keepdim=True).clamp_min(1e-12)
            self.W_dec.grad -= along / norms * self.W_dec

    @torch.no_grad()
    def renormalize_decoder(self) -> None:
        """Make decoder rows unit vectors again."""
        self.W_dec.div_(self.decoder_norms().clamp_min(1e-8)[:, None])

    def _output(self, acts: Tensor, x_hat: Tensor, terms: dict[str, Tensor]) -> TrainingOutput:
        return TrainingOutput(torch.stack(tuple(terms.values())).sum(), terms, acts, x_hat)


class StandardSAE(TrainingSAE):
    """ReLU features under λ·‖a·‖W_dec‖‖_p (Bricken et al. 2023; weighting: Conerly et al. 2024)."""

    def forward(self, x: Tensor, *, sparsity: float, dead: Tensor) -> TrainingOutput:  # noqa: ARG002
        acts = self.pre_activations(x).relu()
        x_hat = self.decode(acts)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(x, x_hat), "l1_loss": weight * self._penalty(acts)}
        return self._output(acts, x_hat, terms)

    def _penalty(self, acts: Tensor) -> Tensor:
        norms = self.decoder_norms()
        if self.config.lp_norm == 1.0:
            # Sum over rows first: no second [rows, d_sae] array.
            return acts.sum(dim=0) @ norms / len(acts)
        # The gradient of a root is infinite at a row without features.
        weighted = (acts * norms).clamp_min(1e-12)
        penalty: Tensor = weighted.norm(p=self.config.lp_norm, dim=1).mean()
        return penalty


class TopKSAE(TrainingSAE):
    """The k largest pre-activations, with an auxiliary loss on dead features (Gao et al. 2024)."""

    def forward(self, x: Tensor, *, sparsity: float, dead: Tensor) -> TrainingOutput:  # noqa: ARG002
        p = self.pre_activations(x)
        values, indices = p.topk(self.config.k, dim=1, sorted=False)
        acts = torch.zeros_like(p).scatter(1, indices, values.relu())
        x_hat = self.decode(acts)
        terms = {"mse_loss": self.mse(x, x_hat)}
        if dead.any():
            terms["aux_k_loss"] = self._aux_k(x, x_hat, p, dead)
        return self._output(acts, x_hat, terms)

    def separable(self, dead: Tensor) -> bool:
        return not bool(dead.any())  # the auxiliary loss divides by a variance over all rows

    def _aux_k(self, x: Tensor, x_hat: Tensor, p: Tensor, dead: Tensor) -> Tensor:
        """How badly the k_aux = d_in/2 strongest dead features explain what is left over."""
        silent = dead.nonzero().squeeze(1)
        k_aux = max(self.config.d_in // 2, 1)
        scale = min(len(silent) / k_aux, 1.0)
        p_dead = p[:, silent]
        values, indices = p_dead.topk(min(k_aux, len(silent)), dim=1, sorted=False)
        acts = torch.zeros_like(p_dead).scatter(1, indices, values.relu())
        residual = (x - x_hat).detach()
        error = (acts @ self.W_dec[silent] - residual).square().sum(dim=1).mean()
        variance = (residual - residual.mean(dim=0)).square().sum(dim=1).mean()
        return self.config.aux_k_coefficient * scale * error / variance.clamp_min(1e-12)


class JumpReLUSAE(TrainingSAE):
    """Learnt thresholds under λ·L0 (Rajamanoharan et al. 2024b)."""

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

    def forward(self, x: Tensor, *, sparsity: float, dead: Tensor) -> TrainingOutput:
        p = self.pre_activations(x)
        threshold = self.threshold
        acts, l0 = jumprelu(p, threshold, self.config.jumprelu_bandwidth)
        x_hat = self.decode(acts)
        weight = self.config.sparsity_coefficient * sparsity
        terms = {"mse_loss": self.mse(x, x_hat), "l0_loss": weight * l0 / len(x)}
        if self.config.pre_act_loss_coefficient and dead.any():
            silent = dead.nonzero().squeeze(1)
            below = (threshold[silent] - p[:, silent]).relu() * self.decoder_norms()[silent]
            terms["pre_act_loss"] = self.config.pre_act_loss_coefficient * below.sum(dim=1).mean()
        return self._output(acts, x_hat, terms)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "threshold": self.threshold.detach().clone()}


TRAINING_ARCHITECTURES: Final[Mapping[str, type[TrainingSAE]]] = {
    "standard": StandardSAE,
    "topk": TopKSAE,
    "jumprelu": JumpReLUSAE,
}
"""Every architecture that can be trained, by its name in ``cfg.json``."""


def new_training_sae(
    config: TrainingSAEConfig,
    *,
    generator: torch.Generator | None = None,
    b_dec: Tensor | None = None,
) -> TrainingSAE:
    """The `TrainingSAE` of `config.architecture`; arguments as its constructor."""
    return TRAINING_ARCHITECTURES[config.architecture](config, generator=generator, b_dec=b_dec)
