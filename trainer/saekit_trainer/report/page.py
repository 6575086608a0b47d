"""The page as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from saekit_trainer.display import duration
from saekit_trainer.plan import SAEPlan
from saekit_trainer.report.charts import course, distributions
from saekit_trainer.report.features import chosen_features, feature_cards
from saekit_trainer.report.history import RunHistory
from saekit_trainer.report.parts import folded, table, tiles
from saekit_trainer.report.settings import changed_settings, other_settings, plan_values
from saekit_trainer.report.usage import usage
from saekit_trainer.results import TrainingResult

_STYLE: Final = Path(__file__).with_name("style.css")
_MEANINGS: Final = {
    "tokens": "held-out tokens, special ones left out",
    "l0": "active features per token",
    "l1": "sum of feature activations per token",
    "explained_variance": "1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²)",
    "mse": "E‖x−x̂‖², summed over the width",
    "cosine_similarity": "E[cos(x, x̂)]",
    "shrinkage": "E‖x̂‖/E‖x‖",
    "l2_ratio": "E[‖x̂‖/‖x‖]",
    "relative_reconstruction_bias": "E‖x̂‖²/E[x·x̂]",
    "dead_features": "features that are active on none of these tokens",
    "fraction_alive": "share of features that are active on some",
    "ce_loss_clean": "cross entropy of the model as it is, nats",
    "ce_loss_sae": "with the reconstruction spliced in",
    "ce_loss_zero": "with zeros spliced in",
    "ce_loss_score": "(CE_zero − CE_sae)/(CE_zero − CE_clean), 1 at best",
    "kl_sae": "KL(clean ‖ spliced) of the next token, nats",
    "kl_zero": "KL(clean ‖ zeros)",
    "kl_score": "(KL_zero − KL_sae)/KL_zero, 1 at best",
}


def report_page(
    plans: Mapping[str, SAEPlan], results: Mapping[str, TrainingResult], history: RunHistory
) -> str:
    """The report as one HTML document that refers to nothing outside itself.

    Args:
        plans: the SAEs by name; a lone one has the name "".
        results: the same, finished.
        history: how they came there.
    """
    first = next(iter(results.values()))
    model = first.sae.cfg.model_name or "a model"
    title = f"{first.sae.cfg.hook_name} of {model}" if len(results) == 1 else f"SAEs of {model}"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    several = len(results) > 1
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_lead(results, when))}</p>",
        _overview(results) if several else "",
        "</header><main>",
    ]
    for number, (name, result) in enumerate(results.items()):
        if several:
            body.append(f'<h2 id="sae{number}">{escape(name)}</h2>')
        body.append(_section(name, plans[name], result, history))
    body.append(f"</main><footer>Written by saekit, {when}.</footer>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style>"
        f"</head><body>{''.join(body)}</body></html>\n"
    )


def _lead(results: Mapping[str, TrainingResult], when: str) -> str:
    first = next(iter(results.values()))
    tokens = f"{first.last_step.tokens:,} tokens in {duration(first.seconds)}"
    if len(results) > 1:
        return f"{len(results)} sparse autoencoders trained side by side on {tokens}, {when}."
    cfg = first.sae.cfg
    kind = (cfg.metadata.training_architecture or cfg.architecture).replace("_", " ")
    return (
        f"A {kind} sparse autoencoder of {cfg.d_sae:,} features on activations {cfg.d_in:,} wide, "
        f"trained on {tokens}, {when}."
    )


def _overview(results: Mapping[str, TrainingResult]) -> str:
    links = "".join(
        f'<a href="#sae{number}">{escape(name)}</a>' for number, name in enumerate(results)
    )
    rows = [
        [
            name,
            f"{result.sae.cfg.d_sae:,}",
            f"{result.evaluation.l0:.1f}",
            f"{result.evaluation.explained_variance:.4f}",
            f"{result.evaluation.ce_loss_score:.4f}",
            f"{result.last_step.dead_features:,}",
            f"{result.sae.cfg.metadata.training_architecture} at {result.sae.cfg.hook_name}",
        ]
        for name, result in results.items()
    ]
    head = ["SAE", "features", "L0", "explained variance", "CE loss score", "dead", ""]
    return f"<nav>{links}</nav>{table(head, rows, numbers=5)}"


def _section(name: str, plan: SAEPlan, result: TrainingResult, history: RunHistory) -> str:
    evaluation, last = result.evaluation, result.last_step
    chosen = chosen_features(result.features)
    figures = [
        [key, f"{value:,.0f}" if isinstance(value, int) else f"{value:.4f}", _MEANINGS.get(key, "")]
        for key, value in evaluation.to_dict().items()
    ]
    parts = [
        tiles(
            {
                "Explained variance": (f"{evaluation.explained_variance:.4f}", ""),
                "CE loss score": (f"{evaluation.ce_loss_score:.4f}", ""),
                "KL score": (f"{evaluation.kl_score:.4f}", ""),
                "L0": (f"{evaluation.l0:.1f}", "per token"),
                "Dead features": (f"{last.dead_features:,}", f"of {result.sae.cfg.d_sae:,}"),
                "Speed": (f"{last.tokens / result.seconds:,.0f}", "tokens/s"),
            }
        ),
        "<h3>Course of the training</h3>",
        '<p class="key"><i class="train"></i>training batches<i class="test"></i>'
        "held-out text, with the reconstruction spliced in for the scores; over tokens</p>",
        course(name, history),
        "<h3>Features</h3>",
        "<p>How often features fired in the last "
        f"{plan.cfg.feature_sampling_window:,} steps of training at most, how many are active on a "
        "held-out token, and how strong each one gets.</p>",
        distributions(result),
        f"<h3>{len(chosen)} of {result.sae.cfg.d_sae:,} features</h3>",
        "<p>Evenly over all that fired, frequent ones first, with the text on which each is "
        "strongest. The shade of a token is the feature’s activation there.</p>",
        feature_cards(result.features, chosen),
        "<h3>Evaluation</h3>",
        table(["", "value", ""], figures, numbers=1),
        "<h3>Configuration</h3>",
        table(["parameter", "value"], changed_settings(plan.cfg)),
        folded("Everything else, at its default", table([], other_settings(plan.cfg))),
        folded("What that comes to on this model", table([], plan_values(plan))),
        "<h3>Use it</h3>",
        usage(plan, result, chosen),
    ]
    return "".join(parts)
