"""Example features of an SAE: which are shown, and how."""

from __future__ import annotations

from html import escape
from typing import Final

import numpy as np

from saekit_core.sae.features_file import FeaturesFile, Snippet

SHOWN: Final = 24
_STRONGEST: Final = 0.85
"""Opacity of the highlight at a feature's maximum."""


def chosen_features(features: FeaturesFile, n: int = SHOWN) -> list[int]:
    """Features with examples, evenly over the ranks of their density; the most frequent first."""
    alive = [feature for feature, snippets in features.examples.items() if snippets]
    density = features.density
    if density is not None:
        alive.sort(key=lambda feature: (-float(density[feature]), feature))
    if len(alive) <= n:
        return alive
    return [alive[i] for i in np.linspace(0, len(alive) - 1, n).round().astype(int)]


def feature_cards(features: FeaturesFile, chosen: list[int]) -> str:
    """A card for each chosen feature, with its snippets."""
    return f'<div class="features">{"".join(_card(features, f) for f in chosen)}</div>'


def _card(features: FeaturesFile, feature: int) -> str:
    facts = []
    if features.density is not None and features.density[feature] > 0:
        facts.append(f"1 in {1 / float(features.density[feature]):,.0f} tokens")
    snippets = features.examples[feature]
    peak = max(abs(a) for snippet in snippets for a in snippet.activations)
    if features.max_activation is not None:
        facts.append(f"at most {float(features.max_activation[feature]):.3g}")
    label = features.labels.get(feature)
    title = f"<b>{feature}</b>" + (f" {escape(label)}" if label else "")
    shown = "".join(f"<li>{_snippet(snippet, peak or 1.0)}</li>" for snippet in snippets)
    return (
        f'<article class="feature"><header><span>{title}</span>'
        f"<span>{escape(' · '.join(facts))}</span></header><ol>{shown}</ol></article>"
    )


def _snippet(snippet: Snippet, peak: float) -> str:
    parts = []
    for i, (token, activation) in enumerate(zip(snippet.tokens, snippet.activations, strict=True)):
        text = escape(token).replace("\n", "↵")
        if not activation:
            parts.append(text)
            continue
        strength = min(abs(activation) / peak, 1.0) * _STRONGEST
        kind = ' class="peak"' if i == snippet.peak else ' class="minus"' if activation < 0 else ""
        parts.append(
            f'<mark{kind} style="--a:{strength:.2f}" title="{activation:.3g}">{text}</mark>'
        )
    return "".join(parts)
