"""The charts of one SAE: its course, and the distributions at its end."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from saekit_trainer.curves import Curve
from saekit_trainer.report.history import RunHistory
from saekit_trainer.report.parts import figure
from saekit_trainer.report.svg import Series, histogram, line_chart, short
from saekit_trainer.results import TrainingResult

_TITLES: Final = {
    "explained_variance": "Explained variance",
    "l0": "L0",
    "loss": "Loss",
    "dead_features": "Dead features",
    "ce_loss_score": "CE loss score",
    "kl_score": "KL score",
    "learning_rate": "Learning rate",
}
_OF_EVALUATIONS: Final = ("eval/", "ce_", "kl_")
_BEFORE_TERMS: Final = ("explained_variance", "l0", "loss")
_AFTER_TERMS: Final = ("dead_features", "ce_loss_score", "kl_score", "learning_rate")
_MOST_BINS: Final = 40
_PER_DECADE: Final = 10


def course(name: str, history: RunHistory) -> str:
    """Figures of the SAE `name` over tokens."""
    curves = history.saes[name]
    # Of the whole run: the last step need not have had every term.
    terms = [key for key in curves if key.endswith("_loss") or "_loss_" in key]
    terms = [key for key in terms if not key.startswith(_OF_EVALUATIONS)]
    if len(terms) == 1:
        terms = []  # it is the loss
    charts = []
    for key in (*_BEFORE_TERMS, *terms, *_AFTER_TERMS):
        train, held = curves.get(key), curves.get(f"eval/{key}")
        if train is None or (key.endswith("_score") and len(train.xs) < 2):
            continue
        charts.append(_chart(_TITLES.get(key, key), key, train, held))
    if history.speed.xs:
        charts.append(_chart("Tokens per second", "", history.speed, None))
    return f'<div class="charts">{"".join(charts)}</div>'


def distributions(result: TrainingResult) -> str:
    """Histograms over features and tokens."""
    charts = [_density(result), _l0(result)]
    maximum = result.features.max_activation
    if maximum is not None and (maximum > 0).any():
        counts, edges = np.histogram(maximum[maximum > 0], bins=_MOST_BINS)
        svg = histogram(
            edges.tolist(), counts.tolist(), label="maximum activations", what="features"
        )
        charts.append(figure("Maximum activation of each feature", "", svg))
    return f'<div class="charts">{"".join(charts)}</div>'


def _chart(title: str, key: str, train: Curve, held: Curve | None) -> str:
    if not train.xs:
        return ""
    is_evaluation = key.endswith("_score")
    series = [Series(train.xs, train.ys, dots=is_evaluation)]
    aside = short(train.ys[-1])
    # Features that are silent in so little text are another figure than dead ones.
    if held is not None and held.xs and key != "dead_features":
        series.append(Series(held.xs, held.ys, dots=True))
        aside += f" · held out {short(held.ys[-1])}"
    svg = line_chart(series, label=f"{title} over tokens", wide_range="loss" in key)
    return figure(title, aside, svg)


def _density(result: TrainingResult) -> str:
    density: NDArray[np.float32] = result.training_density.cpu().numpy()
    fired = np.log10(density[density > 0])
    never = int((density <= 0).sum())
    low = np.floor(fired.min() * _PER_DECADE) / _PER_DECADE if len(fired) else -1.0
    bins = max(round(-low * _PER_DECADE), 1)
    counts, edges = np.histogram(fired, bins=bins, range=(low, low + bins / _PER_DECADE))
    svg = histogram(
        edges.tolist(),
        counts.tolist(),
        label="log10 of feature densities",
        what="features",
        tick=lambda value: f"{value:g}",
    )
    return figure("Feature density, log₁₀", f"{never:,} never fired", svg)


def _l0(result: TrainingResult) -> str:
    active = result.evaluation.active_per_token.numpy()
    low, high = int(active.min()), int(active.max())
    step = -(-(high - low + 1) // _MOST_BINS)
    low -= step * (high == low)  # a lone bar is as narrow as others
    bins = -(-(high - low + 1) // step) + (active.min() == active.max())
    edges = low - 0.5 + step * np.arange(bins + 1)
    counts, _ = np.histogram(active, bins=edges)
    svg = histogram(edges.tolist(), counts.tolist(), label="L0 of tokens", what="tokens")
    return figure("Active features of each token", f"mean {result.evaluation.l0:.1f}", svg)
