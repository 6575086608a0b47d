"""Several SAEs behind one run of the model, and transcoders between two hook points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer import (
    GatedTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
    SAETrainingRunner,
    SkipTranscoderTrainingConfig,
    TopKTrainingSAEConfig,
)
from saekit_trainer.errors import ConfigError

SIZES: dict[str, Any] = {
    "context_size": 24,
    "train_batch_size_tokens": 128,
    "store_batch_size_prompts": 8,
    "training_tokens": 128 * 6,
    "eval_contexts": 4,
    "feature_stats_tokens": 96,
}
EARLY, LATE, OUT = "blocks.1.hook_resid_pre", "blocks.2.attn.hook_z", "blocks.2.hook_mlp_out"


@pytest.fixture(scope="module")
def tokens() -> Any:
    return np.random.default_rng(0).integers(10, 300, (200, 24))


def test_each_is_what_it_would_be_alone(model: LanguageModel, tokens: Any) -> None:
    saes = {
        "early": TopKTrainingSAEConfig(d_sae=48, k=6),
        "late": GatedTrainingSAEConfig(d_sae=64),
        "also-early": {"architecture": "batchtopk", "d_sae": 40, "k": 2.5},
        "between": SkipTranscoderTrainingConfig(d_sae=56, hook_name_out=OUT),
    }
    hooks = {"early": EARLY, "late": LATE, "also-early": EARLY, "between": EARLY}
    cfg = MultiSAETrainingRunnerConfig(saes=saes, hook_names=hooks, **SIZES)
    runner = MultiSAETrainingRunner(cfg, tokens, model)
    assert [hook.name for hook in runner.store.hooks] == [EARLY, LATE, OUT]
    together = runner.run()
    assert together.keys() == saes.keys() == runner.results.keys()
    for name, settings in saes.items():
        one = LanguageModelSAERunnerConfig(sae=settings, hook_name=hooks[name], **SIZES)
        alone = SAETrainingRunner(one, tokens, model).run()
        assert together[name].cfg == alone.cfg
        for tensor, weight in together[name].weights().items():
            torch.testing.assert_close(weight, alone.weights()[tensor], rtol=0, atol=0)


def test_they_share_the_models_forward(model: LanguageModel, tokens: Any) -> None:
    passes = {1: 0, 3: 0}
    for n in passes:
        saes = {
            f"sae{i}": {"d_sae": 32, "hook_name": f"blocks.{i}.hook_resid_pre"} for i in range(n)
        }
        runner = MultiSAETrainingRunner(
            MultiSAETrainingRunnerConfig(saes=saes, **SIZES), tokens, model
        )

        def count(*_: object, n: int = n) -> None:
            passes[n] += 1

        hook = model.hf.get_input_embeddings().register_forward_hook(count)  # type: ignore[no-untyped-call]
        for _ in range(8):
            runner.store.next_batch()
        hook.remove()
    assert passes[1] == passes[3] > 0


def test_the_columns_of_a_batch_are_the_activations_of_each_hook_point(
    model: LanguageModel, tokens: Any
) -> None:
    saes = {"a": {"hook_name": LATE}, "b": {"hook_name": EARLY}}
    runner = MultiSAETrainingRunner(MultiSAETrainingRunnerConfig(saes=saes, **SIZES), tokens, model)
    rows = torch.from_numpy(tokens[:4])
    both = runner.store.get_activations(rows)
    with torch.no_grad():
        cache = model.bridge.run_with_cache(rows)[1]
    for name in (EARLY, LATE):
        columns = runner.store.columns(model.hook_point(name))
        torch.testing.assert_close(both[..., columns], cache[name].flatten(2), rtol=1e-4, atol=1e-4)


def test_each_has_its_folder_in_every_checkpoint(
    model: LanguageModel, tokens: Any, tmp_path: Path
) -> None:
    cfg = MultiSAETrainingRunnerConfig(
        saes={"a": {"d_sae": 32}, "b": {"architecture": "standard", "d_sae": 40}},
        hook_names=EARLY,
        checkpoint_path=str(tmp_path / "runs"),
        output_path=str(tmp_path / "out"),
        n_checkpoints=1,
        **SIZES,
    )
    runner = MultiSAETrainingRunner(cfg, tokens, model)
    runner.run()
    (run,) = (tmp_path / "runs").iterdir()
    for folder in (run / "384", run / "final_768", tmp_path / "out"):
        assert SAE.load_from_disk(folder / "a").cfg.architecture == "topk"
        assert SAE.load_from_disk(folder / "b").cfg.architecture == "standard"
    assert runner.results["a"].folder == tmp_path / "out" / "a"


def test_a_transcoder_comes_to_explain_its_output(model: LanguageModel, tokens: Any) -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture="skip_transcoder",
        hook_name="blocks.1.ln2.hook_normalized",
        hook_name_out="blocks.1.hook_mlp_out",
        d_sae=128,
        l1_coefficient=0.02,
        **{**SIZES, "training_tokens": 128 * 300},
    )
    runner = SAETrainingRunner(cfg, tokens, model)
    sae = runner.run()
    assert sae.cfg.metadata.hook_name_out == "blocks.1.hook_mlp_out"
    x, y = runner.store.next_batch().split(32, dim=1)
    error = (sae(x) - y).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert error.item() < 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"saes": {}}, "saes: there is none"),
        ({"saes": {"a": {"lr": 1.0}}}, "saes.a: lr: belongs to the run"),
        ({"saes": {"a": {"kk": 1}}}, "saes.a: kk: no such parameter"),
        ({"saes": {"a": {"architecture": "gatd"}}}, "saes.a: .*did you mean gated"),
        ({"saes": {"a": {}}, "hook_names": {"b": "x"}}, "not in both"),
        ({"saes": {"a": {}}, "hook_name": "x"}, "did you mean hook_names"),
    ],
)
def test_what_is_wrong_with_one_of_them_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiSAETrainingRunnerConfig(**values)


def test_a_name_that_cannot_be_a_folder_is_refused(model: LanguageModel, tokens: Any) -> None:
    cfg = MultiSAETrainingRunnerConfig(saes={"../a": {}}, **SIZES)
    with pytest.raises(ConfigError, match="saes"):
        MultiSAETrainingRunner(cfg, tokens, model)
