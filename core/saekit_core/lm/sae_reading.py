"""Reading SAEs in a run: the activations of the features that anyone asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saekit_core.lm.splice_buffers import SAEGroup

BLOCK_ROWS = 512
"""Positions that are encoded in full at a time: bounds what `[positions, d_sae]` takes."""


@dataclass(frozen=True, eq=False)
class SAEReading:
    """What one group of rows reads of its SAE in one run."""

    acts: Tensor
    """`[r, P, K]` float32, unedited."""
    output_scale: Tensor | None
    """`[r, P, 1]`; None stands for 1."""
    reconstruction: Tensor | None
    """`[r, P, d_out]` float32 D(a), where the group goes without its error term."""


def read_sae(group: SAEGroup, flat: Tensor) -> SAEReading:
    """Encode the rows of `group` from the activations of the whole batch, `[R, P, d]`."""
    x = group.sae.x_of(flat, group.rows)
    sae = group.sae.sae
    if not sae.feature_wise or group.replaced_at is not None:
        return _read_in_full(group, x)
    acts, state = sae.encode_features(x, group.features)
    return SAEReading(acts, state.output_scale(), None)


def _read_in_full(group: SAEGroup, x: Tensor) -> SAEReading:
    """Encode all features, block by block, and keep only those that are read."""
    sae = group.sae.sae
    n_rows, width = x.shape[:2]
    tokens = x.reshape(-1, x.shape[-1])
    features = group.features.repeat_interleave(width, dim=0)
    # A block of a temporal SAE is a whole row, which begins at position 0 outside a generation.
    step = width if sae.architecture.sequential else BLOCK_ROWS
    acts, scales, reconstructions = [], [], []
    for start in range(0, len(tokens), step):
        block = slice(start, start + step)
        full, state = sae.encode_with_state(tokens[block])
        acts.append(full.gather(-1, features[block]).float())
        if (scale := state.output_scale()) is not None:
            scales.append(scale)
        if group.replaced_at is not None:
            reconstructions.append(sae.decode(full, state).float())
    return SAEReading(
        torch.cat(acts).view(n_rows, width, -1),
        torch.cat(scales).view(n_rows, width, 1) if scales else None,
        torch.cat(reconstructions).view(n_rows, width, -1) if reconstructions else None,
    )
