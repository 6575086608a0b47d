"""What a training configuration accepts, refuses and means."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import saekit_trainer
from saekit_trainer import nested_config
from saekit_trainer.architectures import new_training_sae
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.nested_config import SAESettings
from saekit_trainer.plan import optimization_config, sae_config
from saekit_trainer.presets import PRESETS, SOME_ARCHITECTURES_ONLY, TRANSCODERS


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"l1_coeficient": 1.0}, "l1_coeficient", "did you mean l1_coefficient"),
        ({"arhitecture": "topk"}, "arhitecture", "did you mean architecture"),
        ({"zzz": 1}, "zzz", "no such parameter"),
        ({"act_store_device": "cpu"}, "act_store_device", "leave it out .activations stay"),
        ({"seqpos_slice": (128, None)}, "seqpos_slice", "leaves no position of 128"),
        (
            {"use_cached_activations": True, "cached_activations_path": "x", "autocast_lm": True},
            "autocast_lm",
            "made already",
        ),
        ({"seqpos_slice": ()}, "seqpos_slice", "1 to 3"),
        ({"seqpos_slice": ["a"]}, "seqpos_slice", "whole numbers"),
        ({"exclude_special_tokens": [0.5]}, "exclude_special_tokens", "whole numbers"),
        ({"n_checkpoints": 5}, "n_checkpoints", "checkpoint_path names no folder"),
        ({"architecture": "topkk"}, "architecture", "did you mean topk"),
        ({"architecture": "temporal"}, "architecture", "unknown"),
        ({"architecture": "gated", "activation_fn": "topk"}, "activation_fn", "contradicts"),
        ({"architecture": "topk", "activation_fn": "relu"}, "activation_fn", "contradicts"),
        ({"activation_fn": "tanh-relu"}, "activation_fn", "relu, topk"),
        ({"activation_fn_kwargs": {"kk": 3}}, "activation_fn_kwargs", "expected k"),
        ({"k": 3, "activation_fn_kwargs": {"k": 4}}, "k", "contradicts"),
        ({"architecture": "jumprelu", "k": 3}, "k", "no meaning"),
        ({"architecture": "topk", "k": 2.5}, "k", "whole number"),
        ({"architecture": "matching_pursuit", "use_ghost_grads": True}, "use_ghost_grads", "no m"),
        (
            {"architecture": "matching_pursuit", "normalize_sae_decoder": False},
            "normalize_sae_decoder",
            "unit decoder rows",
        ),
        ({"architecture": "batchtopk", "topk_threshold_lr": 0.0}, "topk_threshold_lr", "0 < lr"),
        ({"architecture": "jumprelu", "target_l0": 30}, "target_l0", "only with"),
        (
            {"architecture": "matryoshka_batchtopk", "matryoshka_widths": [8, 4]},
            "matryoshka_widths",
            "ascending",
        ),
        (
            {"architecture": "matryoshka_batchtopk", "matryoshka_widths": ["a"]},
            "matryoshka_widths",
            "whole numbers",
        ),
        ({"architecture": "transcoder"}, "hook_name_out", "missing"),
        ({"architecture": "topk", "hook_name_out": "x"}, "hook_name_out", "no meaning"),
        (
            {"architecture": "transcoder", "hook_name_out": "x", "apply_b_dec_to_input": True},
            "apply_b_dec_to_input",
            "belongs to its output",
        ),
        (
            {
                "architecture": "skip_transcoder",
                "hook_name_out": "x",
                "normalize_activations": "layer_norm",
            },
            "normalize_activations",
            "not supported for",
        ),
        ({"hook_name": "blocks.{layer}.hook_resid_pre"}, "hook_layer", "missing"),
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
        use_ghost_grads=True,
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
    assert sae.use_ghost_grads
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


def test_without_an_architecture_the_rest_says_which() -> None:
    for values, architecture in (
        ({}, "topk"),
        ({"activation_fn": "topk"}, "topk"),
        ({"architecture": "standard", "activation_fn": "topk"}, "topk"),
        ({"activation_fn": "relu"}, "standard"),
        ({"l1_coefficient": 3.0}, "standard"),
        ({"architecture": "jumprelu", "l1_coefficient": 3.0}, "jumprelu"),
    ):
        assert LanguageModelSAERunnerConfig(**values).architecture == architecture


@pytest.mark.parametrize("architecture", sorted(PRESETS))
def test_an_architecture_is_enough_to_begin_with(architecture: str) -> None:
    transcodes = architecture in TRANSCODERS
    cfg = LanguageModelSAERunnerConfig(
        architecture=architecture, hook_name_out="blocks.1.hook_mlp_out" if transcodes else None
    )
    sae = sae_config(cfg, 64, 48 if transcodes else None)
    assert new_training_sae(sae).W_dec.shape == (1024, 48 if transcodes else 64)
    assert optimization_config(cfg, sae).schedule.peak == 3e-3
    assert sae.apply_b_dec_to_input is not transcodes
    assert sae.k == (32 if "topk" in architecture else 0)


def test_matryoshka_widths_end_with_all_features() -> None:
    for given, expected in ((None, (4, 8, 16, 32, 64)), ([10], (10, 64)), ([10, 64], (10, 64))):
        cfg = LanguageModelSAERunnerConfig(
            architecture="matryoshka_batchtopk", matryoshka_widths=given, d_sae=64
        )
        assert sae_config(cfg, 16).matryoshka_widths == expected
    with pytest.raises(ConfigError, match="more than d_sae=9"):
        sae_config(dataclasses.replace(cfg, d_sae=9), 16)


def test_a_target_beyond_the_features_is_refused() -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture="jumprelu", jumprelu_sparsity_loss_mode="quadratic", target_l0=65, d_sae=64
    )
    with pytest.raises(ConfigError, match="more than d_sae=64"):
        sae_config(cfg, 16)


def test_dtypes_may_be_written_as_torch_does() -> None:
    assert LanguageModelSAERunnerConfig(dtype="torch.float64").dtype == "float64"
    assert LanguageModelSAERunnerConfig(dtype=torch.float32).dtype == "float32"


def test_nested_groups_are_the_flat_names() -> None:
    nested = LanguageModelSAERunnerConfig(
        sae=saekit_trainer.MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=64, d_sae=128, k=7, aux_loss_coefficient=0.5, matryoshka_widths=[32, 64]
        ),
        logger=saekit_trainer.LoggingConfig(wandb_project="p", wandb_log_frequency=3),
        lr=1e-3,
    )
    assert nested == LanguageModelSAERunnerConfig(
        architecture="matryoshka_batchtopk",
        d_in=64,
        d_sae=128,
        k=7,
        aux_k_coefficient=0.5,
        matryoshka_widths=[32, 64],
        log_to_wandb=True,
        wandb_project="p",
        wandb_log_frequency=3,
        lr=1e-3,
    )
    assert dataclasses.replace(nested, lr=2e-3).k == 7


def test_nested_groups_may_be_tables() -> None:
    cfg = LanguageModelSAERunnerConfig.from_dict(
        {
            "sae": {"architecture": "jumprelu", "l0_coefficient": 2.0, "l0_warm_up_steps": 9},
            "logger": {"log_to_wandb": False, "run_name": "r"},
        }
    )
    assert (cfg.architecture, cfg.l1_coefficient, cfg.l1_warm_up_steps) == ("jumprelu", 2.0, 9)
    assert (cfg.log_to_wandb, cfg.run_name) == (False, "r")


def test_every_architecture_has_its_group() -> None:
    groups = {
        group.architecture: group
        for group in vars(nested_config).values()
        if isinstance(group, type) and issubclass(group, SAESettings) and group is not SAESettings
    }
    assert groups.keys() == PRESETS.keys()
    for architecture, group in groups.items():
        names = {field.name for field in dataclasses.fields(group)}
        flat = {nested_config._FLAT_NAMES.get(name, name) for name in names}
        assert flat <= set(LanguageModelSAERunnerConfig.field_names())
        assert flat & SOME_ARCHITECTURES_ONLY == PRESETS[architecture].parameters
        assert getattr(saekit_trainer, group.__name__) is group


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"sae": {"k": 3}, "k": 4}, "k", "4 contradicts 3 in sae"),
        ({"sae": 3}, "sae", "expected a table"),
        ({"logger": {"wandb_projekt": "x"}}, "wandb_projekt", "did you mean wandb_project"),
        ({"sae": {"kk": 3}}, "kk", "no such parameter"),
    ],
)
def test_nested_groups_are_checked(values: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        LanguageModelSAERunnerConfig(**values)
    assert caught.value.field == field


def test_nested_classes_refuse_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean lp_norm"):
        saekit_trainer.StandardTrainingSAEConfig(lp_nrm=1.0)
    with pytest.raises(ConfigError, match="always sparse"):
        saekit_trainer.TopKTrainingSAEConfig(use_sparse_activations=True)


def test_the_package_names_its_parts() -> None:
    for name in saekit_trainer.__all__:
        assert getattr(saekit_trainer, name).__name__ == name
