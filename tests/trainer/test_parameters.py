"""What each parameter of a run changes, seen from outside."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tests.models import story
from tests.trainer.small_run import SMALL
from torch import Tensor

from saekit_core.lm.errors import LMError
from saekit_core.lm.model import LanguageModel
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import DatasetError
from saekit_trainer.geometric_median import initial_decoder_bias
from saekit_trainer.plan import plan_sae
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.sae_in_training import SAEInTraining
from saekit_trainer.samples.rows import StreamRows, TableRows
from saekit_trainer.store_config import StoreConfig


def test_model_name_and_hook_layer_say_where(folder: Path, text: str) -> None:
    cfg = replace(SMALL, model_name=str(folder), dataset_path=text, hook_layer=2)
    sae = SAETrainingRunner(cfg).run()
    assert (sae.cfg.model_name, sae.cfg.hook_name) == (folder.name, "blocks.2.hook_resid_pre")


def test_hook_layer_fills_a_template_and_the_middle_is_the_default(model: LanguageModel) -> None:
    for values, hook in (
        ({}, "blocks.1.hook_resid_pre"),
        ({"hook_name": "blocks.{layer}.hook_mlp_out", "hook_layer": 0}, "blocks.0.hook_mlp_out"),
    ):
        assert plan_sae(replace(SMALL, **values), model).hook.name == hook


def test_a_device_that_is_not_there_is_refused_at_once() -> None:
    assert not torch.cuda.is_available()
    # Before the model and the data set, of which neither exists.
    cfg = replace(SMALL, device="cuda", model_name="./nowhere", dataset_path="nowhere.txt")
    with pytest.raises(LMError, match="use --device cpu, or install a build of torch for it"):
        SAETrainingRunner(cfg)


def test_batch_sizes_and_lengths(run: Any) -> None:
    runner, seen = run(
        train_batch_size_tokens=128,
        training_tokens=128 * 5,
        store_batch_size_prompts=4,
        n_batches_in_buffer=6,
        context_size=20,
        prepend_bos=False,
    )
    assert [metrics.tokens for metrics in seen] == [128, 256, 384, 512, 640]
    tokens = runner.store.get_batch_tokens()
    assert tokens.shape == (4, 20)
    assert runner.store._rows._buffer.capacity == 6 * 4 * 20
    assert (tokens[:, 0] != runner.model.tokenizer.bos_id).all()
    assert run(n_batches_in_buffer=1)[0].store._rows._buffer.capacity == 2 * 256


def test_positions_and_tokens_that_are_trained_on(model: LanguageModel, text: str) -> None:
    def store(**values: Any) -> ActivationsStore:
        cfg = replace(SMALL, dataset_path=text, normalize_activations="none", **values)
        return SAETrainingRunner(cfg, override_model=model).store

    plain = store()
    tokens = plain.get_batch_tokens()
    every = plain.get_activations(tokens)
    sliced = store(seqpos_slice=[2, -3]).get_activations(tokens)
    torch.testing.assert_close(sliced, every[:, 2:-3])
    bos = every[0, 0]
    some = int(tokens[0, 5])
    for values, gone in (({"exclude_special_tokens": True}, bos), ({}, None)):
        batch = store(**values).next_batch()
        assert ((batch - bos).norm(dim=1).min() > 1e-3) == (gone is not None)
    kept = store(exclude_special_tokens=[some])
    rows = kept._activations.rows(tokens.numpy())
    assert len(rows) == (tokens != some).sum()
    cfg = replace(SMALL, dataset_path=text, seqpos_slice=(2, -3), exclude_special_tokens=(some,))
    metadata = SAETrainingRunner(cfg, override_model=model).run().cfg.metadata
    assert metadata.seqpos_slice == (2, -3)
    assert metadata.exclude_special_tokens == (some,)


def test_what_stands_between_documents(model: LanguageModel, text: str) -> None:
    def tokens(**values: Any) -> Tensor:
        cfg = replace(SMALL, dataset_path=text, **values)
        return SAETrainingRunner(cfg, override_model=model).store.get_batch_tokens(40)

    bos, (eos, *_) = model.tokenizer.bos_id, model.tokenizer.eos_ids
    assert (tokens()[:, 1:] == bos).any()
    with_eos = tokens(sequence_separator_token="eos")[:, 1:]
    assert (with_eos == eos).any()
    assert not (with_eos == bos).any()
    assert not torch.isin(
        tokens(sequence_separator_token=None)[:, 1:], torch.tensor([bos, eos])
    ).any()
    assert not (tokens(disable_concat_sequences=True)[:, 1:] == bos).any()


def test_streaming_reads_as_it_goes(tmp_path: Path, model: LanguageModel) -> None:
    datasets.Dataset.from_dict({"text": [story(40, seed) for seed in range(60)]}).to_parquet(
        tmp_path / "train.parquet"
    )
    tokens = []
    for streaming, kind in ((True, StreamRows), (False, TableRows)):
        cfg = replace(SMALL, dataset_path=str(tmp_path), streaming=streaming)
        runner = SAETrainingRunner(cfg, override_model=model)
        assert isinstance(runner.store.source.documents, kind)  # type: ignore[attr-defined]
        tokens.append(runner.store.get_batch_tokens())
    assert torch.equal(*tokens)


def test_a_column_is_chosen_and_broken_samples_left_out(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "stories.jsonl"
    lines = [json.dumps({"text": "no", "story": story(40, seed)}) for seed in range(60)]
    path.write_text("\n".join(["{", *lines]), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"stories\.jsonl, line 1: not JSON"):
        run(dataset_path=str(path), dataset_column="story")
    with pytest.warns(UserWarning, match=r"left out: stories\.jsonl, line 1"):
        runner, _ = run(dataset_path=str(path), dataset_column="story", on_broken_sample="skip")
    assert runner.result.skipped_samples == runner.store.passes > 0
    assert runner.result.summary()["skipped_samples"] == runner.store.passes


def test_a_model_that_runs_ahead_changes_nothing(run: Any) -> None:
    weights = []
    for ahead in (0, 1, 3):
        before = set(threading.enumerate())
        runner, _ = run(prefetch_llm_batches=ahead)
        assert set(threading.enumerate()) <= before
        weights.append(runner.result.sae.W_dec)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("device", "values", "expected"),
    [
        ("cpu", {}, 0),
        ("cuda", {}, 1),
        ("cpu", {"use_cached_activations": True, "cached_activations_path": "cache"}, 1),
        ("cpu", {"prefetch_llm_batches": True}, 1),
        ("cuda", {"prefetch_llm_batches": 0}, 0),
    ],
)
def test_unless_told_the_model_runs_ahead_where_the_steps_do_not_need_its_cores(
    device: str, values: dict[str, Any], expected: int
) -> None:
    cfg = LanguageModelSAERunnerConfig(**values)
    assert StoreConfig.of_run(cfg, torch.device(device)).prefetch == expected


def test_the_learning_rate_follows_its_schedule(run: Any) -> None:
    runner, seen = run(
        lr=0.01,
        lr_scheduler_name="cosineannealing",
        lr_warm_up_steps=2,
        lr_decay_steps=2,
        lr_end=0.001,
    )
    schedule = runner.plan.optimization.schedule
    assert [m.learning_rate for m in seen] == [schedule.at(step, 8) for step in range(8)]
    assert seen[0].learning_rate == pytest.approx(0.005)
    assert seen[-1].learning_rate < 0.002


def test_a_lower_learning_rate_moves_less(run: Any) -> None:
    moved = []
    for lr in (1e-4, 1e-2):
        sae = run(lr=lr)[0].result.sae
        begun = run(lr=1e-12)[0].result.sae
        moved.append((sae.W_dec - begun.W_dec).norm().item())
    assert moved[0] < 0.1 * moved[1]


def test_the_sparsity_loss_grows_with_its_coefficient_and_over_its_warm_up(run: Any) -> None:
    plain, heavy, slow = (
        run(l1_coefficient=value, l1_warm_up_steps=steps, lr=1e-9)[1]
        for value, steps in ((1.0, 0), (3.0, 0), (1.0, 4))
    )
    for step in range(8):
        loss = plain[step].losses["l1_loss"]
        assert heavy[step].losses["l1_loss"] == pytest.approx(3 * loss, rel=1e-3)
        share = min((step + 1) / 4, 1)
        assert slow[step].losses["l1_loss"] == pytest.approx(share * loss, rel=1e-3)


def test_lp_norm_changes_the_sparsity_loss(run: Any) -> None:
    one, two = (run(lp_norm=p, l1_warm_up_steps=0)[1][0].losses["l1_loss"] for p in (1.0, 2.0))
    assert two < 0.5 * one  # ‖a‖₂ < ‖a‖₁


def test_dead_features_are_counted_by_window_and_threshold(run: Any) -> None:
    common = {"l1_coefficient": 30.0, "lr": 0.05, "training_tokens": 256 * 12}
    short, long = (run(dead_feature_window=n, **common)[1] for n in (2, 11))
    assert short[-1].dead_features > long[-2].dead_features == 0
    strict, lenient = (run(dead_feature_threshold=t, dead_feature_window=2)[1] for t in (1e9, 0.0))
    assert strict[1].dead_features == 96 > lenient[1].dead_features
    assert strict[0].l0 == 0 < lenient[0].l0


def test_density_is_that_of_the_sampling_window(run: Any) -> None:
    common = {"lr": 0.05, "training_tokens": 256 * 20, "l1_coefficient": 20.0}
    last, all_ = (run(feature_sampling_window=n, **common) for n in (1, 1000))
    l0 = [metrics.l0 for metrics in last[1]]
    assert float(last[0].result.training_density.sum()) == pytest.approx(l0[-1], rel=1e-4)
    assert float(all_[0].result.training_density.sum()) == pytest.approx(
        sum(l0) / len(l0), rel=1e-4
    )


def test_ghost_grads_act_once_features_are_dead(run: Any) -> None:
    common = {"l1_coefficient": 30.0, "lr": 0.05, "training_tokens": 256 * 16}
    common["dead_feature_window"] = 2
    with_ghosts = run(use_ghost_grads=True, **common)[1]
    without = run(use_ghost_grads=False, **common)[1]
    assert not any("ghost_grad_loss" in m.losses for m in without)
    for before, metrics in itertools.pairwise(with_ghosts):
        assert ("ghost_grad_loss" in metrics.losses) == (before.dead_features > 0)
    assert with_ghosts[-1].losses["ghost_grad_loss"] > 0


def test_adams_betas_are_adams(run: Any) -> None:
    runner, _ = run(adam_beta1=0.5, adam_beta2=0.9)
    trainer = runner._run.saes[""].trainer
    assert trainer.optimizer.param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("method", ["geometric_median", "mean", "zeros"])
def test_the_decoder_bias_starts_where_it_should(
    method: str, model: LanguageModel, text: str
) -> None:
    cfg = replace(SMALL, dataset_path=text, b_dec_init_method=method, normalize_activations="none")
    runner = SAETrainingRunner(cfg, override_model=model)
    first = runner.store.next_batch()
    begun = SAEInTraining(runner.plan, runner.store, first).to_sae()
    torch.testing.assert_close(begun.b_dec.detach(), initial_decoder_bias(first, method))


def test_normalize_sae_decoder_gives_unit_rows(run: Any) -> None:
    for unit in (True, False):
        norms = run(normalize_sae_decoder=unit)[0].result.sae.W_dec.norm(dim=1)
        assert bool(((norms - 1).abs() < 1e-5).all()) is unit


def test_decoder_init_norm_is_the_norm_of_the_first_rows(run: Any) -> None:
    sae = run(decoder_init_norm=0.05, lr=1e-12)[0].result.sae
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((96,), 0.05))


def test_number_types(run: Any) -> None:
    runner, _ = run(dtype="float64", save_dtype="bfloat16")
    assert runner._run.saes[""].trainer.sae.W_dec.dtype == torch.float64
    assert runner.store.next_batch().dtype == torch.float64
    assert runner.result.sae.W_dec.dtype == torch.bfloat16


def test_autocast_trains_float32_weights_by_bfloat16_products(run: Any) -> None:
    full, cast = (run(autocast=value) for value in (False, True))
    trainer = cast[0]._run.saes[""].trainer
    assert {p.dtype for p in trainer.sae.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in trainer.sae.parameters()} == {torch.float32}
    losses = [[m.losses["mse_loss"] for m in seen] for _, seen in (full, cast)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "architecture", ["gated", "topk", "jumprelu", "batchtopk", "matching_pursuit"]
)
def test_every_kind_trains_under_autocast(architecture: str, run: Any) -> None:
    seen = run(architecture=architecture, autocast=True, dead_feature_window=2)[1]
    assert seen[-1].losses["mse_loss"] < seen[0].losses["mse_loss"]


def test_autocast_lm_rounds_the_models_activations(model: LanguageModel, text: str) -> None:
    full, cast = (
        SAETrainingRunner(
            replace(SMALL, dataset_path=text, autocast_lm=value), override_model=model
        ).store.next_batch()
        for value in (False, True)
    )
    assert cast.dtype == torch.float32
    assert not torch.equal(full, cast)
    torch.testing.assert_close(cast, full, rtol=0.1, atol=0.2)
