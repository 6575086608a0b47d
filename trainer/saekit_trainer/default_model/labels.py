"""Names for features of the default SAEs, found again by what the features fire on.

Training anew changes which index a feature has, so that ``labels.toml`` says of each name on which
tokens its feature fires. The feature whose activation falls on those tokens, and on nearly all of
them, gets the name; if none does, nobody gets it. Each rule was written after reading snippets, and
should be read against them again when the SAEs change.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.evaluation import sae_hook

RULES_FILE: Final = Path(__file__).with_name("labels.toml")
LOWEST_SCORE: Final = 0.6


@dataclass(frozen=True)
class LabelRule:
    """One name, and how its feature is recognised."""

    sae: str
    """sae_id of the default SAE."""
    label: str
    tokens: tuple[str, ...]
    """Texts of single tokens on which the feature fires."""


def read_label_rules(path: Path = RULES_FILE) -> list[LabelRule]:
    """The rules of a TOML file with an array of tables ``feature``."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["feature"]
    return [LabelRule(t["sae"], t["label"], tuple(t["tokens"])) for t in tables]


@torch.no_grad()
def label_features(
    model: LanguageModel,
    sae: SAE,
    tokens: Tensor,
    rules: Sequence[LabelRule],
    *,
    batch_size_prompts: int = 16,
) -> dict[int, str]:
    """Labels by feature.

    A feature's score for a rule is the harmonic mean of the share of its activation that falls on
    the rule's tokens, and the share of those tokens on which it fires. The best feature gets the
    label if its score is at least `LOWEST_SCORE`.

    Args:
        model: the model of the SAE.
        sae: whose features are named.
        tokens: int64 ``[prompts, context]`` to look at.
        rules: of this SAE.
        batch_size_prompts: contexts per run of the model.
    """
    if not rules:
        return {}
    mass = torch.zeros(sae.cfg.d_sae)
    mass_on = torch.zeros(len(rules), sae.cfg.d_sae)
    fires_on = torch.zeros(len(rules), sae.cfg.d_sae)
    seen_on = torch.zeros(len(rules))
    wanted = [_ids(model, rule) for rule in rules]
    hook = sae_hook(model, sae)
    for rows in torch.split(tokens, batch_size_prompts):
        found: list[Tensor] = []

        def keep(h: Tensor, found: list[Tensor] = found) -> None:
            found.append(sae.encode_with_state(h.flatten(2))[0].float().flatten(0, 1))

        model.forward(rows, taps={hook: keep})
        ids = rows.flatten()
        special = torch.from_numpy(model.tokenizer.is_special(ids.numpy()))
        acts = found[0] * ~special[:, None]
        on = torch.stack([torch.isin(ids, w) for w in wanted]).float()
        mass += acts.sum(dim=0)
        mass_on += on @ acts
        fires_on += on @ (acts > 0).float()
        seen_on += on.sum(dim=1)
    precision = mass_on / mass.clamp_min(1e-9)
    recall = fires_on / seen_on[:, None].clamp_min(1)
    score = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    best, features = score.max(dim=1)
    return {
        int(feature): rule.label
        for rule, feature, value in zip(rules, features, best, strict=True)
        if value >= LOWEST_SCORE
    }


def _ids(model: LanguageModel, rule: LabelRule) -> Tensor:
    found = []
    for text in rule.tokens:
        ids = model.tokenizer.encode_text(text, prepend_bos=False).ids
        if len(ids) != 1:
            raise ValueError(f"{RULES_FILE.name}: {rule.label}: {text!r} is {len(ids)} tokens")
        found.append(int(ids[0]))
    return torch.tensor(found)
