"""What a training configuration may say: names, ranges, and what agrees with what."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from saekit_trainer.errors import ConfigError
from saekit_trainer.training_sae import TRAINING_ARCHITECTURES

if TYPE_CHECKING:
    from saekit_trainer.config import LanguageModelSAERunnerConfig

_ARCHITECTURES_TO_COME: Final = frozenset(
    [
        "gated",
        "abstopk",
        "batchtopk",
        "matryoshka_batchtopk",
        "matching_pursuit",
        "transcoder",
        "skip_transcoder",
        "jumprelu_transcoder",
        "jumprelu_skip_transcoder",
        "temporal",
    ]
)
_NAMES_TO_COME: Final = frozenset(
    [
        "wandb_project",
        "wandb_entity",
        "wandb_log_frequency",
        "wandb_id",
        "run_name",
        "logger",
        "sae",
        "autocast",
        "autocast_lm",
        "compile_sae",
        "compile_llm",
        "resume_from_checkpoint",
        "hook_head_index",
        "seqpos_slice",
        "hook_eval",
    ]
)
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
}
_LAYER: Final = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def check_names(given: Iterable[str], known: tuple[str, ...]) -> None:
    """Refuse names that a configuration does not have.

    Raises:
        ConfigError: with the nearest known name, or that the name is not supported yet.
    """
    for name in given:
        if name in known:
            continue
        if name in _NAMES_TO_COME:
            raise ConfigError(f"{name}: not supported yet; leave it out", field=name)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: no such parameter{hint}", field=name)


def check_values(cfg: LanguageModelSAERunnerConfig) -> None:
    """Refuse values that are out of range, contradict each other or are not supported yet.

    Raises:
        ConfigError: naming the field, the value seen and what was expected.
    """
    _check_types(cfg)
    _check_choices(cfg)
    _check_architecture(cfg)
    _check_not_supported_yet(cfg)
    _check_ranges(cfg)
    if cfg.d_sae is not None and cfg.expansion_factor is not None:
        expected = None if cfg.d_in is None else cfg.d_in * cfg.expansion_factor
        if expected != cfg.d_sae:
            raise ConfigError(
                f"expansion_factor: give either it ({cfg.expansion_factor}) or d_sae "
                f"({cfg.d_sae}), not both",
                field="expansion_factor",
            )
    if cfg.cached_activations_path is not None and not cfg.use_cached_activations:
        raise ConfigError(
            "cached_activations_path: has a meaning only with use_cached_activations",
            field="cached_activations_path",
        )
    found = _LAYER.search(cfg.hook_name or "")
    if cfg.hook_layer is not None and found and int(found.group(1)) != cfg.hook_layer:
        raise ConfigError(
            f"hook_layer: {cfg.hook_layer} contradicts hook_name {cfg.hook_name!r}",
            field="hook_layer",
        )


def _check_architecture(cfg: LanguageModelSAERunnerConfig) -> None:
    name = cfg.architecture
    if name not in TRAINING_ARCHITECTURES:
        if name in _ARCHITECTURES_TO_COME:
            problem = "not supported yet by the trainer"
        else:
            near = difflib.get_close_matches(name, TRAINING_ARCHITECTURES, n=1)
            problem = "unknown" + (f"; did you mean {near[0]}?" if near else "")
        raise ConfigError(
            f"architecture: {name!r} is {problem}; there are {', '.join(TRAINING_ARCHITECTURES)}",
            field="architecture",
        )
    function = "topk" if name == "topk" else "relu"
    if cfg.activation_fn not in (None, function):
        raise ConfigError(
            f"activation_fn: {cfg.activation_fn!r} contradicts architecture={name!r}, which has "
            f"{function}",
            field="activation_fn",
        )
    if unknown := cfg.activation_fn_kwargs.keys() - {"k"}:
        raise ConfigError(
            f"activation_fn_kwargs: unknown key {min(unknown)!r}, expected k",
            field="activation_fn_kwargs",
        )
    ks = [k for k in (cfg.k, cfg.activation_fn_kwargs.get("k")) if k is not None]
    if ks and name != "topk":
        raise ConfigError(f"k: has no meaning for architecture={name!r}", field="k")
    if len(set(ks)) > 1:
        raise ConfigError(f"k: {ks[0]} contradicts activation_fn_kwargs k={ks[1]}", field="k")
    only_for = {
        "l1_coefficient": ("standard", "jumprelu"),
        "l1_warm_up_steps": ("standard", "jumprelu"),
        "lp_norm": ("standard",),
        "aux_k_coefficient": ("topk",),
        "jumprelu_bandwidth": ("jumprelu",),
        "jumprelu_init_threshold": ("jumprelu",),
        "pre_act_loss_coefficient": ("jumprelu",),
    }
    for field, architectures in only_for.items():
        default = type(cfg).__dataclass_fields__[field].default
        if name not in architectures and getattr(cfg, field) != default:
            raise ConfigError(f"{field}: has no meaning for architecture={name!r}", field=field)


def _check_not_supported_yet(cfg: LanguageModelSAERunnerConfig) -> None:
    remedies = {
        "use_ghost_grads": "topk revives dead features with aux_k_coefficient",
        "log_to_wandb": "metrics go to the terminal, or to --json",
        "n_checkpoints": "the finished SAE is written to checkpoint_path",
    }
    for field, remedy in remedies.items():
        if getattr(cfg, field):
            raise ConfigError(
                f"{field}: {getattr(cfg, field)} is not supported yet; {remedy}", field=field
            )


def _check_ranges(cfg: LanguageModelSAERunnerConfig) -> None:
    at_least_one = [
        "d_in",
        "d_sae",
        "expansion_factor",
        "k",
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
    ]
    not_negative = [
        "l1_coefficient",
        "lr_end",
        "lr_warm_up_steps",
        "lr_decay_steps",
        "l1_warm_up_steps",
        "aux_k_coefficient",
        "pre_act_loss_coefficient",
        "dead_feature_threshold",
        "hook_layer",
        "prefetch_llm_batches",
    ]
    positive = [
        "lr",
        "lp_norm",
        "decoder_init_norm",
        "jumprelu_bandwidth",
        "jumprelu_init_threshold",
        "max_seconds",
        "self_text_temperature",
    ]
    for names, lowest, strict in (
        (at_least_one, 1.0, False),
        (not_negative, 0.0, False),
        (positive, 0.0, True),
        (["context_size"], 2.0, False),
    ):
        for field in names:
            value = getattr(cfg, field)
            if value is None:
                continue
            if not math.isfinite(value) or value < lowest or (strict and value == lowest):
                bound = "above" if strict else "at least"
                raise ConfigError(
                    f"{field}: {value}, expected a number {bound} {lowest:g}", field=field
                )
    for field in ("adam_beta1", "adam_beta2"):
        if not 0.0 <= getattr(cfg, field) < 1.0:
            raise ConfigError(f"{field}: {getattr(cfg, field)}, expected 0 ≤ β < 1", field=field)


def _check_types(cfg: LanguageModelSAERunnerConfig) -> None:
    """Hold values against annotations: a TOML file or a caller may say anything."""
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        allowed = set(str(field.type).split(" | ")) & _KINDS.keys()
        if not allowed or (value is None and "None" in str(field.type)):
            continue
        if not any(_is(value, kind) for kind in allowed):
            expected = " or ".join(_KINDS[kind] for kind in sorted(allowed))
            raise ConfigError(f"{field.name}: {value!r}, expected {expected}", field=field.name)
    if not isinstance(cfg.activation_fn_kwargs, dict):
        raise ConfigError(
            f"activation_fn_kwargs: {cfg.activation_fn_kwargs!r}, expected a table",
            field="activation_fn_kwargs",
        )


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str}
    return kind in kinds and isinstance(value, kinds[kind])


def _check_choices(cfg: LanguageModelSAERunnerConfig) -> None:
    choices = {
        "normalize_activations": (
            "none",
            "expected_average_only_in",
            "layer_norm",
            "constant_norm_rescale",
        ),
        "b_dec_init_method": ("geometric_median", "mean", "zeros"),
        "lr_scheduler_name": ("constant", "cosineannealing", "cosineannealingwarmrestarts"),
        "mse_reduction": ("sum", "mean"),
        "on_broken_sample": ("stop", "skip"),
        "dtype": ("float32", "float64"),
        "save_dtype": ("float32", "float16", "bfloat16"),
    }
    for field, allowed in choices.items():
        if getattr(cfg, field) not in allowed:
            raise ConfigError(
                f"{field}: {getattr(cfg, field)!r}, expected one of {', '.join(allowed)}",
                field=field,
            )
