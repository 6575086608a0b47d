"""Values that train well, per architecture, for whatever a configuration leaves open.

They assume activations scaled to a mean norm of √d_in (``expected_average_only_in``) and the MSE
summed over d_in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

_L1: Final = frozenset({"l1_coefficient", "l1_warm_up_steps"})
_TOPK: Final = frozenset({"k", "aux_k_coefficient", "rescale_acts_by_decoder_norm"})
_BATCHTOPK: Final = _TOPK | {"topk_threshold_lr"}
_JUMPRELU: Final = _L1 | {
    "jumprelu_sparsity_loss_mode",
    "jumprelu_bandwidth",
    "jumprelu_init_threshold",
    "jumprelu_tanh_scale",
    "target_l0",
    "pre_act_loss_coefficient",
}
_PURSUIT: Final = frozenset({"residual_threshold", "max_iterations", "stop_on_duplicate_support"})
_REVIVAL: Final = frozenset({"use_ghost_grads"})
_BETWEEN: Final = frozenset({"hook_name_out"})


def _none(_d: int) -> float:
    return 0.0


# An L1 penalty shifts each activation by about λ/2, and activations grow with √d_in.
def _l1(d: int) -> float:
    return 0.2 * float(d**0.5)


# Here it shifts gates alone, and costs no reconstruction.
def _l1_of_gates(d: int) -> float:
    return 0.4 * float(d**0.5)


# A feature pays when it lowers the squared error by λ, and squared errors grow with d_in.
def _l0(d: int) -> float:
    return 0.02 * d


@dataclass(frozen=True)
class Preset:
    """What an architecture starts from, and which parameters mean something to it."""

    parameters: frozenset[str]
    """Those of its parameters that not all architectures have."""
    sparsity_coefficient: Callable[[int], float] = _none
    """λ for a width d_in."""
    sparsity_warm_up_share: float = 0.0
    """Share of the run's steps over which λ grows."""
    normalize_sae_decoder: bool = False
    lr: float = 3e-3
    """Peak learning rate at 2,048 features; it falls with the root of d_sae."""
    shards: bool = True
    """Whether its features can be divided among processes (shard_features)."""
    saved_as: str | None = None
    """Architecture of the finished SAE, if another."""


PRESETS: Final[Mapping[str, Preset]] = {
    "standard": Preset(_L1 | _REVIVAL | {"lp_norm"}, _l1, 0.1),
    # With free decoder rows the magnitudes take over what the L1 penalty shrinks rows by, and gates
    # all stay open.
    "gated": Preset(_L1 | _REVIVAL, _l1_of_gates, 0.1, normalize_sae_decoder=True),
    "topk": Preset(_TOPK | _REVIVAL, normalize_sae_decoder=True),
    "abstopk": Preset(_TOPK | _REVIVAL, normalize_sae_decoder=True),
    "jumprelu": Preset(_JUMPRELU | _REVIVAL, _l0, 0.5),
    "batchtopk": Preset(_BATCHTOPK | _REVIVAL, normalize_sae_decoder=True, saved_as="jumprelu"),
    "matryoshka_batchtopk": Preset(
        _BATCHTOPK | _REVIVAL | {"matryoshka_widths"},
        normalize_sae_decoder=True,
        saved_as="jumprelu",
    ),
    "matching_pursuit": Preset(_PURSUIT, normalize_sae_decoder=True, shards=False),
    "transcoder": Preset(_L1 | _REVIVAL | _BETWEEN | {"lp_norm"}, _l1, 0.1),
    "skip_transcoder": Preset(_L1 | _REVIVAL | _BETWEEN | {"lp_norm"}, _l1, 0.1),
    "jumprelu_transcoder": Preset(_JUMPRELU | _REVIVAL | _BETWEEN, _l0, 0.5),
    "jumprelu_skip_transcoder": Preset(_JUMPRELU | _REVIVAL | _BETWEEN, _l0, 0.5),
}
"""Every architecture that can be trained, by its name in a configuration."""

SOME_ARCHITECTURES_ONLY: Final = frozenset[str]().union(*(p.parameters for p in PRESETS.values()))
"""Parameters that have no meaning for some architectures."""

TRANSCODERS: Final = frozenset(name for name in PRESETS if name.endswith("transcoder"))

DEFAULT_K: Final = 32
DEFAULT_EXPANSION: Final = 16
MATRYOSHKA_SHARES: Final = (16, 8, 4, 2)
REFERENCE_D_SAE: Final = 2048


def preset_learning_rate(architecture: str, d_sae: int) -> float:
    """Peak learning rate of an SAE with `d_sae` features."""
    return float(PRESETS[architecture].lr * min(1.0, (REFERENCE_D_SAE / d_sae) ** 0.5))


def preset_sparsity(architecture: str, d_in: int, mse_reduction: str) -> float:
    """λ of an SAE on activations of width `d_in`, on the scale of the MSE."""
    coefficient = PRESETS[architecture].sparsity_coefficient(d_in)
    return coefficient / d_in if mse_reduction == "mean" else coefficient
