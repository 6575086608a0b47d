"""`LanguageModelSAERunnerConfig`: everything that determines a training run, by SAELens' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from saekit_trainer.config_checks import check_sae, implied_architecture
from saekit_trainer.nested_config import LoggingConfig, SAESettings, sae_values
from saekit_trainer.presets import PRESETS, Preset
from saekit_trainer.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class LanguageModelSAERunnerConfig(RunConfig):
    """One SAE on one hook point of one language model (a transcoder: between two)."""

    hook_name: str | None = None
    """Hook point to train on, e.g. blocks.8.hook_resid_pre; without it, the residual stream before
    the middle block. {layer} in it stands for hook_layer."""
    hook_layer: int | None = None
    """Layer of the hook point: without hook_name, the residual stream before this block."""
    hook_name_out: str | None = None
    """Hook point that a transcoder reconstructs; hook_name is the one that it reads."""
    d_in: int | None = None
    """Width of the activations; only checked against the model."""

    architecture: str = ""
    """Kind of SAE: standard, gated, topk, abstopk, jumprelu, batchtopk, matryoshka_batchtopk,
    matching_pursuit, transcoder, skip_transcoder, jumprelu_transcoder or jumprelu_skip_transcoder.
    Without it, standard where l1_coefficient or activation_fn says so, else topk."""
    d_sae: int | None = None
    """Number of features; without it, d_in × expansion_factor."""
    expansion_factor: int | None = None
    """Features per dimension of the activations (16 where d_sae is not given either)."""
    activation_fn: Literal["relu", "topk"] | None = None
    """Classic way to say it: topk makes a standard SAE a topk SAE; otherwise only checked."""
    activation_fn_kwargs: dict[str, int] = field(default_factory=dict, hash=False)
    """Classic spelling of k: {"k": 50}."""
    k: float | None = None
    """Features that stay active per token (topk, abstopk), or on average (batchtopk kinds); 32 by
    default."""
    apply_b_dec_to_input: bool | None = None
    """Whether b_dec is subtracted from activations before encoding; by default, but in
    transcoders, where it belongs to other activations."""
    normalize_activations: Literal[
        "none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"
    ] = "expected_average_only_in"
    """Scale of the activations that the SAE learns on. expected_average_only_in divides by their
    mean norm over √d_in, which the saved weights absorb; the presets assume it. Losses are those of
    the normalised activations."""
    b_dec_init_method: Literal["geometric_median", "mean", "zeros"] = "geometric_median"
    """Where the decoder bias starts."""
    normalize_sae_decoder: bool | None = None
    """Keep decoder rows unit vectors (and their gradients orthogonal to them)."""
    decoder_init_norm: float = 0.3
    """Norm of decoder rows before the first step, where they are not kept at 1, and of the encoder
    columns that begin as their transpose."""

    l1_coefficient: float | None = None
    """Weight λ of the sparsity loss: of L1 (standard, gated, transcoders) or of L0 (jumprelu
    kinds). Its scale depends on mse_reduction."""
    lp_norm: float = 1.0
    """The sparsity loss of standard is the p-norm of the activations over features, each weighted
    by its decoder norm."""
    l1_warm_up_steps: int | None = None
    """Steps over which λ grows linearly from 0; a share of the run by default."""
    mse_reduction: Literal["sum", "mean"] = "sum"
    """Whether squared errors are summed or averaged over d_in. mean is the scale of coefficients
    such as the classic l1_coefficient=8e-5."""
    use_ghost_grads: bool = False
    """Whether dead features get gradients through an exponential in place of their activation
    function, so that they come back."""
    aux_k_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (topk and batchtopk kinds). It is divided by
    the variance of what it explains, so that it does not depend on the scale of activations."""
    rescale_acts_by_decoder_norm: bool = False
    """Whether features are chosen by p·‖W_dec‖ and decoded with unit rows (topk and batchtopk
    kinds); has a use only without normalize_sae_decoder."""
    topk_threshold_lr: float = 0.01
    """Weight of each batch in the moving average of the smallest activation kept, which becomes
    the threshold of the saved SAE (batchtopk kinds)."""
    matryoshka_widths: tuple[int, ...] | None = None
    """Numbers of first features that have to reconstruct by themselves, ascending
    (matryoshka_batchtopk); d_sae/16, /8, /4 and /2 by default. All features always have to."""
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    """Sparsity loss of jumprelu kinds: λ·L0; λ·Σ tanh(c·a·‖W_dec‖); or λ·2(L0 − target_l0)² over
    target_l0."""
    jumprelu_bandwidth: float = 1.0
    """Width of the straight-through rectangle around the thresholds (jumprelu kinds), in units in
    which activations have norm √d_in. Narrow ones (0.05) need many more steps to move them."""
    jumprelu_init_threshold: float = 0.2
    """Thresholds before the first step (jumprelu kinds)."""
    jumprelu_tanh_scale: float = 4.0
    """c of the tanh sparsity loss (jumprelu kinds)."""
    target_l0: float | None = None
    """Target of the quadratic sparsity loss (jumprelu kinds); 32 by default."""
    pre_act_loss_coefficient: float = 0.0
    """Weight of the loss that pulls dead features up to their thresholds (jumprelu kinds)."""
    residual_threshold: float = 1e-2
    """A token stops choosing features when this norm is left of it (matching_pursuit), in units in
    which activations have norm √d_in."""
    max_iterations: int | None = None
    """Features that a token chooses at most (matching_pursuit); 32 by default."""
    stop_on_duplicate_support: bool = True
    """Whether a token stops when it chooses a feature that it has already (matching_pursuit)."""

    sae: InitVar[SAESettings | Mapping[str, Any] | None] = None
    """The SAE's values by SAELens 6's grouping, instead of their flat names."""

    def __post_init__(
        self,
        logger: LoggingConfig | Mapping[str, Any] | None,
        sae: SAESettings | Mapping[str, Any] | None,
    ) -> None:
        if sae is not None:
            self._unfold("sae", sae_values(sae))
        if self.matryoshka_widths is not None:
            self._take("matryoshka_widths", tuple(self.matryoshka_widths))
        if self.activation_fn_kwargs is None:
            self._take("activation_fn_kwargs", {})
        super().__post_init__(logger)
        self._take("architecture", implied_architecture(self))
        check_sae(self)

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        return (*super().parameter_names(), "sae")

    @property
    def preset(self) -> Preset:
        """That of the architecture."""
        return PRESETS[self.architecture]
