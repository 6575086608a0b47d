"""Figures of a finished SAE and of its features, against direct computation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models import build_gpt2, build_llama
from tests.processed import OLD_DEFAULTS, processed_bridge
from tests.saes import FURTHER, random_sae
from tests.trainer.eval_reference import reference_figures
from torch import Tensor

from saekit_core.lm import predictions
from saekit_core.lm.boot import boot_model
from saekit_core.lm.errors import LMError
from saekit_core.lm.interventions import InterventionError
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.predictions import ce_loss_score, kl_score
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer import evaluation, evaluator
from saekit_trainer.errors import DatasetError
from saekit_trainer.evaluation import Evaluation, evaluate, evaluate_reconstruction
from saekit_trainer.feature_stats import SnippetConfig, describe_features

HOOK = "blocks.1.hook_resid_pre"
D = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_llama(tmp_path_factory.mktemp("llama")), device="cpu")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_gpt2(tmp_path_factory.mktemp("gpt2")), device="cpu")


@pytest.fixture(scope="module")
def processed(gpt2: LanguageModel) -> Any:
    """A bridge whose weights are not those of its Hugging Face model."""
    return processed_bridge(gpt2, *OLD_DEFAULTS)


@pytest.fixture(scope="module")
def tokens(model: LanguageModel) -> Tensor:
    rows = torch.randint(10, model.d_vocab, (20, 24), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = model.tokenizer.bos_id or 0
    rows[::3, 9] = model.tokenizer.eos_ids[0]
    rows[::4, 11:13] = torch.tensor([2, 3])  # marks of a chat, which count
    return rows


def sae(d_sae: int = 48, hook_name: str = HOOK, **metadata: Any) -> SAE:
    config = SAEConfig("standard", D, d_sae, metadata=SAEMetadata(hook_name=hook_name, **metadata))
    return SAE.from_config(config, generator=torch.Generator().manual_seed(1))


def perfect() -> SAE:
    """Reconstructs exactly: a feature for each direction and for its opposite."""
    eye = torch.eye(D)
    both = torch.cat([eye, -eye])
    state = {"W_enc": both.T, "W_dec": both, "b_enc": torch.zeros(2 * D), "b_dec": torch.zeros(D)}
    return SAE.from_state(sae(2 * D).cfg, {k: v.contiguous() for k, v in state.items()})


def test_a_perfect_sae_loses_nothing(model: LanguageModel, tokens: Tensor) -> None:
    result = evaluate(model, perfect(), tokens, batch_size_prompts=7)
    assert result.explained_variance == pytest.approx(1.0, abs=1e-6)
    assert result.shrinkage == pytest.approx(1.0, abs=1e-6)
    assert result.cosine_similarity == pytest.approx(1.0, abs=1e-6)
    assert result.mse == pytest.approx(0.0, abs=1e-6)
    assert result.ce_loss_score == pytest.approx(1.0, abs=1e-5)
    assert result.kl_score == pytest.approx(1.0, abs=1e-5)
    assert result.l0 == pytest.approx(D, abs=0.1)
    assert result.dead_features == 0
    assert result.fraction_alive == 1.0


def assert_figures(result: Evaluation, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        ours = getattr(result, name)
        if name == "density":
            torch.testing.assert_close(ours, value)
        else:
            assert ours == pytest.approx(float(value), rel=1e-4), name


SAES: dict[str, Callable[[], SAE]] = {
    "residual stream": sae,
    "heads": lambda: sae(hook_name="blocks.1.attn.hook_z"),
    "two places": lambda: sae(
        hook_name="blocks.0.hook_resid_pre", hook_name_out="blocks.2.attn.hook_z"
    ),
    # Its second place is the output of the module whose input it reads.
    "skip transcoder": lambda: random_sae(
        "blocks.1.hook_resid_mid",
        D,
        "skip_transcoder",
        metadata={"hook_name_out": "blocks.1.hook_mlp_out"},
    ),
    "temporal": lambda: random_sae(HOOK, D, "temporal", **FURTHER["temporal"]),
}


@pytest.mark.parametrize("which", SAES)
@pytest.mark.parametrize("kind", ["plain", "processed", "bridge"])
def test_figures_equal_their_formulas_without_special_tokens(
    kind: str, which: str, model: LanguageModel, processed: Any, tokens: Tensor
) -> None:
    bridge = processed if kind == "processed" else model.bridge
    tested = SAES[which]()
    keep = ~torch.isin(tokens, torch.tensor([model.tokenizer.bos_id, *model.tokenizer.eos_ids]))
    result = evaluate(model if kind == "plain" else bridge, tested, tokens, batch_size_prompts=6)
    assert result.tokens == int(keep.sum()) == 20 * 23 - 7
    assert_figures(result, reference_figures(bridge, tested, tokens, keep))


@pytest.mark.parametrize(
    "hooks", [{"hook_name": HOOK}, {"hook_name": HOOK, "hook_name_out": "blocks.1.hook_mlp_out"}]
)
def test_an_sae_of_centred_weights_has_its_figures_on_raw_ones(
    hooks: dict[str, str], gpt2: LanguageModel, processed: Any, tokens: Tensor
) -> None:
    tested = sae(**hooks, model_from_pretrained_kwargs={"center_writing_weights": True})
    there = evaluate(processed, tested, tokens).to_dict()
    assert evaluate(gpt2, tested, tokens).to_dict() == pytest.approx(there, rel=1e-3)
    # The figures do tell: without the metadata's word they are others.
    untold = evaluate(gpt2, sae(**hooks), tokens).to_dict()
    assert untold["mse"] != pytest.approx(there["mse"], rel=1e-3)


def test_which_tokens_are_left_out_can_be_said(model: LanguageModel, tokens: Tensor) -> None:
    tested = sae()
    everything = evaluate(model, tested, tokens, exclude_special_tokens=False)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    assert_figures(everything, reference_figures(model.bridge, tested, tokens, keep))
    ids = [int(tokens[0, 5]), int(tokens[3, 7])]
    some = evaluate(model, tested, tokens, exclude_special_tokens=ids)
    keep = ~torch.isin(tokens, torch.tensor(ids))
    assert_figures(some, reference_figures(model.bridge, tested, tokens, keep))


def test_the_model_runs_three_times_per_batch(model: LanguageModel, tokens: Tensor) -> None:
    runs: list[int] = []
    handle = model.hf.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        evaluate(model, sae(), tokens, batch_size_prompts=10)
        assert len(runs) == 2 * 3
        evaluate_reconstruction(model, sae(), tokens, batch_size_prompts=10)
    finally:
        handle.remove()
    assert len(runs) == 2 * 3 + 2


def test_batches_are_as_large_as_their_logits_allow(
    model: LanguageModel, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(model, sae(), tokens).to_dict()
    done: list[int] = []
    monkeypatch.setattr(evaluation, "_LOGITS_BYTES", 3 * tokens.shape[1] * model.d_vocab * 4)
    result = evaluate(model, sae(), tokens, progress=done.append)
    assert done == [3] * 6 + [2]
    # Less than one context is no size to run.
    monkeypatch.setattr(evaluation, "_LOGITS_BYTES", 1)
    monkeypatch.setattr(predictions, "_BLOCK_NUMBERS", 5 * model.d_vocab)
    monkeypatch.setattr(evaluator, "_ACTS_NUMBERS", 1)
    single = evaluate(model, sae(), tokens)
    for other in (result, single):
        assert other.to_dict() == pytest.approx(whole, rel=1e-5)


def test_figures_are_plain_numbers_with_both_scores(model: LanguageModel, tokens: Tensor) -> None:
    result = evaluate(model, sae(), tokens)
    figures = json.loads(json.dumps(result.to_dict()))
    assert figures["ce_loss_score"] == result.ce_loss_score
    assert figures["kl_score"] == result.kl_score
    assert "density" not in figures
    span = result.ce_loss_zero - result.ce_loss_clean
    assert result.ce_loss_score == (result.ce_loss_zero - result.ce_loss_sae) / span
    assert result.kl_score == (result.kl_zero - result.kl_sae) / result.kl_zero


def test_scores_are_the_share_of_what_the_ablation_loses() -> None:
    assert ce_loss_score(clean=2.0, spliced=3.0, ablated=6.0) == 0.75
    assert kl_score(spliced=0.5, ablated=2.0) == 0.75
    assert math.isnan(ce_loss_score(clean=2.0, spliced=2.0, ablated=2.0))
    assert math.isnan(kl_score(spliced=0.0, ablated=0.0))


def test_an_sae_without_a_place_in_the_model_is_refused(
    model: LanguageModel, tokens: Tensor
) -> None:
    with pytest.raises(InterventionError, match=r"reads 32 values; blocks.1.mlp.hook_post has 48"):
        evaluate(model, sae(hook_name="blocks.1.mlp.hook_post"), tokens)
    nameless = SAE.from_config(SAEConfig("standard", D, 8))
    with pytest.raises(LMError, match="hook_name: missing"):
        evaluate(model, nameless, tokens)
    with pytest.raises(LMError, match="expected a LanguageModel or a TransformerBridge"):
        evaluate(model.hf, sae(), tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3,), r"expected ids \[prompts, context\]"), ((3, 1), "nothing to predict")],
)
def test_tokens_that_cannot_be_evaluated_are_refused(
    shape: tuple[int, ...], message: str, model: LanguageModel
) -> None:
    with pytest.raises(DatasetError, match=message):
        evaluate(model, sae(), torch.full(shape, 20))


def test_nothing_but_special_tokens_is_refused(model: LanguageModel) -> None:
    rows = torch.full((2, 8), model.tokenizer.bos_id or 0)
    with pytest.raises(DatasetError, match="nothing but special"):
        evaluate(model, sae(), rows)


def test_feature_statistics_equal_direct_computation(model: LanguageModel, tokens: Tensor) -> None:
    tested = sae()
    figures = evaluate(model, tested, tokens)
    shape = SnippetConfig(per_feature=3, before=4, after=2, decimals=3)
    described = describe_features(
        model, tested, tokens, evaluation=figures, snippets=shape, batch_size_prompts=6
    )
    special = torch.isin(tokens, torch.tensor([model.tokenizer.bos_id, *model.tokenizer.eos_ids]))
    with torch.no_grad():
        h = model.bridge.run_with_cache(tokens)[1][HOOK]
        acts = tested.encode(h) * ~special[..., None]
    assert described.density is not None
    assert described.max_activation is not None
    density = (acts > 0).sum((0, 1)) / (~special).sum()
    torch.testing.assert_close(torch.from_numpy(described.density), density)
    torch.testing.assert_close(
        torch.from_numpy(described.max_activation), acts.amax((0, 1)), rtol=1e-4, atol=1e-4
    )
    assert described.l0 == figures.l0
    per_context = acts.amax(dim=1)
    assert described.examples
    for feature, snippets in described.examples.items():
        strongest = per_context[:, feature].sort(descending=True).values
        assert len(snippets) == min(3, int((strongest > 0).sum()))
        for snippet, expected in zip(snippets, strongest, strict=False):
            assert snippet.activations[snippet.peak] == pytest.approx(float(expected), abs=2e-3)
            assert max(snippet.activations) == snippet.activations[snippet.peak]
            assert len(snippet.tokens) == len(snippet.activations) <= 7


def test_snippets_can_come_from_other_text(model: LanguageModel, tokens: Tensor) -> None:
    tested, other = sae(), tokens.flip(0)[:4].roll(5, dims=1)
    described = describe_features(
        model,
        tested,
        tokens,
        evaluation=evaluate(model, tested, tokens),
        snippets=SnippetConfig(before=50, after=50),
        snippet_tokens=other,
    )
    texts = {"".join(model.tokenizer.decode([i]) for i in row) for row in other.tolist()}
    assert described.examples
    for snippets in described.examples.values():
        assert {"".join(s.tokens) for s in snippets} <= texts
