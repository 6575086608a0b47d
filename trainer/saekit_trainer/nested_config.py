"""SAELens 6's grouping of parameters: one configuration per architecture, and one for logs.

``LanguageModelSAERunnerConfig(sae=GatedTrainingSAEConfig(d_sae=4096), logger=LoggingConfig(...))``
is the same as the flat names. A value of None is not given: it takes the preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from saekit_trainer.errors import ConfigError
from saekit_trainer.unknown_names import refuse_unknown

_FLAT_NAMES: Final = {
    "l0_coefficient": "l1_coefficient",
    "l0_warm_up_steps": "l1_warm_up_steps",
    "aux_loss_coefficient": "aux_k_coefficient",
}
"""Names of SAELens 6 for what the flat configuration calls otherwise."""


@dataclass(frozen=True, kw_only=True)
class SAESettings:
    """What the SAEs of all architectures have; fields are explained in the flat configuration."""

    architecture: ClassVar[str]

    d_in: int | None = None
    d_sae: int | None = None
    expansion_factor: int | None = None
    dtype: str | None = None
    device: str | None = None
    apply_b_dec_to_input: bool | None = None
    normalize_activations: str | None = None
    decoder_init_norm: float | None = None
    normalize_sae_decoder: bool | None = None
    b_dec_init_method: str | None = None
    mse_reduction: str | None = None

    def __new__(cls, *_: object, **values: object) -> SAESettings:
        """Refuse unknown names with a hint, before the constructor's own TypeError."""
        refuse_unknown(values, tuple(f.name for f in fields(cls)))
        return super().__new__(cls)


@dataclass(frozen=True, kw_only=True)
class StandardTrainingSAEConfig(SAESettings):
    """A standard SAE."""

    architecture = "standard"
    l1_coefficient: float | None = None
    l1_warm_up_steps: int | None = None
    lp_norm: float | None = None
    use_ghost_grads: bool | None = None


@dataclass(frozen=True, kw_only=True)
class GatedTrainingSAEConfig(SAESettings):
    """A gated SAE."""

    architecture = "gated"
    l1_coefficient: float | None = None
    l1_warm_up_steps: int | None = None
    use_ghost_grads: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TopKTrainingSAEConfig(SAESettings):
    """A topk SAE."""

    architecture = "topk"
    k: float | None = None
    aux_loss_coefficient: float | None = None
    """Of the normalised auxiliary loss: 1/32, not 1, is its usual weight."""
    rescale_acts_by_decoder_norm: bool | None = None
    use_ghost_grads: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AbsTopKTrainingSAEConfig(TopKTrainingSAEConfig):
    """An abstopk SAE."""

    architecture = "abstopk"


@dataclass(frozen=True, kw_only=True)
class BatchTopKTrainingSAEConfig(TopKTrainingSAEConfig):
    """A batchtopk SAE."""

    architecture = "batchtopk"
    topk_threshold_lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class MatryoshkaBatchTopKTrainingSAEConfig(BatchTopKTrainingSAEConfig):
    """A matryoshka_batchtopk SAE."""

    architecture = "matryoshka_batchtopk"
    matryoshka_widths: tuple[int, ...] | list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class JumpReLUTrainingSAEConfig(SAESettings):
    """A jumprelu SAE."""

    architecture = "jumprelu"
    l0_coefficient: float | None = None
    l0_warm_up_steps: int | None = None
    jumprelu_init_threshold: float | None = None
    jumprelu_bandwidth: float | None = None
    jumprelu_sparsity_loss_mode: str | None = None
    jumprelu_tanh_scale: float | None = None
    target_l0: float | None = None
    pre_act_loss_coefficient: float | None = None
    use_ghost_grads: bool | None = None


@dataclass(frozen=True, kw_only=True)
class MatchingPursuitTrainingSAEConfig(SAESettings):
    """A matching_pursuit SAE."""

    architecture = "matching_pursuit"
    residual_threshold: float | None = None
    max_iterations: int | None = None
    stop_on_duplicate_support: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TranscoderTrainingConfig(StandardTrainingSAEConfig):
    """A transcoder: hook_name in, hook_name_out out."""

    architecture = "transcoder"
    hook_name_out: str | None = None


@dataclass(frozen=True, kw_only=True)
class SkipTranscoderTrainingConfig(TranscoderTrainingConfig):
    """A skip_transcoder."""

    architecture = "skip_transcoder"


@dataclass(frozen=True, kw_only=True)
class JumpReLUTranscoderTrainingConfig(JumpReLUTrainingSAEConfig):
    """A jumprelu_transcoder."""

    architecture = "jumprelu_transcoder"
    hook_name_out: str | None = None


@dataclass(frozen=True, kw_only=True)
class JumpReLUSkipTranscoderTrainingConfig(JumpReLUTranscoderTrainingConfig):
    """A jumprelu_skip_transcoder."""

    architecture = "jumprelu_skip_transcoder"


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go; fields are explained in the flat configuration."""

    log_to_wandb: bool = True
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_id: str | None = None
    run_name: str | None = None
    wandb_log_frequency: int | None = None
    eval_every_n_wandb_logs: int | None = None
    log_weights_to_wandb: bool | None = None
    log_to_jsonl: bool | None = None
    log_to_tensorboard: bool | None = None
    prometheus_port: int | None = None
    prometheus_host: str | None = None
    eval_every_n_steps: int | None = None
    html_report: bool | None = None

    def __new__(cls, *_: object, **values: object) -> LoggingConfig:
        """Refuse unknown names with a hint, before the constructor's own TypeError."""
        refuse_unknown(values, tuple(f.name for f in fields(cls)))
        return super().__new__(cls)


def sae_values(settings: SAESettings | Mapping[str, Any]) -> dict[str, Any]:
    """The values given in a group ``sae``, by their flat names."""
    if isinstance(settings, SAESettings):
        given = {"architecture": settings.architecture, **_given(settings)}
    else:
        given = _mapping("sae", settings)
    return {_FLAT_NAMES.get(name, name): value for name, value in given.items()}


def logger_values(settings: LoggingConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The values given in a group ``logger``, by their flat names."""
    if not isinstance(settings, LoggingConfig):
        settings = LoggingConfig(**_mapping("logger", settings))
    return _given(settings)


def _given(settings: SAESettings | LoggingConfig) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return {name: value for name, value in values.items() if value is not None}


def _mapping(group: str, settings: object) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        kind = type(settings).__name__
        raise ConfigError(f"{group}: {kind}, expected a table or its class here", field=group)
    return dict(settings)
