"""What both environments agree on: how random SAEs are filled, and how answers are written down.

Runs in either, so it imports neither sae-lens nor saekit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What one SAE says of some activations."""

    x: Tensor
    """``[..., d_in]``, or ``[..., heads, d_head]``, in the SAE's dtype."""
    acts: Tensor
    """encode(x), ``[..., d_sae]``"""
    decoded: Tensor
    """decode(acts), ``[..., d_out]``, or with heads"""
    forward: Tensor
    """sae(x), as `decoded`"""

    def save(self, path: Path) -> None:
        tensors = {"x": self.x, "acts": self.acts, "decoded": self.decoded, "forward": self.forward}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Answers:
        return cls(**load_file(path))


def generator_of(name: str) -> torch.Generator:
    """The same numbers for the same name, on either side and in every run."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


@torch.no_grad()
def fill(parameters: Iterable[tuple[str, Tensor]], name: str, architecture: str) -> None:
    """Random values for every tensor: biases, gates and thresholds of either sign too.

    Matching pursuit diverges unless decoder rows are about unit vectors, and the reconstruction of
    a temporal SAE drowns in what it takes away again unless their elements are about 1.
    """
    generator = generator_of(name)
    for key, parameter in sorted(parameters):
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            values = values * 0.3
        else:
            values = values / min(parameter.shape) ** 0.5
        if key in ("W_enc", "W_dec") and architecture == "temporal":
            values = values * min(parameter.shape) ** 0.5
        if key == "W_dec" and architecture == "matching_pursuit":
            length = 0.9 + 0.2 * torch.rand(len(values), 1, generator=generator)
            values = values / values.norm(dim=1, keepdim=True) * length
        parameter.copy_(values)


def activations(name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Activations off centre, some rows ten times larger than others."""
    x = torch.randn(shape, generator=generator_of(name)) + 0.3
    size = torch.logspace(-0.5, 0.5, shape[0] * shape[1]).reshape(shape[0], shape[1])
    return (x * size.reshape(*size.shape, *[1] * (len(shape) - 2))).to(getattr(torch, dtype))
