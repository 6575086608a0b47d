"""SAEs for splices, and what a splice should come to, by the published formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.core.sae.reference import reference_decode, reference_encode
from tests.saes import FURTHER, random_sae
from torch import Tensor

from saekit_core.sae import SAE

TOKENS = torch.arange(14).view(2, 7) * 19 % 380 + 4
RESID = "blocks.1.hook_resid_pre"
D = 32
"""d_model of both models."""
TRANSCODERS = tuple(name for name in FURTHER if "transcoder" in name)


def sae_at(
    hook_name: str = RESID, architecture: str = "jumprelu", d_in: int = D, **settings: Any
) -> SAE:
    """A random SAE for activations at `hook_name`."""
    if hook_name.endswith("hook_z"):
        settings["reshape_activations"] = "hook_z"
    return random_sae(
        hook_name, d_in, architecture, **{**FURTHER.get(architecture, {}), **settings}
    )


def transcoder(
    architecture: str = "skip_transcoder",
    reads: str = "blocks.1.ln2.hook_normalized",
    writes: str = "blocks.1.hook_mlp_out",
    **settings: Any,
) -> SAE:
    """A random transcoder, of the MLP of block 1 unless told otherwise."""
    metadata = {"hook_name": reads, "hook_name_out": writes}
    return sae_at(architecture=architecture, metadata=metadata, **settings)


@torch.no_grad()
def formula(sae: SAE, x: Tensor, edit: Callable[[Tensor], Tensor] = lambda acts: acts) -> Tensor:
    """The reconstruction of x ``[batch, positions, d]`` with edited features, in float64."""
    rows = []
    for sequence in x.detach().double():
        acts = edit(reference_encode(sae, sequence))
        rows.append(reference_decode(sae, acts, sequence))
    return torch.stack(rows)


@dataclass
class Recorder:
    """A hook that keeps what it sees."""

    seen: Tensor | None = None

    def __call__(self, tensor: Tensor, **_: Any) -> None:
        self.seen = tensor

    @property
    def value(self) -> Tensor:
        assert self.seen is not None
        return self.seen
