"""What a training configuration may say: types, ranges, and what agrees with what."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from saekit_trainer.config_types import check_types
from saekit_trainer.errors import ConfigError
from saekit_trainer.presets import PRESETS, SOME_ARCHITECTURES_ONLY, TRANSCODERS
from saekit_trainer.resume_options import check_resuming

if TYPE_CHECKING:
    from saekit_trainer.config import LanguageModelSAERunnerConfig
    from saekit_trainer.run_config import RunConfig

_LAYER: Final = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_AT_LEAST: Final = {
    1: (
        "d_in",
        "d_sae",
        "expansion_factor",
        "training_tokens",
        "train_batch_size_tokens",
        "store_batch_size_prompts",
        "n_batches_in_buffer",
        "eval_contexts",
        "self_text_tokens",
        "feature_stats_tokens",
        "dead_feature_window",
        "feature_sampling_window",
        "n_restart_cycles",
        "max_iterations",
        "wandb_log_frequency",
        "eval_every_n_wandb_logs",
        "prometheus_port",
    ),
    2: ("context_size",),
    0: (
        "l1_coefficient",
        "lr_end",
        "lr_warm_up_steps",
        "lr_decay_steps",
        "l1_warm_up_steps",
        "aux_k_coefficient",
        "pre_act_loss_coefficient",
        "dead_feature_threshold",
        "residual_threshold",
        "hook_layer",
        "n_checkpoints",
        "prefetch_llm_batches",
        "eval_every_n_steps",
        "resume_state_minutes",
        "n_resume_states",
    ),
}
_ABOVE_0: Final = (
    "lr",
    "k",
    "lp_norm",
    "decoder_init_norm",
    "jumprelu_bandwidth",
    "jumprelu_init_threshold",
    "jumprelu_tanh_scale",
    "target_l0",
    "max_seconds",
    "self_text_temperature",
)
_OF_THE_CACHE: Final = (
    "sequence_separator_token",
    "disable_concat_sequences",
    "autocast_lm",
    "compile_llm",
)
_SHARES: Final = {"adam_beta1": "0 ≤ β < 1", "adam_beta2": "0 ≤ β < 1"}


def check_run(cfg: RunConfig) -> None:
    """Refuse values of the wrong type or out of range, whichever field they are in.

    Raises:
        ConfigError: naming the field, the value seen and what was expected.
    """
    check_types(cfg)
    for lowest, names in _AT_LEAST.items():
        _check_bound(cfg, names, lowest, strict=False)
    _check_bound(cfg, _ABOVE_0, 0, strict=True)
    for field, expected in _SHARES.items():
        if not 0.0 <= getattr(cfg, field) < 1.0:
            raise ConfigError(f"{field}: {getattr(cfg, field)}, expected {expected}", field=field)
    if cfg.use_cached_activations != (cfg.cached_activations_path is not None):
        raise ConfigError(
            "cached_activations_path: give it together with use_cached_activations, or neither",
            field="cached_activations_path",
        )
    if cfg.use_cached_activations:
        for field in _OF_THE_CACHE:
            if getattr(cfg, field) != type(cfg).__dataclass_fields__[field].default:
                raise ConfigError(
                    f"{field}: has no meaning with use_cached_activations, which are made already",
                    field=field,
                )
    if not range(cfg.context_size)[_slice(cfg.seqpos_slice)]:
        raise ConfigError(
            f"seqpos_slice: {cfg.seqpos_slice} leaves no position of {cfg.context_size}",
            field="seqpos_slice",
        )
    if cfg.n_checkpoints and cfg.checkpoint_path is None:
        raise ConfigError(
            f"n_checkpoints: {cfg.n_checkpoints}, but checkpoint_path names no folder for them",
            field="n_checkpoints",
        )
    _check_logs(cfg)
    check_resuming(cfg)


def _check_logs(cfg: RunConfig) -> None:
    if cfg.log_to_tensorboard and cfg.checkpoint_path is None and cfg.output_path is None:
        raise ConfigError(
            "log_to_tensorboard: needs a folder, from checkpoint_path or output_path",
            field="log_to_tensorboard",
        )
    if cfg.prometheus_port is not None and cfg.prometheus_port > 65535:
        raise ConfigError(
            f"prometheus_port: {cfg.prometheus_port}, expected at most 65535",
            field="prometheus_port",
        )


def check_sae(cfg: LanguageModelSAERunnerConfig) -> None:
    """Refuse what contradicts the architecture or something else that is said of the SAE.

    Raises:
        ConfigError: naming the field, the value seen and what was expected.
    """
    _check_architecture(cfg)
    _check_activation(cfg)
    _check_sizes(cfg)
    _check_hook(cfg)


def implied_architecture(cfg: LanguageModelSAERunnerConfig) -> str:
    """The architecture, where the activation function or λ says it instead.

    In SAELens before 6, a topk SAE was a standard one with another activation function.
    """
    if cfg.architecture not in ("", "standard"):
        return cfg.architecture
    if cfg.activation_fn == "topk":
        return "topk"
    if cfg.activation_fn == "relu" or cfg.l1_coefficient is not None:
        return "standard"
    return cfg.architecture or "topk"


def _check_architecture(cfg: LanguageModelSAERunnerConfig) -> None:
    name = cfg.architecture
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"architecture: {name!r} is unknown{hint}; there are {', '.join(PRESETS)}",
            field="architecture",
        )
    for field in SOME_ARCHITECTURES_ONLY - PRESETS[name].parameters:
        default = type(cfg).__dataclass_fields__[field].default
        if getattr(cfg, field) != default:
            raise ConfigError(f"{field}: has no meaning for architecture={name!r}", field=field)
    if name == "matching_pursuit" and cfg.normalize_sae_decoder is False:
        raise ConfigError(
            "normalize_sae_decoder: matching_pursuit needs unit decoder rows",
            field="normalize_sae_decoder",
        )
    if cfg.shard_features and not PRESETS[name].shards:
        raise ConfigError(
            f"shard_features: architecture={name!r} needs all features in one process",
            field="shard_features",
        )
    if name not in TRANSCODERS:
        return
    if cfg.hook_name_out is None:
        raise ConfigError(
            f"hook_name_out: missing, a {name} reconstructs it", field="hook_name_out"
        )
    if cfg.apply_b_dec_to_input:
        raise ConfigError(
            "apply_b_dec_to_input: b_dec of a transcoder belongs to its output",
            field="apply_b_dec_to_input",
        )
    if cfg.normalize_activations not in ("none", "expected_average_only_in"):
        raise ConfigError(
            f"normalize_activations: {cfg.normalize_activations!r} is not supported for "
            f"architecture={name!r}; none and expected_average_only_in are",
            field="normalize_activations",
        )


def _check_activation(cfg: LanguageModelSAERunnerConfig) -> None:
    name = cfg.architecture
    function = "topk" if name == "topk" else "relu"
    if cfg.activation_fn not in (None, function):
        raise ConfigError(
            f"activation_fn: {cfg.activation_fn!r} contradicts architecture={name!r}",
            field="activation_fn",
        )
    if unknown := cfg.activation_fn_kwargs.keys() - {"k"}:
        raise ConfigError(
            f"activation_fn_kwargs: unknown key {min(unknown)!r}, expected k",
            field="activation_fn_kwargs",
        )
    ks = [k for k in (cfg.k, cfg.activation_fn_kwargs.get("k")) if k is not None]
    if ks and "k" not in PRESETS[name].parameters:
        raise ConfigError(f"k: has no meaning for architecture={name!r}", field="k")
    if len(set(ks)) > 1:
        raise ConfigError(f"k: {ks[0]} contradicts activation_fn_kwargs k={ks[1]}", field="k")
    if ks and PRESETS[name].saved_as is None and ks[0] != int(ks[0]):
        raise ConfigError(f"k: {ks[0]}, expected a whole number for {name}", field="k")
    if cfg.target_l0 is not None and cfg.jumprelu_sparsity_loss_mode != "quadratic":
        raise ConfigError(
            "target_l0: has a meaning only with jumprelu_sparsity_loss_mode='quadratic'",
            field="target_l0",
        )
    if not 0 < cfg.topk_threshold_lr <= 1:
        raise ConfigError(
            f"topk_threshold_lr: {cfg.topk_threshold_lr}, expected 0 < lr ≤ 1",
            field="topk_threshold_lr",
        )


def _check_sizes(cfg: LanguageModelSAERunnerConfig) -> None:
    if cfg.d_sae is not None and cfg.expansion_factor is not None:
        expected = None if cfg.d_in is None else cfg.d_in * cfg.expansion_factor
        if expected != cfg.d_sae:
            raise ConfigError(
                f"expansion_factor: give either it ({cfg.expansion_factor}) or d_sae "
                f"({cfg.d_sae}), not both",
                field="expansion_factor",
            )
    widths = cfg.matryoshka_widths
    if widths is not None and not (widths and widths[0] > 0 and list(widths) == sorted({*widths})):
        raise ConfigError(
            f"matryoshka_widths: {list(widths)}, expected ascending numbers above 0",
            field="matryoshka_widths",
        )


def _check_hook(cfg: LanguageModelSAERunnerConfig) -> None:
    if "{layer}" in (cfg.hook_name or "") and cfg.hook_layer is None:
        raise ConfigError(f"hook_layer: missing, {cfg.hook_name!r} needs it", field="hook_layer")
    found = _LAYER.search(cfg.hook_name or "")
    if cfg.hook_layer is not None and found and int(found.group(1)) != cfg.hook_layer:
        raise ConfigError(
            f"hook_layer: {cfg.hook_layer} contradicts hook_name {cfg.hook_name!r}",
            field="hook_layer",
        )


def _slice(arguments: tuple[int | None, ...]) -> slice:
    try:
        return slice(*arguments)
    except TypeError:
        raise ConfigError(
            f"seqpos_slice: {len(arguments)} numbers, expected 1 to 3", field="seqpos_slice"
        ) from None


def _check_bound(cfg: RunConfig, names: Iterable[str], lowest: float, *, strict: bool) -> None:
    for field in names:
        value = getattr(cfg, field, None)
        if value is None:
            continue
        if not math.isfinite(value) or value < lowest or (strict and value == lowest):
            bound = "above" if strict else "at least"
            raise ConfigError(
                f"{field}: {value}, expected a number {bound} {lowest:g}", field=field
            )
