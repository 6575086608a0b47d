"""The peer's side of ``saes``: saves random SAEs, and answers for those that saekit saved.

Runs where sae-lens is installed::

    python sae_lens_saes.py save FOLDER     # writes theirs/
    python sae_lens_saes.py answer FOLDER   # reads ours/, writes ours_answers/
    python sae_lens_saes.py old FOLDER      # reads old/, writes old/*.safetensors
    python sae_lens_saes.py fold FOLDER     # reads theirs/, writes folded/

Each reads ``cells.json`` too.
What sae-lens cannot do goes to ``errors.json``, by cell.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from exchange import Answers, activations, fill
from sae_lens import SAE, TrainingSAE


def build(cell: dict[str, Any]) -> SAE[Any]:
    """A random SAE of a cell, as sae-lens makes one."""
    sae = (TrainingSAE if cell["trained"] else SAE).from_dict(cell["cfg"])
    fill(sae.named_parameters(), cell["weights"], cell["cfg"]["architecture"])
    if cell["trained"]:
        sae.topk_threshold.fill_(0.5)
    return sae


@torch.no_grad()
def answer(sae: SAE[Any], x: torch.Tensor) -> Answers:
    acts = sae.encode(x)
    decoded = sae.decode(acts)
    return Answers(x, acts, decoded, sae(x))


def save(cell: dict[str, Any], folder: Path) -> None:
    """Save one, and what it says once it is loaded again."""
    target = folder / "theirs" / cell["name"]
    sae = build(cell)
    if cell["trained"]:
        sae.save_inference_model(target)
    else:
        sae.save_model(target)
    x = activations(cell["inputs"], tuple(cell["shape"]), cell["cfg"]["dtype"])
    loaded = SAE.load_from_disk(target)
    answer(loaded, x).save(target.with_name(f"{target.name}.safetensors"))


def answer_ours(cell: dict[str, Any], folder: Path) -> None:
    """Load one that saekit saved; say what it answers, and what its configuration became."""
    sae = SAE.load_from_disk(folder / "ours" / cell["name"])
    x = activations(cell["inputs"], tuple(cell["shape"]), cell["cfg"]["dtype"])
    target = folder / "ours_answers"
    answer(sae, x).save(target / f"{cell['name']}.safetensors")
    (target / f"{cell['name']}.json").write_text(json.dumps(sae.cfg.to_dict()))


def answer_old(cell: dict[str, Any], folder: Path) -> None:
    """Load a folder of an older version."""
    sae = SAE.load_from_disk(folder / "old" / cell["name"])
    x = activations(cell["inputs"], tuple(cell["shape"]), sae.cfg.dtype)
    answer(sae, x).save(folder / "old" / f"{cell['name']}.safetensors")


def fold(cell: dict[str, Any], folder: Path) -> None:
    """Fold the decoder norms of one that was saved before."""
    sae = SAE.load_from_disk(folder / "theirs" / cell["name"])
    sae.fold_W_dec_norm()
    sae.save_model(folder / "folded" / cell["name"])


def main() -> None:
    action, path = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # TemporalSAE.decode warns each time
    work = {"save": save, "answer": answer_ours, "old": answer_old, "fold": fold}[action]
    errors = {}
    for cell in json.loads((path / "cells.json").read_text()):
        try:
            work(cell, path)
        except Exception as error:  # whatever it is, the table says so
            errors[cell["name"]] = f"{type(error).__name__}: {error}"
    (path / "errors.json").write_text(json.dumps(errors, indent=1))


if __name__ == "__main__":
    main()
