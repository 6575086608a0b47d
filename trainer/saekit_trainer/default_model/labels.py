"""Names for features of the default SAEs, found again by what the features do.

Training anew changes which index a feature has, so that ``labels.toml`` says of each name either on
which tokens its feature fires, or which tokens its decoder direction promotes. The feature that
does this best gets the name; if none does it well, nobody gets it. Each rule was written after
reading snippets, and should be read against them again when the SAEs change.
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
from saekit_core.lm.placing import bind_sae
from saekit_core.sae.sae import SAE

RULES_FILE: Final = Path(__file__).with_name("labels.toml")
LOWEST_SCORE: Final = 0.8
LENS_TOKENS: Final = 10
"""A direction promotes the tokens whose logits it raises most: this many."""


@dataclass(frozen=True)
class LabelRule:
    """One name, and how its feature is recognised."""

    sae: str
    """sae_id of the default SAE."""
    label: str
    fires_on: tuple[str, ...] = ()
    """Texts of single tokens on which the feature fires."""
    promotes: tuple[str, ...] = ()
    """Texts of single tokens that the feature's direction promotes; instead of `fires_on`."""

    def __post_init__(self) -> None:
        if bool(self.fires_on) == bool(self.promotes):
            raise ValueError(f"{self.label}: needs either fires_on or promotes")


def read_label_rules(path: Path = RULES_FILE) -> list[LabelRule]:
    """The rules of a TOML file with an array of tables ``feature``."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["feature"]
    return [
        LabelRule(
            sae=table["sae"],
            label=table["label"],
            fires_on=tuple(table.get("fires_on", ())),
            promotes=tuple(table.get("promotes", ())),
        )
        for table in tables
    ]


def label_features(
    model: LanguageModel, sae: SAE, tokens: Tensor, rules: Sequence[LabelRule]
) -> dict[int, str]:
    """Labels by feature: for each rule the feature that scores best, if at `LOWEST_SCORE` or above.

    Args:
        model: the model of the SAE.
        sae: whose features are named.
        tokens: int64 ``[prompts, context]`` to look at.
        rules: of this SAE.
    """
    labels: dict[int, str] = {}
    for by_firing in (True, False):
        chosen = [rule for rule in rules if bool(rule.fires_on) == by_firing]
        if not chosen:
            continue
        wanted = [_ids(model, rule) for rule in chosen]
        scores = (
            _firing_scores(model, sae, tokens, wanted)
            if by_firing
            else _promotion_scores(model, sae, wanted)
        )
        best, features = scores.max(dim=1)
        for rule, feature, score in zip(chosen, features.tolist(), best.tolist(), strict=True):
            if score >= LOWEST_SCORE:
                labels[feature] = rule.label
    return labels


@torch.no_grad()
def _firing_scores(
    model: LanguageModel, sae: SAE, tokens: Tensor, wanted: Sequence[Tensor], *, batch: int = 16
) -> Tensor:
    """``[rules, d_sae]``: harmonic mean of the share of a feature's activation that falls on the
    rule's tokens, and the share of those tokens on which it fires."""
    mass = torch.zeros(sae.cfg.d_sae)
    mass_on = torch.zeros(len(wanted), sae.cfg.d_sae)
    fires_on = torch.zeros(len(wanted), sae.cfg.d_sae)
    seen_on = torch.zeros(len(wanted))
    bound = bind_sae(model, sae)
    for rows in torch.split(tokens, batch):
        found: list[Tensor] = []

        def keep(h: Tensor, found: list[Tensor] = found) -> None:
            x = bound.x_of(h.flatten(2))
            found.append(sae.encode_with_state(x)[0].float().flatten(0, 1))

        model.forward(rows, taps={bound.hook: keep})
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
    return 2 * precision * recall / (precision + recall).clamp_min(1e-9)


@torch.no_grad()
def _promotion_scores(model: LanguageModel, sae: SAE, wanted: Sequence[Tensor]) -> Tensor:
    """``[rules, d_sae]``: the share of a rule's tokens among those that a direction promotes."""
    unembed = model.hf.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight: Tensor = unembed.weight
    lens = (sae.W_dec.float() @ weight.float().T).topk(LENS_TOKENS, dim=1).indices
    return torch.stack([torch.isin(lens, w).float().sum(dim=1) / len(w) for w in wanted])


def _ids(model: LanguageModel, rule: LabelRule) -> Tensor:
    found = []
    for text in rule.fires_on or rule.promotes:
        ids = model.tokenizer.encode_text(text, prepend_bos=False).ids
        if len(ids) != 1:
            raise ValueError(f"{rule.label}: {text!r} is {len(ids)} tokens, expected one")
        found.append(int(ids[0]))
    return torch.tensor(found)
