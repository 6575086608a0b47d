"""`LanguageModelSAERunnerConfig`: everything that determines a training run, by SAELens' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from saekit_trainer.config_checks import check_names, check_values
from saekit_trainer.schedules import SchedulerName
from saekit_trainer.training_sae import MseReduction

SaveDtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class LanguageModelSAERunnerConfig:
    """One SAE on one hook point of one language model.

    A value of None takes the preset of the architecture (`saekit_trainer.presets`) or is read off
    the model.

    Raises:
        ConfigError: an unknown name (the nearest known one is suggested), a value out of range,
            values that contradict each other, or something that is not supported yet.
    """

    model_name: str | None = None
    """Model by Hugging Face name or local folder; without it, the embedded default model."""
    hook_name: str | None = None
    """Hook point to train on, e.g. blocks.8.hook_resid_pre; without it, the residual stream before
    the middle block."""
    hook_layer: int | None = None
    """Layer of the hook point; only checked against hook_name."""
    d_in: int | None = None
    """Width of the activations; only checked against the model."""

    architecture: str = "topk"
    """Kind of SAE: standard, topk or jumprelu."""
    d_sae: int | None = None
    """Number of features; without it, d_in × expansion_factor."""
    expansion_factor: int | None = None
    """Features per dimension of the activations (16 where d_sae is not given either)."""
    activation_fn: str | None = None
    """relu or topk; only checked against architecture, which determines it."""
    activation_fn_kwargs: dict[str, int] = field(default_factory=dict, hash=False)
    """Classic spelling of k: {"k": 50}."""
    k: int | None = None
    """Features that stay active per token (topk); 32 by default."""
    apply_b_dec_to_input: bool = True
    """Whether b_dec is subtracted from activations before encoding."""
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
    decoder_init_norm: float = 0.1
    """Norm of decoder rows before the first step, where they are not kept at 1."""

    lr: float | None = None
    """Peak learning rate of Adam."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    lr_scheduler_name: SchedulerName = "constant"
    """Course of the learning rate between warm-up and decay."""
    lr_warm_up_steps: int | None = None
    """Steps of linear warm-up; 2% of the run, at most 1,000, by default."""
    lr_decay_steps: int | None = None
    """Last steps, in which the learning rate falls linearly to lr_end; a fifth of the run by
    default."""
    lr_end: float | None = None
    """Where annealing and decay end; lr/100 by default."""
    n_restart_cycles: int = 1
    """Cosine cycles of cosineannealingwarmrestarts."""

    l1_coefficient: float | None = None
    """Weight λ of the sparsity loss: of L1 (standard) or of L0 (jumprelu). Its scale depends on
    mse_reduction."""
    lp_norm: float = 1.0
    """The sparsity loss of standard is the p-norm of the activations over features, each weighted
    by its decoder norm."""
    l1_warm_up_steps: int | None = None
    """Steps over which λ grows linearly from 0; a share of the run by default."""
    mse_reduction: MseReduction = "sum"
    """Whether squared errors are summed or averaged over d_in. mean is the scale of coefficients
    such as the classic l1_coefficient=8e-5."""
    aux_k_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (topk)."""
    jumprelu_bandwidth: float = 1.0
    """Width of the straight-through rectangle around the thresholds (jumprelu), in units in which
    activations have norm √d_in. Narrow ones (0.05) need many more steps to move the thresholds."""
    jumprelu_init_threshold: float = 0.2
    """Thresholds before the first step (jumprelu)."""
    pre_act_loss_coefficient: float = 0.0
    """Weight of the loss that pulls dead features up to their thresholds (jumprelu)."""

    dead_feature_threshold: float = 1e-8
    """A feature fires on a token where its activation is above this."""
    dead_feature_window: int = 200
    """Steps without firing after which a feature counts as dead."""
    feature_sampling_window: int = 1000
    """Steps over which feature density is reported."""

    dataset_path: str | None = None
    """Text, or tokens, to train on: .txt files (documents separated by lines <|endoftext|>, if
    any), .jsonl or .parquet files (a path or a glob), a .npy file of token ids, or a Hugging Face
    data set (name or local folder). Without it, the model writes its own text."""
    dataset_split: str = "train"
    """Split of a Hugging Face data set."""
    dataset_column: str | None = None
    """Column or field to read, of text or of token ids; without it the first there is of tokens,
    input_ids, text, content and problem."""
    on_broken_sample: Literal["stop", "skip"] = "stop"
    """Whether a sample that cannot be read ends the run with a message, or is left out and
    counted."""
    use_cached_activations: bool = False
    """Whether the activations are read from disk, where `saekit train cache-activations` put them,
    in an order that is random across all of them."""
    cached_activations_path: str | None = None
    """The folder of those activations."""
    streaming: bool = True
    """Whether a Hugging Face data set is streamed rather than downloaded."""
    context_size: int = 128
    """Tokens per context, BOS included."""
    prepend_bos: bool = True
    """Whether contexts begin with the beginning-of-sequence token, which then also separates
    documents."""
    exclude_special_tokens: bool = False
    """Whether activations at special tokens are left out of training. Evaluation always leaves
    them out."""
    self_text_tokens: int = 131_072
    """Tokens of its own text that the model writes at most, where there is no data set; then they
    are used again. With max_seconds, writing ends after a fifth of it at the latest."""
    self_text_temperature: float = 1.0
    """Sampling temperature of that text."""
    training_tokens: int = 2_000_000
    """Activations to train on."""
    max_seconds: float | None = None
    """End the training steps after this wall time, even before training_tokens; the schedules are
    fitted to it."""
    train_batch_size_tokens: int = 1024
    """Activations per training step."""
    store_batch_size_prompts: int = 32
    """Contexts per run of the model."""
    n_batches_in_buffer: int = 8
    """Runs of the model that the mixing buffer holds; it is never smaller than two training
    batches."""
    prefetch_llm_batches: int | bool = 1
    """Runs of the model that a thread does ahead of the training steps that need them; 0 for none.
    The batches are the same."""
    eval_contexts: int = 64
    """First contexts of the data set, kept out of training for the evaluation."""
    feature_stats_tokens: int = 32_768
    """Tokens over which density, maximum activation and example snippets of the features are
    taken at the end."""

    checkpoint_path: str | None = None
    """Folder to write the finished SAE to; without it, it is only returned."""
    save_dtype: SaveDtype = "float32"
    """Number type of the weights on disk."""
    device: str = "auto"
    """auto (the fastest there is), cpu, cuda or mps."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of weights and arithmetic in training."""
    seed: int = 42
    """Determines initial weights, the order of the data and the model's own text."""

    use_ghost_grads: bool = False
    """Not supported yet."""
    log_to_wandb: bool = False
    """Not supported yet."""
    n_checkpoints: int = 0
    """Not supported yet: checkpoints before the end."""

    def __new__(cls, *_: object, **values: object) -> Self:
        """Refuse unknown names with a hint, before the constructor's own TypeError."""
        check_names(values, cls.field_names())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_values(self)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Every name that the configuration knows."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of a mapping, such as a TOML file's.

        Raises:
            ConfigError: as the constructor.
        """
        return cls(**values)
