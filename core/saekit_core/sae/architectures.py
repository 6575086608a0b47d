"""The architectures, as pure functions of an SAE's tensors behind one table.

Notation: x̃ are normalised activations ``[..., d_in]`` (less `b_dec` where the SAE subtracts it),
and p = x̃ W_enc + bias are pre-activations ``[..., d_sae]``.

| name     | feature activations                                  | source                     |
|----------|------------------------------------------------------|----------------------------|
| standard | ReLU(p)                                              | Bricken et al. 2023        |
| jumprelu | ReLU(p)·1[p > θ], strict                             | Rajamanoharan et al. 2024b |
| gated    | 1[x̃W + b_gate > 0]·ReLU(x̃(W·e^r_mag) + b_mag)        | Rajamanoharan et al. 2024a |
| topk     | ReLU of the k largest p (of p·‖W_dec‖ when rescaled) | Gao et al. 2024            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError, SAEFormatError

Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Columns = slice | Tensor
"""Which features a function is asked for: all of them, or a LongTensor of indices."""

ALL: Final = slice(None)


@dataclass(frozen=True)
class FeatureWise:
    """An architecture whose feature f depends on its own encoder column only.

    Then a_f = magnitude(p_f) where p_f > threshold_f, and 0 elsewhere. Every function takes the
    features wanted last, and returns per-feature tensors of that shape.
    """

    bias: Callable[[Weights, Columns], Tensor | None]
    """What is added to x̃ W_enc to make p; None for nothing."""
    threshold: Callable[[Weights, Columns], Tensor | float]
    """p must be strictly above it."""
    magnitude: Callable[[Weights, Tensor, Columns], Tensor]
    """Activation of a feature that is above its threshold: (weights, p, features) → a ≥ 0."""
    always_positive: bool
    """Whether a feature above its threshold is never exactly 0."""

    def activate(self, weights: Weights, p: Tensor, features: Columns = ALL) -> Tensor:
        """Feature activations of pre-activations p, both ``[..., features]``."""
        active = p > self.threshold(weights, features)
        magnitude = self.magnitude(weights, p, features)
        return torch.where(active, magnitude, torch.zeros_like(magnitude))


@dataclass(frozen=True)
class TopK:
    """An architecture that keeps the k features of highest rank in each row."""

    rank: Callable[[SAEConfig, Weights, Tensor], Tensor]
    """(config, weights, p) → the values that are ranked; the k largest, if positive, are kept."""

    def largest(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> tuple[Tensor, Tensor]:
        """Activations and indices, both ``[..., k]`` in no order, of the k features selected."""
        values, indices = self.rank(cfg, weights, p).topk(_k(cfg), dim=-1, sorted=False)
        return F.relu(values), indices

    def activate(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
        """Feature activations of pre-activations p, both ``[..., d_sae]``."""
        values, indices = self.largest(cfg, weights, p)
        return torch.zeros_like(p).scatter(-1, indices, values)


@dataclass(frozen=True)
class Architecture:
    """Everything that one kind of SAE does differently from the others."""

    name: str
    shapes: Callable[[SAEConfig], Shapes]
    """Names and shapes of its tensors."""
    select: FeatureWise | TopK
    """How pre-activations become feature activations."""
    decoder_rows: Callable[[SAEConfig, Weights, Columns], Tensor]
    """Rows of the decoder as decode uses them, ``[features, d_out]``."""
    scaled_by_norm: tuple[str, ...]
    """Tensors ``[d_sae]`` that grow with ‖W_dec‖ when decoder norms are folded into the encoder."""
    uses_k: bool = False

    def pre_activations(self, weights: Weights, x: Tensor) -> Tensor:
        """p ``[..., d_sae]`` of x̃ ``[..., d_in]``."""
        bias = self.bias(weights)
        return F.linear(x, weights["W_enc"].mT, bias)

    def bias(self, weights: Weights) -> Tensor | None:
        """What is added to x̃ W_enc, ``[d_sae]``."""
        if isinstance(self.select, FeatureWise):
            return self.select.bias(weights, ALL)
        return weights["b_enc"]

    def activate(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
        """Feature activations of pre-activations, both ``[..., d_sae]``."""
        if isinstance(self.select, FeatureWise):
            return self.select.activate(weights, p)
        return self.select.activate(cfg, weights, p)

    def check(self, cfg: SAEConfig) -> None:
        """Refuse a configuration that this architecture cannot honour.

        Raises:
            SAEFormatError: k is missing, out of range, or given without a use.
        """
        if not self.uses_k:
            if cfg.k is not None:
                raise SAEFormatError(f"k: {cfg.k} has no meaning for {self.name}", field="k")
            if cfg.rescale_acts_by_decoder_norm:
                raise SAEFormatError(
                    f"rescale_acts_by_decoder_norm: has no meaning for {self.name}",
                    field="rescale_acts_by_decoder_norm",
                )
        elif cfg.k is None or not 1 <= cfg.k <= cfg.d_sae:
            raise SAEFormatError(f"k: {cfg.k} is not in 1..d_sae={cfg.d_sae}", field="k")


def architecture_of(cfg: SAEConfig) -> Architecture:
    """The table's entry for a configuration, checked against it.

    Raises:
        SAEFormatError: an unknown architecture, or a configuration that it cannot honour.
    """
    found = ARCHITECTURES.get(cfg.architecture)
    if found is None:
        raise SAEFormatError(
            f"architecture: {cfg.architecture!r} is none of {', '.join(ARCHITECTURES)}",
            field="architecture",
        )
    found.check(cfg)
    return found


def decoder_norms(weights: Weights, features: Columns = ALL) -> Tensor:
    """‖W_dec‖ of each row."""
    norms: Tensor = torch.linalg.vector_norm(weights["W_dec"][features], dim=-1)
    return norms


def _k(cfg: SAEConfig) -> int:
    if cfg.k is None:
        raise SAEError("k: missing", field="k")
    return cfg.k


def _autoencoder_shapes(*per_feature: str) -> Callable[[SAEConfig], Shapes]:
    def shapes(cfg: SAEConfig) -> Shapes:
        return {
            "W_enc": (cfg.d_in, cfg.d_sae),
            "W_dec": (cfg.d_sae, cfg.d_out),
            "b_dec": (cfg.d_out,),
            **dict.fromkeys(per_feature, (cfg.d_sae,)),
        }

    return shapes


def _stored_rows(_cfg: SAEConfig, weights: Weights, features: Columns) -> Tensor:
    return weights["W_dec"][features]


def _b_enc(weights: Weights, features: Columns) -> Tensor:
    return weights["b_enc"][features]


def _same(_weights: Weights, p: Tensor, _features: Columns) -> Tensor:
    return p


def _zero(_weights: Weights, _features: Columns) -> float:
    return 0.0


def _jumprelu_threshold(weights: Weights, features: Columns) -> Tensor:
    # ReLU(p) is 0 for p ≤ 0 whatever θ says.
    return F.relu(weights["threshold"][features])


def _gate_bias(_weights: Weights, _features: Columns) -> None:
    return None  # the two paths add different ones to the shared x̃ W_enc


def _gate_threshold(weights: Weights, features: Columns) -> Tensor:
    return -weights["b_gate"][features]


def _gated_magnitude(weights: Weights, p: Tensor, features: Columns) -> Tensor:
    # x̃(W·e^r) = (x̃W)·e^r, so that one product serves both paths.
    return F.relu(p * weights["r_mag"][features].exp() + weights["b_mag"][features])


def _topk_rank(cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
    return p * decoder_norms(weights) if cfg.rescale_acts_by_decoder_norm else p


def _topk_rows(cfg: SAEConfig, weights: Weights, features: Columns) -> Tensor:
    rows = weights["W_dec"][features]
    if not cfg.rescale_acts_by_decoder_norm:
        return rows
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    entry.name: entry
    for entry in (
        Architecture(
            name="standard",
            shapes=_autoencoder_shapes("b_enc"),
            select=FeatureWise(_b_enc, _zero, _same, always_positive=True),
            decoder_rows=_stored_rows,
            scaled_by_norm=("b_enc",),
        ),
        Architecture(
            name="gated",
            shapes=_autoencoder_shapes("b_gate", "b_mag", "r_mag"),
            select=FeatureWise(
                _gate_bias, _gate_threshold, _gated_magnitude, always_positive=False
            ),
            decoder_rows=_stored_rows,
            scaled_by_norm=("b_gate", "b_mag"),
        ),
        Architecture(
            name="jumprelu",
            shapes=_autoencoder_shapes("b_enc", "threshold"),
            select=FeatureWise(_b_enc, _jumprelu_threshold, _same, always_positive=True),
            decoder_rows=_stored_rows,
            scaled_by_norm=("b_enc", "threshold"),
        ),
        Architecture(
            name="topk",
            shapes=_autoencoder_shapes("b_enc"),
            select=TopK(_topk_rank),
            decoder_rows=_topk_rows,
            scaled_by_norm=("b_enc",),
            uses_k=True,
        ),
    )
}
"""Every architecture that can be encoded, by the name that ``cfg.json`` gives it."""
