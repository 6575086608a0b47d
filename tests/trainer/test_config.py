"""What a training configuration accepts, refuses and means."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import saekit_trainer
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.plan import optimization_config, sae_config


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"l1_coeficient": 1.0}, "l1_coeficient", "did you mean l1_coefficient"),
        ({"arhitecture": "topk"}, "arhitecture", "did you mean architecture"),
        ({"zzz": 1}, "zzz", "no such parameter"),
        ({"wandb_project": "x"}, "wandb_project", "not supported yet"),
        ({"log_to_wandb": True}, "log_to_wandb", "not supported yet"),
        ({"use_ghost_grads": True}, "use_ghost_grads", "not supported yet"),
        ({"n_checkpoints": 5}, "n_checkpoints", "not supported yet"),
        ({"architecture": "gated"}, "architecture", "not supported yet"),
        ({"architecture": "topkk"}, "architecture", "did you mean topk"),
        ({"architecture": "standard", "activation_fn": "topk"}, "activation_fn", "contradicts"),
        ({"activation_fn_kwargs": {"kk": 3}}, "activation_fn_kwargs", "expected k"),
        ({"k": 3, "activation_fn_kwargs": {"k": 4}}, "k", "contradicts"),
        ({"architecture": "jumprelu", "k": 3}, "k", "no meaning"),
        ({"architecture": "topk", "l1_coefficient": 1.0}, "l1_coefficient", "no meaning"),
        ({"architecture": "standard", "jumprelu_bandwidth": 0.5}, "jumprelu_bandwidth", "no mean"),
        ({"hook_name": "blocks.2.hook_resid_pre", "hook_layer": 3}, "hook_layer", "contradicts"),
        ({"d_sae": 100, "expansion_factor": 4}, "expansion_factor", "not both"),
        ({"lr": 0.0}, "lr", "above 0"),
        ({"lr": float("nan")}, "lr", "above 0"),
        ({"lr": "fast"}, "lr", "expected a number"),
        ({"d_sae": 2.5}, "d_sae", "whole number"),
        ({"seed": "x"}, "seed", "expected a whole number"),
        ({"streaming": "yes"}, "streaming", "true or false"),
        ({"model_name": 3}, "model_name", "text"),
        ({"training_tokens": 0}, "training_tokens", "at least 1"),
        ({"context_size": 1}, "context_size", "at least 2"),
        ({"adam_beta1": 1.0}, "adam_beta1", "0 ≤ β < 1"),
        ({"lr_scheduler_name": "linear"}, "lr_scheduler_name", "cosineannealing"),
        ({"dtype": "bfloat16"}, "dtype", "float64"),
        ({"mse_reduction": "max"}, "mse_reduction", "sum, mean"),
        ({"normalize_activations": True}, "normalize_activations", "expected one of"),
    ],
)
def test_refuses_with_the_name_of_the_field(
    values: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        LanguageModelSAERunnerConfig(**values)
    assert caught.value.field == field


def test_classic_flat_names_mean_what_they_say() -> None:
    cfg = LanguageModelSAERunnerConfig(
        model_name="gpt2-small",
        hook_name="blocks.8.hook_resid_pre",
        hook_layer=8,
        d_in=768,
        architecture="standard",
        d_sae=768 * 8,
        activation_fn="relu",
        lr=4e-4,
        l1_coefficient=2.0,
        lp_norm=1.5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=500,
        lr_decay_steps=100,
        l1_warm_up_steps=1000,
        dead_feature_window=5000,
        dead_feature_threshold=1e-6,
        feature_sampling_window=77,
        adam_beta1=0.5,
        adam_beta2=0.9,
    )
    sae = sae_config(cfg, 768)
    assert (sae.d_sae, sae.sparsity_coefficient, sae.lp_norm) == (6144, 2.0, 1.5)
    optimization = optimization_config(cfg, sae, 10_000)
    assert optimization.schedule.peak == 4e-4
    assert optimization.schedule.warm_up_steps == 500
    assert optimization.schedule.decay_steps == 100
    assert optimization.sparsity_warm_up_steps == 1000
    assert optimization.dead_feature_window == 5000
    assert optimization.dead_feature_threshold == 1e-6
    assert optimization.feature_sampling_window == 77
    assert optimization.betas == (0.5, 0.9)


def test_k_has_two_spellings() -> None:
    for values in ({"k": 7}, {"activation_fn_kwargs": {"k": 7}, "activation_fn": "topk"}):
        assert sae_config(LanguageModelSAERunnerConfig(**values), 16).k == 7


def test_expansion_factor_gives_the_number_of_features() -> None:
    assert sae_config(LanguageModelSAERunnerConfig(expansion_factor=8), 32).d_sae == 256


def test_k_beyond_the_number_of_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than d_sae=8"):
        sae_config(LanguageModelSAERunnerConfig(d_sae=8, k=9), 16)


def test_a_coefficient_on_the_other_scale_warns_and_names_it() -> None:
    classic = LanguageModelSAERunnerConfig(architecture="standard", l1_coefficient=8e-5)
    with pytest.warns(UserWarning, match='closer to the scale of mse_reduction="mean"'):
        assert sae_config(classic, 768).sparsity_coefficient == 8e-5


def test_the_classic_coefficient_is_quiet_on_its_own_scale() -> None:
    classic = LanguageModelSAERunnerConfig(
        architecture="standard", l1_coefficient=8e-5, mse_reduction="mean"
    )
    assert sae_config(classic, 768).sparsity_coefficient == 8e-5


def test_configurations_are_values() -> None:
    cfg = LanguageModelSAERunnerConfig(lr=1e-3)
    assert dataclasses.replace(cfg, lr=2e-3).lr == 2e-3
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.lr = 3.0  # type: ignore[misc]


def test_the_package_names_its_parts() -> None:
    for name in saekit_trainer.__all__:
        assert getattr(saekit_trainer, name).__name__ == name
