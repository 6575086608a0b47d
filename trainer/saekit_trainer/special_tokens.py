"""Tokens whose activations do not count: BOS, EOS, role marks and the like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saekit_core.lm.tokenizer import LMTokenizer


def left_out(tokenizer: LMTokenizer, tokens: Tensor, which: bool | Sequence[int] = True) -> Tensor:
    """Which of `tokens` are left out, bool of their shape and on their device.

    Args:
        tokenizer: knows the special tokens.
        tokens: int64 of any shape.
        which: True: every special token; False: none; ids: these, and no others.
    """
    if which is False:
        return torch.zeros_like(tokens, dtype=torch.bool)
    if which is True:
        flat = tokenizer.is_special(tokens.flatten().cpu().numpy())
        return torch.from_numpy(flat).view(tokens.shape).to(tokens.device)
    return torch.isin(tokens, torch.tensor(list(which), dtype=tokens.dtype, device=tokens.device))
