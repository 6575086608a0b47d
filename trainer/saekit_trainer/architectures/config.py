"""`TrainingSAEConfig`: sizes and losses of one SAE in training, every value concrete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

MseReduction = Literal["sum", "mean"]
SparsityLossMode = Literal["step", "tanh", "quadratic"]


@dataclass(frozen=True)
class TrainingSAEConfig:
    """Sizes and losses of one SAE in training.

    A value that an architecture has no use for is not looked at; `config_checks` refuses it before.
    """

    architecture: str
    d_in: int
    d_sae: int
    d_out: int | None = None
    """Width of what a transcoder reconstructs; None for an autoencoder."""

    sparsity_coefficient: float = 0.0
    """λ: of L1 (standard, gated) or of L0 (jumprelu)."""
    lp_norm: float = 1.0
    """p of the norm over features (standard)."""

    k: float = 0
    """Active features per row: exactly (topk kinds, a whole number) or on average (batchtopk)."""
    aux_k_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (topk and batchtopk kinds)."""
    rescale_acts_by_decoder_norm: bool = False
    """Choose features by p·‖W_dec‖ and decode with unit rows (topk and batchtopk kinds)."""
    topk_threshold_lr: float = 0.01
    """Weight of a batch in the moving average that becomes the threshold (batchtopk kinds)."""
    matryoshka_widths: tuple[int, ...] = ()
    """Prefixes of features that reconstruct by themselves, ascending, the last one d_sae."""

    jumprelu_sparsity_loss_mode: SparsityLossMode = "step"
    jumprelu_bandwidth: float = 1.0
    """Width ε of the straight-through rectangle."""
    jumprelu_init_threshold: float = 0.2
    """θ before the first step."""
    jumprelu_tanh_scale: float = 4.0
    """c of the tanh sparsity loss."""
    target_l0: float = 0.0
    """L0* of the quadratic sparsity loss."""
    pre_act_loss_coefficient: float = 0.0
    """Weight of the loss that pulls dead features towards their thresholds (jumprelu)."""

    residual_threshold: float = 1e-2
    """Norm of the residual at which a row stops choosing features (matching_pursuit)."""
    max_iterations: int = 0
    """Features that a row chooses at most (matching_pursuit)."""
    stop_on_duplicate_support: bool = True
    """Whether a row stops when it chooses a feature that it has (matching_pursuit)."""

    use_ghost_grads: bool = False
    """Revive dead features through an exponential in place of their activation function."""
    mse_reduction: MseReduction = "sum"
    normalize_sae_decoder: bool = False
    """Keep decoder rows unit vectors."""
    decoder_init_norm: float = 0.3
    """Norm of encoder columns before the first step, and of decoder rows unless kept at 1."""
    apply_b_dec_to_input: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def transcodes(self) -> bool:
        """Whether it reconstructs other activations than those it encodes."""
        return self.d_out is not None

    @property
    def target_width(self) -> int:
        """Width of what is reconstructed."""
        return self.d_in if self.d_out is None else self.d_out

    @property
    def skip(self) -> bool:
        """Whether a linear map of the input is added to the reconstruction."""
        return "skip" in self.architecture
