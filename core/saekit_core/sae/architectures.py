"""The architectures, as pure functions of an SAE's tensors behind one table.

Notation: x̃ are normalised activations ``[..., d_in]`` (less `b_dec` where the SAE subtracts it),
and p = x̃ W_enc + bias are pre-activations ``[..., d_sae]``.

| name             | feature activations                              | source                     |
|------------------|--------------------------------------------------|----------------------------|
| standard         | ReLU(p)                                          | Bricken et al. 2023        |
| jumprelu         | ReLU(p)·1[p > θ], strict                         | Rajamanoharan et al. 2024b |
| gated            | 1[x̃W + b_gate > 0]·ReLU(x̃(W·e^r_mag) + b_mag)    | Rajamanoharan et al. 2024a |
| topk             | ReLU of the k largest p (p·‖W_dec‖ if rescaled)  | Gao et al. 2024            |
| abstopk          | the k of largest magnitude, with their signs     | Zhu et al. 2025            |
| matching_pursuit | see `MatchingPursuit`                            | Costa et al. 2025          |
| temporal         | see `Temporal`                                   | Lubana et al. 2025         |
| transcoder       | ReLU(p); reconstructs another hook point         | Dunefsky et al. 2024       |

Transcoders come as jumprelu and topk and as skip kinds too, in all combinations; the latter add
x W_skipᵀ of the raw x (Paulo et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.architecture_keys import TRANSCODERS
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError, SAEFormatError
from saekit_core.sae.feature_wise import GATED, JUMPRELU, RELU, FeatureWise
from saekit_core.sae.matching_pursuit import MatchingPursuit
from saekit_core.sae.temporal import Temporal
from saekit_core.sae.top_k import TopK
from saekit_core.sae.weights import ALL, Columns, Shapes, Weights, decoder_norms


@dataclass(frozen=True)
class Architecture:
    """Everything that one kind of SAE does differently from the others."""

    name: str
    shapes: Callable[[SAEConfig], Shapes]
    """Names and shapes of its tensors."""
    select: FeatureWise | TopK | MatchingPursuit | Temporal
    """How activations become feature activations."""
    scaled_by_norm: tuple[str, ...] | None
    """Tensors ``[d_sae]`` that grow with ‖W_dec‖ when decoder norms are folded into the encoder;
    None where folding would change what is encoded."""

    @property
    def transcodes(self) -> bool:
        """Whether it reconstructs another hook point than the one it reads."""
        return self.name in TRANSCODERS

    @property
    def skips(self) -> bool:
        """Whether the raw activations reach the reconstruction by a linear map of their own."""
        return "skip" in self.name

    @property
    def sequential(self) -> bool:
        """Whether a position's features depend on earlier positions."""
        return isinstance(self.select, Temporal)

    @property
    def has_pre_activations(self) -> bool:
        """Whether feature activations are a function of p = x̃ W_enc + bias."""
        return isinstance(self.select, FeatureWise | TopK)

    def encode(self, cfg: SAEConfig, weights: Weights, x: Tensor) -> Tensor:
        """Feature activations ``[..., d_sae]`` of x̃ ``[..., d_in]``, where rows are independent.

        Raises:
            SAEError: they are not; `Temporal.encode` is for those.
        """
        if isinstance(self.select, MatchingPursuit):
            return self.select.encode(cfg, weights, x)
        return self.activate(cfg, weights, self.pre_activations(weights, x))

    def pre_activations(self, weights: Weights, x: Tensor) -> Tensor:
        """p ``[..., d_sae]`` of x̃ ``[..., d_in]``.

        Raises:
            SAEError: this architecture has none.
        """
        bias = self.bias(weights)
        return F.linear(x, weights["W_enc"].mT, bias)

    def bias(self, weights: Weights) -> Tensor | None:
        """What is added to x̃ W_enc, ``[d_sae]``; raises as `pre_activations`."""
        if isinstance(self.select, FeatureWise):
            return self.select.bias(weights, ALL)
        if isinstance(self.select, TopK):
            return weights["b_enc"]
        raise self._no_pre_activations()

    def activate(self, cfg: SAEConfig, weights: Weights, p: Tensor) -> Tensor:
        """Feature activations of pre-activations, both ``[..., d_sae]``; raises as they do."""
        if isinstance(self.select, FeatureWise):
            return self.select.activate(weights, p)
        if isinstance(self.select, TopK):
            return self.select.activate(cfg, weights, p)
        raise self._no_pre_activations()

    def decoder_rows(self, cfg: SAEConfig, weights: Weights, features: Columns) -> Tensor:
        """Rows of the decoder as decode uses them, ``[features, d_out]``."""
        rows = weights["W_dec"][features]
        if not cfg.rescale_acts_by_decoder_norm:
            return rows
        norms = decoder_norms(weights, features)[..., None]
        return (rows / torch.where(norms > 0, norms, 1.0)).to(rows.dtype)

    def decoder_bias(self, cfg: SAEConfig, weights: Weights) -> Tensor | None:
        """What decode adds to a sum of decoder rows, ``[d_out]``; None for nothing.

        Where the encoder is the decoder's transpose, `b_dec` counts only if it was subtracted.
        """
        tied = isinstance(self.select, MatchingPursuit) or bool(cfg.tied_weights)
        return None if tied and not cfg.apply_b_dec_to_input else weights["b_dec"]

    def check(self, cfg: SAEConfig) -> None:
        """Refuse a configuration that this architecture cannot honour.

        Raises:
            SAEFormatError: naming the key.
        """
        if isinstance(self.select, TopK) and (cfg.k is None or not 1 <= cfg.k <= cfg.d_sae):
            raise SAEFormatError(f"k: {cfg.k} is not in 1..d_sae={cfg.d_sae}", field="k")
        if isinstance(self.select, Temporal):
            parts = (cfg.n_heads or 1) * (cfg.bottleneck_factor or 1)
            if cfg.d_sae % parts:
                raise SAEFormatError(
                    f"n_heads: {cfg.n_heads} heads behind a bottleneck of {cfg.bottleneck_factor} "
                    f"do not divide d_sae={cfg.d_sae}",
                    field="n_heads",
                )
            if cfg.kval_topk is not None and cfg.kval_topk > cfg.d_sae:
                raise SAEFormatError(
                    f"kval_topk: {cfg.kval_topk} is not in 1..d_sae={cfg.d_sae}", field="kval_topk"
                )

    def _no_pre_activations(self) -> SAEError:
        return SAEError(
            f"{self.name}: features are not a function of one pre-activation each",
            field="architecture",
        )


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


def _encoder_and_decoder(*per_feature: str, skip: bool = False) -> Callable[[SAEConfig], Shapes]:
    def shapes(cfg: SAEConfig) -> Shapes:
        return {
            "W_enc": (cfg.d_in, cfg.d_sae),
            "W_dec": (cfg.d_sae, cfg.d_out),
            "b_dec": (cfg.d_out,),
            **dict.fromkeys(per_feature, (cfg.d_sae,)),
            **({"W_skip": (cfg.d_out, cfg.d_in)} if skip else {}),
        }

    return shapes


def _decoder_only(cfg: SAEConfig) -> Shapes:
    return {"W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}


def _relu_kind(name: str, *, jump: bool = False, skip: bool = False) -> Architecture:
    per_feature = ("b_enc", "threshold") if jump else ("b_enc",)
    shapes = _encoder_and_decoder(*per_feature, skip=skip)
    return Architecture(name, shapes, JUMPRELU if jump else RELU, per_feature)


_TEMPORAL = Temporal()

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    entry.name: entry
    for entry in (
        _relu_kind("standard"),
        Architecture(
            "gated",
            _encoder_and_decoder("b_gate", "b_mag", "r_mag"),
            GATED,
            scaled_by_norm=("b_gate", "b_mag"),
        ),
        _relu_kind("jumprelu", jump=True),
        Architecture("topk", _encoder_and_decoder("b_enc"), TopK(signed=False), ("b_enc",)),
        Architecture("abstopk", _encoder_and_decoder("b_enc"), TopK(signed=True), ("b_enc",)),
        Architecture("matching_pursuit", _decoder_only, MatchingPursuit(), scaled_by_norm=None),
        Architecture("temporal", _TEMPORAL.shapes, _TEMPORAL, scaled_by_norm=None),
        _relu_kind("transcoder"),
        _relu_kind("skip_transcoder", skip=True),
        _relu_kind("jumprelu_transcoder", jump=True),
        _relu_kind("jumprelu_skip_transcoder", jump=True, skip=True),
        *(
            Architecture(
                f"topk_{'skip_' if skip else ''}transcoder",
                _encoder_and_decoder("b_enc", skip=skip),
                TopK(signed=False),
                ("b_enc",),
            )
            for skip in (False, True)
        ),
    )
}
"""Every architecture that can be encoded, by the name that ``cfg.json`` gives it."""
