"""What is worth knowing about each feature: how often and how strongly it fires, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.bridged import TappedModel
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.placing import bind_sae
from saekit_core.sae.features_file import FeaturesFile, Snippet
from saekit_core.sae.sae import SAE
from saekit_core.sae.statistics import count_active
from saekit_trainer.evaluation import ReconstructionFigures, evaluate_reconstruction
from saekit_trainer.special_tokens import left_out


@dataclass(frozen=True)
class SnippetConfig:
    """Shape of the example snippets."""

    per_feature: int = 3
    """Most snippets of one feature, each from a context of its own."""
    before: int = 10
    """Tokens before the peak."""
    after: int = 5
    """Tokens after it."""
    decimals: int = 2
    """Decimals to which activations are rounded."""


@torch.no_grad()
def describe_features(
    model: TappedModel,
    sae: SAE,
    tokens: Tensor,
    *,
    evaluation: ReconstructionFigures,
    snippets: SnippetConfig | None = None,
    snippet_tokens: Tensor | None = None,
    batch_size_prompts: int = 16,
) -> FeaturesFile:
    """Density, maximum activation and example snippets of each feature.

    Special tokens do not count: a feature of the BOS would otherwise show nothing else.

    Args:
        model: the model of the SAE.
        sae: whose features are described.
        tokens: int64 ``[prompts, context]`` that density and maximum are taken over.
        evaluation: gives the L0 and the explained variance to record.
        snippets: their shape.
        snippet_tokens: another set of contexts to take the snippets from, if they are to come
            from other text than the figures.
        batch_size_prompts: contexts per run of the model.
    """
    shape = snippets or SnippetConfig()
    separate = snippet_tokens is not None
    tokens = tokens.to(model.device)
    shown = tokens if snippet_tokens is None else snippet_tokens.to(model.device)
    density, maximum, peaks = _scan(model, sae, tokens, shape.per_feature, batch_size_prompts)
    if separate:
        peaks = _scan(model, sae, shown, shape.per_feature, batch_size_prompts)[2]
    return FeaturesFile(
        density=density.cpu().numpy().astype(np.float32),
        max_activation=maximum.float().cpu().numpy(),
        examples=_cut_snippets(model, sae, shown, peaks, shape=shape, batch=batch_size_prompts),
        l0=evaluation.l0,
        explained_variance=evaluation.explained_variance,
        tokens=int(tokens.numel()),
    )


def describe_briefly(model: LanguageModel, sae: SAE, tokens: Tensor) -> FeaturesFile:
    """`describe_features` of an SAE that is not finished: all over the same few `tokens`.

    Args:
        model: the model of the SAE.
        sae: whose features are described.
        tokens: int64 ``[prompts, context]``, as held out.
    """
    figures = evaluate_reconstruction(model, sae, tokens)
    return describe_features(
        model, sae, tokens, evaluation=figures, snippets=SnippetConfig(per_feature=1)
    )


@dataclass(frozen=True)
class _Peaks:
    """The strongest contexts of each feature: all ``[n, d_sae]``, strongest first."""

    values: Tensor
    rows: Tensor
    positions: Tensor


def _scan(
    model: TappedModel, sae: SAE, tokens: Tensor, n: int, batch: int
) -> tuple[Tensor, Tensor, _Peaks]:
    d_sae, device = sae.cfg.d_sae, model.device
    fired = torch.zeros(d_sae, device=device)
    best = _Peaks(
        torch.zeros(n, d_sae, device=device),
        torch.zeros(n, d_sae, dtype=torch.int64, device=device),
        torch.zeros(n, d_sae, dtype=torch.int64, device=device),
    )
    kept = 0
    for start in range(0, len(tokens), batch):
        acts, keep = _acts(model, sae, tokens[start : start + batch])
        fired += count_active(acts.flatten(0, 1), 0.0)
        kept += int(keep.sum())
        values, positions = acts.max(dim=1)  # one candidate per context
        rows = torch.arange(start, start + len(values), device=device)[:, None].expand_as(values)
        everything = torch.cat([best.values, values])
        top = everything.topk(n, dim=0)
        best = _Peaks(
            top.values,
            torch.cat([best.rows, rows]).gather(0, top.indices),
            torch.cat([best.positions, positions]).gather(0, top.indices),
        )
    return fired / max(kept, 1), best.values[0], best


def _acts(model: TappedModel, sae: SAE, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Feature activations ``[rows, positions, d_sae]``, 0 at special tokens, and which are none."""
    seen: list[Tensor] = []
    bound = bind_sae(model, sae)

    def keep_acts(h: Tensor) -> None:
        x = bound.x_of(h.flatten(2))
        seen.append(sae.encode_with_state(x)[0].float())

    model.forward(tokens, taps={bound.hook: keep_acts})
    keep = ~left_out(model.tokenizer, tokens)
    return seen[0] * keep[..., None], keep


def _cut_snippets(
    model: TappedModel,
    sae: SAE,
    tokens: Tensor,
    peaks: _Peaks,
    *,
    shape: SnippetConfig,
    batch: int,
) -> dict[int, tuple[Snippet, ...]]:
    found: dict[int, list[tuple[float, Snippet]]] = {}
    texts = {i: model.tokenizer.decode([i]) for i in torch.unique(tokens).tolist()}
    wanted = peaks.values > 0
    for start in range(0, len(tokens), batch):
        chosen = wanted & (peaks.rows >= start) & (peaks.rows < start + batch)
        if not chosen.any():
            continue
        acts = _acts(model, sae, tokens[start : start + batch])[0].cpu().numpy()
        for rank, feature in chosen.nonzero().tolist():
            row, position = int(peaks.rows[rank, feature]), int(peaks.positions[rank, feature])
            begin = max(position - shape.before, 0)
            end = min(position + shape.after + 1, tokens.shape[1])
            snippet = Snippet(
                tokens=tuple(texts[i] for i in tokens[row, begin:end].tolist()),
                activations=tuple(
                    round(float(a), shape.decimals) for a in acts[row - start, begin:end, feature]
                ),
                peak=position - begin,
            )
            found.setdefault(feature, []).append((float(peaks.values[rank, feature]), snippet))
    return {
        feature: tuple(s for _, s in sorted(ranked, key=lambda pair: -pair[0]))
        for feature, ranked in found.items()
    }
