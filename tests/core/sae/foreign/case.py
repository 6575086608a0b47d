"""What a writer of a foreign format returns, and what writers are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from saekit_core.sae import Origin

D_IN, D_SAE, D_OUT, K = 8, 20, 6, 4

Function = Callable[[Tensor], Tensor]


@dataclass
class Case:
    """A written SAE."""

    path: Path
    """What to load: a folder, or a file."""
    weights: Path
    """The file of tensors."""
    key: str
    """A matrix in it, by its name there."""
    encode: Function
    """x ``[N, d_in]`` float64 → feature activations."""
    decode: Callable[[Tensor, Tensor], Tensor]
    """(feature activations, x) → reconstruction, both float64."""
    config: Mapping[str, Any]
    """Some of what the configuration must say."""
    origin: Origin | None = None


class Draw:
    """Random tensors, each drawn once by name."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, positive: bool = False) -> Tensor:
        drawn = torch.randn(*shape, generator=self._generator) * 0.5
        drawn = (drawn.abs() if positive else drawn).to(self._dtype)
        self.tensors[name] = drawn
        return drawn.double()


def relu(p: Tensor) -> Tensor:
    return p.clamp(min=0)


def jump(p: Tensor, threshold: Tensor | float) -> Tensor:
    return relu(p) * (p > threshold)


def top_k(p: Tensor, k: int, *, signed: bool = False) -> Tensor:
    rank = p.abs() if signed else p
    kth = rank.sort(dim=1, descending=True).values[:, k - 1 : k]
    return torch.where(rank >= kth, p if signed else relu(p), 0.0)


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def save_torch(values: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(values), path)


def save_npz(values: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: tensor.numpy() for name, tensor in values.items()})


def save_tensors(values: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in values.items()}, path)
