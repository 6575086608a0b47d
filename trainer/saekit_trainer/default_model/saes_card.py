"""The SAEs in the default model's card, written from what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from saekit_core.sae.sae import SAE
from saekit_trainer.default_model.card import CARD_FILE
from saekit_trainer.evaluation import Evaluation

RECORDS_FILE: Final = "saes.json"
HEADING: Final = "## Sparse autoencoders"


@dataclass(frozen=True)
class SAERecord:
    """What the card says about one SAE."""

    sae_id: str
    hook_name: str
    architecture: str
    d_sae: int
    training_tokens: int
    evaluation_tokens: int
    l0: float
    explained_variance: float
    ce_loss_score: float
    dead_features: int

    @classmethod
    def of(cls, sae_id: str, sae: SAE, evaluation: Evaluation, training_tokens: int) -> SAERecord:
        """The record of an SAE and its evaluation on held-out stories."""
        return cls(
            sae_id=sae_id,
            hook_name=sae.cfg.hook_name or "",
            architecture=sae.cfg.architecture,
            d_sae=sae.cfg.d_sae,
            training_tokens=training_tokens,
            evaluation_tokens=evaluation.tokens,
            l0=evaluation.l0,
            explained_variance=evaluation.explained_variance,
            ce_loss_score=evaluation.ce_loss_score,
            dead_features=evaluation.dead_features,
        )


def write_sae_records(records: Sequence[SAERecord], folder: Path) -> None:
    """Writes `saes.json`; records of other SAEs that it holds are kept."""
    path = folder / RECORDS_FILE
    merged = {r.sae_id: r for r in (*read_sae_records(folder), *records)}
    values = [asdict(merged[name]) for name in sorted(merged)]
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_sae_records(folder: Path) -> list[SAERecord]:
    """The records of `saes.json`; none if there is no such file."""
    path = folder / RECORDS_FILE
    if not path.is_file():
        return []
    return [SAERecord(**values) for values in json.loads(path.read_text(encoding="utf-8"))]


def write_sae_section(folder: Path) -> None:
    """Puts the section about the SAEs into the model card, in place of an older one."""
    path = folder / CARD_FILE
    card = path.read_text(encoding="utf-8")
    section = sae_section(read_sae_records(folder))
    card = re.sub(rf"(?ms)^{re.escape(HEADING)}$.*?(?=^## |\Z)", "", card)
    before = card.find("## Licence")
    place = len(card) if before < 0 else before
    card = card[:place] + section + card[place:]
    path.write_text(card, encoding="utf-8")


def sae_section(records: Sequence[SAERecord]) -> str:
    """The section as Markdown, an empty line at its end; empty without records."""
    if not records:
        return ""
    rows = "\n".join(
        f"| `{r.sae_id}` | {r.architecture} | {r.d_sae:,} | {r.l0:.1f} | "
        f"{r.explained_variance:.3f} | {r.ce_loss_score:.3f} | {r.dead_features:,} | "
        f"{r.training_tokens:,} |"
        for r in records
    )
    return f"""{HEADING}

In `saes/`, each named after its hook point, in SAELens's format; weights are float16 on
disk and float32 in use.

| SAE | architecture | features | L0 | explained variance | CE loss score | dead | tokens seen |
|---|---|---|---|---|---|---|---|
{rows}

Trained on activations of the training stories; measured on {records[0].evaluation_tokens:,} tokens
of held-out stories, the special token left out. Dead features are those that fire on none of these
tokens. Density and maximum activation of each feature are taken over training stories; example
snippets are cut from text that the model wrote itself. Named features are listed in each
`features.json` under `labels`.

"""
