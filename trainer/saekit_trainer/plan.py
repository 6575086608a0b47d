"""From a configuration and a model to the concrete parts of a run, presets filled in."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.presets import DEFAULT_K, PRESETS, preset_learning_rate, preset_sparsity
from saekit_trainer.schedules import LearningRateSchedule
from saekit_trainer.training_sae import TrainingSAEConfig

DEFAULT_EXPANSION = 16
_FAR_OFF = 100.0


@dataclass(frozen=True)
class OptimizationConfig:
    """How the weights are optimised."""

    schedule: LearningRateSchedule
    betas: tuple[float, float]
    sparsity_warm_up_steps: int
    dead_feature_threshold: float
    dead_feature_window: int
    feature_sampling_window: int


@dataclass(frozen=True)
class TrainingPlan:
    """Everything concrete about one run."""

    cfg: LanguageModelSAERunnerConfig
    hook: HookPoint
    sae: TrainingSAEConfig
    optimization: OptimizationConfig
    total_steps: int


def plan_training(cfg: LanguageModelSAERunnerConfig, model: LanguageModel) -> TrainingPlan:
    """Fill in what `cfg` leaves open.

    Raises:
        ConfigError: d_in or context_size do not fit the model; k does not fit d_sae.
        UnknownHookPointError: the model has no such hook point.
    """
    hook = model.hook_point(cfg.hook_name or f"blocks.{model.n_layers // 2}.hook_resid_pre")
    if hook.d == 0:
        raise ConfigError(
            f"hook_name: {hook.name} has no activations per position", field="hook_name"
        )
    if cfg.d_in not in (None, hook.d):
        raise ConfigError(f"d_in: {cfg.d_in}, but {hook.name} is {hook.d} wide", field="d_in")
    if cfg.context_size > model.max_context:
        raise ConfigError(
            f"context_size: {cfg.context_size} is beyond the model's {model.max_context}",
            field="context_size",
        )
    steps = max(cfg.training_tokens // cfg.train_batch_size_tokens, 1)
    sae = sae_config(cfg, hook.d)
    return TrainingPlan(cfg, hook, sae, optimization_config(cfg, sae, steps), steps)


def sae_config(cfg: LanguageModelSAERunnerConfig, d_in: int) -> TrainingSAEConfig:
    d_sae = cfg.d_sae or d_in * (cfg.expansion_factor or DEFAULT_EXPANSION)
    k = 0
    if cfg.architecture == "topk":
        k = cfg.k or cfg.activation_fn_kwargs.get("k") or min(DEFAULT_K, d_sae)
        if k > d_sae:
            raise ConfigError(f"k: {k} is more than d_sae={d_sae}", field="k")
    preset = PRESETS[cfg.architecture]
    unit_rows = cfg.normalize_sae_decoder
    return TrainingSAEConfig(
        architecture=cfg.architecture,
        d_in=d_in,
        d_sae=d_sae,
        sparsity_coefficient=_sparsity(cfg, d_in),
        lp_norm=cfg.lp_norm,
        k=k,
        aux_k_coefficient=cfg.aux_k_coefficient,
        jumprelu_bandwidth=cfg.jumprelu_bandwidth,
        jumprelu_init_threshold=cfg.jumprelu_init_threshold,
        pre_act_loss_coefficient=cfg.pre_act_loss_coefficient,
        mse_reduction=cfg.mse_reduction,
        normalize_sae_decoder=preset.normalize_sae_decoder if unit_rows is None else unit_rows,
        decoder_init_norm=cfg.decoder_init_norm,
        apply_b_dec_to_input=cfg.apply_b_dec_to_input,
        dtype=getattr(torch, cfg.dtype),
    )


def _sparsity(cfg: LanguageModelSAERunnerConfig, d_in: int) -> float:
    usual = preset_sparsity(cfg.architecture, d_in, cfg.mse_reduction)
    given = cfg.l1_coefficient
    if given is None or not usual:
        return usual
    if given > 0 and not 1 / _FAR_OFF <= given / usual <= _FAR_OFF:
        other = "mean" if cfg.mse_reduction == "sum" else "sum"
        rescaled = preset_sparsity(cfg.architecture, d_in, other)
        closer = abs(math.log(given / rescaled)) < abs(math.log(given / usual))
        hint = f'; it is closer to the scale of mse_reduction="{other}"' if closer else ""
        warnings.warn(
            f"l1_coefficient={given:g} is orders of magnitude from {usual:.2g}, the usual value "
            f'for {cfg.architecture} under mse_reduction="{cfg.mse_reduction}"{hint}',
            stacklevel=4,
        )
    return given


def optimization_config(
    cfg: LanguageModelSAERunnerConfig, sae: TrainingSAEConfig, steps: int
) -> OptimizationConfig:
    peak = preset_learning_rate(sae.architecture, sae.d_sae) if cfg.lr is None else cfg.lr
    # A run that ends by the clock has no known length yet; a nominal one is good for warm-ups.
    nominal = min(steps, 500) if cfg.max_seconds is not None else steps
    warm_up = min(nominal // 50, 1000) if cfg.lr_warm_up_steps is None else cfg.lr_warm_up_steps
    share = PRESETS[sae.architecture].sparsity_warm_up_share
    sparsity = int(nominal * share) if cfg.l1_warm_up_steps is None else cfg.l1_warm_up_steps
    return OptimizationConfig(
        schedule=LearningRateSchedule(
            peak=peak,
            end=peak / 100 if cfg.lr_end is None else cfg.lr_end,
            name=cfg.lr_scheduler_name,
            warm_up_steps=warm_up,
            decay_steps=cfg.lr_decay_steps,
            restart_cycles=cfg.n_restart_cycles,
        ),
        betas=(cfg.adam_beta1, cfg.adam_beta2),
        sparsity_warm_up_steps=sparsity,
        dead_feature_threshold=cfg.dead_feature_threshold,
        dead_feature_window=cfg.dead_feature_window,
        feature_sampling_window=cfg.feature_sampling_window,
    )
