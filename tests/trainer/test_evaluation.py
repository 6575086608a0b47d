"""Figures of a finished SAE and of its features, against direct computation."""

from __future__ import annotations

import pytest
import torch
from tests.models import build_llama
from torch import Tensor
from torch.nn import functional as F

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.evaluation import Evaluation, evaluate
from saekit_trainer.feature_stats import SnippetConfig, describe_features

HOOK = "blocks.1.hook_resid_pre"
D = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_llama(tmp_path_factory.mktemp("llama")), device="cpu")


@pytest.fixture(scope="module")
def tokens(model: LanguageModel) -> Tensor:
    rows = torch.randint(10, model.d_vocab, (20, 24), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = model.tokenizer.bos_id or 0
    rows[::3, 9] = model.tokenizer.eos_ids[0]
    return rows


def sae(d_sae: int = 48, hook: str = HOOK) -> SAE:
    metadata = SAEMetadata(hook_name=hook)
    config = SAEConfig("standard", D, d_sae, metadata=metadata)
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
    assert result.ce_loss_score == pytest.approx(1.0, abs=1e-5)
    assert result.l0 == pytest.approx(D, abs=0.1)
    assert result.dead_features == 0


def test_figures_equal_direct_computation_without_special_tokens(
    model: LanguageModel, tokens: Tensor
) -> None:
    tested = sae()
    result = evaluate(model, tested, tokens, batch_size_prompts=6)
    keep = ~torch.isin(tokens, torch.tensor([model.tokenizer.bos_id, *model.tokenizer.eos_ids]))
    assert result.tokens == int(keep.sum()) == 20 * 23 - 7

    def loss_with(replace: Tensor | None) -> float:
        def hook(h: Tensor, hook: object) -> Tensor | None:  # noqa: ARG001
            return None if replace is None else torch.where(keep[..., None], replace, h)

        with torch.no_grad():
            logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[(HOOK, hook)])
        each = F.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return float(each[keep[:, :-1].flatten()].mean())

    with torch.no_grad():
        h = model.bridge.run_with_cache(tokens)[1][HOOK]
        acts = tested.encode(h)
        x_hat = tested.decode(acts)
    assert result.ce_loss_clean == pytest.approx(loss_with(None), rel=1e-4)
    assert result.ce_loss_sae == pytest.approx(loss_with(x_hat), rel=1e-4)
    assert result.ce_loss_zero == pytest.approx(loss_with(torch.zeros_like(h)), rel=1e-4)
    assert result.l0 == pytest.approx(float((acts[keep] > 0).sum(1).double().mean()), rel=1e-4)
    assert result.dead_features == int((~(acts[keep] > 0).any(0)).sum())
    x, error = h[keep].double(), (h - x_hat)[keep].double()
    variance = x.var(dim=0, correction=0).sum()
    expected = 1 - error.square().sum(1).mean() / variance
    assert result.explained_variance == pytest.approx(float(expected), rel=1e-4)


def test_ce_loss_score_is_the_share_of_the_loss_won_back() -> None:
    figures = Evaluation(1, 0.0, 0.0, 0, 1.0, ce_loss_clean=2.0, ce_loss_sae=3.0, ce_loss_zero=6.0)
    assert figures.ce_loss_score == 0.75


def test_an_sae_of_another_width_or_without_hook_is_refused(
    model: LanguageModel, tokens: Tensor
) -> None:
    with pytest.raises(ConfigError, match="48 wide"):
        evaluate(model, sae(hook="blocks.1.mlp.hook_post"), tokens)
    nameless = SAE.from_config(SAEConfig("standard", D, 8))
    with pytest.raises(ConfigError, match="no hook point"):
        evaluate(model, nameless, tokens)


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
