"""Small files that sae-lens made, so that `make test` holds parity without it.

In ``tests/core/sae/golden``:

- ``cells.json``: per SAE its ``cfg.json``, less what is the same as in the one before it;
- ``weights.safetensors``: what the weights files held, by a name that several SAEs may share;
- ``answers.safetensors``: activations ``x/…``, and what sae-lens answered, by number of the SAE.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.parity.exchange import Answers
from torch import Tensor

FOLDER: Final = Path(__file__).parents[1] / "core" / "sae" / "golden"
_CELLS, _WEIGHTS, _ANSWERS = "cells.json", "weights.safetensors", "answers.safetensors"


@dataclass(frozen=True)
class Golden:
    """One SAE that sae-lens read, and what it answered."""

    number: int
    name: str
    cfg: dict[str, Any]
    """``cfg.json``, as its version of SAELens wrote it."""
    weights: str
    inputs: str

    def write(self, path: Path) -> None:
        """Its folder."""
        path.mkdir(parents=True)
        (path / "cfg.json").write_text(json.dumps(self.cfg))
        save_file(self.tensors(), path / "sae_weights.safetensors")

    def tensors(self) -> dict[str, Tensor]:
        return _below(self.weights, _file(_WEIGHTS))

    def answers(self) -> Answers:
        answers = _file(_ANSWERS)
        return Answers(answers[f"x/{self.inputs}"], **_below(str(self.number), answers))


@dataclass(frozen=True)
class Made:
    """What there is of one SAE when golden files are written."""

    name: str
    folder: Path
    """Its answers lie beside it."""
    weights: str
    inputs: str


@cache
def goldens() -> tuple[Golden, ...]:
    """All of them."""
    cfg: dict[str, Any] = {}
    found = []
    for number, entry in enumerate(json.loads((FOLDER / _CELLS).read_text())):
        gone = entry.pop("gone")
        cfg = {key: value for key, value in cfg.items() if key not in gone} | entry["cfg"]
        found.append(Golden(number, **{**entry, "cfg": cfg}))
    return tuple(found)


def pack(made: Sequence[Made]) -> None:
    """Write the golden files anew."""
    weights: dict[str, Tensor] = {}
    answers: dict[str, Tensor] = {}
    entries, before = [], dict[str, Any]()
    for number, one in enumerate(made):
        for key, tensor in load_file(one.folder / "sae_weights.safetensors").items():
            shared = weights.setdefault(f"{one.weights}/{key}", tensor)
            if not torch.equal(shared, tensor):
                raise ValueError(f"{one.name}: {key} is not that of the others of {one.weights}")
        answered = load_file(one.folder.with_name(f"{one.folder.name}.safetensors"))
        answers[f"x/{one.inputs}"] = answered.pop("x")
        answers |= {f"{number}/{key}": tensor for key, tensor in answered.items()}
        cfg = json.loads((one.folder / "cfg.json").read_text())
        changed = {k: v for k, v in cfg.items() if k not in before or before[k] != v}
        entry = {**asdict(one), "cfg": changed, "gone": sorted(before.keys() - cfg.keys())}
        del entry["folder"]
        entries.append(json.dumps(entry))
        before = cfg
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / _CELLS).write_text("[\n" + ",\n".join(entries) + "\n]\n")
    save_file(weights, FOLDER / _WEIGHTS)
    save_file(answers, FOLDER / _ANSWERS)
    for name in (_WEIGHTS, _ANSWERS):
        (FOLDER / name).chmod((FOLDER / _CELLS).stat().st_mode)  # not for its owner alone


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


@cache
def _file(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name)
