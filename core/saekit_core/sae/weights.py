"""An SAE's tensors by name, as the formulas take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Columns = slice | Tensor
"""Which features a function is asked for: all of them, or a LongTensor of indices."""

ALL: Final = slice(None)


def decoder_norms(weights: Weights, features: Columns = ALL) -> Tensor:
    """‖W_dec‖ of each row, in float32 for 16-bit weights, whose norms are no 16-bit numbers."""
    rows = weights["W_dec"][features]
    wide = torch.promote_types(rows.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=wide)
    return norms
