"""Whole runs on a tiny model: from configuration to a folder."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.features_file import read_features_file
from saekit_core.sae.sae import SAE
from saekit_core.sae.statistics import explained_variance
from saekit_trainer.architectures import new_training_sae
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError, DivergedError, PublishError
from saekit_trainer.plan import optimization_config, plan_sae, sae_config
from saekit_trainer.presets import PRESETS, TRANSCODERS
from saekit_trainer.publish import publish_sae
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.sae_in_training import SAEInTraining
from saekit_trainer.trainer import SAETrainer

SMALL = LanguageModelSAERunnerConfig(
    d_sae=96,
    context_size=24,
    train_batch_size_tokens=256,
    store_batch_size_prompts=8,
    training_tokens=256 * 12,
    eval_contexts=6,
    feature_stats_tokens=24 * 8,
)
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")


def place(architecture: str, hook: str = "blocks.1.hook_resid_pre") -> dict[str, str]:
    """An architecture at a hook point; a transcoder from there to the next block's MLP."""
    out = {"hook_name_out": "blocks.2.hook_mlp_out"} if architecture in TRANSCODERS else {}
    return {"architecture": architecture, "hook_name": hook, **out}


@pytest.mark.parametrize(
    ("architecture", "hook"),
    [
        *((name, "blocks.1.hook_resid_pre") for name in sorted(PRESETS)),
        ("topk", "blocks.2.attn.hook_z"),
        ("gated", "blocks.2.attn.hook_z"),
    ],
)
def test_the_written_folder_loads_with_equal_outputs(
    architecture: str, hook: str, model: LanguageModel, text: str, tmp_path: Path
) -> None:
    cfg = replace(
        SMALL,
        **place(architecture, hook),
        dataset_path=text,
        output_path=str(tmp_path / "sae"),
    )
    runner = SAETrainingRunner(cfg, override_model=model)
    sae = runner.run()
    assert runner.result is not None
    assert runner.result.folder == tmp_path / "sae"
    loaded = SAE.load_from_disk(tmp_path / "sae")
    x = runner.store.get_activations(runner.store.get_batch_tokens())[..., :32]
    torch.testing.assert_close(loaded.encode(x), sae.encode(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded(x), sae(x), rtol=0, atol=0)
    assert loaded.cfg.architecture == (PRESETS[architecture].saved_as or architecture)
    assert loaded.cfg.hook_name == hook
    assert loaded.cfg.metadata.hook_name_out == place(architecture).get("hook_name_out")
    assert loaded.cfg.metadata.training_architecture == architecture
    assert loaded.cfg.context_size == 24
    assert loaded.cfg.prepend_bos is True
    features = read_features_file(tmp_path / "sae")
    assert features is not None
    assert features.density is not None
    assert features.max_activation is not None
    assert features.examples
    assert runner.result.training_density.shape == (96,)
    assert features.l0 == runner.result.evaluation.l0
    assert features.explained_variance == runner.result.evaluation.explained_variance
    assert loaded.sparsity is not None
    np.testing.assert_allclose(10 ** loaded.sparsity.numpy(), features.density + 1e-10, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(PRESETS))
@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_finished_sae_does_what_the_trained_one_did(
    architecture: str, kind: str, model: LanguageModel, text: str
) -> None:
    if architecture in TRANSCODERS and kind not in ("none", "expected_average_only_in"):
        with pytest.raises(ConfigError, match="not supported for"):
            replace(SMALL, **place(architecture), normalize_activations=kind)  # type: ignore[arg-type]
        return
    cfg = replace(
        SMALL,
        **place(architecture),
        normalize_activations=kind,  # type: ignore[arg-type]
        dataset_path=text,
        dtype="float64",
        # Reached by some rows and not by others, in the units of the scaled activations.
        **({"residual_threshold": 2.5} if architecture == "matching_pursuit" else {}),
    )
    runner = SAETrainingRunner(cfg, override_model=model)
    batch = runner.store.next_batch()
    training = SAEInTraining(runner.plan, runner.store, batch)
    for _ in range(3):
        training.train_step(batch, 10)
    trained, scaling = training.trainer.sae.eval(), training.scaling
    x, y = training._sides(batch)
    target = scaling.apply(x) if y is None else scaling.apply_out(y)
    with torch.no_grad():
        output = trained(scaling.apply(x), target, sparsity=1.0)
    sae = training.to_sae()
    if kind == "expected_average_only_in":
        assert sae.cfg.normalize_activations == "none"
        assert (x * scaling.factor).norm(dim=1).mean() == pytest.approx(32**0.5)
        assert (target).norm(dim=1).mean() == pytest.approx(32**0.5)
    else:
        assert sae.cfg.normalize_activations == kind
        assert scaling.factor == scaling.factor_out == 1.0
    if cfg.preset.saved_as:  # a row alone has a threshold, not a batch to be among the largest of
        return
    acts = sae.encode(x.float())
    expected = output.acts.dense().float()
    torch.testing.assert_close(acts * scaling.factor, expected, rtol=1e-3, atol=1e-3)
    y_hat = sae(x.float()).double()
    if kind in ("none", "expected_average_only_in"):
        torch.testing.assert_close(y_hat * scaling.factor_out, output.y_hat, rtol=1e-3, atol=1e-3)
    else:
        assert explained_variance(x, y_hat) > 0


def test_a_batchtopk_sae_is_saved_with_the_threshold_of_its_batches(
    model: LanguageModel, text: str
) -> None:
    cfg = replace(
        SMALL,
        architecture="batchtopk",
        k=8.5,
        dataset_path=text,
        training_tokens=256 * 60,
        topk_threshold_lr=0.2,  # in so short a run the average of a hundred steps lags behind
    )
    runner = SAETrainingRunner(cfg, override_model=model)
    sae = runner.run()
    assert sae.cfg.architecture == "jumprelu"
    assert sae.cfg.metadata.training_architecture == "batchtopk"
    assert len(sae.threshold.unique()) == 1
    x = torch.cat([runner.store.next_batch() for _ in range(4)])
    l0 = (sae.encode(x) > 0).sum(dim=1).float().mean()
    assert l0 == pytest.approx(8.5, rel=0.15)


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_weights(
    model: LanguageModel, text: str
) -> None:
    saes, losses = [], []
    for seed in (1, 1, 2):
        seen: list[float] = []
        cfg = replace(SMALL, dataset_path=text, seed=seed)
        runner = SAETrainingRunner(
            cfg, override_model=model, report=lambda s, seen=seen: seen.append(s.metrics.loss)
        )
        saes.append(runner.run())
        losses.append(seen)
    assert len(losses[0]) == 12
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert torch.equal(saes[0].W_enc, saes[1].W_enc)
    assert torch.equal(saes[0].W_dec, saes[1].W_dec)
    assert not torch.equal(saes[0].W_enc, saes[2].W_enc)


def test_the_clock_ends_a_run_and_the_schedule_is_fitted_to_it(
    model: LanguageModel, text: str
) -> None:
    ticks = itertools.count(step=0.5)
    rates: list[float] = []
    runner = SAETrainingRunner(
        replace(SMALL, dataset_path=text, training_tokens=10**9, max_seconds=20.0),
        override_model=model,
        report=lambda status: rates.append(status.metrics.learning_rate),
        clock=lambda: next(ticks),
    )
    runner.run()
    assert runner.result is not None
    assert 18.0 <= runner.result.seconds <= 21.0
    assert runner.result.last_step.step == len(rates)
    assert rates[-1] < 0.3 * max(rates)  # the decay was fitted to the clock


def test_a_width_or_context_that_does_not_fit_the_model_is_refused(model: LanguageModel) -> None:
    for values, field in (({"d_in": 33}, "d_in"), ({"context_size": 97}, "context_size")):
        with pytest.raises(ConfigError) as caught:
            plan_sae(replace(SMALL, **values), model)  # type: ignore[arg-type]
        assert caught.value.field == field


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_weights() -> None:
    config = sae_config(SMALL, 8)
    trainer = SAETrainer(new_training_sae(config), optimization_config(SMALL, config, 10))
    before = trainer.sae.saved_state()
    with pytest.raises(DivergedError, match="step 0"):
        trainer.train_step(torch.full((16, 8), float("nan")), 10)
    assert all(torch.equal(v, before[k]) for k, v in trainer.sae.saved_state().items())


def test_a_step_follows_a_gradient_no_longer_than_1() -> None:
    config = sae_config(SMALL, 8)
    trainer = SAETrainer(new_training_sae(config), optimization_config(SMALL, config, 10))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    trainer.train_step(100 * x, 10)
    means = [state["exp_avg"].square().sum() for state in trainer.optimizer.state.values()]
    length = float(torch.stack(means).sum().sqrt()) / (1 - SMALL.adam_beta1)
    assert length == pytest.approx(1.0, rel=1e-4)


def test_publishing_replaces_at_once_and_refuses_bad_names(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    sae = SAETrainingRunner(replace(SMALL, dataset_path=text), override_model=model).run()
    for _ in range(2):
        folder = publish_sae(sae, tmp_path / "watched", "runs/fresh")
    assert folder == tmp_path / "watched/runs/fresh"
    assert {p.name for p in folder.parent.iterdir()} == {"fresh"}
    SAE.load_from_disk(folder)
    with pytest.raises(PublishError, match="sae_id"):
        publish_sae(sae, tmp_path / "watched", "../outside")
