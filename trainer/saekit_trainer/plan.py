"""From a configuration and a model to the concrete parts of a run, presets filled in."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.presets import (
    DEFAULT_EXPANSION,
    DEFAULT_K,
    MATRYOSHKA_SHARES,
    preset_learning_rate,
    preset_sparsity,
)
from saekit_trainer.schedules import LearningRateSchedule

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
    autocast: bool = False
    compilation_mode: str | None = None
    """Mode of torch.compile; None for none."""


@dataclass(frozen=True)
class SAEPlan:
    """Everything concrete about one SAE of a run."""

    cfg: LanguageModelSAERunnerConfig
    hook: HookPoint
    """What it encodes."""
    hook_out: HookPoint
    """What it reconstructs: the same, but for a transcoder."""
    sae: TrainingSAEConfig
    optimization: OptimizationConfig

    @property
    def label(self) -> str:
        """HOOK-ARCHITECTURE-D_SAE, the name of the SAE where nobody gives it another."""
        return f"{self.hook.name}-{self.cfg.architecture}-{self.sae.d_sae}"


def plan_sae(cfg: LanguageModelSAERunnerConfig, model: LanguageModel) -> SAEPlan:
    """Fill in what `cfg` leaves open.

    Raises:
        ConfigError: d_in or context_size do not fit the model; k, widths or the target L0 do not
            fit d_sae.
        UnknownHookPointError: the model has no such hook point.
    """
    hook = _hook_point(cfg, model)
    if cfg.d_in not in (None, hook.d):
        raise ConfigError(f"d_in: {cfg.d_in}, but {hook.name} is {hook.d} wide", field="d_in")
    if cfg.context_size > model.max_context:
        raise ConfigError(
            f"context_size: {cfg.context_size} is beyond the model's {model.max_context}",
            field="context_size",
        )
    hook_out = hook
    if cfg.hook_name_out is not None:
        hook_out = _with_width(model.hook_point(cfg.hook_name_out), field="hook_name_out")
    d_out = None if cfg.hook_name_out is None else hook_out.d
    sae = sae_config(cfg, hook.d, d_out)
    return SAEPlan(cfg, hook, hook_out, sae, optimization_config(cfg, sae))


def total_steps(cfg: LanguageModelSAERunnerConfig) -> int:
    """Steps of a run that no clock ends."""
    return max(cfg.training_tokens // cfg.train_batch_size_tokens, 1)


def sae_config(
    cfg: LanguageModelSAERunnerConfig, d_in: int, d_out: int | None = None
) -> TrainingSAEConfig:
    """Sizes and losses of the SAE on activations of these widths.

    Raises:
        ConfigError: k, the widths or the target L0 do not fit d_sae.
    """
    d_sae = cfg.d_sae or d_in * (cfg.expansion_factor or DEFAULT_EXPANSION)
    unit_rows = cfg.normalize_sae_decoder
    transcodes = d_out is not None
    return TrainingSAEConfig(
        architecture=cfg.architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        sparsity_coefficient=_sparsity(cfg, d_in),
        lp_norm=cfg.lp_norm,
        k=_k(cfg, d_sae),
        aux_k_coefficient=cfg.aux_k_coefficient,
        rescale_acts_by_decoder_norm=cfg.rescale_acts_by_decoder_norm,
        topk_threshold_lr=cfg.topk_threshold_lr,
        matryoshka_widths=_widths(cfg, d_sae),
        jumprelu_sparsity_loss_mode=cfg.jumprelu_sparsity_loss_mode,
        jumprelu_bandwidth=cfg.jumprelu_bandwidth,
        jumprelu_init_threshold=cfg.jumprelu_init_threshold,
        jumprelu_tanh_scale=cfg.jumprelu_tanh_scale,
        target_l0=_target_l0(cfg, d_sae),
        pre_act_loss_coefficient=cfg.pre_act_loss_coefficient,
        residual_threshold=cfg.residual_threshold,
        max_iterations=cfg.max_iterations or min(DEFAULT_K, d_sae),
        stop_on_duplicate_support=cfg.stop_on_duplicate_support,
        use_ghost_grads=cfg.use_ghost_grads,
        mse_reduction=cfg.mse_reduction,
        normalize_sae_decoder=cfg.preset.normalize_sae_decoder if unit_rows is None else unit_rows,
        decoder_init_norm=cfg.decoder_init_norm,
        apply_b_dec_to_input=cfg.apply_b_dec_to_input is not False and not transcodes,
        dtype=getattr(torch, cfg.dtype),
    )


def optimization_config(
    cfg: LanguageModelSAERunnerConfig, sae: TrainingSAEConfig, steps: int | None = None
) -> OptimizationConfig:
    """How `sae` is optimised in a run of `steps`, those of `cfg` unless told otherwise."""
    steps = steps or total_steps(cfg)
    peak = preset_learning_rate(sae.architecture, sae.d_sae) if cfg.lr is None else cfg.lr
    # A run that ends by the clock has no known length yet; a nominal one is good for warm-ups.
    nominal = min(steps, 500) if cfg.max_seconds is not None else steps
    warm_up = min(nominal // 50, 1000) if cfg.lr_warm_up_steps is None else cfg.lr_warm_up_steps
    sparsity = cfg.l1_warm_up_steps
    if sparsity is None:
        sparsity = int(nominal * cfg.preset.sparsity_warm_up_share)
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
        autocast=cfg.autocast,
        compilation_mode=cfg.compilation_mode if cfg.compile or cfg.compile_sae else None,
    )


def _hook_point(cfg: LanguageModelSAERunnerConfig, model: LanguageModel) -> HookPoint:
    name = cfg.hook_name
    if name is None:
        layer = model.n_layers // 2 if cfg.hook_layer is None else cfg.hook_layer
        name = f"blocks.{layer}.hook_resid_pre"
    return _with_width(
        model.hook_point(name.replace("{layer}", str(cfg.hook_layer))), field="hook_name"
    )


def _with_width(hook: HookPoint, *, field: str) -> HookPoint:
    if hook.d == 0:
        raise ConfigError(f"{field}: {hook.name} has no activations per position", field=field)
    return hook


def _k(cfg: LanguageModelSAERunnerConfig, d_sae: int) -> float:
    if "k" not in cfg.preset.parameters:
        return 0
    k = cfg.k or cfg.activation_fn_kwargs.get("k") or min(DEFAULT_K, d_sae)
    if k > d_sae:
        raise ConfigError(f"k: {k} is more than d_sae={d_sae}", field="k")
    return k


def _widths(cfg: LanguageModelSAERunnerConfig, d_sae: int) -> tuple[int, ...]:
    if cfg.architecture != "matryoshka_batchtopk":
        return ()
    widths = cfg.matryoshka_widths
    if widths is None:
        widths = tuple(sorted({d_sae // share for share in MATRYOSHKA_SHARES} - {0}))
    if widths and widths[-1] > d_sae:
        raise ConfigError(
            f"matryoshka_widths: {widths[-1]} is more than d_sae={d_sae}",
            field="matryoshka_widths",
        )
    return widths if widths and widths[-1] == d_sae else (*widths, d_sae)


def _target_l0(cfg: LanguageModelSAERunnerConfig, d_sae: int) -> float:
    if cfg.target_l0 is None:
        return float(min(DEFAULT_K, d_sae))
    if cfg.target_l0 > d_sae:
        raise ConfigError(
            f"target_l0: {cfg.target_l0} is more than d_sae={d_sae}", field="target_l0"
        )
    return cfg.target_l0


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
